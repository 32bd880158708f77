"""What runs next, in which gear, and how many together: decisions of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from appliance.core.protocol import Priority

Gear = Literal["latency", "throughput"]
"""`latency`: one inference has all cores. `throughput`: one core each, as many at once as there are cores."""

PRIORITY_WEIGHT: Mapping[Priority, float] = {"interactive": 64.0, "live": 8.0, "backlog": 1.0}
"""Shares of the lanes when all three wait. Shares, not ranks: whoever has the least still gets on."""

ALONE_BEFORE_LATENCY = 4
"""Requests in a row that found nobody else before the latency gear comes back: callers that overlap now and then would
otherwise make each other switch all the time."""


def choose_gear(alone_in_a_row: int, others: int) -> Gear:
    """others: requests of any model that run or wait on the device beside this one."""
    return "throughput" if others > 0 or alone_in_a_row < ALONE_BEFORE_LATENCY else "latency"


def share(waiting: int, free_lanes: int, batch_max: int) -> int:
    """How many of the `waiting` requests of a model a lane takes at once, itself being one of `free_lanes`.

    No lane takes what another could begin at once, so batching costs no waiting.
    """
    return max(1, min(batch_max, -(-waiting // max(1, free_lanes))))
