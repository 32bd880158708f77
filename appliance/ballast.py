"""A little of the disk that can be given back, so that a box starts, and drops what is old, on a disk that is full.

With no byte free SQLite cannot open its database and cannot delete: a box that was switched off and on would stay
dark, and one that runs could not help itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.disk import free_bytes, total_bytes

BYTES_MAX = 8 << 20
BYTES_MIN = 256 << 10
"""Enough to open the database, and to delete some of it."""

_DISK_PARTS = 32
_ROOM_FACTOR = 4
_NAME = "ballast"


def size(disk_bytes: int) -> int:
    """Bytes of ballast for a disk of this size: a thirty-second of it, at most 8 MiB; 0 where that is too little."""
    wanted = min(BYTES_MAX, disk_bytes // _DISK_PARTS)
    return wanted if wanted >= BYTES_MIN else 0


def drop_when_full(folder: Path) -> bool:
    """Give the ballast back when less than its size is free; returns whether it was there to give. Raises OSError."""
    ballast = folder / _NAME
    try:
        held = ballast.stat().st_size
    except FileNotFoundError:
        return False
    if free_bytes(folder) >= held:
        return False
    ballast.unlink(missing_ok=True)
    return True


def lay(folder: Path, free_bytes_min: int) -> None:
    """Take the ballast, once, from a disk with plenty of room: four times its size above `free_bytes_min`."""
    ballast = folder / _NAME
    wanted = size(total_bytes(folder))
    if not wanted or ballast.exists() or free_bytes(folder) < free_bytes_min + _ROOM_FACTOR * wanted:
        return
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError:
        # A file system that cannot do it: the box does without.
        ballast.unlink(missing_ok=True)
