"""Whose turn it is among what waits for the models.

Every model has lines of its own, one per priority: models take turns, and within a model live goes before backlog, each
in the order of arrival. Few are under way per model at once, so that one that is slow, full or away fills no other.
What must run alone waits until nothing else is under way, and nothing follows until it has ended. Not for threads.
"""

from __future__ import annotations

import heapq
from typing import Generic, Literal, TypeVar

Priority = Literal["live", "backlog"]


class Waiter:
    """What waits for a model. alone: runs only while nothing else does. expires_at: monotonic, None: never."""

    __slots__ = ("alone", "expires_at", "model", "number", "priority")

    def __init__(self, model: str, priority: Priority, *, alone: bool, expires_at: float | None) -> None:
        self.model = model
        self.priority = priority
        self.alone = alone
        self.expires_at = expires_at
        self.number = 0
        """Of its arrival; given when it joins."""


W = TypeVar("W", bound=Waiter)


class _Lines(Generic[W]):
    """Of one model. running: how many are under way. paused: none is to follow for now."""

    __slots__ = ("paused", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Priority, list[tuple[int, W]]] = {"live": [], "backlog": []}
        self.running = 0
        self.paused = False


class Turns(Generic[W]):
    """at_once: how many of a model may be under way."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lines: dict[str, _Lines[W]] = {}
        self._joined = 0
        self._running = 0
        self._alone = False

    def __len__(self) -> int:
        """Those that wait and those under way."""
        return self._running + sum(len(line) for lines in self._lines.values() for line in lines.waiting.values())

    def waiting(self, model: str, priority: Priority) -> int:
        lines = self._lines.get(model)
        return 0 if lines is None else len(lines.waiting[priority])

    def join(self, waiter: W) -> None:
        self._joined += 1
        waiter.number = self._joined
        self._line_up(waiter)

    def take(self) -> W | None:
        """The one whose turn it is, which is under way from now on."""
        if self._alone:
            return None
        for model, lines in self._lines.items():
            line = lines.waiting["live"] or lines.waiting["backlog"]
            if not line or lines.paused or lines.running >= self._at_once:
                continue
            if line[0][1].alone and self._running:
                return None
            _, waiter = heapq.heappop(line)
            lines.running += 1
            self._running += 1
            self._alone = waiter.alone
            self._lines[model] = self._lines.pop(model)
            return waiter
        return None

    def leave(self, waiter: W) -> None:
        """It is no longer under way."""
        self._lines[waiter.model].running -= 1
        self._running -= 1
        if waiter.alone:
            self._alone = False

    def put_back(self, waiter: W) -> None:
        """It could not run: it has its old place again, and its model is paused."""
        self.leave(waiter)
        self.pause(waiter.model)
        self._line_up(waiter)

    def pause(self, model: str) -> None:
        """Take none of this model until `resume`."""
        self._lines[model].paused = True

    def resume(self) -> None:
        for lines in self._lines.values():
            lines.paused = False

    def take_expired(self, now: float) -> list[W]:
        """Remove those that have waited too long."""
        expired: list[W] = []
        for lines in self._lines.values():
            for priority, line in lines.waiting.items():
                late = {number for number, each in line if each.expires_at is not None and each.expires_at <= now}
                if late:
                    ordered = sorted(line)
                    expired += [each for number, each in ordered if number in late]
                    lines.waiting[priority] = [each for each in ordered if each[0] not in late]
        return expired

    def _line_up(self, waiter: W) -> None:
        lines = self._lines.setdefault(waiter.model, _Lines())
        heapq.heappush(lines.waiting[waiter.priority], (waiter.number, waiter))
