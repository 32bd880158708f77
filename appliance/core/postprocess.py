"""From a model's output tensors to a prediction in the manifest's units."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from appliance.core.manifest import ModelManifest
from appliance.core.prediction import ClassScore, HeatMap, Prediction, Region
from appliance.core.tensors import Array

SCORE_DIGITS = 6
"""More digits than any score is sure of would only be longer to send and to store."""

OTHER_LABEL = "finding"
"""The label of a region when the picture as a whole was classed as normal."""


def postprocess(outputs: Mapping[str, Array], manifest: ModelManifest, picture: tuple[int, int] | None) -> Prediction:
    """outputs: logical name -> (1, ...) array. picture: (height, width) in pixels as sent, for regions."""
    steps = manifest.postprocess
    classes: tuple[ClassScore, ...] = ()
    if steps.classes is not None:
        classes = _classes(outputs[steps.classes], manifest.labels)
    score = _score(outputs, steps.score, steps.normal_label, classes)
    heatmap, regions = None, None
    if steps.heatmap is not None and picture is not None:
        cells = np.clip(outputs[steps.heatmap].reshape(outputs[steps.heatmap].shape[1:3]), 0.0, 1.0)
        rows, columns = cells.shape
        heatmap = HeatMap(rows, columns, (cells * 255.0 + 0.5).astype(np.uint8).tobytes())
        label = next((found.label for found in classes if found.label != steps.normal_label), OTHER_LABEL)
        regions = _regions(cells, steps.heatmap_min, label, picture)
    return Prediction(classes=classes, score=score, score_unit=steps.score_unit, regions=regions, heatmap=heatmap)


def _classes(probabilities: Array, labels: tuple[str, ...]) -> tuple[ClassScore, ...]:
    row = probabilities.reshape(-1).tolist()
    found = (ClassScore(label, round(score, SCORE_DIGITS)) for label, score in zip(labels, row, strict=True))
    return tuple(sorted(found, key=lambda each: -each.score))


def _score(
    outputs: Mapping[str, Array], output: str | None, normal_label: str | None, classes: tuple[ClassScore, ...]
) -> float | None:
    if output is not None:
        return round(float(outputs[output].reshape(-1)[0]), SCORE_DIGITS)
    if normal_label is not None:
        return next((round(1.0 - each.score, SCORE_DIGITS) for each in classes if each.label == normal_label), None)
    return None


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
