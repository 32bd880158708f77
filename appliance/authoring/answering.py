"""What a model folder answers, asked in the child process."""

from __future__ import annotations

from pathlib import Path

from appliance.authoring.apart import Answer
from appliance.codecs import TENSORS, sniff
from appliance.config import Config
from appliance.core.tensors import Array
from appliance.core.verdict import judge
from appliance.errors import ApplianceError
from appliance.repository import read_version
from appliance.runtimes import LoadOptions, default_loaders
from appliance.served import Input, ServedModel, load


def answer(folder: Path, variant: str, inputs: list[Path]) -> list[Answer]:
    """Raises ApplianceError."""
    served = _load(folder, variant)
    return [_answer(served, path.read_bytes()) for path in inputs]


def prove(folder: Path, variant: str) -> bool:
    """Load with all golden cases. Raises ApplianceError."""
    _load(folder, variant)
    return True


def _load(folder: Path, variant: str) -> ServedModel:
    config = Config()
    return load(read_version(folder), variant, default_loaders(config), LoadOptions(), config.pixels_max)


def _answer(served: ServedModel, content: bytes) -> Answer:
    media_type = sniff(content) if served.kind == "image" else TENSORS
    (outcome,) = served.run([Input(content, media_type, None, 0.0, outputs=True)], "latency")
    if isinstance(outcome, ApplianceError):
        raise outcome
    outputs: dict[str, Array] = (outcome.outputs or {}) if served.kind == "tensor" else {}
    return Answer(
        outcome.prediction,
        judge(outcome.prediction, served.manifest.verdict),
        {name: array.reshape(-1).astype(float).tolist() for name, array in outputs.items()},
    )
