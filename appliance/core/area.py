"""Areas of a picture as a configuration names them: shares of its width and height, so that they fit any resolution."""

from __future__ import annotations

import math
from typing import Annotated

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Extent = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]

Rectangle = tuple[Share, Share, Extent, Extent]
"""Left, top, width and height, as shares of the picture."""

Point = tuple[Share, Share]
"""From the left and from the top, as shares of the picture."""


class Mask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rectangle or a polygon of three corners or more, never both."""

    rectangle: Rectangle | None = None
    polygon: Annotated[tuple[Point, ...], msgspec.Meta(min_length=3)] | None = None

    def __post_init__(self) -> None:
        if (self.rectangle is None) == (self.polygon is None):
            raise ValueError("a mask is a rectangle = [left, top, width, height] or a polygon = [[x, y], ...]")
        check_inside(self.rectangle)


def check_inside(rectangle: Rectangle | None) -> None:
    """Raises ValueError for one that reaches out of the picture."""
    if rectangle is None:
        return
    left, top, width, height = rectangle
    if left + width > 1 + 1e-9 or top + height > 1 + 1e-9:
        raise ValueError(f"{list(rectangle)} reaches out of the picture; left + width and top + height are at most 1")


def pixels(rectangle: Rectangle, height: int, width: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels: all that it touches, at least one."""
    x, y, across, down = rectangle
    left, top = min(_floor(x * width), width - 1), min(_floor(y * height), height - 1)
    right, bottom = min(_ceil((x + across) * width), width), min(_ceil((y + down) * height), height)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def black_out(image: npt.NDArray[np.uint8], masks: tuple[Mask, ...]) -> None:
    """Paint every pixel that a mask touches black, in place. image: (height, width, 3) uint8."""
    height, width = image.shape[:2]
    for mask in masks:
        if mask.rectangle is not None:
            left, top, right, bottom = pixels(mask.rectangle, height, width)
            image[top:bottom, left:right] = 0
        elif mask.polygon is not None:
            corners = np.asarray([(round(x * width), round(y * height)) for x, y in mask.polygon], np.int32)
            cv2.fillPoly(image, [corners], (0, 0, 0))
            # Rounding moves an edge by half a pixel: the line over it takes the pixels on both sides.
            cv2.polylines(image, [corners], True, (0, 0, 0), 3)


def _floor(value: float) -> int:
    """A share that was meant to end on a pixel's edge must not take the next one for a rounding error."""
    return math.floor(value + 1e-6)


def _ceil(value: float) -> int:
    return math.ceil(value - 1e-6)
