"""The author's own numbers for one picture, as `appliance models check` reads them.

`.npz` or JSON with the same keys; every one but `picture` may be left out, a model that takes tensors needs no picture.

    picture         path of a JPEG or PNG, relative to the reference
    input           the tensor that the author fed to the network
    outputs/<name>  a tensor that came out, by the manifest's name or the file's (JSON: or {"outputs": {name: ...}})
    classes         probabilities in the order of the labels
    boxes           rows of left, top, right, bottom (pixels of the picture), score, class (index; JSON: or label)
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from appliance.core.tensors import Array
from appliance.errors import ConfigError

_PREFIX = "outputs/"


class Box(msgspec.Struct, frozen=True):
    """left, top, right, bottom in pixels of the picture; label: of the manifest, or what came in its place."""

    corners: tuple[float, float, float, float]
    score: float
    label: str


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    picture: bytes | None
    input: Array | None
    outputs: dict[str, Array]
    classes: Array | None
    boxes: tuple[Box, ...] | None


def read_reference(path: Path, labels: tuple[str, ...]) -> Reference:
    """Raises ConfigError with the key that is wrong."""
    try:
        content = _read_npz(path) if path.suffix == ".npz" else json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        picture = content.get("picture")
        outputs = {name.removeprefix(_PREFIX): each for name, each in content.items() if name.startswith(_PREFIX)}
        outputs |= content.get("outputs") or {}
        reference = Reference(
            picture=None if picture is None else (path.parent / str(picture)).read_bytes(),
            input=_array(content, "input"),
            outputs={name: _numbers(each, f"outputs/{name}") for name, each in outputs.items()},
            classes=_array(content, "classes"),
            boxes=None if content.get("boxes") is None else tuple(_box(row, labels) for row in content["boxes"]),
        )
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; --reference {path} names it") from error
    except (ValueError, TypeError, KeyError, zipfile.BadZipFile, RecursionError) as error:
        raise ConfigError(f"--reference {path}: {error}; see docs/own-model.md for what it holds") from error
    given = (reference.input, reference.classes, reference.boxes)
    if not reference.outputs and all(each is None for each in given):
        raise ConfigError(f"--reference {path} holds nothing to compare: give input, outputs/<name>, classes or boxes")
    return reference


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _array(content: dict[str, Any], key: str) -> Array | None:
    return None if content.get(key) is None else _numbers(content[key], key)


def _numbers(value: object, key: str) -> Array:
    array: Array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{key} is not an array of finite numbers, with rows of equal length")
    return array


def _box(row: Any, labels: tuple[str, ...]) -> Box:
    if len(row) != 6:
        raise ValueError(f"a row of boxes has {len(row)} values, not left, top, right, bottom, score, class")
    left, top, right, bottom, score = (float(value) for value in row[:5])
    label = row[5]
    if not isinstance(label, str):
        index = int(label)
        label = labels[index] if 0 <= index < len(labels) else f"class {index}"
    return Box((left, top, right, bottom), score, label)
