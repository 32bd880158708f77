"""The statistics: what one measurement says, ratios of paired rounds, and the interval of a median."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Measured = dict[str, float]
"""per_s, p50_ms, p99_ms, cpu_ms (of the server, per request), requests. Latencies may be missing."""

Round = Mapping[str, Measured]
"""Key of a measurement -> what it gave in one round."""

CONFIDENCE = 0.95
LOSS = 0.05
"""A change for the worse that is smaller is not called a loss."""


class Interval(NamedTuple):
    """A median, and the ends between which the true one lies with at least 95% confidence."""

    median: float
    low: float
    high: float


def measured(latencies_s: Sequence[float], requests: int, seconds: float, cpu_s: float) -> Measured:
    """One measurement. Raises ValueError when nothing was answered."""
    if not requests:
        raise ValueError(f"nothing was answered in {seconds:.1f} s")
    found = {"per_s": requests / seconds, "cpu_ms": cpu_s / requests * 1000, "requests": float(requests)}
    if latencies_s:
        every = sorted(latencies_s)
        found["p50_ms"] = every[len(every) // 2] * 1000
        found["p99_ms"] = every[min(len(every) - 1, int(len(every) * 0.99))] * 1000
    return found


def interval(values: Sequence[float]) -> Interval:
    """The sample's median between two of its order statistics; no distribution is assumed.

    The k-th smallest and the k-th largest enclose the median with probability 1 - 2 P(B < k), B binomial(n, 1/2): k is
    the greatest that keeps it at 95% (David & Nagaraja, "Order Statistics", 7.1). Fewer than six values cannot reach
    95%: then their ends are returned. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    count = len(ordered)
    rank, below = 0, 0.0
    while below + math.comb(count, rank) / 2**count <= (1 - CONFIDENCE) / 2:
        below += math.comb(count, rank) / 2**count
        rank += 1
    rank = max(rank, 1)
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[count - rank])


def paired(
    rounds: Sequence[Round],
    over: tuple[str, str],
    under: tuple[str, str] | None = None,
    how: Literal["ratio", "difference"] = "ratio",
) -> list[float]:
    """Per round `over` against `under`, each (key, field); without `under`, `over` itself.

    Rounds that lack one of them are left out.
    """
    found = []
    for each in rounds:
        if over[0] not in each or (under is not None and under[0] not in each):
            continue
        value = each[over[0]][over[1]]
        if under is not None:
            other = each[under[0]][under[1]]
            value = value / other if how == "ratio" else value - other
        found.append(value)
    return found


def reached(found: Interval, at_least: float | None, at_most: float | None) -> bool | None:
    """Whether the interval's upper end meets the figure to reach; None where there is none."""
    if at_least is not None:
        return found.high >= at_least
    if at_most is not None:
        return found.high <= at_most
    return None


def lost(now: Interval, before_median: float, more_is_better: bool) -> bool:
    """Whether the whole interval is more than 5% worse than the median of an earlier run."""
    if more_is_better:
        return now.high < before_median * (1 - LOSS)
    return now.low > before_median * (1 + LOSS)


def best_of(rounds: Sequence[Round], keys: Sequence[str]) -> str | None:
    """The key with the highest median rate, of those that were measured."""
    rates = {key: [each[key]["per_s"] for each in rounds if key in each] for key in keys}
    medians = {key: statistics.median(values) for key, values in rates.items() if values}
    return max(medians, key=medians.__getitem__) if medians else None
