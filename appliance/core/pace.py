"""A bounded rate: so much may go now, the rest later."""

from __future__ import annotations


class Pace:
    """per_s: what may go in a second, of whatever is counted; a tenth of that at once. now: monotonic seconds."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s / 10)
        self._least = max(1.0, self._most / 2)
        self._left = self._most
        self._at = now

    def left(self, now: float) -> int:
        """What may go now: 0, or enough at once to be worth the while."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        return int(self._left) if self._left >= self._least else 0

    def spend(self, count: float) -> None:
        """So much went; it may be more than was left, and is made good by a longer wait."""
        self._left -= count

    def wait_s(self) -> float:
        """Until more may go."""
        return max(0.0, (self._least - self._left) / self._per_s)
