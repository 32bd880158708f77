"""Tiny whole models whose behaviour is obvious, written as the folders that a box serves.

The picture model judges by brightness b = mean pixel / 255: p(good) = b, p(bad) = 1 - b, heat of each of 8 x 8 cells
= 1 - its own brightness. So a bright picture is `ok`, a middling one `review`, a dark one `ng`.

The window model judges 16 samples of three channels by a = min(1, RMS): p(good) = 1 - a, p(bad) = a, anomaly = a.

The tensor model takes rows of four features and doubles them; it judges nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from appliance.core.manifest import Kind
from tests.support.networks import openvino_files, tflite_files
from tests.support.toml import to_toml

SIDE = 8
"""Rows and columns of the picture model's input."""

WINDOW_SIZE = 16
CHANNELS = ("x", "y", "z")
RATE_HZ = 1024.0

FEATURES = 4

VERDICT = {
    "classes": {"good": "ok", "bad": "ng"},
    "class_score_min": 0.6,
    "score_review_min": 0.3,
    "score_ng_min": 0.7,
}


def write_model(
    root: Path,
    name: str = "tiny",
    version: str = "1",
    *,
    kind: Kind = "image",
    formats: Sequence[str] = ("openvino",),
    **changes: Any,
) -> Path:
    """Write `<root>/<name>/<version>/` and return it. One variant per format, named `<format>-f32`.

    changes: top-level fields of the manifest to replace, None leaves one out.
    """
    folder = root / name / version
    folder.mkdir(parents=True)
    golden = [_doubled(folder)] if kind == "tensor" else [_golden(folder, kind, label) for label in ("good", "bad")]
    variants = [_variant(folder, kind, form, variant_name(form, formats[:index])) for index, form in enumerate(formats)]
    for case in golden:
        case["tolerances"] = {variant["name"]: 0.01 for variant in variants}
    manifest = {
        "schema": 1,
        "name": name,
        "version": version,
        "title": f"{kind} by its strength",
        "licence": "CC0-1.0",
        "provenance": "written for the tests",
        **_tensors_and_steps(kind),
        **({} if kind == "tensor" else {"labels": ["good", "bad"], "verdict": VERDICT}),
        "variants": variants,
        "golden": golden,
        **changes,
    }
    (folder / "manifest.toml").write_text(to_toml(manifest))
    return folder


def variant_name(form: str, before: Sequence[str] = ()) -> str:
    """`openvino-f32`; a second variant of the same format is `openvino-f32-2`."""
    again = list(before).count(form)
    return f"{form}-f32" + (f"-{again + 1}" if again else "")


def picture(brightness: float = 230, *, side: int = 32, form: str = ".png") -> bytes:
    """A square picture of one brightness (0..255), encoded; form: `.png` or `.jpg`."""
    return encode(np.full((side, side, 3), brightness, np.uint8), form)


def spotted(side: int = 64, *, form: str = ".png") -> bytes:
    """A bright picture whose upper left quarter is dark, which the heat map shows as one region."""
    image = np.full((side, side, 3), 250, np.uint8)
    image[: side // 2, : side // 2] = 5
    return encode(image, form)


def encode(image: npt.NDArray[np.uint8], form: str) -> bytes:
    done, data = cv2.imencode(form, image)
    assert done
    return data.tobytes()


def rows(strength: float = 0.1) -> list[list[float]]:
    """A window of the window model whose RMS is `strength`."""
    return [[strength] * len(CHANNELS) for _ in range(WINDOW_SIZE)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensors_and_steps(kind: Kind) -> dict[str, Any]:
    probabilities = {"name": "probabilities", "dtype": "float32", "shape": [-1, 2]}
    common = {"classes": "probabilities", "normal_label": "good", "score_unit": "probability of a defect, 0..1"}
    if kind == "image":
        return {
            "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, SIDE, SIDE, 3]}],
            "outputs": [probabilities, {"name": "heatmap", "dtype": "float32", "shape": [-1, SIDE, SIDE]}],
            "preprocess": {"kind": "image", "mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]},
            "postprocess": {**common, "heatmap": "heatmap"},
        }
    if kind == "tensor":
        return {
            "inputs": [{"name": "features", "dtype": "float32", "shape": [-1, FEATURES]}],
            "outputs": [{"name": "doubled", "dtype": "float32", "shape": [-1, FEATURES]}],
            "preprocess": {"kind": "tensor"},
        }
    return {
        "inputs": [{"name": "window", "dtype": "float32", "shape": [-1, WINDOW_SIZE, len(CHANNELS)]}],
        "outputs": [probabilities, {"name": "anomaly", "dtype": "float32", "shape": [-1, 1]}],
        "preprocess": {
            "kind": "window",
            "channels": list(CHANNELS),
            "unit": "g",
            "rate_hz": RATE_HZ,
            "size": WINDOW_SIZE,
        },
        "postprocess": {**common, "score": "anomaly", "score_unit": "anomaly, 0..1"},
    }


def _variant(folder: Path, kind: Kind, form: str, name: str) -> dict[str, Any]:
    make = {"openvino": openvino_files, "tflite": tflite_files}[form]
    shape = {"image": (SIDE, SIDE, 3), "window": (WINDOW_SIZE, len(CHANNELS)), "tensor": (FEATURES,)}[kind]
    files = []
    for file_name, content in make(kind, shape).items():
        path = folder / name / file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        files.append({"path": f"{name}/{file_name}", "sha256": sha256(path)})
    return {"name": name, "format": form, "precision": "f32", "files": files}


def _doubled(folder: Path) -> dict[str, Any]:
    path = folder / "golden" / "doubled.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"inputs": {"features": [[1, 2, 3, 4]]}, "outputs": {"doubled": [[2, 4, 6, 8]]}}))
    return {
        "file": "golden/doubled.json",
        "sha256": sha256(path),
        "media_type": "application/json",
        "verdict": "none",
    }


def _golden(folder: Path, kind: Kind, label: str) -> dict[str, Any]:
    score = 0.1 if label == "good" else 0.9
    path = folder / "golden" / (f"{label}.png" if kind == "image" else f"{label}.json")
    path.parent.mkdir(exist_ok=True)
    if kind == "image":
        path.write_bytes(picture(round(255 * (1 - score))))
    else:
        path.write_text(json.dumps({"rows": rows(score)}))
    return {
        "file": f"golden/{path.name}",
        "sha256": sha256(path),
        "media_type": "image/png" if kind == "image" else "application/json",
        "label": label,
        "score": score,
        "verdict": "ok" if label == "good" else "ng",
    }
