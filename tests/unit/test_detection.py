"""Candidates of a detector's head made into findings, against the same in plain Python."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.detection import decode_boxes
from appliance.core.manifest import Boxes
from appliance.core.prediction import Region
from appliance.core.preprocess import Placement
from appliance.errors import InferenceError

Form = Literal["yolov8", "yolov5", "yolov10"]
FORMS: tuple[Form, ...] = ("yolov8", "yolov5", "yolov10")
LABELS = ("bolt", "nut", "washer")
WHOLE = Placement(1.0, 1.0, 0.0, 0.0)
Candidate = tuple[float, float, float, float, int, float]
"""left, top, right, bottom, class, score"""


def head(form: Form, *candidates: Candidate, room: int = 20) -> npt.NDArray[np.float32]:
    """The output that says so, with `room` candidates that say nothing behind."""
    count = len(candidates) + room
    if form == "yolov10":
        ended = np.zeros((1, count, 6), np.float32)
        for index, (left, top, right, bottom, label, score) in enumerate(candidates):
            ended[0, index] = left, top, right, bottom, score, label
        return ended
    rows = np.zeros((count, 8), np.float32)
    for index, (left, top, right, bottom, label, score) in enumerate(candidates):
        rows[index, :4] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        # An objectness of 0.9 has its part in the score.
        rows[index, 4] = 0.9
        rows[index, 5 + label] = score / 0.9 if form == "yolov5" else score
    if form == "yolov5":
        return rows[None]
    return np.ascontiguousarray(np.delete(rows, 4, axis=1).T[None])


def find(
    output: npt.NDArray[Any], form: Form, picture: tuple[int, int] = (100, 100), at: Placement = WHOLE, **limits: Any
) -> tuple[Region, ...]:
    return decode_boxes(output, Boxes(output="o", form=form, **limits), LABELS, at, picture)


@pytest.mark.parametrize("form", FORMS)
def test_finding_has_label_score_box_and_share(form: Form) -> None:
    (region,) = find(head(form, (10, 20, 30, 60, 1, 0.8)), form)
    assert (region.label, region.box) == ("nut", (10, 20, 30, 60))
    assert region.score == pytest.approx(0.8, abs=1e-5)
    assert region.area == pytest.approx(0.08)


@pytest.mark.parametrize("form", FORMS)
def test_findings_come_best_first(form: Form) -> None:
    output = head(form, (0, 0, 9, 9, 0, 0.5), (50, 50, 60, 60, 1, 0.9), (20, 20, 30, 30, 2, 0.7))
    assert [region.label for region in find(output, form)] == ["nut", "washer", "bolt"]


@pytest.mark.parametrize("form", FORMS)
def test_candidates_below_the_least_score_are_dropped(form: Form) -> None:
    output = head(form, (0, 0, 9, 9, 0, 0.24), (50, 50, 60, 60, 1, 0.26))
    assert [region.label for region in find(output, form)] == ["nut"]


@pytest.mark.parametrize("form", ["yolov8", "yolov5"])
def test_weaker_box_of_a_class_that_overlaps_is_dropped(form: Form) -> None:
    output = head(form, (0, 0, 20, 20, 0, 0.6), (1, 0, 21, 20, 0, 0.9), (2, 0, 22, 20, 1, 0.5))
    assert [(region.label, region.box[0]) for region in find(output, form)] == [("bolt", 1), ("nut", 2)]


def test_head_that_suppressed_already_is_taken_as_it_is() -> None:
    output = head("yolov10", (0, 0, 20, 20, 0, 0.6), (1, 0, 21, 20, 0, 0.9))
    assert len(find(output, "yolov10")) == 2


def test_dropped_box_drops_no_other() -> None:
    # Each overlaps its neighbour by two thirds, the first and the third by one third.
    output = head("yolov8", (0, 0, 30, 30, 0, 0.9), (10, 0, 40, 30, 0, 0.8), (20, 0, 50, 30, 0, 0.7))
    assert [region.box[0] for region in find(output, "yolov8")] == [0, 20]


@pytest.mark.parametrize("form", FORMS)
def test_no_more_than_the_most_are_kept(form: Form) -> None:
    candidates = [(x * 10.0, y * 10.0, x * 10 + 8.0, y * 10 + 8.0, 0, 0.5) for x in range(9) for y in range(9)]
    assert len(find(head(form, *candidates), form, boxes_max=7)) == 7


@pytest.mark.parametrize("form", FORMS)
def test_box_is_led_back_to_the_picture_and_cut_at_its_edges(form: Form) -> None:
    # A picture of 200 x 100 in an input of 100 x 100, letterboxed.
    at = Placement(0.5, 0.5, 0.0, 25.0)
    (region,) = find(head(form, (40, 10, 120, 50, 0, 0.9)), form, (100, 200), at)
    assert region.box == (80, 0, 200, 50)
    assert region.area == pytest.approx(0.3)


@pytest.mark.parametrize("form", FORMS)
def test_box_outside_the_picture_is_no_finding(form: Form) -> None:
    outside = [(100.0, 0.0, 120.0, 20.0, 0, 0.9), (-20.0, 0.0, 0.0, 20.0, 0, 0.9), (0.0, 120.0, 9.0, 140.0, 0, 0.9)]
    assert find(head(form, *outside), form) == ()


@pytest.mark.parametrize("form", FORMS)
def test_finding_thinner_than_a_pixel_keeps_one(form: Form) -> None:
    (region,) = find(head(form, (10.1, 10, 10.3, 20, 0, 0.9)), form)
    assert region.box == (10, 10, 11, 20)


@pytest.mark.parametrize("form", FORMS)
def test_box_turned_inside_out_is_no_finding(form: Form) -> None:
    assert find(head(form, (30, 30, 10, 10, 0, 0.9)), form) == ()


def test_class_that_nobody_named_is_not_hidden() -> None:
    output = head("yolov10", (0, 0, 9, 9, 0, 0.9))
    output[0, 0, 5] = 7
    assert [region.label for region in find(output, "yolov10")] == ["class 7"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_candidate_with_a_number_that_is_none_is_dropped_and_the_others_stay(form: Form, value: float) -> None:
    for column in range(6):
        output = head(form, (10, 10, 20, 20, 0, 0.9), (50, 50, 60, 60, 1, 0.8))
        (output[0, column] if form == "yolov8" else output[0, :, column])[0] = value
        assert "nut" in [region.label for region in find(output, form)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 5, 20), (2, 7, 20), (7, 20), (1, 20, 9), (1, 7, 20, 1)])
def test_output_of_another_shape_is_refused(form: Form, shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceError, match="has shape"):
        find(np.zeros(shape, np.float32), form)


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2)),
        max_size=40,
    ),
    st.sampled_from([0.2, 0.45, 0.7]),
)
@settings(max_examples=60, deadline=None)
def test_suppression_is_the_plain_greedy_one(placed: list[tuple[int, int, int, int, int]], iou_max: float) -> None:
    candidates = [
        (float(x), float(y), float(x + w), float(y + h), label, 0.99 - 0.01 * index)
        for index, (x, y, w, h, label) in enumerate(placed)
    ]
    kept: list[Candidate] = []
    for each in candidates:
        if all(each[4] != other[4] or iou(each, other) <= iou_max + 1e-6 for other in kept):
            kept.append(each)
    found = find(head("yolov8", *candidates), "yolov8", (200, 200), iou_max=iou_max)
    assert [region.box for region in found] == [tuple(map(int, each[:4])) for each in kept]


def test_many_more_candidates_than_a_block_are_suppressed_alike() -> None:
    random = np.random.default_rng(3)
    corners = random.integers(0, 500, (1500, 2))
    candidates: list[Candidate] = [
        (float(x), float(y), float(x + 40), float(y + 40), index % 3, 0.99 - index * 0.0004)
        for index, (x, y) in enumerate(corners.tolist())
    ]
    kept: list[Candidate] = []
    for each in candidates:
        if all(each[4] != other[4] or iou(each, other) <= 0.45 for other in kept):
            kept.append(each)
    found = find(head("yolov8", *candidates), "yolov8", (600, 600), boxes_max=10_000)
    assert [region.box for region in found] == [tuple(map(int, each[:4])) for each in kept]


def iou(a: Candidate, b: Candidate) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, across) * max(0.0, down)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
