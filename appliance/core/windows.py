"""Readings -> windows by count: a buffer that hands out windows of a fixed size, a fixed hop apart.

A position in a stream is (reading id, offset of a sample in it). It says where the next window begins, so that a
buffer can be rebuilt after a restart from the readings that were kept.
"""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""(n, channels) float32, oldest first."""


class Window(msgspec.Struct, frozen=True):
    """samples: (size, channels). It ends before sample `end` of `last_reading`; `next`: where the next one begins.

    A window of time ends before `end`, in ns, and the next one begins at `next_ns`; `readings` are those with samples
    in it.
    """

    samples: Samples
    last_reading: int
    end: int
    next: tuple[int, int]
    next_ns: int | None = None
    readings: frozenset[int] | None = None
    flags: tuple[str, ...] = ()


class WindowBuffer:
    """Joins readings of one stream. size, hop: in samples; a hop above the size skips samples between windows."""

    def __init__(self, size: int, hop: int, start: tuple[int, int] | None = None) -> None:
        self._size = size
        self._hop = hop
        self._start = start
        self._parts: deque[tuple[int, int, Samples]] = deque()
        self._skip = 0
        self.samples = 0

    def add(self, reading: int, samples: Samples) -> None:
        """Append a reading; ids rise. What lies before the start position is left out."""
        offset = 0
        if self._start is not None:
            if reading < self._start[0]:
                return
            if reading == self._start[0]:
                offset = self._start[1]
            self._start = None
        self._skip += max(0, offset - len(samples))
        offset = min(offset, len(samples))
        skipped = min(self._skip, len(samples) - offset)
        self._skip -= skipped
        offset += skipped
        if offset < len(samples):
            self._parts.append((reading, offset, samples))
            self.samples += len(samples) - offset

    def next(self) -> Window | None:
        """The next full window, or None. Moves on by one hop."""
        if self.samples < self._size:
            return None
        joined = np.concatenate([samples[offset:] for _, offset, samples in self._enough()])[: self._size]
        last_reading, end = self._position(self._size)
        following = self._advance()
        return Window(joined, last_reading, end, following)

    def _enough(self) -> list[tuple[int, int, Samples]]:
        parts, count = [], 0
        for part in self._parts:
            parts.append(part)
            count += len(part[2]) - part[1]
            if count >= self._size:
                break
        return parts

    def _position(self, ahead: int) -> tuple[int, int]:
        """The reading that holds the last of the next `ahead` samples, and the offset just behind it."""
        for reading, offset, samples in self._parts:
            if ahead <= len(samples) - offset:
                return reading, offset + ahead
            ahead -= len(samples) - offset
        raise AssertionError("the window is longer than what is buffered")

    def _advance(self) -> tuple[int, int]:
        """Drop one hop of samples; returns where the next window begins."""
        left = self._hop
        while left and self._parts:
            reading, offset, samples = self._parts[0]
            here = len(samples) - offset
            if left < here:
                self._parts[0] = (reading, offset + left, samples)
                self.samples -= left
                return reading, offset + left
            last = (reading, len(samples))
            self._parts.popleft()
            self.samples -= here
            left -= here
        self._skip = left
        if self._parts:
            return self._parts[0][0], self._parts[0][1]
        # Nothing is buffered behind the hop: the next window begins with what the next reading leaves of the skip.
        return last[0], last[1] + left
