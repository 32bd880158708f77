"""Whether the disk can take an update, asked before its first byte."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.disk import free_bytes
from appliance.errors import DataDirError, NoSpace

KEPT_BYTES = 64_000_000
"""Of the disk that stay free: results are worth more than an update."""


def make_room(folder: Path, needed: int, clear: Callable[[], int], kept: int = KEPT_BYTES) -> None:
    """needed: bytes that are still to be written. clear: removes versions that nothing needs, and says how many bytes.

    Raises NoSpace with the figures; nothing has been fetched then.
    """
    if needed == 0 or free_bytes(folder) >= needed + kept:
        return
    cleared = clear()
    free = free_bytes(folder)
    if free < needed + kept:
        gone = f", after {mb(cleared)} of versions that nothing needs were removed" if cleared else ""
        raise NoSpace(
            f"the update needs {mb(needed)} and {mb(kept)} are to stay free, but {folder} has {mb(free)}{gone}; free "
            f"at least {mb(needed + kept - free)} on that disk"
        )


@contextmanager
def refusals(data_dir: Path) -> Iterator[None]:
    """A disk that takes no more is NoSpace, one that cannot be written DataDirError. For what writes in `data_dir`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(_full(data_dir)) from error
        where = error.filename or data_dir
        raise DataDirError(f"{where}: {error.strerror}; let this user write there, or look at the disk") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise NoSpace(_full(data_dir)) from error
        raise DataDirError(f"{data_dir / 'state'}: {error}; let this user write there, or look at the disk") from error


def mb(count: int) -> str:
    """Bytes for people: `14.2 MB`, in millions, or `6.1 kB`."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _full(data_dir: Path) -> str:
    try:
        free = mb(free_bytes(data_dir))
    except OSError:
        free = "no space"
    return f"the disk of {data_dir} is full ({free} free); free some, the next run goes on where this one stopped"
