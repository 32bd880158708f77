"""The picture with its findings drawn, for people."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import numpy.typing as npt

from appliance.core.prediction import Prediction
from appliance.core.verdict import Verdict

_COLOURS: dict[Verdict, tuple[int, int, int]] = {
    "ok": (22, 140, 70),
    "ng": (205, 30, 40),
    "review": (200, 125, 0),
    "error": (110, 60, 160),
    "none": (90, 100, 110),
}
_HEAT_OPACITY = 0.55
_HEAT_COLOUR = np.asarray((255, 60, 30), np.float32)
_KINDS_NAMED = 3
_STRIPE_ROWS = 256
"""Blended at once: a whole picture in floats would take many times its memory."""


def draw(image: npt.NDArray[np.uint8], prediction: Prediction, verdict: Verdict) -> npt.NDArray[np.uint8]:
    """image: (height, width, 3) uint8 RGB, left unchanged. Returns a copy with heat, boxes and the verdict."""
    colour = _COLOURS[verdict]
    height, width = image.shape[:2]
    drawn = np.ascontiguousarray(image.copy())
    if prediction.heatmap is not None:
        cells = np.frombuffer(prediction.heatmap.cells, np.uint8).reshape(
            prediction.heatmap.rows, prediction.heatmap.columns
        )
        heat = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
        for top in range(0, height, _STRIPE_ROWS):
            stripe = slice(top, top + _STRIPE_ROWS)
            opacity = heat[stripe, :, None].astype(np.float32) * (_HEAT_OPACITY / 255.0)
            drawn[stripe] = (drawn[stripe] * (1.0 - opacity) + _HEAT_COLOUR * opacity).astype(np.uint8)
    scale = max(width, height) / 640.0
    line = max(1, round(2 * scale))
    # A warm spot in a part that is ok is no finding; what a detector found is there whatever it means.
    shown = verdict != "ok" or prediction.heatmap is None
    for region in (prediction.regions or ()) if shown else ():
        left, top, right, bottom = region.box
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, line)
        _label(drawn, f"{region.label} {region.score:.2f}", (left, top), colour, scale)
    _label(drawn, f"{verdict.upper()} {headline(prediction)}".rstrip(), (0, 0), colour, scale * 1.4)
    return drawn


def headline(prediction: Prediction) -> str:
    """The best class, or how many of each kind a detector found, the most frequent first."""
    if prediction.classes:
        return f"{prediction.classes[0].label} {prediction.classes[0].score:.2f}"
    counts = Counter(region.label for region in prediction.regions or ())
    named = [f"{count} {label}" for label, count in counts.most_common(_KINDS_NAMED)]
    return ", ".join([*named, "..."] if len(counts) > _KINDS_NAMED else named)


def _label(
    drawn: npt.NDArray[np.uint8], text: str, corner: tuple[int, int], colour: tuple[int, int, int], scale: float
) -> None:
    """White text on a filled box, kept inside the picture."""
    size, thickness = max(0.35, 0.5 * scale), max(1, round(scale))
    (across, down), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    x = max(0, min(corner[0], drawn.shape[1] - across))
    y = max(down + base, min(corner[1], drawn.shape[0]))
    cv2.rectangle(drawn, (x, y - down - base), (x + across, y), colour, cv2.FILLED)
    white = (255, 255, 255)
    cv2.putText(drawn, text, (x, y - base // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, size, white, thickness, cv2.LINE_AA)
