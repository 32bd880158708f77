"""Waiting for what must come, with an end to the patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.01


def until(predicate: Callable[[], T], timeout_s: float, what: str) -> T:
    """The first true answer of `predicate`, asked again and again; fails with `what` when none comes in time."""
    ends_at = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= ends_at:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}; the last answer was {answer!r}")
        time.sleep(_POLL_S)
