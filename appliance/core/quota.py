"""How full something is, in steps that say what to give up.

`low` (90%): the older of what can be spared goes early, and somebody is told. `critical` (95%): pictures are no longer
kept, results go on. What comes after that is `full`: nothing is acknowledged until there is room.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "low", "critical"]

LOW = 0.90
CRITICAL = 0.95


class Room(msgspec.Struct, frozen=True):
    """Bytes taken of what may be taken at most; limit None: no bound of its own."""

    used: int
    limit: int | None

    @property
    def share(self) -> float:
        """0 to 1; more than 1 when a quota was made smaller."""
        if self.limit is None:
            return 0.0
        return self.used / self.limit if self.limit > 0 else 1.0

    @property
    def level(self) -> Level:
        return level(self.share)


def level(share: float) -> Level:
    if share >= CRITICAL:
        return "critical"
    return "low" if share >= LOW else "ok"


def of_disk(ours: int, free: int, free_min: int) -> Room:
    """The room on a disk that others share: what we hold, of that and what may still be taken. All in bytes.

    On a disk that others have filled, what we hold is all that can be given up; so it says when giving up helps.
    """
    return Room(ours, ours + max(0, free - free_min))
