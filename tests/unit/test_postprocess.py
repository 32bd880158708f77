"""Output tensors made into classes, scores and regions."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from appliance.core.manifest import ImagePreprocess, ModelManifest, Postprocess, parse_manifest
from appliance.core.postprocess import CLASSES_MAX, OTHER_LABEL, activate, postprocess
from appliance.core.preprocess import place
from appliance.core.tensors import TensorSpec
from appliance.errors import InferenceError
from tests.support.toml import to_toml

SIZE = 4


def make_manifest(**steps: Any) -> ModelManifest:
    return parse_manifest(
        to_toml(
            {
                "schema": 1,
                "name": "m",
                "version": "1",
                "title": "",
                "licence": "",
                "provenance": "",
                "labels": ["good", "scratch", "hole"],
                "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, 8, 8, 3]}],
                "outputs": [
                    {"name": "p", "dtype": "float32", "shape": [-1, 3]},
                    {"name": "heat", "dtype": "float32", "shape": [-1, SIZE, SIZE]},
                    {"name": "anomaly", "dtype": "float32", "shape": [-1, 1]},
                    {"name": "boxes", "dtype": "float32", "shape": [1, 7, 21]},
                ],
                "preprocess": {"kind": "image", "mean": [0.0] * 3, "std": [1.0] * 3},
                "postprocess": steps,
                "variants": [
                    {
                        "name": "v",
                        "format": "openvino",
                        "precision": "f32",
                        "files": [{"path": "m.xml", "sha256": "0" * 64}],
                    }
                ],
            }
        ).encode(),
        "manifest.toml",
    )


LOCATING = make_manifest(classes="p", heatmap="heat", heatmap_min=0.5, normal_label="good", score_unit="p(defect)")


def outputs(p: list[float], heat: npt.NDArray[np.float32] | None = None, anomaly: float = 0.0) -> dict[str, Any]:
    return {
        "p": np.array([p], np.float32),
        "heat": np.zeros((1, SIZE, SIZE), np.float32) if heat is None else heat[None],
        "anomaly": np.array([[anomaly]], np.float32),
    }


def heat_at(*cells: tuple[int, int, float]) -> npt.NDArray[np.float32]:
    heat = np.zeros((SIZE, SIZE), np.float32)
    for row, column, value in cells:
        heat[row, column] = value
    return heat


def test_classes_come_best_first() -> None:
    prediction = postprocess(outputs([0.2, 0.7, 0.1]), LOCATING, (8, 8))
    assert [(each.label, each.score) for each in prediction.classes] == [
        ("scratch", 0.7),
        ("good", 0.2),
        ("hole", 0.1),
    ]


def test_score_is_what_is_missing_to_normal() -> None:
    prediction = postprocess(outputs([0.2, 0.7, 0.1]), LOCATING, (8, 8))
    assert prediction.score == pytest.approx(0.8)
    assert prediction.score_unit == "p(defect)"


def test_score_is_the_output_that_the_manifest_names() -> None:
    manifest = make_manifest(classes="p", score="anomaly", normal_label="good")
    assert postprocess(outputs([0.2, 0.7, 0.1], anomaly=3.25), manifest, None).score == 3.25


def test_without_a_normal_label_there_is_no_score() -> None:
    assert postprocess(outputs([0.2, 0.7, 0.1]), make_manifest(classes="p"), None).score is None


def test_regions_are_in_pixels_of_the_picture_as_sent() -> None:
    heat = heat_at((0, 0, 0.9), (0, 1, 0.6), (3, 3, 0.75))
    prediction = postprocess(outputs([0.1, 0.8, 0.1], heat), LOCATING, (100, 400))
    assert prediction.regions is not None
    first, second = prediction.regions
    assert (first.label, first.score, first.box, first.area) == ("scratch", 0.9, (0, 0, 200, 25), 0.125)
    assert (second.score, second.box, second.area) == (0.75, (300, 75, 400, 100), 0.0625)


def test_cells_that_touch_at_a_corner_are_one_region() -> None:
    prediction = postprocess(outputs([0.1, 0.8, 0.1], heat_at((0, 0, 0.9), (1, 1, 0.9))), LOCATING, (4, 4))
    assert prediction.regions is not None
    assert [region.box for region in prediction.regions] == [(0, 0, 2, 2)]


def test_cells_below_the_least_heat_are_no_region() -> None:
    prediction = postprocess(outputs([0.9, 0.1, 0.0], heat_at((0, 0, 0.49), (2, 2, 0.5))), LOCATING, (4, 4))
    assert prediction.regions is not None
    assert [region.score for region in prediction.regions] == [0.5]


def test_region_in_a_normal_picture_takes_the_likeliest_defect() -> None:
    prediction = postprocess(outputs([0.8, 0.05, 0.15], heat_at((0, 0, 0.9))), LOCATING, (4, 4))
    assert prediction.regions is not None
    assert prediction.regions[0].label == "hole"


def test_region_of_a_model_without_classes_is_a_finding() -> None:
    manifest = make_manifest(heatmap="heat")
    prediction = postprocess(outputs([0.0, 0.0, 0.0], heat_at((0, 0, 0.9))), manifest, (4, 4))
    assert prediction.regions is not None
    assert prediction.regions[0].label == OTHER_LABEL
    assert prediction.classes == ()


def test_heat_map_is_one_byte_a_cell() -> None:
    prediction = postprocess(outputs([1.0, 0.0, 0.0], heat_at((0, 1, 1.0), (3, 3, 0.5), (1, 0, 2.0))), LOCATING, (4, 4))
    assert prediction.heatmap is not None
    cells = np.frombuffer(prediction.heatmap.cells, np.uint8).reshape(SIZE, SIZE)
    assert (cells[0, 1], cells[3, 3], cells[1, 0], cells[0, 0]) == (255, 128, 255, 0)


@pytest.mark.parametrize("shape", [(1, SIZE), (1, SIZE, SIZE, 2), (2, SIZE, SIZE), (1, 0, SIZE), (1, 1, SIZE, SIZE)])
def test_heat_map_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    given = outputs([1.0, 0.0, 0.0]) | {"heat": np.zeros(shape, np.float32)}
    with pytest.raises(InferenceError, match="heat map of shape"):
        postprocess(given, LOCATING, (4, 4))


def test_heat_map_may_have_an_axis_for_its_channel() -> None:
    given = outputs([0.1, 0.8, 0.1], heat_at((0, 0, 0.9)))
    with_channel = given | {"heat": given["heat"][..., None]}
    assert postprocess(with_channel, LOCATING, (8, 8)) == postprocess(given, LOCATING, (8, 8))


def test_model_that_does_not_locate_has_neither_regions_nor_heat() -> None:
    prediction = postprocess(outputs([1.0, 0.0, 0.0]), make_manifest(classes="p"), (4, 4))
    assert prediction.regions is None
    assert prediction.heatmap is None


@pytest.mark.parametrize("logits", [[1.0, 3.0, -2.0], [1e30, 0.0, -1e30], [0.0, 0.0, 0.0]])
def test_softmax_gives_shares_of_one_however_large_the_numbers(logits: list[float]) -> None:
    shares = activate(np.array([logits], np.float32), "softmax")
    assert shares.sum() == pytest.approx(1.0)
    assert shares.argmax() == np.argmax(logits)


def test_sigmoid_judges_each_class_alone() -> None:
    assert activate(np.array([0.0, 1e30, -1e30]), "sigmoid").tolist() == [0.5, 1.0, 0.0]


def test_activation_is_applied_before_the_classes_are_ranked_and_scored() -> None:
    manifest = make_manifest(classes="p", activation="softmax", normal_label="good")
    prediction = postprocess(outputs([0.0, 2.0, 1.0]), manifest, None)
    assert [each.label for each in prediction.classes] == ["scratch", "hole", "good"]
    assert sum(each.score for each in prediction.classes) == pytest.approx(1.0, abs=1e-5)
    assert prediction.score == pytest.approx(1 - 0.090031, abs=1e-5)


def test_as_many_scores_as_labels_or_it_is_said() -> None:
    with pytest.raises(InferenceError, match="2 class scores for 3 labels"):
        postprocess({"p": np.zeros((1, 2), np.float32)}, make_manifest(classes="p"), None)


def boxes_at(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Any]:
    """(centre x, centre y, width, height, class, score) as a head in the form of yolov8 with 21 candidates."""
    head = np.zeros((1, 7, 21), np.float32)
    for index, (x, y, width, height, label, score) in enumerate(rows):
        head[0, :4, index] = x, y, width, height
        head[0, 4 + label, index] = score
    return {"boxes": head}


DETECTING = make_manifest(boxes={"output": "boxes", "form": "yolov8"})


def test_findings_of_a_detector_are_in_pixels_of_the_picture_as_sent() -> None:
    found = postprocess(boxes_at((4, 4, 4, 2, 1, 0.9)), DETECTING, (80, 160))
    assert found.regions is not None
    region = found.regions[0]
    assert (region.label, region.box) == ("scratch", (40, 30, 120, 50))
    assert region.score == pytest.approx(0.9)
    assert region.area == pytest.approx(80 * 20 / (80 * 160))


def test_placement_that_is_given_is_the_one_that_is_used() -> None:
    letterbox = ImagePreprocess(resize="letterbox", mean=(0.0,) * 3, std=(1.0,) * 3)
    placement = place((40, 80), letterbox, DETECTING.inputs[0])
    found = postprocess(boxes_at((4, 4, 8, 4, 0, 0.9)), DETECTING, (40, 80), placement)
    assert found.regions is not None
    assert found.regions[0].box == (0, 0, 80, 40)


def test_tensors_without_a_picture_give_findings_in_pixels_of_the_input() -> None:
    found = postprocess(boxes_at((4, 4, 4, 2, 2, 0.9)), DETECTING, None)
    assert found.regions is not None
    assert found.regions[0].box == (2, 3, 6, 5)


def test_detector_that_finds_nothing_says_so_and_has_no_score() -> None:
    found = postprocess(boxes_at(), DETECTING, (8, 8))
    assert found.regions == ()
    assert found.score is None


def test_of_a_thousand_classes_the_best_are_kept_and_the_score_counts_all() -> None:
    labels = tuple(f"class-{number}" for number in range(1000))
    steps = Postprocess(classes="p", normal_label="class-999")
    outputs = (TensorSpec("p", "float32", (-1, len(labels))),)
    manifest = msgspec.structs.replace(LOCATING, labels=labels, outputs=outputs, postprocess=steps)
    found = postprocess({"p": np.linspace(1.0, 0.0, 1000, dtype=np.float32)[None]}, manifest, None)
    assert [each.label for each in found.classes] == list(labels[:CLASSES_MAX])
    assert found.score == 1.0
