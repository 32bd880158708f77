"""Which part of a picture a model sees, what of it nobody may see, and where its findings lie in the whole picture."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np

from appliance.core.area import Mask, Rectangle
from appliance.core.prediction import SCORE_DIGITS, HeatMap, Prediction, Region

_CELLS_MAX = 256
"""Rows or columns of a heat map that was laid into a whole picture."""


class View(msgspec.Struct, frozen=True):
    """crop: what the model sees; None: all. masks: what is painted black first. measured: tell how good it is."""

    crop: Rectangle | None = None
    masks: tuple[Mask, ...] = ()
    measured: bool = False


class Placed(msgspec.Struct, frozen=True):
    """box: (left, top, right, bottom) in pixels of what was cut out of a picture of `height` and `width`."""

    box: tuple[int, int, int, int]
    height: int
    width: int


def in_whole_picture(prediction: Prediction, placed: Placed) -> Prediction:
    """Boxes, areas and heat map of a prediction about a part of a picture, as of the whole picture."""
    left, top, right, bottom = placed.box
    share = (right - left) * (bottom - top) / (placed.height * placed.width)
    regions = prediction.regions
    if regions is not None:
        regions = tuple(
            Region(
                each.label,
                each.score,
                (each.box[0] + left, each.box[1] + top, each.box[2] + left, each.box[3] + top),
                round(each.area * share, SCORE_DIGITS),
            )
            for each in regions
        )
    heatmap = prediction.heatmap
    if heatmap is not None:
        heatmap = _laid_in(heatmap, placed)
    return msgspec.structs.replace(prediction, regions=regions, heatmap=heatmap)


def _laid_in(heatmap: HeatMap, placed: Placed) -> HeatMap:
    """Cells of about the same size over the whole picture, with nothing beside the part that was seen."""
    left, top, right, bottom = placed.box
    rows = _cells(heatmap.rows, placed.height, bottom - top)
    columns = _cells(heatmap.columns, placed.width, right - left)
    whole = np.zeros((rows, columns), np.uint8)
    x, x_end = _span(left, right, placed.width, columns)
    y, y_end = _span(top, bottom, placed.height, rows)
    cells = np.frombuffer(heatmap.cells, np.uint8).reshape(heatmap.rows, heatmap.columns)
    whole[y:y_end, x:x_end] = cv2.resize(cells, (x_end - x, y_end - y), interpolation=cv2.INTER_LINEAR)
    return HeatMap(rows, columns, whole.tobytes())


def _cells(cells: int, whole: int, part: int) -> int:
    return max(1, min(max(cells, _CELLS_MAX), round(cells * whole / part)))


def _span(start: int, end: int, pixels: int, cells: int) -> tuple[int, int]:
    """The cells from `start` to `end`, at least one."""
    first = min(round(start * cells / pixels), cells - 1)
    return first, max(first + 1, min(round(end * cells / pixels), cells))
