"""From the candidates of a detector's head to findings in the picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from appliance.core.manifest import Boxes
from appliance.core.prediction import SCORE_DIGITS, Region
from appliance.core.preprocess import Placement
from appliance.core.tensors import Array
from appliance.errors import InferenceError

_Floats = npt.NDArray[np.float32]

CANDIDATES_MAX = 4096
"""Candidates of a picture that suppression looks at, best first: an output of noise must not hold a lane up."""

_BLOCK = 256


def decode_boxes(
    output: Array, boxes: Boxes, labels: tuple[str, ...], placement: Placement, picture: tuple[int, int]
) -> tuple[Region, ...]:
    """The findings of one picture, best first, at most `boxes.boxes_max`.

    output: (1, ...) as `boxes.form` says. picture: (height, width) in pixels as sent. Boxes are cut at the picture's
    edges, and dropped where nothing of them is inside or a number is not finite. Suppression is per class, greedy,
    before the cut. Raises InferenceError when the output has not the form's shape.
    """
    corners, scores, classes = _candidates(output, boxes, len(labels))
    order = np.argsort(-scores, kind="stable")[:CANDIDATES_MAX]
    corners, scores, classes = corners[order], scores[order], classes[order]
    if boxes.form == "yolov10":
        kept = np.arange(min(len(scores), boxes.boxes_max))
    else:
        kept = _suppress(corners, classes, boxes.iou_max, boxes.boxes_max)
    height, width = picture
    edges = np.empty((len(kept), 4), np.float64)
    edges[:, 0::2] = np.clip((corners[kept, 0::2] - placement.left) / placement.scale_x, 0, width)
    edges[:, 1::2] = np.clip((corners[kept, 1::2] - placement.top) / placement.scale_y, 0, height)
    regions = []
    for (left, top, right, bottom), score, label in zip(
        edges.tolist(), scores[kept].tolist(), classes[kept].tolist(), strict=True
    ):
        if right <= left or bottom <= top:
            continue
        # A finding thinner than a pixel is still one.
        x, y = min(round(left), width - 1), min(round(top), height - 1)
        box = (x, y, max(round(right), x + 1), max(round(bottom), y + 1))
        area = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
        # A class that nobody named is no reason to hide the finding.
        name = labels[label] if 0 <= label < len(labels) else f"class {label}"
        regions.append(Region(name, round(min(score, 1.0), SCORE_DIGITS), box, round(area, SCORE_DIGITS)))
    return tuple(regions)


def _candidates(output: Array, boxes: Boxes, labels: int) -> tuple[_Floats, _Floats, npt.NDArray[np.intp]]:
    """(m, 4) corners in input pixels, (m,) scores, (m,) classes of the m candidates that reach `score_min`."""
    wide = {"yolov8": 4 + labels, "yolov5": 5 + labels, "yolov10": 6}[boxes.form]
    axis = 1 if boxes.form == "yolov8" else 2
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[axis] != wide:
        wanted = f"[1, {wide}, n]" if axis == 1 else f"[1, n, {wide}]"
        raise InferenceError(
            f"output {boxes.output!r} has shape {list(output.shape)}, {boxes.form} with {labels} labels is {wanted}"
        )
    rows: _Floats = output[0].astype(np.float32, copy=False)
    if boxes.form == "yolov8":
        # The best score of each candidate first; the rest only of the few that are left.
        rows = _finite(rows[:, rows[4:].max(axis=0) >= boxes.score_min].T)
        corners, each = _corners(rows[:, :4]), rows[:, 4:]
        scores, classes = each.max(axis=1), each.argmax(axis=1)
    elif boxes.form == "yolov5":
        rows = rows[rows[:, 4] >= boxes.score_min]
        with np.errstate(invalid="ignore"):
            rows = _finite(rows[rows[:, 5:].max(axis=1) * rows[:, 4] >= boxes.score_min])
        corners, each = _corners(rows[:, :4]), rows[:, 5:] * rows[:, 4:5]
        scores, classes = each.max(axis=1), each.argmax(axis=1)
    else:
        rows = _finite(rows)
        corners, scores, classes = rows[:, :4], rows[:, 4], rows[:, 5].clip(-1, 1 << 20).astype(np.intp)
    good = (scores >= boxes.score_min) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return corners[good], scores[good], classes[good]


def _finite(rows: _Floats) -> _Floats:
    return rows[np.isfinite(rows).all(axis=1)]


def _corners(boxes: _Floats) -> _Floats:
    """Centre x, centre y, width, height -> left, top, right, bottom."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _suppress(corners: _Floats, classes: npt.NDArray[np.intp], iou_max: float, most: int) -> npt.NDArray[np.intp]:
    """Indices to keep, of candidates that come best first: each drops the weaker of its class that overlap it more.

    A block at a time: against what was kept before, then within itself.
    """
    kept: npt.NDArray[np.intp] = np.empty(0, np.intp)
    for start in range(0, len(corners), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(corners)))
        if kept.size:
            block = block[~_overlap(corners, classes, block, kept, iou_max).any(axis=1)]
        drops = _overlap(corners, classes, block, block, iou_max)
        alive = np.ones(len(block), np.bool_)
        for at in np.flatnonzero(drops.sum(axis=1) > 1).tolist():
            if alive[at]:
                alive[at + 1 :] &= ~drops[at, at + 1 :]
        kept = np.concatenate([kept, block[alive]])
        if len(kept) >= most:
            break
    return kept[:most]


def _overlap(
    corners: _Floats,
    classes: npt.NDArray[np.intp],
    ours: npt.NDArray[np.intp],
    theirs: npt.NDArray[np.intp],
    most: float,
) -> npt.NDArray[np.bool_]:
    """(len(ours), len(theirs)): of one class, and intersection over union above `most`."""
    left, top, right, bottom = corners[ours].T[:, :, None]
    left_2, top_2, right_2, bottom_2 = corners[theirs].T[:, None, :]
    shared = np.minimum(right, right_2)
    shared -= np.maximum(left, left_2)
    down = np.minimum(bottom, bottom_2)
    down -= np.maximum(top, top_2)
    shared.clip(0, out=shared)
    shared *= down.clip(0, out=down)
    # shared > most * (area + area_2 - shared), without a division and with one matrix less.
    union = (right - left) * (bottom - top) + (right_2 - left_2) * (bottom_2 - top_2)
    union *= np.float32(most / (1 + most))
    over: npt.NDArray[np.bool_] = shared > union
    over &= classes[ours, None] == classes[None, theirs]
    return over
