"""Where the interpreters of the other projects are, and how to run a script of this folder with one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_S_MAX = 120


def interpreter(name: str) -> str:
    """Of the environment `clients` or `mlserver`; the test fails when it is not there."""
    path = os.environ.get(f"{name.upper()}_PYTHON") or str(ROOT / ".venv" / name / "bin" / "python")
    if not Path(path).exists():
        pytest.fail(f"{path} is not there; type: make .venv/{name}/done")
    return path


def run_client(script: str, *arguments: str) -> Any:
    """Run a script of this folder as a client would run, alone; returns the JSON that it prints."""
    ended = subprocess.run(
        [interpreter("clients"), str(Path(__file__).parent / script), *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])
