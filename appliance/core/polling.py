"""When a box asks for updates: spread, patient with a registry that is in trouble, and within the hours it may switch.

Nothing here reads a clock or draws a number: `now` and `draw` (0 <= draw < 1) are the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from appliance.core.release import Window

BACK_OFF_S = 30.0
"""The longest wait after the first failure; doubled with each one that follows."""

BACK_OFF_S_MAX = 3_600.0

RETRY_AFTER_S_MAX = 86_400.0
"""A registry may ask for no longer wait."""

_DAY_S = 86_400.0


def phase(device: str, spread_s: float) -> float:
    """How long after the box was switched on it polls first, 0 <= s < spread_s: its own, the same at every start.

    A hash spreads the devices evenly, so that a power cut over a whole plant makes no peak when it ends.
    """
    number = int.from_bytes(hashlib.sha256(f"poll/{device}".encode()).digest()[:8], "big")
    return number / 2.0**64 * spread_s


def back_off(failures: int, draw: float, base_s: float = BACK_OFF_S, most_s: float = BACK_OFF_S_MAX) -> float:
    """Full jitter: anything up to a limit that doubles with each failure in a row and is capped.

    Formula: draw * min(most_s, base_s * 2 ** (failures - 1)).
    """
    return draw * min(most_s, base_s * 2.0 ** min(max(0, failures - 1), 32))


def next_poll_s(every_s: float, failures: int, again: bool, retry_after_s: float | None, draw: float) -> float:
    """Until the next poll, from the end of this one.

    failures: in a row, 0 after a success. again: whether another try soon may do better: not after a 4xx, nor when what
    came was refused. retry_after_s: what the registry asked for.
    """
    wait_s = every_s if failures == 0 or not again else min(every_s, back_off(failures, draw))
    return max(wait_s, min(retry_after_s or 0.0, RETRY_AFTER_S_MAX))


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Of an HTTP answer (RFC 9110, 10.2.3): seconds, or a date. None when there is none that can be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value.strip()[:12]), RETRY_AFTER_S_MAX)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return min(max(0.0, then.timestamp() - now), RETRY_AFTER_S_MAX)


def until_windows_s(windows: Iterable[Window | None], now: float) -> float:
    """Until all of them are open, 0: now. A day when they never are at once. now: seconds since 1970."""
    given = [window for window in windows if window is not None]
    at = datetime.fromtimestamp(now, UTC)
    second = (at.hour * 60 + at.minute) * 60 + at.second
    moments = sorted({0, *((_seconds(window.begins) - second) % int(_DAY_S) for window in given)})
    for moment in moments:
        if all(_is_open(window, (second + moment) % int(_DAY_S)) for window in given):
            return float(moment)
    return _DAY_S


def _is_open(window: Window, second: int) -> bool:
    begins, ends = _seconds(window.begins), _seconds(window.ends)
    if begins <= ends:
        return begins <= second < ends or begins == ends
    return second >= begins or second < ends


def _seconds(clock_time: str) -> int:
    hours, minutes = clock_time.split(":")
    return (int(hours) * 60 + int(minutes)) * 60
