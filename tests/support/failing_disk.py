"""A disk of its own that becomes read-only under a box that writes, as the kernel makes one that has failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.disk import as_root


class FailingDisk:
    """A folder on an ext4 file system in a file beside it."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._image = path.with_suffix(".ext4")
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        as_root("/sbin/mkfs.ext4", "-q", "-F", str(self._image))
        path.mkdir()
        self._mount()
        as_root("chmod", "777", str(path))

    def fail(self) -> None:
        """Have the kernel find an error on it, which makes it read-only (ext4(5), errors=remount-ro)."""
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        (device,) = [source for source, target, *_ in mounts if target == str(self.path)]
        as_root("sh", "-c", f"echo 1 > /sys/fs/ext4/{Path(device).name}/trigger_fs_error")

    def repair(self) -> None:
        """Nobody may have a file open on it."""
        as_root("umount", str(self.path))
        self._mount()

    def _mount(self) -> None:
        as_root("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))


@contextmanager
def failing_disk(path: Path, size_bytes: int) -> Iterator[FailingDisk]:
    """Mounted at `path`, which must not exist; gone on leaving. Needs root, loop devices and mkfs.ext4."""
    disk = FailingDisk(path, size_bytes)
    try:
        yield disk
    finally:
        as_root("umount", "--lazy", str(path))
