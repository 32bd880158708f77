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

from appliance.errors import InferenceTimeout, LaneTimeout, ModelNotReady, Overloaded

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


class Job:
    """A piece of work in the queue or on a lane. queued_at: monotonic. Its lane and the time limit compete."""

    __slots__ = ("_claimed", "_open", "deadline", "future", "owner", "queued_at", "run")

    def __init__(self, owner: Hashable, run: Callable[[Job], Any], queued_at: float, deadline: float) -> None:
        self.owner = owner
        self.run = run
        self.queued_at = queued_at
        self.deadline = deadline
        self.future: Future[Any] = Future()
        # A caller that goes away must not cancel it under the lane's hands.
        self.future.set_running_or_notify_cancel()
        self._open = threading.Lock()
        self._claimed = False

    def claim(self) -> bool:
        """Whether the lane may still answer; if so, the time limit no longer can. In the lane's thread only."""
        self._claimed = self._claimed or self.give_up()
        return self._claimed

    def give_up(self) -> bool:
        """Whether nobody has answered; if so, the one who asked must, with an error."""
        return self._open.acquire(blocking=False)


class _Lane:
    __slots__ = ("abandoned", "job", "started", "thread")

    def __init__(self, run: Callable[[_Lane], None], name: str) -> None:
        self.job: Job | None = None
        self.started = 0.0
        self.abandoned = False
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)


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
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._refused = 0
        self._timed_out = 0
        self._lanes: list[_Lane] = []
        self._given_up: list[_Lane] = []

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
            if job.give_up():
                job.future.set_exception(Overloaded("the appliance is stopping; try again in a moment"))
        ends_at = time.monotonic() + timeout_s
        for lane in self._lanes:
            lane.thread.join(max(0.0, ends_at - time.monotonic()))
        return not any(lane.thread.is_alive() for lane in (*self._lanes, *self._given_up))

    def submit(self, owner: Hashable, run: Callable[[Job], Any]) -> Future[Any]:
        """Queue `run`, which is given its job; raises Overloaded when too many wait.

        Before it does what cannot be undone, `run` claims its job: without a claim its caller was told of a timeout.
        """
        queued_at = time.monotonic()
        job = Job(owner, run, queued_at, queued_at + self._timeout_s)
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
        late: list[Job] = []
        expired: list[Job] = []
        with self._changed:
            while self._waiting and self._waiting[0].deadline <= now:
                late.append(self._waiting.popleft())
            for lane in list(self._lanes):
                job = lane.job
                if job is None:
                    continue
                if job.deadline <= now:
                    expired.append(job)
                if lane.started + self._timeout_s <= now:
                    lane.abandoned = True
                    self._lanes.remove(lane)
                    self._given_up.append(lane)
                    hung.append(job.owner)
            # What waits for a model that hangs would only hang as well.
            stranded = [job for job in self._waiting if job.owner in hung]
            self._waiting = deque(job for job in self._waiting if job.owner not in hung)
        for job in late:
            if job.give_up():
                self._timed_out += 1
                job.future.set_exception(self._never_ran())
        for job in stranded:
            if job.give_up():
                job.future.set_exception(ModelNotReady("the model hung and is loaded afresh; try again in a moment"))
        for job in expired:
            if job.give_up():
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

    def _never_ran(self) -> LaneTimeout:
        return LaneTimeout(f"waited {self._timeout_s:g} s for a lane; try again")

    def _open_lane(self) -> None:
        lane = _Lane(self._run, f"lane-{self.device}")
        self._lanes.append(lane)
        lane.thread.start()

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
                if job.claim():
                    self._timed_out += 1
                    job.future.set_exception(self._never_ran())
                continue
            try:
                outcome, error = job.run(job), None
            except Exception as raised:
                outcome, error = None, raised
            if job.claim():
                if error is not None:
                    job.future.set_exception(error)
                else:
                    job.future.set_result(outcome)
            if lane.abandoned:
                return
