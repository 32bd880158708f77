"""The picture with its findings."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.core.draw import draw, headline
from appliance.core.prediction import ClassScore, HeatMap, Prediction, Region
from appliance.core.verdict import Verdict

GREY = np.full((240, 320, 3), 128, np.uint8)


def make_prediction(heat: int = 0) -> Prediction:
    cells = bytes([heat, 0, 0, 0])
    region = Region("scratch", 0.9, (100, 100, 160, 150), 0.1)
    return Prediction(classes=(ClassScore("scratch", 0.9),), regions=(region,), heatmap=HeatMap(2, 2, cells))


def test_picture_itself_is_left_alone() -> None:
    image = GREY.copy()
    drawn = draw(image, make_prediction(), "ng")
    np.testing.assert_array_equal(image, GREY)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8


def test_box_is_drawn_around_the_region_and_not_far_from_it() -> None:
    drawn = draw(GREY, make_prediction(), "ng")
    assert drawn[125, 100].tolist() != [128, 128, 128]
    assert drawn[149, 130].tolist() != [128, 128, 128]
    assert drawn[125, 130].tolist() == [128, 128, 128]
    assert drawn[220, 300].tolist() == [128, 128, 128]


def test_heat_reddens_where_it_is_hot() -> None:
    drawn = draw(GREY, Prediction(heatmap=HeatMap(2, 2, bytes([0, 0, 0, 255]))), "none")
    hot, cold = drawn[235, 315].astype(int), drawn[100, 5].astype(int)
    assert hot[0] > 180 > hot[2]
    assert cold.tolist() == [128, 128, 128]


@pytest.mark.parametrize("verdict", ["ok", "ng", "review", "error", "none"])
def test_every_verdict_has_a_colour_of_its_own(verdict: Verdict) -> None:
    others = {"ok", "ng", "review", "error", "none"} - {verdict}
    mine = draw(GREY, Prediction(), verdict)[1, 1].tolist()
    assert all(draw(GREY, Prediction(), other)[1, 1].tolist() != mine for other in others)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (3, 3)])
def test_even_the_smallest_picture_can_be_drawn(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    region = Region("scratch", 0.9, (0, 0, shape[1], shape[0]), 1.0)
    assert draw(image, Prediction(regions=(region,), heatmap=HeatMap(1, 1, b"\xff")), "ng").shape == image.shape


def test_what_a_detector_found_is_drawn_whatever_it_means() -> None:
    region = Region("bolt", 0.9, (100, 100, 160, 150), 0.1)
    drawn = draw(GREY, Prediction(regions=(region,)), "ok")
    assert drawn[125, 100].tolist() != [128, 128, 128]


def test_warm_spot_in_a_part_that_is_ok_is_not_drawn() -> None:
    drawn = draw(GREY, make_prediction(), "ok")
    assert drawn[125, 100].tolist() == [128, 128, 128]


def make_regions(**counts: int) -> tuple[Region, ...]:
    return tuple(Region(label, 0.9, (0, 0, 1, 1), 0.0) for label, count in counts.items() for _ in range(count))


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (make_prediction(), "scratch 0.90"),
        (Prediction(regions=make_regions(nut=1, bolt=3)), "3 bolt, 1 nut"),
        (Prediction(regions=make_regions(a=4, b=3, c=2, d=1)), "4 a, 3 b, 2 c, ..."),
        (Prediction(regions=()), ""),
        (Prediction(), ""),
    ],
)
def test_headline_is_the_best_class_or_the_counts(prediction: Prediction, words: str) -> None:
    assert headline(prediction) == words
