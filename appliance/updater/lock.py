"""One updater at a time on a box: `<data-dir>/tuf.lock`, freed by the kernel whenever its process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import UpdateBusy

FILE = "tuf.lock"


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Raises UpdateBusy, OSError."""
    handle = os.open(data_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UpdateBusy(
                f"another updater works in {data_dir}; wait until it is done, `appliance update` shows how far it is"
            ) from error
        yield
    finally:
        os.close(handle)
