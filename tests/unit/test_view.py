"""A prediction about a part of a picture, told of the whole picture."""

from __future__ import annotations

import numpy as np

from appliance.core.prediction import HeatMap, Prediction, Region
from appliance.core.view import Placed, in_whole_picture


def cells(heatmap: HeatMap | None) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    assert heatmap is not None
    return np.frombuffer(heatmap.cells, np.uint8).reshape(heatmap.rows, heatmap.columns)


def test_boxes_and_areas_are_those_of_the_whole_picture() -> None:
    found = Prediction(regions=(Region("hole", 0.9, (10, 20, 60, 45), 0.25),))
    whole = in_whole_picture(found, Placed((100, 50, 200, 100), 200, 400))
    assert whole.regions == (Region("hole", 0.9, (110, 70, 160, 95), 0.25 * 100 * 50 / (200 * 400)),)


def test_heat_lies_where_the_part_was_cut_out() -> None:
    heat = np.zeros((4, 4), np.uint8)
    heat[0, 0] = 255
    found = Prediction(heatmap=HeatMap(4, 4, heat.tobytes()))
    whole = cells(in_whole_picture(found, Placed((50, 50, 100, 100), 100, 100)).heatmap)
    assert whole.shape == (8, 8)
    assert whole[4, 4] == 255
    assert whole.sum() == 255


def test_heat_of_a_tiny_part_stays_small() -> None:
    found = Prediction(heatmap=HeatMap(60, 60, bytes([255] * 3600)))
    whole = cells(in_whole_picture(found, Placed((0, 0, 10, 10), 4000, 4000)).heatmap)
    assert whole.shape == (256, 256)
    assert whole[0, 0] == 255
    assert np.count_nonzero(whole) == 1


def test_what_does_not_locate_stays_as_it_is() -> None:
    found = Prediction(score=0.5)
    assert in_whole_picture(found, Placed((0, 0, 1, 1), 2, 2)) == found
