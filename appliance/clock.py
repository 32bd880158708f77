"""The clocks of this machine, read together."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from pathlib import Path

from appliance.core.clock import Tick

Clocks = Callable[[], Tick]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMEX_BYTES = 256
_TIME_ERROR = 5


def read_clocks() -> Tick:
    return Tick(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id(), synchronised())


@functools.cache
def boot_id() -> str:
    """Eight hexadecimal digits that no other boot of this machine has (`random(4)`, boot_id)."""
    try:
        return _BOOT_ID.read_text().strip().replace("-", "")[:8]
    except OSError:
        return "unknown"


def synchronised() -> bool:
    """Whether the kernel knows of a time server that leads its clock."""
    return 0 <= adjtimex() < _TIME_ERROR


def adjtimex() -> int:
    """`adjtimex(2)` with `modes` 0, which changes nothing. 5 (TIME_ERROR): nobody leads the clock, -1: forbidden."""
    # The struct is shorter on every machine; zeroes ask for no change.
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return state
