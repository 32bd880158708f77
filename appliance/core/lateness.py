"""Which of the waiting rows are late: told by ids and by the time that this process has run, never by a wall clock."""

from __future__ import annotations

from collections import deque

_PARTS = 4


class Lateness:
    """newest: the highest id at the start; what was there then is late already. now: monotonic seconds."""

    def __init__(self, after_s: float, newest: int, now: float) -> None:
        self._every_s = after_s / _PARTS
        self._late = newest
        self._noted: deque[tuple[float, int]] = deque([(now, newest)])

    def note(self, newest: int, now: float) -> None:
        """The highest id by now. Called often: what is late is known to a quarter of `after_s`."""
        while self._noted and now - self._noted[0][0] >= self._every_s * _PARTS:
            self._late = self._noted.popleft()[1]
        if not self._noted or now - self._noted[-1][0] >= self._every_s:
            self._noted.append((now, newest))

    def is_late(self, number: int) -> bool:
        return number <= self._late
