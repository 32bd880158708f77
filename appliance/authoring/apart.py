"""Unknown files are read, compiled and run in a child process: one that crashes or hangs a runtime is only refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from appliance.authoring.files import FileFormat, ModelSource
from appliance.core.prediction import Prediction
from appliance.core.verdict import Verdict
from appliance.errors import ImportRefused

WORKER = ("appliance.authoring.worker",)
TIME_S_MAX = 300
"""Of one file or one variant, compiling included."""

T = TypeVar("T")


class Range(msgspec.Struct, frozen=True):
    """Lowest and highest number seen."""

    low: float
    high: float


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor of the file. shape: None where not even the number of axes is fixed, -1 for a free axis.

    dtype: as seen from outside, so float32 for a quantised tensor whose scale is in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


class Seen(msgspec.Struct, frozen=True):
    """What an output held when the network was given noise.

    first_rows, first_columns: of three axes (1, a, b), the first two of a, of b.
    """

    all: Range
    first_rows: Range | None = None
    first_columns: Range | None = None


class Probe(msgspec.Struct, frozen=True):
    """A file as its runtime sees it. seen: per output; empty when the network could not be given noise."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: dict[str, str] = {}
    seen: dict[str, Seen] = {}
    int8: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What a variant says about one input. outputs: of a tensor model, flat."""

    prediction: Prediction
    verdict: Verdict
    outputs: dict[str, list[float]] = {}


class Request(msgspec.Struct, frozen=True):
    """What the child shall do; it writes `Outcome` to `answer`."""

    answer: str
    probe: tuple[FileFormat, dict[str, str]] | None = None
    folder: str = ""
    variant: str = ""
    inputs: tuple[str, ...] = ()
    task: Literal["probe", "answer", "prove"] = "probe"


class Outcome(msgspec.Struct, frozen=True):
    error: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")


def probe(source: ModelSource) -> Probe:
    """Read, compile and run the file on noise. Raises ImportRefused."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, content in source.files.items():
            files[name] = str(Path(folder) / name)
            Path(files[name]).write_bytes(content)
        return _run(Request(answer=folder + "/answer.json", probe=(source.format, files)), Probe, str(source.path))


def answers(folder: Path, variant: str, inputs: tuple[Path, ...]) -> list[Answer]:
    """What a variant of the version in `folder` says about each file of `inputs`. Raises ImportRefused."""
    with tempfile.TemporaryDirectory() as scratch:
        request = Request(
            answer=scratch + "/answer.json",
            folder=str(folder),
            variant=variant,
            inputs=tuple(map(str, inputs)),
            task="answer",
        )
        return _run(request, list[Answer], f"variant {variant}")


def prove(folder: Path, variant: str) -> None:
    """Load a variant as the box would, golden cases included. Raises ImportRefused."""
    with tempfile.TemporaryDirectory() as scratch:
        request = Request(answer=scratch + "/answer.json", folder=str(folder), variant=variant, task="prove")
        _run(request, bool, f"variant {variant}")


def _run(request: Request, kind: type[T], what: str) -> T:
    command = [sys.executable, "-m", *WORKER]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(request), capture_output=True, timeout=TIME_S_MAX, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ImportRefused(f"{what}: the runtime did not finish within {TIME_S_MAX} s; use a smaller model") from error
    if done.returncode != 0:
        raise ImportRefused(f"{what}: the runtime {_ended(done)}; export the model again, or in another format")
    outcome = msgspec.json.decode(Path(request.answer).read_bytes(), type=Outcome)
    if outcome.error is not None:
        raise ImportRefused(f"{what}: {outcome.error}")
    return msgspec.json.decode(outcome.value, type=kind)


def _ended(done: subprocess.CompletedProcess[Any]) -> str:
    if done.returncode < 0:
        return f"crashed on it ({signal.Signals(-done.returncode).name})"
    last = (done.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
    return f"failed on it ({last[:200]})"
