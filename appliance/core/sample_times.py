"""When samples were taken: nanoseconds since 1970 as int64, and the form in which a reading carries them.

Evenly spaced samples, which is what devices send, take 16 bytes: the first one's time (int64) and the step (float64),
both little-endian. Others take 8 bytes each; as few as two are always even.
"""

from __future__ import annotations

import struct

import msgspec
import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]

NS = 1_000_000_000
LATEST_NS = 1 << 62
"""In the year 2116: what is later cannot be the time of a sample."""

AHEAD_NS_MAX = 60 * NS
"""How far times that follow one another may run ahead of the clock: messages that were held up come in a rush."""

_EVEN = struct.Struct("<qd")


class Block(msgspec.Struct, frozen=True):
    """Evenly spaced samples. first: time of the first one. step: ns."""

    first: int
    step: float
    count: int

    @property
    def following(self) -> int:
        """When the next sample is due."""
        return self.first + round(self.count * self.step)

    def pack(self) -> bytes:
        return _EVEN.pack(self.first, self.step)


def pack_times(times: Times) -> bytes:
    """times: at least one."""
    if len(times) == 1:
        return _EVEN.pack(int(times[0]), 0.0)
    if len(times) == 2:
        return _EVEN.pack(int(times[0]), float(times[1] - times[0]))
    return times.astype("<i8").tobytes()


def unpack_times(packed: bytes, count: int) -> Times:
    """Of `count` samples, at least one."""
    if len(packed) == _EVEN.size:
        first, step = _EVEN.unpack(packed)
        return even_times(first, step, count)
    return np.frombuffer(packed, "<i8", count).astype(np.int64)


def even_times(first: int, step: float, count: int) -> Times:
    # In float64 only what is small: the time since 1970 would lose its last digits.
    times: Times = first + np.rint(np.arange(count) * step).astype(np.int64)
    return times


def follow(expected: int | None, said: int, slack: int) -> int:
    """When a block of samples began whose sender says `said`, but cannot say it exactly.

    expected: when the block before it ended. Up to `slack` (ns) the one follows the other without a seam, as the
    samples did; beyond it, something is missing or the clock was set.
    """
    return expected if expected is not None and abs(expected - said) <= slack else said


def follow_arrival(expected: int | None, arrived: int, slack: int) -> int:
    """When a block began that carries no time and would have begun at `arrived`, had it come without delay.

    Early is never a seam, as messages come in a rush after they were held up, up to AHEAD_NS_MAX.
    """
    return expected if expected is not None and -slack <= expected - arrived <= AHEAD_NS_MAX else arrived
