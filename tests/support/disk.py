"""A small disk of its own, that a test can fill and empty."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 64 << 10


class SmallDisk:
    """A folder on a disk of its own. What fills it is in one file, `filler`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Write until the disk takes no more."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (_CHUNK, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a disk in memory at `path`, which must not exist. Needs root, or a sudo that asks nothing."""
    path.mkdir()
    as_root("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=777", "none", str(path))
    try:
        yield SmallDisk(path)
    finally:
        as_root("umount", "--lazy", str(path))


def as_root(*command: str) -> None:
    """Raises AssertionError with what the command said."""
    before = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*before, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"this test mounts a disk of its own and needs root: {done.stderr.strip()}"
