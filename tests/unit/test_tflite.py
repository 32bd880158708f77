"""TFLite behind the seam: threads, delegates that only the box's configuration names, and what replaces them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.config import DelegateConfig, TfliteConfig
from appliance.errors import InferenceError, ModelLoadError
from appliance.repository import read_variant, read_version
from appliance.runtimes import LoadOptions, tflite
from appliance.runtimes.tflite import TfliteModel, load_tflite
from tests.support.models import SIDE, write_model

SOURCE = Path(__file__).parent.parent / "support" / "delegate.c"
SHIPPED = Path(__file__).parents[2] / "models" / "bearing" / "1"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stub delegate, compiled."""
    path = tmp_path_factory.mktemp("delegate") / "libstub.so"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"this test needs a C compiler (apt install gcc): {done.stderr}"
    return str(path)


def load(folder: Path, *delegates: DelegateConfig, threads: int = 0) -> TfliteModel:
    version = read_version(folder)
    variant = next(each for each in version.manifest.variants if each.format == "tflite")
    config = TfliteConfig(threads=threads, delegates=delegates)
    return load_tflite(version.manifest, variant, read_variant(version, variant), LoadOptions(), config)


def brightness(model: TfliteModel, value: float) -> float:
    given = np.full((1, SIDE, SIDE, 3), value, np.float32)
    return float(model.session("throughput")({"image": given})["probabilities"][0, 0])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_model(tmp_path, formats=["tflite"])


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_network_runs_on_the_cpu(tiny: Path, threads: int) -> None:
    model = load(tiny, threads=threads)
    assert (model.device, model.note, model.gears, model.batches) == ("CPU", None, ("throughput",), False)
    assert brightness(model, 0.25) == pytest.approx(0.25)


def test_interpreter_gets_the_threads_of_the_configuration(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = tflite._package()
    seen = []

    class Noted(module.Interpreter):  # type: ignore[misc, name-defined]
        def __init__(self, **given: Any) -> None:
            seen.append(given["num_threads"])
            super().__init__(**given)

    class Package:
        Interpreter = Noted

    monkeypatch.setattr(tflite, "_package", lambda: (Package, package))
    load(tiny, threads=3)
    load(tiny)
    assert seen == [3, 1]


def test_int8_network_takes_and_gives_real_numbers() -> None:
    model = load(SHIPPED)
    found = model.session("throughput")({"spectra": np.zeros((1, 160, 12), np.float32)})
    assert {output.dtype for output in found.values()} == {np.dtype(np.float32)}
    assert found["probabilities"].sum() == pytest.approx(1, abs=0.02)


def test_sessions_and_their_answers_are_independent(tiny: Path) -> None:
    model = load(tiny)
    one, two = model.session("throughput"), model.session("throughput")
    bright = np.ones((1, SIDE, SIDE, 3), np.float32)
    first = one({"image": bright})["probabilities"]
    two({"image": bright * 0})
    one({"image": bright * 0})
    assert first[0, 0] == pytest.approx(1)


def test_rows_run_one_after_the_other(tiny: Path) -> None:
    """The manifest leaves the first axis free, the network takes one row."""
    given = np.stack([np.full((SIDE, SIDE, 3), value, np.float32) for value in (0.25, 1.0, 0.0)])
    found = load(tiny).session("throughput")({"image": given})
    assert found["probabilities"][:, 0] == pytest.approx([0.25, 1.0, 0.0])
    assert found["heatmap"].shape == (3, SIDE, SIDE)


def test_wrong_shape_is_refused_and_the_next_input_is_not(tiny: Path) -> None:
    infer = load(tiny).session("throughput")
    for shape in ((0, SIDE, SIDE, 3), (1, SIDE, SIDE, 1), (2, SIDE, SIDE, 1)):
        with pytest.raises(InferenceError):
            infer({"image": np.zeros(shape, np.float32)})
    assert infer({"image": np.ones((1, SIDE, SIDE, 3), np.float32)})["probabilities"][0, 0] == pytest.approx(1)


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x1c\0\0\0TFL3" + bytes(64)])
def test_file_that_is_no_network_is_refused(tiny: Path, content: bytes) -> None:
    version = read_version(tiny)
    with pytest.raises(ModelLoadError):
        load_tflite(version.manifest, version.manifest.variants[0], {"model.tflite": content}, LoadOptions())


def test_variant_without_a_tflite_file_is_refused(tiny: Path) -> None:
    version = read_version(tiny)
    with pytest.raises(ModelLoadError, match=r"names no \.tflite file"):
        load_tflite(version.manifest, version.manifest.variants[0], {}, LoadOptions())


def test_delegate_that_works_is_used(tiny: Path, library: str) -> None:
    model = load(tiny, DelegateConfig(path=library))
    assert (model.device, model.note) == ("delegate:libstub.so", None)
    assert brightness(model, 0.75) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("mode", "why"), [("create", "no accelerator is plugged in"), ("prepare", "delegate application failure")]
)
def test_delegate_that_fails_is_replaced_by_the_cpu(tiny: Path, library: str, mode: str, why: str) -> None:
    model = load(tiny, DelegateConfig(path=library, options={"mode": mode}))
    assert model.device == "CPU"
    assert why in (model.note or "")
    assert (model.note or "").endswith("the model runs on the CPU")
    assert brightness(model, 0.75) == pytest.approx(0.75)


def test_delegate_that_is_missing_or_none_is_replaced_by_the_next(tiny: Path, library: str, tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    missing = [DelegateConfig(path=str(path)) for path in (tmp_path / "missing.so", text, "libc.so.6")]
    model = load(tiny, *missing, DelegateConfig(path=library))
    assert model.device == "delegate:libstub.so"
    for why in ("cannot open shared object file", "file too short", "is no TFLite delegate"):
        assert why in (model.note or "")
    assert brightness(model, 0.5) == pytest.approx(0.5)


def test_small_network_proves_interpreter_and_delegate(library: str) -> None:
    assert tflite.prove() == tflite.prove(DelegateConfig(path=library))
    with pytest.raises(ModelLoadError, match="small network"):
        tflite.prove(DelegateConfig(path=library, options={"mode": "prepare"}))
