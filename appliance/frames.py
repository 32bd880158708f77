"""Images and other payloads, appended to segment files.

One file per image costs two fsyncs each; a segment is synced once per group commit, before the rows that point into
it are committed. A crash can leave unreferenced bytes at the end of a segment, never a row without its bytes. One
thread appends; any thread reads.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Location(msgspec.Struct, frozen=True):
    """Where a frame is: segment number, offset and length in bytes."""

    segment: int
    offset: int
    length: int


class Frames:
    """The segments of one folder: `00000001.seg` and on, each up to about `segment_bytes` long."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        folder.mkdir(exist_ok=True)
        numbers = [int(path.stem) for path in folder.glob("*.seg") if path.stem.isdecimal()]
        self._kept = set(numbers)
        self._number, self._file, self._end = self._open(max(numbers, default=1))
        self._synced = self._settled = self._end

    def append(self, content: bytes) -> Location:
        """Write behind what is there; durable after `sync`. Raises OSError, e.g. on a full disk."""
        if self._end and self._end + len(content) > self._segment_bytes:
            self._begin_segment()
        offset = self._end
        view = memoryview(content)
        while view:
            written = os.pwrite(self._file, view, self._end)
            self._end += written
            view = view[written:]
        return Location(self._number, offset, len(content))

    def sync(self) -> None:
        """Make every appended frame durable. Raises OSError."""
        if self._synced != self._end:
            os.fdatasync(self._file)
            self._synced = self._end

    def settle(self) -> None:
        """Rows that point to what was appended are committed: it stays."""
        self._settled = self._end

    def forget_unsettled(self) -> None:
        """Give back the space of a group that failed; its frames are written again with the retry."""
        os.ftruncate(self._file, self._settled)
        self._end = self._synced = self._settled

    def has(self, segment: int) -> bool:
        """Whether retention has kept the segment."""
        return segment in self._kept

    def read(self, location: Location) -> bytes | None:
        """The frame, or None when its segment is gone."""
        try:
            with open(self._path(location.segment), "rb") as file:
                content = os.pread(file.fileno(), location.length, location.offset)
        except FileNotFoundError:
            return None
        return content if len(content) == location.length else None

    def drop_older(self, before: float) -> int:
        """Remove whole segments last written before `before` (seconds since 1970), never the current one."""
        dropped = 0
        for number in sorted(self._kept - {self._number}):
            path = self._path(number)
            try:
                old = path.stat().st_mtime < before
            except FileNotFoundError:
                old = True
            if old:
                path.unlink(missing_ok=True)
                self._kept.discard(number)
                dropped += 1
        return dropped

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"

    def _begin_segment(self) -> None:
        """The old segment stays open until the new one is there: a full disk may refuse it."""
        self.sync()
        old = self._file
        self._number, self._file, self._end = self._open(self._number + 1)
        self._synced = self._settled = self._end
        os.close(old)

    def _open(self, number: int) -> tuple[int, int, int]:
        """Returns the segment's number, its file and its length."""
        file = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            end = os.fstat(file).st_size
        except OSError:
            os.close(file)
            raise
        self._kept.add(number)
        return number, file, end
