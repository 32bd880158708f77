"""The lanes of one device: a bounded queue, and one thread per lane that runs a job from start to end.

A job that finds the queue full is refused at once. One that waits past its deadline is never run. A native call
cannot be cancelled: when it runs past the time limit its caller is answered, its lane is given up and replaced, and
the owner of the job (its model) is reported as hung.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

import msgspec
import structlog

from appliance.errors import InferenceTimeout, Overloaded

log = structlog.get_logger("lanes")


class LanesStatus(msgspec.Struct, frozen=True):
    """What runs and waits now, and what was refused and timed out since the start."""

    device: str
    lanes: int
    busy: int
    waiting: int
    waiting_max: int
    refused: int
    timed_out: int


class _Job:
    __slots__ = ("_open", "deadline", "future", "owner", "queued_at", "run")

    def __init__(self, owner: Hashable, run: Callable[[float], Any], queued_at: float, deadline: float) -> None:
        self.owner = owner
        self.run = run
        self.queued_at = queued_at
        self.deadline = deadline
        self.future: Future[Any] = Future()
        self._open = threading.Lock()

    def close(self) -> bool:
        """Whether the caller may settle the future: the first one may, a lane and the time limit compete."""
        return self._open.acquire(blocking=False)


class _Lane:
    __slots__ = ("abandoned", "job", "started")

    def __init__(self) -> None:
        self.job: _Job | None = None
        self.started = 0.0
        self.abandoned = False


class Lanes:
    """on_hang: told the owner of a job whose native call did not return; called from the watchdog's thread."""

    def __init__(
        self, device: str, lanes: int, waiting_max: int, timeout_s: float, on_hang: Callable[[Hashable], None]
    ) -> None:
        self.device = device
        self.count = lanes
        self._waiting_max = waiting_max
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._refused = 0
        self._timed_out = 0
        self._lanes: list[_Lane] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for _ in range(self.count):
            self._open_lane()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Refuse what waits, let what runs end; returns whether every lane has ended in time."""
        with self._changed:
            self._stopping = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        for job in waiting:
            if job.close():
                job.future.set_exception(Overloaded("the appliance is stopping; try again in a moment"))
        ends_at = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def submit(self, owner: Hashable, run: Callable[[float], Any]) -> Future[Any]:
        """Queue `run`, which is given the time it was queued (monotonic); raises Overloaded when too many wait."""
        queued_at = time.monotonic()
        job = _Job(owner, run, queued_at, queued_at + self._timeout_s)
        with self._changed:
            if self._stopping:
                raise Overloaded("the appliance is stopping; try again in a moment")
            if len(self._waiting) >= self._waiting_max:
                self._refused += 1
                raise Overloaded(f"{len(self._waiting)} requests wait already; try again in a moment")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def check(self, now: float) -> None:
        """Enforce the time limit; called a few times a second with the monotonic time."""
        hung: list[Hashable] = []
        expired: list[_Job] = []
        with self._changed:
            while self._waiting and self._waiting[0].deadline <= now:
                expired.append(self._waiting.popleft())
            for lane in list(self._lanes):
                job = lane.job
                if job is None:
                    continue
                if job.deadline <= now:
                    expired.append(job)
                if lane.started + self._timeout_s <= now:
                    lane.abandoned = True
                    self._lanes.remove(lane)
                    hung.append(job.owner)
        for job in expired:
            if job.close():
                self._timed_out += 1
                job.future.set_exception(InferenceTimeout(f"no answer within {self._timeout_s:g} s; try again"))
        for owner in hung:
            log.error("lane_hung", device=self.device, owner=str(owner))
            self._open_lane()
            self._on_hang(owner)

    def status(self) -> LanesStatus:
        with self._changed:
            busy = sum(1 for lane in self._lanes if lane.job is not None)
            return LanesStatus(
                self.device, self.count, busy, len(self._waiting), self._waiting_max, self._refused, self._timed_out
            )

    def _open_lane(self) -> None:
        lane = _Lane()
        self._lanes.append(lane)
        thread = threading.Thread(target=self._run, args=(lane,), name=f"lane-{self.device}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, lane: _Lane) -> None:
        while True:
            with self._changed:
                lane.job = None
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                job = lane.job = self._waiting.popleft()
                lane.started = time.monotonic()
            if job.deadline <= lane.started:
                if job.close():
                    self._timed_out += 1
                    job.future.set_exception(InferenceTimeout(f"waited {self._timeout_s:g} s for a lane; try again"))
                continue
            try:
                outcome, error = job.run(job.queued_at), None
            except Exception as raised:
                outcome, error = None, raised
            if job.close():
                if error is not None:
                    job.future.set_exception(error)
                else:
                    job.future.set_result(outcome)
            if lane.abandoned:
                return
