"""What time it is at least: `<data-dir>/tuf.time`.

A box may have no battery for its clock, or somebody who sets it. With a clock that is behind, signatures that expired
long ago look good. So the time that expiry is judged by is the later one of the system's clock and a floor, which only
rises: to times that central ops signed (`issued` of a release), and with the time that this boot has run since.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance.core.clock import AHEAD_OFF_S_MAX, BACK_S_MAX, EARLIEST, FIRST_START_LATEST, Tick
from appliance.synced import sync_folder, write_synced

FILE = "tuf.time"


class Floor(msgspec.Struct, frozen=True):
    """floor: seconds since 1970. boottime: CLOCK_BOOTTIME at which it was that, in the boot `boot`. signed: whether it
    comes from a signature; before the first one it is the year in which this program was made."""

    floor: float
    boottime: float
    boot: str
    signed: bool = True

    def at(self, tick: Tick) -> float:
        """The floor now."""
        ran_s = max(0.0, tick.up - self.boottime) if tick.boot == self.boot else 0.0
        return self.floor + ran_s


def trusted_now(floor: Floor, tick: Tick) -> float:
    return max(tick.wall, floor.at(tick))


def is_behind(floor: Floor, tick: Tick) -> bool:
    """Whether the system's clock shows a time that has passed for certain."""
    return tick.wall < floor.at(tick) - BACK_S_MAX


def is_far_ahead(floor: Floor, tick: Tick) -> bool:
    """Whether the clock is so far beyond what was signed last that it is more likely wrong than everything expired."""
    if tick.synchronised:
        return False
    return tick.wall > (floor.at(tick) + AHEAD_OFF_S_MAX if floor.signed else FIRST_START_LATEST)


def raised(floor: Floor, issued: float, tick: Tick) -> Floor:
    """With what a signature says; never lower."""
    now = floor.at(tick)
    return Floor(max(now, issued), tick.up, tick.boot, floor.signed or issued >= now)


def read_floor(data_dir: Path) -> Floor:
    """One that cannot be read, or was never written, is where every box begins."""
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=Floor)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return Floor(EARLIEST, 0.0, "", signed=False)


def write_floor(data_dir: Path, floor: Floor) -> None:
    """Raises OSError."""
    path = data_dir / FILE
    fresh = path.with_name(f".{FILE}")
    write_synced(fresh, msgspec.json.encode(floor))
    fresh.replace(path)
    sync_folder(data_dir)
