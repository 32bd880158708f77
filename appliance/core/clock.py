"""Whether the wall clock can be believed, and how old things are whatever it shows.

A box may have no battery for its clock, no network, or a technician who types the wrong year. So nothing is kept or
dropped by the wall clock: `age` grows with the time that the box runs, and with the time it was off as far as that is
plausible. No jump of the clock makes anything older, and in no year does anything stay for ever.
"""

from __future__ import annotations

import msgspec

EARLIEST = 1_767_225_600.0
"""2026-01-01: a clock that shows less was not set since the box got its power."""

LATEST = 4_102_444_800.0
"""2100-01-01."""

FIRST_START_LATEST = EARLIEST + 20 * 365 * 86_400.0
"""A clock that shows more at the very first start is not believed."""

OFF_S_MAX = 31 * 86_400.0
"""A box that was off for longer is no older than when it went off: its clock may as well have jumped."""

BACK_S_MAX = 120.0
"""A time server may set a clock back by so much."""

AHEAD_S_MAX = 86_400.0
"""While a box runs its clock may be set ahead by so much."""

AHEAD_OFF_S_MAX = 400 * 86_400.0
"""While it was off, by so much."""

BELIEVED_AFTER_S = 7 * 86_400.0
"""A doubtful clock that has gone on so long without another jump is taken as it is: nobody else knows better."""


class Tick(msgspec.Struct, frozen=True):
    """What the clocks show at one moment.

    wall: seconds since 1970. up: seconds since this boot, time asleep included. boot: the id of this boot.
    synchronised: a time server leads the wall clock.
    """

    wall: float
    up: float
    boot: str
    synchronised: bool = False


class Clock(msgspec.Struct, frozen=True):
    """What is known of time. age: seconds. good: the last moment whose wall clock was believed.

    doubted_since: the age at which the doubt began, None while the wall clock is believed.
    """

    age: float
    last: Tick
    good: Tick | None
    doubted_since: float | None

    @property
    def ok(self) -> bool:
        return self.doubted_since is None


def advance(known: Clock | None, now: Tick) -> Clock:
    """The clock at `now`. known: None at the very first start."""
    age = 0.0 if known is None else known.age + passed(known.last, now)
    good = None if known is None else known.good
    if _plausible(good, now):
        return Clock(age, now, now, None)
    since = None if known is None else known.doubted_since
    if since is None or known is None or _jumped(known.last, now):
        since = age
    if age - since >= BELIEVED_AFTER_S and EARLIEST <= now.wall <= LATEST:
        return Clock(age, now, now, None)
    return Clock(age, now, good, since)


def passed(before: Tick, now: Tick) -> float:
    """Seconds between two moments: exact within a boot, and between boots only what is plausible."""
    if before.boot == now.boot:
        return max(0.0, now.up - before.up)
    off = now.wall - before.wall
    return off if 0.0 <= off <= OFF_S_MAX else 0.0


def _plausible(good: Tick | None, now: Tick) -> bool:
    if not EARLIEST <= now.wall <= LATEST:
        return False
    if now.synchronised:
        return True
    if good is None:
        return now.wall <= FIRST_START_LATEST
    if good.boot == now.boot:
        ahead = now.wall - (good.wall + now.up - good.up)
        return -BACK_S_MAX <= ahead <= AHEAD_S_MAX
    return -BACK_S_MAX <= now.wall - good.wall <= AHEAD_OFF_S_MAX


def _jumped(before: Tick, now: Tick) -> bool:
    if before.boot != now.boot:
        return not 0.0 <= now.wall - before.wall <= OFF_S_MAX
    return abs(now.wall - before.wall - (now.up - before.up)) > BACK_S_MAX
