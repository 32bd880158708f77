"""Images and other payloads, appended to segment files.

One file per image costs two fsyncs each; a segment is synced once per group commit, before the rows that point into
it are committed. A crash can leave unreferenced bytes at the end of a segment, never a row without its bytes. One
thread appends, drops and blanks; any thread reads. Segments are dropped whole, and their numbers never come again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from appliance.synced import sync_folder

_BLANK = bytes(1 << 20)


class Location(msgspec.Struct, frozen=True):
    """Where a frame is: segment number, offset and length in bytes."""

    segment: int
    offset: int
    length: int


class Frames:
    """The segments of one folder: `00000001.seg` and on, each up to about `segment_bytes` long.

    after: the highest number that was ever pointed to: what is appended goes to a later one, or to the last one there.
    """

    def __init__(self, folder: Path, segment_bytes: int, after: int = 0) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        folder.mkdir(exist_ok=True)
        found = {int(path.stem): path for path in folder.glob("*.seg") if path.stem.isdecimal()}
        self._sizes = {number: path.stat().st_size for number, path in found.items()}
        last = max(found, default=0)
        # A picture of the past may be gone, but never be another one.
        self._number, self._file, self._end = self._open(last if last and last >= after else after + 1)
        self._synced = self._settled = self._end

    @property
    def number(self) -> int:
        """Of the segment that is appended to."""
        return self._number

    @property
    def numbers(self) -> list[int]:
        """Of all segments that are kept, the oldest first."""
        return sorted(self._sizes)

    @property
    def size(self) -> int:
        """Bytes of all segments together."""
        return sum(self._sizes.values()) - self._sizes[self._number] + self._end

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
        return segment in self._sizes

    def read(self, location: Location) -> bytes | None:
        """The frame, or None when its segment is gone."""
        try:
            with open(self._path(location.segment), "rb") as file:
                content = os.pread(file.fileno(), location.length, location.offset)
        except FileNotFoundError:
            return None
        return content if len(content) == location.length else None

    def roll(self) -> None:
        """Append to a new segment from now on, so that the old one can be dropped. Raises OSError."""
        if self._end:
            self._begin_segment()
            self.settle()

    def drop(self, numbers: Iterable[int]) -> int:
        """Remove whole segments, never the current one; returns how many were there. Raises OSError."""
        dropped = 0
        for number in set(numbers) & self._sizes.keys() - {self._number}:
            self._path(number).unlink(missing_ok=True)
            del self._sizes[number]
            dropped += 1
        return dropped

    def blank(self, places: Iterable[Location]) -> int:
        """Overwrite frames with zeros, on the disk when this returns; returns how many were there. Raises OSError."""
        by_segment: dict[int, list[Location]] = {}
        for place in places:
            by_segment.setdefault(place.segment, []).append(place)
        blanked = 0
        for segment, frames in by_segment.items():
            try:
                file = os.open(self._path(segment), os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                for frame in frames:
                    _write_zeros(file, frame)
                os.fdatasync(file)
            finally:
                os.close(file)
            blanked += len(frames)
        return blanked

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"

    def _begin_segment(self) -> None:
        """The old segment stays open until the new one is there: a full disk may refuse it."""
        self.sync()
        old, old_number, old_end = self._file, self._number, self._end
        self._number, self._file, self._end = self._open(self._number + 1)
        self._sizes[old_number] = old_end
        self._synced = self._settled = self._end
        os.close(old)

    def _open(self, number: int) -> tuple[int, int, int]:
        """Returns the segment's number, its file and its length."""
        file = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            sync_folder(self._folder)
            end = os.fstat(file).st_size
        except OSError:
            os.close(file)
            raise
        self._sizes[number] = end
        return number, file, end


def _write_zeros(file: int, frame: Location) -> None:
    """Never beyond the end of the file: a row may point to what was never written."""
    at, end = frame.offset, min(frame.offset + frame.length, os.fstat(file).st_size)
    while at < end:
        at += os.pwrite(file, _BLANK[: end - at], at)
