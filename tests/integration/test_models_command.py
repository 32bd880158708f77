"""`appliance models` and `appliance doctor` as typed, and what `check` says about the author's own numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest

from appliance.authoring.check import Report, check
from appliance.authoring.importer import Options, import_model
from appliance.config import Config
from appliance.core.manifest import ImagePreprocess
from appliance.errors import ConfigError
from appliance.repository import read_version
from tests.support.author_files import (
    COLOURS,
    YOLO_METADATA,
    picture_of_squares,
    save_picture,
    write_classifier,
    write_detector,
    write_table_model,
)
from tests.support.box import ROOT, run_appliance, running_box
from tests.support.models import write_model

SQUARES = [("red", 16, 32, 16), ("blue", 0, 0, 32)]
BOXES = [[16, 32, 32, 48, 0.96, 0], [0, 0, 32, 32, 0.96, 2]]


class Author:
    """Somebody who trained a network, has a picture, and runs both with code of their own."""

    def __init__(self, folder: Path, network: Path, **said: Any) -> None:
        self.folder = folder
        imported = import_model([network], Options(into=folder / "models", name="mine", **said), lambda _: "")
        self.version = read_version(imported.folder)
        self._compiled = ov.Core().compile_model(network, "CPU")
        self.image = picture_of_squares(SQUARES)
        save_picture(folder / "part.png", self.image)

    def input(self, colour: str = "rgb", divisor: float = 255.0) -> npt.NDArray[np.float32]:
        channels = self.image if colour == "rgb" else self.image[..., ::-1]
        return np.ascontiguousarray(channels.transpose(2, 0, 1)[None] / np.float32(divisor), np.float32)

    def outputs(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.array(self._compiled([tensor])[0])

    def compare(self, **reference: Any) -> Report:
        np.savez(self.folder / "reference.npz", picture="part.png", **reference)
        return check(self.version, None, self.folder / "reference.npz", Config())


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Author:
    folder = tmp_path_factory.mktemp("detector")
    return Author(folder, write_detector(folder / "d.onnx", metadata=YOLO_METADATA))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Author:
    folder = tmp_path_factory.mktemp("classifier")
    network = write_classifier(folder / "c.onnx", softmax=True, shape=(1, 3, 64, 64))
    return Author(folder, network, labels=COLOURS, scale="0..1")


def verdicts(report: Report) -> Mapping[str, bool]:
    return {step.name: step.ok for step in report.steps}


def test_author_with_the_same_code_agrees_in_every_step(author: Author) -> None:
    tensor = author.input()
    report = author.compare(input=tensor, boxes=np.array(BOXES), **{"outputs/output0": author.outputs(tensor)})
    assert verdicts(report) == {"preprocess": True, "inference": True, "postprocess": True}
    assert (report.ok, report.advice) == (True, None)


@pytest.mark.parametrize("name", ["output0", "boxes"])
def test_outputs_go_by_the_file_s_name_or_the_manifest_s(author: Author, name: str) -> None:
    assert author.compare(**{f"outputs/{name}": author.outputs(author.input())}).ok


def test_swapped_colours_are_found_in_the_input(author: Author) -> None:
    tensor = author.input("bgr")
    report = author.compare(input=tensor, **{"outputs/output0": author.outputs(tensor)})
    assert verdicts(report) == {"preprocess": False, "inference": True}
    assert 'colour = "bgr"' in str(report.advice)


def test_swapped_colours_are_found_without_the_input(author: Author) -> None:
    report = author.compare(**{"outputs/output0": author.outputs(author.input("bgr"))})
    assert verdicts(report) == {"inference": False}
    assert report.advice == 'It fits with colour = "bgr": correct [preprocess].'


def test_another_scale_is_found(author: Author) -> None:
    report = author.compare(input=author.input(divisor=1.0))
    assert "std = [1.0, 1.0, 1.0]" in str(report.advice)


def test_another_way_of_resizing_is_found(tmp_path: Path) -> None:
    author = Author(tmp_path, write_detector(tmp_path / "d.onnx", metadata=YOLO_METADATA), resize="stretch")
    wide = picture_of_squares([("red", 32, 32, 32)], 64, 128)
    save_picture(tmp_path / "part.png", wide)
    boxed = np.full((64, 64, 3), 114, np.uint8)
    boxed[16:48] = wide[::2, ::2]
    tensor = np.ascontiguousarray(boxed.transpose(2, 0, 1)[None] / np.float32(255), np.float32)
    assert 'resize = "letterbox"' in str(author.compare(input=tensor).advice)


def test_input_without_batch_axis_or_with_channels_last_is_understood(author: Author) -> None:
    assert author.compare(input=author.input()[0]).ok
    assert author.compare(input=author.input().transpose(0, 2, 3, 1)).ok


def test_another_training_is_told_from_another_input(author: Author) -> None:
    tensor = author.input()
    outputs = author.outputs(tensor)
    outputs[0, 4:] = outputs[0, 4:] * 0.5
    report = author.compare(input=tensor, **{"outputs/output0": outputs})
    assert verdicts(report) == {"preprocess": True, "inference": False}
    assert "another training" in str(report.advice)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[24, 40, 16, 16, 0.9, 0], [16, 16, 32, 32, 0.9, 2]], "centre x, centre y, width, height"),
        ([[16, 32, 16, 16, 0.9, 0], [0, 0, 32, 32, 0.9, 2]], "left, top, width, height"),
        ([[0.25, 0.5, 0.5, 0.75, 0.9, 0], [0, 0, 0.5, 0.5, 0.9, 2]], "shares of the picture"),
        ([[16, 32, 32, 48, 0.9, 1], [0, 0, 32, 32, 0.9, 2]], "order of `labels`"),
        ([[16, 32, 32, 48, 0.9, 0]], "None of the usual"),
    ],
)
def test_boxes_in_another_form_are_recognised(author: Author, boxes: list[list[float]], words: str) -> None:
    report = author.compare(boxes=np.array(boxes))
    assert not report.ok
    assert words in str(report.advice)


def test_probabilities_that_agree(classifier: Author) -> None:
    tensor = classifier.input()
    report = classifier.compare(input=tensor, classes=classifier.outputs(tensor)[0])
    assert verdicts(report) == {"preprocess": True, "postprocess": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p[::-1], "another order"),
        (lambda p: np.log(p), "before the softmax"),
        (lambda p: np.exp(p) / np.exp(p).sum(), 'activation = "softmax"'),
        (lambda p: np.array([0.5, 0.5, 0.0]), "None of the usual"),
    ],
)
def test_other_probabilities_are_explained(classifier: Author, change: Any, words: str) -> None:
    probabilities = classifier.outputs(classifier.input())[0]
    report = classifier.compare(classes=change(probabilities))
    assert not report.ok
    assert words in str(report.advice)


def test_reference_in_json_of_a_model_of_tensors(tmp_path: Path) -> None:
    imported = import_model([write_table_model(tmp_path / "t.onnx")], Options(into=tmp_path / "models"), lambda _: "")
    reference = tmp_path / "r.json"
    for total, ok in ((3.0, True), (4.0, False)):
        reference.write_text(json.dumps({"input": [[1.0, 2.0]], "outputs": {"total": [[total]]}}))
        assert check(read_version(imported.folder), None, reference, Config()).ok is ok


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.json", "{", "r.json"),
        ("r.json", "[]", "not a JSON object"),
        ("r.json", '{"picture": "part.png"}', "nothing to compare"),
        ("r.json", '{"picture": "gone.png", "input": [1]}', "No such file"),
        ("r.json", '{"picture": "part.png", "input": [[1], [1, 2]]}', "r.json"),
        ("r.json", '{"picture": "part.png", "input": [1, 2]}', "has shape"),
        ("r.json", '{"picture": "part.png", "input": ["a"]}', "finite numbers"),
        ("r.json", '{"picture": "part.png", "outputs": {"other": [1]}}', "no output 'other'"),
        ("r.json", '{"picture": "part.png", "outputs": {"output0": [1]}}', "has shape"),
        ("r.json", '{"picture": "part.png", "boxes": [[1, 2]]}', "a row of boxes"),
        ("r.json", '{"boxes": [[1, 2, 3, 4, 5, 6]]}', "needs a `picture`"),
        ("r.npz", "no archive", "r.npz"),
        ("gone.npz", None, "No such file"),
    ],
)
def test_reference_that_cannot_be_used_is_one_line(author: Author, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (author.folder / name).write_text(content)
    with pytest.raises(ConfigError, match=words):
        check(author.version, None, author.folder / name, Config())


def test_import_list_and_serve_as_typed(tmp_path: Path) -> None:
    network = write_detector(tmp_path / "squares.onnx", metadata=YOLO_METADATA)
    done = run_appliance("models", "import", network, "--into", tmp_path / "models", "--licence", "CC0-1.0")
    assert done.returncode == 0, done.stderr
    assert "squares 1: yolov8, variants onnx-f32" in done.stdout
    listed = run_appliance("models", "list", "--models", tmp_path / "models", "--data-dir", tmp_path / "data", "--json")
    assert listed.returncode == 0
    assert [(each["name"], each["state"]) for each in json.loads(listed.stdout)] == [("squares", "ok")]
    picture = save_picture(tmp_path / "part.png", picture_of_squares([("green", 32, 16, 16)]))
    with running_box(tmp_path / "box", tmp_path / "models") as box:
        answer = box.http.post("/v1/predict/squares", files={"file": picture.read_bytes()}).json()
    assert answer["verdict"] == "review"
    (region,) = answer["prediction"]["regions"]
    assert (region["label"], region["box"]) == ("green", [32, 16, 48, 32])


def test_import_without_a_terminal_names_the_option_it_lacks(tmp_path: Path) -> None:
    network = write_classifier(tmp_path / "c.onnx")
    done = run_appliance("models", "import", network, "--into", tmp_path / "models")
    assert done.returncode == 1
    assert "--labels a,b,c" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("yes", "code"), [((), 0), (("--yes",), 1)])
def test_import_on_a_terminal_asks_unless_told_not_to(tmp_path: Path, yes: tuple[str, ...], code: int) -> None:
    network = write_classifier(tmp_path / "c.onnx")
    keyboard, terminal = os.openpty()
    os.write(keyboard, b"red,green,blue\nother\n-1..1\n")
    command = [
        sys.executable,
        "-m",
        "appliance",
        "models",
        "import",
        str(network),
        "--into",
        str(tmp_path / "models"),
        *yes,
    ]
    try:
        done = subprocess.run(
            command, stdin=terminal, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert done.returncode == code, done.stderr
    if code == 0:
        manifest = read_version(tmp_path / "models" / "c" / "1").manifest
        assert manifest.labels == COLOURS
        assert isinstance(manifest.preprocess, ImagePreprocess)
        assert manifest.preprocess.mean == (127.5,) * 3


def test_labels_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    done = run_appliance(
        "models", "import", write_classifier(tmp_path / "c.onnx"), "--into", tmp_path / "models", "--json",
        "--labels-file", tmp_path / "labels.txt", "--scale", "0..1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] == list(COLOURS)


@pytest.mark.parametrize(
    "options",
    [("--labels", "a", "--labels-file", "b"), ("--labels-file", "/nowhere"), ("--kind", "other"), ("--scale", "2")],
)
def test_wrong_option_of_import_is_exit_2(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run_appliance("models", "import", tmp_path / "c.onnx", *options)
    assert done.returncode == 2


def test_list_says_which_file_is_damaged(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "models", "tiny")
    (folder / "openvino-f32" / "model.bin").write_bytes(b"other")
    (tmp_path / "models" / "empty" / "1").mkdir(parents=True)
    done = run_appliance("models", "list", "--models", tmp_path / "models", "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert "model.bin has SHA-256" in done.stdout
    assert "manifest.toml: No such file" in done.stdout


def test_check_as_typed_exits_with_1_when_a_step_differs(author: Author) -> None:
    command = ("models", "check", "mine", "--models", author.folder / "models", "--data-dir", author.folder)
    np.savez(author.folder / "good.npz", picture="part.png", boxes=np.array(BOXES))
    np.savez(author.folder / "bad.npz", picture="part.png", input=author.input("bgr"))
    good = run_appliance(*command, "--reference", author.folder / "good.npz")
    assert (good.returncode, "agrees" in good.stdout) == (0, True), good.stderr
    bad = run_appliance(*command, "--reference", author.folder / "bad.npz", "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["steps"][0]["name"] == "preprocess"
    missing = run_appliance("models", "check", "other", *command[3:], "--reference", author.folder / "good.npz")
    assert (missing.returncode, "there is no model other" in missing.stderr) == (1, True)


def test_doctor_prints_every_check_and_its_json(tmp_path: Path) -> None:
    models = write_model(tmp_path / "models").parent.parent
    done = run_appliance("doctor", "--models", models, "--data-dir", tmp_path / "data", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    assert {"name", "ok", "found"} <= report["checks"][0].keys()
    table = run_appliance("doctor", "--models", models, "--data-dir", tmp_path / "data").stdout
    assert all(each["name"] in table for each in report["checks"])
