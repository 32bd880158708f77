"""Samples taken at any times -> samples at a model's rate.

A source as fast as the model is taken as it is, since the first point lies on its first sample. A slower one is
joined by straight lines. Of a faster one each point is the mean over its step, which damps what the model's rate
cannot show; as a moving average does it leaves some of that: a source far faster than its model had better filter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
"""(n, channels)."""

_FASTER = 1.5
"""Samples per point from which on the mean over a step is taken."""


def resample(times: npt.NDArray[np.float64], values: Values, step: float, size: int) -> Values:
    """Values at 0, step, ... (size - 1) * step: (size, channels) float32.

    times: strictly rising, in the unit of `step`, at least one. Before the first and after the last sample the curve
    stays as it is there.
    """
    points = np.arange(size, dtype=np.float64) * step
    inside = int(np.count_nonzero((times >= -0.5 * step) & (times < (size - 0.5) * step)))
    curve = _means if inside > _FASTER * size else _on_lines
    return np.stack([curve(points, times, column) for column in values.T.astype(np.float64)], axis=1).astype(np.float32)


def _on_lines(
    points: npt.NDArray[np.float64], times: npt.NDArray[np.float64], column: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.asarray(np.interp(points, times, column), np.float64)


def _means(
    points: npt.NDArray[np.float64], times: npt.NDArray[np.float64], column: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The mean of the curve over a step around each point, as far as there are samples."""
    half = (points[1] - points[0]) / 2 if len(points) > 1 else 0.5
    low, high = (np.clip(points + side, times[0], times[-1]) for side in (-half, half))
    area = np.concatenate([[0.0], np.cumsum(np.diff(times) * (column[1:] + column[:-1]) / 2)])
    width = high - low
    # Within a segment the area is a parabola; between its ends it is exact to add the trapezium of the rest.
    whole = _area_until(high, times, column, area) - _area_until(low, times, column, area)
    flat = np.interp(points, times, column)
    return np.where(width > 0, whole / np.where(width > 0, width, 1.0), flat)


def _area_until(
    at: npt.NDArray[np.float64],
    times: npt.NDArray[np.float64],
    column: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    before = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 1)
    ends: npt.NDArray[np.float64] = (
        area[before] + (at - times[before]) * (column[before] + np.interp(at, times, column)) / 2
    )
    return ends
