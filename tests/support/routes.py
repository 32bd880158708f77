"""The models and routes that the MQTT tests share."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tests.support.models import WINDOW_SIZE, sha256, write_model
from tests.support.networks import openvino_files
from tests.support.toml import to_toml

ROUTES: list[dict[str, Any]] = [
    {"name": "camera", "topic": "line/+/camera", "model": "tiny"},
    {
        "name": "strict",
        "topic": "strict/+",
        "model": "tiny",
        "verdict": {"score_review_min": 0.01, "score_ng_min": 0.02},
    },
    {"name": "keyed-camera", "topic": "keyed/+/camera", "model": "tiny", "key_property": "seq"},
    {"name": "keyed-json", "topic": "keyed/+/json", "model": "tiny", "key_field": "cycle.seq"},
    {"name": "wave", "topic": "plc/+/wave", "model": "wave"},
    {"name": "hop", "topic": "hop/+", "model": "wave", "hop": 4},
    {"name": "skip", "topic": "skip/+", "model": "wave", "hop": 24},
    {"name": "path", "topic": "path/+", "model": "wave", "values": "data.accel"},
    {"name": "number", "topic": "number/+", "model": "level"},
    {"name": "keyed-wave", "topic": "keyed/+/wave", "model": "wave", "key_field": "seq"},
    {"name": "both-one", "topic": "both/+", "model": "wave"},
    {"name": "both-two", "topic": "both/#", "model": "wave"},
    {"name": "fixed", "topic": "fixed/deep/#", "model": "tiny", "source": "the-camera"},
    {"name": "absent", "topic": "absent/+", "model": "absent"},
]

RECIPES = {"strict": {"tiny": {"score_review_min": 0.01, "score_ng_min": 0.02}}}


def write_models(root: Path) -> Path:
    """`tiny` judges pictures, `wave` windows of 16 samples of three channels, `level` windows of one channel."""
    write_model(root, "tiny")
    write_model(root, "wave", kind="window")
    _write_level(root)
    return root


def _write_level(root: Path) -> None:
    """The window model with the one channel `x`."""
    folder = write_model(root, "level", kind="window")
    manifest = tomllib.loads((folder / "manifest.toml").read_text())
    manifest["inputs"][0]["shape"] = [-1, WINDOW_SIZE, 1]
    manifest["preprocess"]["channels"] = ["x"]
    (variant,) = manifest["variants"]
    for name, content in openvino_files("window", (WINDOW_SIZE, 1)).items():
        (folder / variant["name"] / name).write_bytes(content)
    for case in manifest["golden"]:
        path = folder / case["file"]
        path.write_text(_rows_as_json(case["score"]))
        case["sha256"] = sha256(path)
    for file in variant["files"]:
        file["sha256"] = sha256(folder / file["path"])
    (folder / "manifest.toml").write_text(to_toml(manifest))


def _rows_as_json(strength: float) -> str:
    return f'{{"rows": {[[strength]] * WINDOW_SIZE}}}'
