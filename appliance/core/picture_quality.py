"""Whether a camera still sees: how bright and how sharp a picture is, and when that is worth an alarm."""

from __future__ import annotations

from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

Fault = Literal["dark", "blurred"]

_WIDTH = 320
"""Columns of the grey version: enough to tell sharp from blurred, and little work at any resolution."""

IN_A_ROW = 3
"""Pictures of a kind before the state of a source changes: a single one may be a flash that did not fire."""


class PictureQuality(msgspec.Struct, frozen=True):
    """brightness: mean grey value, 0 (black) to 1 (white).

    sharpness: variance of the Laplacian of the grey version in squared grey values of 0..255, below 10 for a picture
    out of focus and some hundreds for a sharp one with detail (Pech-Pacheco et al., "Diatom autofocusing in
    brightfield microscopy", ICPR 2000). It depends on the scene: take the threshold from what a good picture has.
    """

    brightness: float
    sharpness: float


class Standing(msgspec.Struct, frozen=True):
    """What holds for a source, and how many pictures in a row have said something else."""

    fault: Fault | None = None
    other: Fault | None = None
    times: int = 0


def measure(image: npt.NDArray[np.uint8]) -> PictureQuality:
    """image: (height, width, 3) uint8 RGB, left unchanged."""
    height, width = image.shape[:2]
    small: npt.NDArray[np.uint8] = image
    if width > _WIDTH:
        rows = max(1, round(height * _WIDTH / width))
        small = np.asarray(cv2.resize(image, (_WIDTH, rows), interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_32F)
    return PictureQuality(round(float(grey.mean()) / 255, 4), round(float(edges.var()), 2))


def fault_of(quality: PictureQuality, dark_below: float | None, blurred_below: float | None) -> Fault | None:
    """A dark picture is not called blurred as well: nothing can be told of it."""
    if dark_below is not None and quality.brightness < dark_below:
        return "dark"
    if blurred_below is not None and quality.sharpness < blurred_below:
        return "blurred"
    return None


def follow(standing: Standing, seen: Fault | None) -> Standing:
    """One more picture: the state changes when IN_A_ROW of them agree that it is another."""
    if seen == standing.fault:
        return Standing(standing.fault)
    times = standing.times + 1 if standing.times and seen == standing.other else 1
    return Standing(seen) if times >= IN_A_ROW else Standing(standing.fault, seen, times)
