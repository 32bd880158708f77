"""The shipped models give the answers their manifests promise, in every runtime that may run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.config import shipped_models_dir
from appliance.core.manifest import Variant
from appliance.repository import ModelVersion, scan
from tests.support.box import ROOT

VERSIONS, BROKEN = scan([shipped_models_dir()])
CASES = [(version, variant) for version in VERSIONS for variant in version.manifest.variants]
TFLITE_CASES = [(version, variant) for version, variant in CASES if variant.format == "tflite"]
RUNTIMES = {"openvino": "openvino", "tflite": "ai-edge-litert"}


def name(value: object) -> str:
    return value.manifest.name if isinstance(value, ModelVersion) else getattr(value, "name", str(value))


def check(python: str | Path, version: ModelVersion, variant: Variant) -> Any:
    """What `golden_check` says, run by another interpreter."""
    command = [str(python), "-m", "tests.support.golden_check", str(version.folder), variant.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tflite_runtime_python() -> Path:
    """The interpreter of the environment that tests/tflite-runtime.lock describes."""
    python = Path(os.environ.get("TFLITE_RUNTIME_PYTHON", ROOT / ".venv" / "tflite-runtime" / "bin" / "python"))
    assert python.exists(), f"{python} is missing: `make test` makes it, or set TFLITE_RUNTIME_PYTHON"
    return python


def test_every_model_is_shipped_whole() -> None:
    assert BROKEN == []
    assert sorted(version.manifest.name for version in VERSIONS) == ["bearing", "parts", "surface"]
    for version in VERSIONS:
        assert {variant.format for variant in version.manifest.variants} == {"openvino", "tflite"}
        cases = version.manifest.golden
        golden = {case.label for case in cases if case.regions is None}
        golden |= {region.label for case in cases for region in case.regions or ()}
        assert golden == set(version.manifest.labels), "every label has a golden case"


@pytest.mark.parametrize(("version", "variant"), CASES, ids=name)
def test_golden_cases_pass_in_the_variant_s_runtime(version: ModelVersion, variant: Variant) -> None:
    said = check(sys.executable, version, variant)
    assert said["runtime"].startswith(RUNTIMES[variant.format])
    assert len(said["off"]) == len(version.manifest.golden)


@pytest.mark.parametrize(("version", "variant"), TFLITE_CASES, ids=name)
def test_golden_cases_pass_in_the_older_tflite_runtime(version: ModelVersion, variant: Variant) -> None:
    said = check(tflite_runtime_python(), version, variant)
    assert said["runtime"].startswith("tflite-runtime 2.14")
    assert len(said["off"]) == len(version.manifest.golden)


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_files_are_small_enough_to_travel(version: ModelVersion) -> None:
    for path in version.folder.rglob("*"):
        assert path.stat().st_size < 2 << 20, path
