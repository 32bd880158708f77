"""From a model's output tensors to a prediction in the manifest's units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from appliance.core.detection import decode_boxes
from appliance.core.manifest import ImagePreprocess, ModelManifest
from appliance.core.prediction import SCORE_DIGITS, ClassScore, HeatMap, Prediction, Region
from appliance.core.preprocess import Placement, input_size, place
from appliance.core.tensors import Array
from appliance.errors import InferenceError

CLASSES_MAX = 20
"""The best classes that a prediction holds: of a thousand the rest would be most of what is sent and stored."""

OTHER_LABEL = "finding"
"""The label of a region when the picture as a whole was classed as normal."""


def postprocess(
    outputs: Mapping[str, Array],
    manifest: ModelManifest,
    picture: tuple[int, int] | None,
    placement: Placement | None = None,
) -> Prediction:
    """outputs: logical name -> (1, ...) array. picture: (height, width) in pixels as sent, for regions.

    placement: of that picture in the input, as `place` gives it. Without a picture the findings of a detector are in
    pixels of its input. Raises InferenceError when an output has not the shape that the manifest's steps need.
    """
    steps = manifest.postprocess
    classes: tuple[ClassScore, ...] = ()
    score: float | None = None
    if steps.classes is not None:
        probabilities = activate(outputs[steps.classes], steps.activation).reshape(-1)
        classes = _classes(probabilities, manifest.labels)
        if steps.normal_label is not None:
            score = round(1.0 - float(probabilities[manifest.labels.index(steps.normal_label)]), SCORE_DIGITS)
    if steps.score is not None:
        score = round(float(outputs[steps.score].reshape(-1)[0]), SCORE_DIGITS)
    heatmap, regions = None, None
    if steps.boxes is not None and isinstance(manifest.preprocess, ImagePreprocess):
        picture = picture or input_size(manifest.preprocess, manifest.inputs[0])
        placement = placement or place(picture, manifest.preprocess, manifest.inputs[0])
        regions = decode_boxes(outputs[steps.boxes.output], steps.boxes, manifest.labels, placement, picture)
    if steps.heatmap is not None and picture is not None:
        cells = _cells(outputs[steps.heatmap])
        rows, columns = cells.shape
        heatmap = HeatMap(rows, columns, (cells * 255.0 + 0.5).astype(np.uint8).tobytes())
        if regions is None:
            label = next((found.label for found in classes if found.label != steps.normal_label), OTHER_LABEL)
            regions = _regions(cells, steps.heatmap_min, label, picture)
    return Prediction(classes=classes, score=score, score_unit=steps.score_unit, regions=regions, heatmap=heatmap)


def activate(logits: Array, activation: Literal["none", "softmax", "sigmoid"]) -> Array:
    """Probabilities over the last axis; neither form overflows, however large the numbers are."""
    if activation == "softmax":
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: Array = powers / powers.sum(axis=-1, keepdims=True)
        return shares
    if activation == "sigmoid":
        halves: Array = 0.5 * (1.0 + np.tanh(0.5 * logits))
        return halves
    return logits


def _classes(probabilities: Array, labels: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """The best, best first; equals in the order of their labels."""
    count = len(labels)
    if probabilities.size != count:
        raise InferenceError(
            f"the model gave {probabilities.size} class scores for {count} labels; correct the manifest"
        )
    best = (-probabilities).argsort(kind="stable")[:CLASSES_MAX]
    return tuple(
        ClassScore(labels[index], round(score, SCORE_DIGITS))
        for index, score in zip(best.tolist(), probabilities[best].tolist(), strict=True)
    )


def _cells(output: Array) -> Array:
    """(rows, columns) of 0..1, of a heat map with or without a last axis for its one channel."""
    shape = output.shape
    if shape[:1] != (1,) or len(shape) < 3 or shape[3:] not in ((), (1,)) or 0 in shape:
        raise InferenceError(
            f"the model gave a heat map of shape {list(shape)}, not [1, rows, columns]; correct the manifest"
        )
    cells: Array = np.clip(output.reshape(shape[1:3]), 0.0, 1.0)
    return cells


def _regions(cells: npt.NDArray[np.float32], least: float, label: str, picture: tuple[int, int]) -> tuple[Region, ...]:
    """Connected cells at or above `least`, highest score first, in pixels of the picture."""
    rows, columns = cells.shape
    height, width = picture
    count, marks, stats, _ = cv2.connectedComponentsWithStats((cells >= least).astype(np.uint8), connectivity=8)
    regions = []
    for index in range(1, count):
        left, top, across, down, area = (int(value) for value in stats[index])
        box = (
            left * width // columns,
            top * height // rows,
            (left + across) * width // columns,
            (top + down) * height // rows,
        )
        score = round(float(cells[marks == index].max()), SCORE_DIGITS)
        regions.append(Region(label, score, box, round(area / (rows * columns), SCORE_DIGITS)))
    return tuple(sorted(regions, key=lambda region: -region.score))
