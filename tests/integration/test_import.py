"""`appliance models import`: files of somebody else become a model folder that loads, or nothing at all."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from appliance.authoring import apart
from appliance.authoring.importer import Imported, Options, Question, import_model
from appliance.core.manifest import ImagePreprocess, ModelManifest
from appliance.errors import ImportRefused
from appliance.repository import read_version, scan
from appliance.runtimes import LoadOptions, default_loaders
from appliance.served import ServedModel, load
from tests.support.author_files import (
    COLOURS,
    YOLO_METADATA,
    as_openvino,
    picture_of_squares,
    save_picture,
    write_classifier,
    write_detector,
    write_odd,
    write_table_model,
)
from tests.support.models import write_model

SURFACE = Path(__file__).resolve().parents[2] / "models" / "surface" / "1"


def refuse(question: Question) -> str:
    raise ImportRefused(f"asked for {question.option}")


def bring(*files: Path, into: Path, **said: Any) -> Imported:
    return import_model(files, Options(into=into, **said), refuse)


def manifest_of(imported: Imported) -> ModelManifest:
    return read_version(imported.folder).manifest


def serve(imported: Imported, variant: str | None = None) -> ServedModel:
    return load(read_version(imported.folder), variant, default_loaders(), LoadOptions(), 50_000_000)


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Path]:
    """A model repository in which, whatever happens, nothing half-written is left."""
    folder = tmp_path / "models"
    yield folder
    if folder.exists():
        assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == []
        assert scan([folder])[1] == []


@pytest.mark.parametrize("form", ["yolov8", "yolov5"])
def test_detector_finds_what_is_there_in_pixels_of_the_picture(tmp_path: Path, into: Path, form: str) -> None:
    imported = bring(write_detector(tmp_path / "squares.onnx", form), into=into, labels=COLOURS)
    assert (imported.name, imported.version, imported.kind) == ("squares", "1", form)
    # Twice as wide as high: letterboxed, the picture is halved and its top is 16 pixels down.
    image = picture_of_squares([("red", 32, 32, 32), ("blue", 64, 0, 32)], 64, 128)
    path = save_picture(tmp_path / "wide.png", image)
    prediction = serve(imported).predict(path.read_bytes(), "image/png").prediction
    assert prediction.regions is not None
    assert {(region.label, region.box) for region in prediction.regions} == {
        ("red", (32, 32, 64, 64)),
        ("blue", (64, 0, 96, 32)),
    }


def test_what_the_exporter_wrote_needs_no_asking(tmp_path: Path, into: Path) -> None:
    imported = bring(write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA), into=into)
    manifest = manifest_of(imported)
    assert manifest.labels == COLOURS
    assert isinstance(manifest.preprocess, ImagePreprocess)
    assert (manifest.preprocess.resize, manifest.preprocess.layout, manifest.preprocess.std) == (
        "letterbox",
        "nchw",
        (255.0,) * 3,
    )


def test_openvino_export_keeps_what_the_exporter_wrote(tmp_path: Path, into: Path) -> None:
    onnx_file = write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA)
    imported = bring(as_openvino(onnx_file, tmp_path / "d.xml"), into=into)
    assert (imported.labels, imported.variants) == (COLOURS, ("openvino-f32",))


@pytest.mark.parametrize("softmax", [True, False])
def test_classifier_gives_probabilities_whether_its_network_does_or_not(
    tmp_path: Path, into: Path, softmax: bool
) -> None:
    path = write_classifier(tmp_path / "colours.onnx", softmax=softmax)
    imported = bring(path, into=into, labels=COLOURS, scale="0..1")
    assert manifest_of(imported).postprocess.activation == ("none" if softmax else "softmax")
    green = save_picture(tmp_path / "green.png", picture_of_squares([("green", 0, 0, 64)]))
    prediction = serve(imported).predict(green.read_bytes(), "image/png").prediction
    assert prediction.classes[0].label == "green"
    assert sum(each.score for each in prediction.classes) == pytest.approx(1.0, abs=1e-4)


def test_one_good_label_makes_the_verdict(tmp_path: Path, into: Path) -> None:
    path = write_classifier(tmp_path / "c.onnx")
    imported = bring(path, into=into, labels=("scratch", "good", "hole"), scale="0..1")
    manifest = manifest_of(imported)
    assert manifest.postprocess.normal_label == "good"
    assert manifest.verdict.classes == {"scratch": "ng", "good": "ok", "hole": "ng"}


def test_without_a_good_label_the_rule_is_an_example_to_uncomment(tmp_path: Path, into: Path) -> None:
    imported = bring(write_classifier(tmp_path / "c.onnx"), into=into, labels=COLOURS, scale="0..1")
    text = (imported.folder / "manifest.toml").read_text()
    assert manifest_of(imported).verdict.classes is None
    uncommented = text.replace("# [verdict", "[verdict").replace("# class_score_min", "class_score_min")
    for colour in COLOURS:
        uncommented = uncommented.replace(f'# {colour} = "ok"', f'{colour} = "ok"')
    (imported.folder / "manifest.toml").write_text(uncommented)
    assert read_version(imported.folder).manifest.verdict.classes == dict.fromkeys(COLOURS, "ok")
    (imported.folder / "manifest.toml").write_text(text)


def test_files_of_one_model_become_variants(into: Path) -> None:
    imported = bring(
        SURFACE / "openvino" / "model.xml",
        SURFACE / "tflite" / "model.tflite",
        into=into,
        name="surface",
        labels=("good", "scratch", "hole", "stain"),
        scale="-1..1",
        golden=(SURFACE / "golden" / "hole.png", SURFACE / "golden" / "good.png"),
    )
    assert imported.variants == ("openvino-f32", "tflite-int8")
    manifest = manifest_of(imported)
    assert [(case.label, case.verdict) for case in manifest.golden] == [("hole", "ng"), ("good", "ok")]
    for variant in imported.variants:
        assert serve(imported, variant).variant.name == variant


def test_network_of_tensors_keeps_their_names(tmp_path: Path, into: Path) -> None:
    imported = bring(write_table_model(tmp_path / "sum.onnx"), into=into)
    manifest = manifest_of(imported)
    assert (imported.kind, manifest.inputs[0].name, manifest.inputs[0].shape) == ("tensor", "features", (-1, 2))
    outputs = serve(imported).infer({"features": np.array([[2.0, 3.5]], np.float32)})
    assert outputs["total"].tolist() == [[5.5]]


def test_golden_pictures_of_the_author_are_kept_with_the_answers_of_now(tmp_path: Path, into: Path) -> None:
    picture = save_picture(tmp_path / "two reds.png", picture_of_squares([("red", 16, 16, 16), ("red", 48, 48, 16)]))
    imported = bring(write_detector(tmp_path / "d.onnx"), into=into, labels=COLOURS, golden=(picture,))
    (case,) = manifest_of(imported).golden
    assert case.file == "golden/two-reds.png"
    assert case.regions is not None
    assert {region.box for region in case.regions} == {(16, 16, 32, 32), (48, 48, 64, 64)}
    assert case.verdict == "review"


def test_versions_count_up_and_none_is_replaced(tmp_path: Path, into: Path) -> None:
    path = write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA)
    assert [bring(path, into=into).version for _ in range(2)] == ["1", "2"]
    with pytest.raises(ImportRefused, match="exists already"):
        bring(path, into=into, version="2")


@pytest.mark.parametrize(
    ("said", "asked"),
    [({}, "--labels"), ({"labels": COLOURS}, "--scale"), ({"labels": ("a", "b"), "scale": "0..1"}, "3 classes")],
)
def test_what_cannot_be_known_is_asked(tmp_path: Path, into: Path, said: dict[str, Any], asked: str) -> None:
    with pytest.raises(ImportRefused, match=asked):
        bring(write_classifier(tmp_path / "c.onnx"), into=into, **said)
    assert not into.exists()


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"labels": ("a", "a", "b")}, "text of its own"),
        ({"labels": ("a", "b\n[x]", "c")}, "control"),
        ({"colour": "gray"}, "3 channel"),
        ({"name": "../out"}, "name"),
        ({"version": "v1"}, "version"),
        ({"layout": "nhwc"}, "not nhwc"),
        ({"output": "other"}, "no output 'other'"),
        ({"golden": (Path("/nowhere/part.png"),)}, "No such file"),
    ],
)
def test_answer_that_does_not_fit_is_refused(tmp_path: Path, into: Path, said: dict[str, Any], word: str) -> None:
    with pytest.raises(ImportRefused, match=word):
        bring(write_classifier(tmp_path / "c.onnx"), into=into, **{"labels": COLOURS, "scale": "0..1", **said})


def test_labels_may_hold_what_toml_has_to_escape(tmp_path: Path, into: Path) -> None:
    labels = ('a "quoted" one', "back\\slash", "weiß 🔩")
    imported = bring(write_classifier(tmp_path / "c.onnx"), into=into, labels=labels, scale="imagenet")
    assert manifest_of(imported).labels == labels


def test_files_of_two_models_are_no_variants_of_one(tmp_path: Path, into: Path) -> None:
    first = write_detector(tmp_path / "d.onnx")
    other = as_openvino(write_classifier(tmp_path / "c.onnx"), tmp_path / "c.xml")
    with pytest.raises(ImportRefused, match="variants of one model"):
        bring(first, other, into=into, labels=COLOURS)


def test_variants_that_answer_differently_are_refused(tmp_path: Path, into: Path) -> None:
    first = write_classifier(tmp_path / "c.onnx", softmax=True)
    other = as_openvino(write_classifier(tmp_path / "o.onnx", softmax=True, gain=-10.0), tmp_path / "o.xml")
    with pytest.raises(ImportRefused, match="does not say what"):
        bring(first, other, into=into, labels=COLOURS, scale="0..1")


def make_zip(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, each in files.items():
            archive.writestr(name, each)
    return content.getvalue()


@pytest.mark.parametrize("name", ["best.pt", "best.onnx", "best.pth", "model.tflite", "nothing"])
@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}, 2), pickle.dumps({"a": 1}, 4)])
def test_pickle_is_refused_by_its_content_whatever_its_name(
    tmp_path: Path, into: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportRefused, match=r"pickle.*yolo export"):
        bring(tmp_path / name, into=into)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("best.pt", make_zip(**{"archive/data.pkl": b"x"}), "yolo export"),
        ("best.onnx", make_zip(**{"archive/data.pkl": b"x"}), "pickle"),
        ("m.keras", make_zip(**{"model.weights.h5": b"x"}), "TFLiteConverter"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "TFLiteConverter"),
        ("m.zip", make_zip(a=b"x"), "unpack it"),
        ("m.zip", b"PK\x03\x04 and no more", "damaged ZIP"),
        ("m.safetensors", b"\x10" + bytes(64), "weights without a network"),
        ("m.onnx", b"hello world" * 20, "damaged or cut off"),
        ("m.onnx", b"", "empty"),
        ("m.onnx", b"\x80", "damaged or cut off"),
        ("m.tflite", b"\x1c\0\0\0TFL3" + b"hello" * 50, "copy or export it again"),
        ("m.tflite", b"\x1c\0\0\0TFL3", "copy or export it again"),
        ("m.xml", b"<html></html>", "neither ONNX"),
        ("m.xml", b"<?xml version='1.0'?><other/>", "no OpenVINO network"),
        ("m.xml", b"<?xml version='1.0'?><net name='x'", r"m\.bin is missing"),
        ("m.jpg", b"\xff\xd8\xff" + bytes(64), "neither ONNX"),
    ],
)
def test_what_is_no_model_is_refused_with_the_way_out(
    tmp_path: Path, into: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportRefused, match=words) as refused:
        bring(tmp_path / name, into=into)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".tflite", ".xml", ".bin", ".pt"])
def test_file_that_lies_about_its_type_is_refused(tmp_path: Path, into: Path, suffix: str) -> None:
    path = write_detector(tmp_path / "d.onnx").rename(tmp_path / f"d{suffix}")
    with pytest.raises(ImportRefused, match=r"is an ONNX file by its content.*rename it to d\.onnx"):
        bring(path, into=into)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_file_that_was_cut_off_is_refused(tmp_path: Path, into: Path, share: float) -> None:
    path = write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImportRefused, match="cut off"):
        bring(path, into=into)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_openvino_file_that_was_cut_off_is_refused(tmp_path: Path, into: Path, name: str) -> None:
    for each in ("model.xml", "model.bin"):
        content = (SURFACE / "openvino" / each).read_bytes()
        (tmp_path / each).write_bytes(content[: len(content) // 2] if each == name else content)
    with pytest.raises(ImportRefused, match="again"):
        bring(tmp_path / "model.xml", into=into)


def test_tflite_file_that_was_cut_off_is_refused(tmp_path: Path, into: Path) -> None:
    content = (SURFACE / "tflite" / "model.tflite").read_bytes()
    (tmp_path / "m.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportRefused, match="again"):
        bring(tmp_path / "m.tflite", into=into)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"opset": 99}, "operator set 99.*opset_version=17"),
        ({"opset": 3}, "operator set 3.*opset_version=17"),
        ({"operator": "FancyPool", "domain": "com.acme"}, "no runtime here knows: com.acme.FancyPool"),
        ({"operator": "Frobnicate"}, "no runtime here knows: Frobnicate"),
        ({"external": True}, "weights in another file"),
    ],
)
def test_network_that_no_runtime_takes_is_refused_by_name(
    tmp_path: Path, into: Path, made: dict[str, Any], words: str
) -> None:
    with pytest.raises(ImportRefused, match=words):
        bring(write_odd(tmp_path / "odd.onnx", **made), into=into)


@pytest.mark.parametrize("shape", [("n", "c", "h", "w"), (1, 3, "h", "w"), (1, 3, 32, "w")])
def test_free_axes_are_refused_with_the_export_flag(tmp_path: Path, into: Path, shape: tuple[Any, ...]) -> None:
    with pytest.raises(ImportRefused, match="dynamic=False"):
        bring(write_classifier(tmp_path / "c.onnx", shape=shape), into=into, labels=COLOURS, scale="0..1")


def test_free_batch_stays_free(tmp_path: Path, into: Path) -> None:
    path = write_classifier(tmp_path / "c.onnx", shape=("n", 3, 32, 32))
    manifest = manifest_of(bring(path, into=into, labels=COLOURS, scale="0..1"))
    assert (manifest.inputs[0].shape, manifest.outputs[0].shape) == ((-1, 3, 32, 32), (-1, 3))


def test_boxes_in_shares_of_the_input_are_refused(tmp_path: Path, into: Path) -> None:
    with pytest.raises(ImportRefused, match="shares of the input"):
        bring(write_detector(tmp_path / "d.onnx", "shares"), into=into, labels=COLOURS)


def test_folder_is_not_a_file(tmp_path: Path, into: Path) -> None:
    with pytest.raises(ImportRefused, match="is a folder"):
        bring(tmp_path, into=into)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(ImportRefused, match="from_saved_model"):
        bring(tmp_path, into=into)


@pytest.mark.parametrize(("how", "words"), [("crash", "SIGSEGV"), ("hang", "did not finish"), ("fail", "gave up")])
def test_runtime_that_goes_down_with_the_file_is_only_a_refusal(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.setattr(apart, "WORKER", ("tests.support.crashing_worker", how))
    monkeypatch.setattr(apart, "TIME_S_MAX", 30 if how != "hang" else 1)
    with pytest.raises(ImportRefused, match=words):
        bring(write_detector(tmp_path / "d.onnx"), into=into)


def test_repository_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ImportRefused, match="--into"):
        bring(write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA), into=tmp_path / "file" / "models")


def test_import_beside_a_model_that_is_served_leaves_it_alone(tmp_path: Path, into: Path) -> None:
    write_model(into, "tiny")
    bring(write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA), into=into)
    good, broken = scan([into])
    assert (sorted(each.manifest.name for each in good), broken) == (["d", "tiny"], [])


def test_picture_of_another_size_is_led_back_through_a_stretch(tmp_path: Path, into: Path) -> None:
    imported = bring(write_detector(tmp_path / "d.onnx"), into=into, labels=COLOURS, resize="stretch")
    image = cv2.resize(picture_of_squares([("green", 0, 32, 32)]), (256, 128), interpolation=cv2.INTER_NEAREST)
    path = save_picture(tmp_path / "p.png", np.asarray(image, np.uint8))
    (region,) = serve(imported).predict(path.read_bytes(), "image/png").prediction.regions or ()
    assert (region.label, region.box) == ("green", (0, 64, 128, 128))
