"""What a manifest may say, and how what it may not say is worded."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest

from appliance.core.manifest import ImagePreprocess, WindowPreprocess, check_relative, digest, parse_manifest
from appliance.errors import ManifestError
from tests.support.toml import to_toml

SHA = "0" * 64
TABLE: dict[str, Any] = {
    "schema": 1,
    "name": "surface",
    "version": "1",
    "title": "a title",
    "licence": "CC0-1.0",
    "provenance": "a line",
    "labels": ["good", "scratch"],
    "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, 8, 8, 3]}],
    "outputs": [
        {"name": "probabilities", "dtype": "float32", "shape": [-1, 2]},
        {"name": "heatmap", "dtype": "float32", "shape": [-1, 4, 4]},
    ],
    "preprocess": {"kind": "image", "mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]},
    "postprocess": {"classes": "probabilities", "heatmap": "heatmap", "normal_label": "good"},
    "verdict": {"classes": {"good": "ok", "scratch": "ng"}},
    "variants": [
        {"name": "openvino-f32", "format": "openvino", "precision": "f32", "files": [{"path": "m.xml", "sha256": SHA}]}
    ],
    "golden": [
        {
            "file": "golden/good.png",
            "sha256": SHA,
            "media_type": "image/png",
            "label": "good",
            "score": 0.1,
            "verdict": "ok",
            "tolerances": {"openvino-f32": 0.01},
        }
    ],
}


def manifest_with(place: str = "", value: object = None) -> bytes:
    """The manifest as TOML, with one value at a dotted path replaced; None leaves it out."""
    table = copy.deepcopy(TABLE)
    if place:
        *path, last = place.split(".")
        at: Any = table
        for step in path:
            at = at[int(step)] if step.isdecimal() else at[step]
        at[int(last) if last.isdecimal() else last] = value
    return to_toml(table).encode()


def test_complete_manifest_is_read() -> None:
    manifest = parse_manifest(manifest_with(), "manifest.toml")
    assert (manifest.name, manifest.version, manifest.labels) == ("surface", "1", ("good", "scratch"))
    assert isinstance(manifest.preprocess, ImagePreprocess)
    assert manifest.postprocess.heatmap_min == 0.5
    assert manifest.variants[0].tensors == {}


def test_window_manifest_is_read() -> None:
    steps = {"kind": "window", "channels": ["x"], "unit": "g", "rate_hz": 100.0, "size": 16}
    manifest = parse_manifest(manifest_with("preprocess", steps), "manifest.toml")
    assert isinstance(manifest.preprocess, WindowPreprocess)
    assert manifest.preprocess.transform == "none"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("schema", 2, "schema"),
        ("schema", None, "missing required field `schema`"),
        ("name", "Surface", "name"),
        ("name", "../surface", "name"),
        ("version", "1.0", "version"),
        ("colour", "red", "unknown field `colour`"),
        ("inputs", [], "inputs"),
        ("inputs.0.dtype", "float99", "inputs"),
        ("inputs.0.shape", [-1, 0, 8, 3], "shape"),
        ("inputs.0.shape", [-1, 8, 8], "picture needs"),
        ("inputs.0.shape", [-1, 8, 8, 1], "picture needs"),
        ("inputs.0.shape", [-1, -1, 8, 3], "picture needs"),
        ("inputs.0.shape", [4, 8, 8, 3], "picture needs"),
        ("inputs.0.name", "", "name"),
        ("outputs", [], "outputs"),
        ("preprocess.kind", "sound", "kind"),
        ("preprocess.mean", [0.0], "mean and std need 3"),
        ("preprocess.std", [1.0, 1.0, 0.0], "std must be above 0"),
        ("preprocess.colour", "gray", "mean and std need 1"),
        ("preprocess.resize", "squash", "resize"),
        ("postprocess.classes", "nonsense", "postprocess.classes names 'nonsense'"),
        ("postprocess.heatmap", "nonsense", "postprocess.heatmap names 'nonsense'"),
        ("postprocess.score", "nonsense", "postprocess.score names 'nonsense'"),
        ("postprocess.normal_label", "fine", "normal_label 'fine'"),
        ("postprocess.heatmap_min", 1.5, "heatmap_min"),
        ("labels", ["good", "scratch", "hole"], "3 labels"),
        ("labels", [], "0 labels"),
        ("verdict.classes", {"hole": "ng"}, "verdict.classes names ['hole']"),
        ("verdict.classes", {"good": "fine"}, "verdict"),
        ("verdict.class_score_min", 60, "class_score_min"),
        ("verdict.count_ng_min", 0, "count_ng_min"),
        ("verdict.area_ng", 0.1, "unknown field `area_ng`"),
        ("variants", [], "variants"),
        ("variants", TABLE["variants"] * 2, "two variants share a name"),
        ("variants.0.format", "pickle", "format"),
        ("variants.0.precision", "f8", "precision"),
        ("variants.0.files", [], "files"),
        ("variants.0.files.0.sha256", "abc", "sha256"),
        ("variants.0.files.0.path", "../m.xml", "'../m.xml' must be relative"),
        ("variants.0.files.0.path", "/etc/passwd", "must be relative"),
        ("golden.0.file", "..", "must be relative"),
        ("golden.0.tolerances", {}, "needs one tolerance per variant"),
        ("golden.0.tolerances", {"openvino-f32": 0.1, "tflite-int8": 0.1}, "needs one tolerance per variant"),
        ("golden.0.verdict", "fine", "verdict"),
    ],
)
def test_wrong_manifest_is_refused_in_one_line_that_names_file_and_field(
    place: str, value: object, reason: str
) -> None:
    with pytest.raises(ManifestError) as raised:
        parse_manifest(manifest_with(place, value), "models/surface/1/manifest.toml")
    message = str(raised.value)
    assert reason in message
    assert message.startswith("models/surface/1/manifest.toml: ")
    assert "\n" not in message


def manifest_of(labels: list[str], shape: list[int], **steps: Any) -> bytes:
    """A manifest whose one output `o` has that shape."""
    table = copy.deepcopy(TABLE) | {"labels": labels, "postprocess": steps, "golden": [], "verdict": {}}
    table["outputs"] = [{"name": "o", "dtype": "float32", "shape": shape}]
    return to_toml(table).encode()


HEADS = [
    ("yolov8", 2, [-1, 6, 84], True),
    ("yolov8", 2, [1, 6, -1], True),
    ("yolov8", 2, [1, -1, -1], True),
    ("yolov8", 2, [1, 84, 6], False),
    ("yolov8", 2, [1, 38, 84], False),
    ("yolov8", 2, [2, 6, 84], False),
    ("yolov8", 2, [6, 84], False),
    ("yolov8", 0, [1, 4, 84], False),
    ("yolov5", 2, [1, 84, 7], True),
    ("yolov5", 2, [1, 7, 84], False),
    ("yolov5", 0, [1, 84, 5], False),
    ("yolov10", 2, [1, 300, 6], True),
    ("yolov10", 0, [1, 300, 6], True),
    ("yolov10", 2, [1, 300, 7], False),
]


@pytest.mark.parametrize(("form", "labels", "shape", "good"), HEADS)
def test_head_of_a_detector_has_the_shape_of_its_form(form: str, labels: int, shape: list[int], good: bool) -> None:
    text = manifest_of(["good", "scratch"][:labels], shape, boxes={"output": "o", "form": form})
    if good:
        assert parse_manifest(text, "m.toml").postprocess.boxes is not None
        return
    with pytest.raises(ManifestError, match=rf"postprocess\.boxes: .*{form}") as raised:
        parse_manifest(text, "m.toml")
    assert ("needs the labels" in str(raised.value)) == (labels == 0)


@pytest.mark.parametrize(
    ("shape", "good"),
    [
        ([-1, 4, 4], True),
        ([1, 4, 4], True),
        ([-1, -1, -1], True),
        ([-1, 4, 4, 1], True),
        ([-1, 4, 4, 2], False),
        ([-1, 1, 4, 4], False),
        ([4, 4], False),
        ([-1, 16], False),
        ([2, 4, 4], False),
    ],
)
def test_heat_map_has_rows_and_columns(shape: list[int], good: bool) -> None:
    text = manifest_of([], shape, heatmap="o")
    if good:
        assert parse_manifest(text, "m.toml").postprocess.heatmap == "o"
        return
    with pytest.raises(ManifestError, match=r"postprocess\.heatmap: output 'o' has shape"):
        parse_manifest(text, "m.toml")


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe", b"", b"[[variants]\n"])
def test_text_that_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^m\.toml: "):
        parse_manifest(text, "m.toml")


def test_digest_is_the_sha256_of_the_bytes() -> None:
    assert digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("path", ["", "/m", "a/../../b", "a\\b", "a\0b"])
def test_path_that_could_leave_its_folder_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be relative"):
        check_relative(path)
