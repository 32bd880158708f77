"""What a model said about one input, in the units of its manifest."""

from __future__ import annotations

import msgspec

SCORE_DIGITS = 6
"""More digits than any score is sure of would only be longer to send and to store."""


class ClassScore(msgspec.Struct, frozen=True):
    """A label and its probability, 0..1."""

    label: str
    score: float


class Region(msgspec.Struct, frozen=True):
    """A finding in the picture.

    box: (left, top, right, bottom) in pixels of the picture as it was sent; score: 0..1, the highest inside;
    area: share of the picture, 0..1.
    """

    label: str
    score: float
    box: tuple[int, int, int, int]
    area: float


class HeatMap(msgspec.Struct, frozen=True):
    """Where the finding is: rows x columns cells over the whole picture.

    cells: one byte a cell, row by row from the top left, 0 (nothing) to 255 (sure). Base64 in JSON.
    """

    rows: int
    columns: int
    cells: bytes


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """classes: best first, of a great many the best only. score: in the manifest's score unit.

    regions: None when the model does not locate.
    """

    classes: tuple[ClassScore, ...] = ()
    score: float | None = None
    score_unit: str | None = None
    regions: tuple[Region, ...] | None = None
    heatmap: HeatMap | None = None
