"""A few MiB of the disk that can be given back, so that a box starts even after somebody has filled its disk.

With no byte free SQLite cannot open its database, and a box that was switched off and on would stay dark.
"""

from __future__ import annotations

import os
from pathlib import Path

BALLAST_BYTES = 8 << 20
_ROOM_FACTOR = 4
_NAME = "ballast"


def free_bytes(folder: Path) -> int:
    """What this user may still write on the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def drop_when_full(folder: Path) -> bool:
    """Give the ballast back when less than its size is free; returns whether it was there to give. Raises OSError."""
    if free_bytes(folder) >= BALLAST_BYTES:
        return False
    ballast = folder / _NAME
    there = ballast.exists()
    ballast.unlink(missing_ok=True)
    return there


def lay(folder: Path, free_bytes_min: int) -> None:
    """Take the ballast, once, from a disk with plenty of room: four times its size above `free_bytes_min`."""
    ballast = folder / _NAME
    if ballast.exists() or free_bytes(folder) < free_bytes_min + _ROOM_FACTOR * BALLAST_BYTES:
        return
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
    except OSError:
        # A file system that cannot do it: the box does without.
        ballast.unlink(missing_ok=True)
