"""The lanes of a device: bounded queues, and one thread per lane that runs a job, or a few together, from start to end.

Each model has a queue per priority. A free lane takes from the queue that has had the least of its share (weighted
fair queueing by measured time), so that neither a flood for one model nor a slow model holds up another. A job that
finds its model's queue full is refused at once; one that waits past its deadline is never run. A native call cannot be
cancelled: when it runs past the time limit its callers are answered, its lane is given up and replaced, and its model
is reported as hung.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
import structlog

from appliance.core.protocol import Priority
from appliance.core.schedule import ALONE_BEFORE_LATENCY, PRIORITY_WEIGHT, Gear, choose_gear, share
from appliance.errors import Expired, InferenceTimeout, LaneTimeout, ModelNotReady, Overloaded

log = structlog.get_logger("lanes")

ENDPOINT = "endpoint:"
"""What the names of devices begin with that are other servers."""

_COST_FOLLOWS = 0.1
"""How quickly the measured time of a model's jobs follows: a tenth of each new one."""

_COST_FIRST_S = 0.005


class LanesStatus(msgspec.Struct, frozen=True):
    """What runs and waits now, and what was refused and timed out since the start."""

    device: str
    lanes: int
    busy: int
    waiting: int
    waiting_max: int
    refused: int
    timed_out: int


class Flow:
    """The jobs of one loaded model, which it does not know: who holds both frees it. name: for the log.

    batch_max: jobs that may share one call.
    """

    __slots__ = ("batch_max", "cost_s", "name", "tags", "waiting", "weight")

    def __init__(self, name: str, *, weight: int = 10, batch_max: int = 1) -> None:
        self.name = name
        self.weight = weight
        self.batch_max = batch_max
        self.cost_s = _COST_FIRST_S
        self.waiting = 0
        self.tags: dict[Priority, float] = {}
        """Virtual time up to which it has had its share. For the lanes."""


class Job:
    """A piece of work in a queue or on a lane. queued_at: monotonic. Its lane and the time limit compete."""

    __slots__ = ("_claimed", "_open", "deadline", "flow", "future", "queued_at", "run", "task", "urgent")

    def __init__(
        self, flow: Flow, run: Run, task: Any, queued_at: float, deadline: float, *, urgent: bool = False
    ) -> None:
        self.flow = flow
        self.run = run
        self.task = task
        self.queued_at = queued_at
        self.deadline = deadline
        self.urgent = urgent
        """Whether the deadline was given by its sender."""
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

    def settle(self, outcome: Any) -> None:
        """Answer with a value, or with an error if it is one; nothing when the time limit has answered."""
        if self.claim():
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


Run = Callable[[list[Job], Gear], None]
"""Runs jobs of one flow together and settles each of them.

Before it does what cannot be undone it claims the job: without a claim its caller was told of a timeout.
"""


class _Queue:
    """What waits for one model at one priority. tag: the virtual time from which its share is due."""

    __slots__ = ("flow", "jobs", "priority", "tag", "weight")

    def __init__(self, flow: Flow, priority: Priority, tag: float) -> None:
        self.flow = flow
        self.priority = priority
        self.jobs: deque[Job] = deque()
        self.tag = tag
        self.weight = flow.weight * PRIORITY_WEIGHT[priority]


class _Lane:
    __slots__ = ("abandoned", "jobs", "started", "thread")

    def __init__(self, run: Callable[[_Lane], None], name: str) -> None:
        self.jobs: list[Job] = []
        self.started = 0.0
        self.abandoned = False
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)


class Lanes:
    """on_hang: told the flow whose native call did not return; called from the watchdog's thread.

    waiting_max: jobs of one flow that may wait.
    """

    def __init__(
        self, device: str, lanes: int, waiting_max: int, timeout_s: float, on_hang: Callable[[Flow], None]
    ) -> None:
        self.device = device
        self.count = lanes
        self._waiting_max = waiting_max
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        # Only queues with something in them; a flow's queue comes and goes with its jobs.
        self._queues: dict[tuple[Flow, Priority], _Queue] = {}
        self._virtual_s = 0.0
        self._alone_in_a_row = ALONE_BEFORE_LATENCY
        self._changed = threading.Condition()
        self._idle = 0
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
            waiting = self._take_all(lambda job: True)
            self._changed.notify_all()
        for job in waiting:
            job.settle(Overloaded("the appliance is stopping; try again in a moment"))
        ends_at = time.monotonic() + timeout_s
        for lane in self._lanes:
            lane.thread.join(max(0.0, ends_at - time.monotonic()))
        return not any(lane.thread.is_alive() for lane in (*self._lanes, *self._given_up))

    def submit(
        self, flow: Flow, run: Run, task: Any, priority: Priority = "interactive", deadline_s: float | None = None
    ) -> Future[Any]:
        """Queue a job; raises Overloaded when too many of its flow wait.

        deadline_s: not run at all when it has waited so long; at most the lanes' own time limit.
        """
        queued_at = time.monotonic()
        urgent = deadline_s is not None and deadline_s < self._timeout_s
        limit_s = deadline_s if deadline_s is not None and urgent else self._timeout_s
        job = Job(flow, run, task, queued_at, queued_at + limit_s, urgent=urgent)
        with self._changed:
            if self._stopping:
                raise Overloaded("the appliance is stopping; try again in a moment")
            if flow.waiting >= self._waiting_max:
                self._refused += 1
                raise Overloaded(f"{flow.waiting} requests wait for this model already; try again in a moment")
            queue = self._queues.get((flow, priority))
            if queue is None:
                # Who was away begins now: what it did not use meanwhile is not saved up.
                tag = max(self._virtual_s, flow.tags.get(priority, 0.0))
                queue = self._queues[flow, priority] = _Queue(flow, priority, tag)
            queue.jobs.append(job)
            flow.waiting += 1
            if self._idle:
                self._changed.notify()
        return job.future

    def check(self, now: float) -> None:
        """Enforce the time limits; called a few times a second with the monotonic time."""
        hung: list[Flow] = []
        expired: list[Job] = []
        innocent: list[Job] = []
        with self._changed:
            late = self._take_all(lambda job: job.deadline <= now)
            for lane in list(self._lanes):
                if lane.jobs and lane.started + self._timeout_s <= now:
                    lane.abandoned = True
                    self._lanes.remove(lane)
                    self._given_up.append(lane)
                    hung.append(lane.jobs[0].flow)
                    # Of several that shared the call nobody knows which is to blame: each is to be tried alone.
                    (innocent if len(lane.jobs) > 1 else expired).extend(lane.jobs)
                else:
                    expired += [job for job in lane.jobs if job.queued_at + self._timeout_s <= now]
            # What waits for a model that hangs would only hang as well.
            innocent += self._take_all(lambda job: job.flow in hung)
        # The model is retired before anybody is told, so that whoever tries again does not meet it.
        for flow in hung:
            log.error("lane_hung", device=self.device, model=flow.name)
            self._open_lane()
            self._on_hang(flow)
        for job in late:
            self._never_ran(job)
        for job in innocent:
            job.settle(ModelNotReady("the model hung and is loaded afresh; try again in a moment"))
        for job in expired:
            if job.give_up():
                self._timed_out += 1
                job.future.set_exception(InferenceTimeout(f"no answer within {self._timeout_s:g} s; try again"))

    def status(self) -> LanesStatus:
        with self._changed:
            busy = sum(1 for lane in self._lanes if lane.jobs)
            waiting = sum(len(queue.jobs) for queue in self._queues.values())
            return LanesStatus(
                self.device, self.count, busy, waiting, self._waiting_max, self._refused, self._timed_out
            )

    def _never_ran(self, job: Job) -> None:
        if not job.give_up():
            return
        self._timed_out += 1
        waited_s = job.deadline - job.queued_at
        if job.urgent:
            job.future.set_exception(Expired(f"its deadline of {waited_s * 1000:.3g} ms passed before a lane was free"))
        else:
            job.future.set_exception(LaneTimeout(f"waited {waited_s:g} s for a lane; try again"))

    def _take_all(self, wanted: Callable[[Job], bool]) -> list[Job]:
        """Remove the waiting jobs that are `wanted`. Under the lock."""
        taken: list[Job] = []
        for key, queue in list(self._queues.items()):
            found = [job for job in queue.jobs if wanted(job)]
            if not found:
                continue
            queue.jobs = deque(job for job in queue.jobs if not wanted(job))
            queue.flow.waiting -= len(found)
            taken += found
            if not queue.jobs:
                del self._queues[key]
        return taken

    def _next(self) -> tuple[list[Job], Gear]:
        """The jobs whose turn it is. Under the lock, with something waiting."""
        key, queue = min(self._queues.items(), key=lambda item: item[1].tag)
        flow = queue.flow
        count = share(len(queue.jobs), self._idle + 1, flow.batch_max)
        jobs = [queue.jobs.popleft() for _ in range(count)]
        flow.waiting -= count
        self._virtual_s = max(self._virtual_s, queue.tag)
        queue.tag = flow.tags[queue.priority] = self._virtual_s + count * flow.cost_s / queue.weight
        if not queue.jobs:
            del self._queues[key]
        others = len(self._queues) + sum(1 for lane in self._lanes if lane.jobs)
        gear = choose_gear(self._alone_in_a_row, others)
        self._alone_in_a_row = 0 if others else self._alone_in_a_row + 1
        return jobs, gear

    def _open_lane(self) -> None:
        lane = _Lane(self._run, f"lane-{self.device}")
        self._lanes.append(lane)
        lane.thread.start()

    def _run(self, lane: _Lane) -> None:
        while self._turn(lane):
            pass

    def _turn(self, lane: _Lane) -> bool:
        """Wait for jobs and run them; False when the lane is to end. Nothing of a job outlives its turn."""
        with self._changed:
            while not self._queues and not self._stopping and not lane.abandoned:
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if self._stopping or lane.abandoned:
                return False
            jobs, gear = self._next()
            lane.started = time.monotonic()
            lane.jobs = jobs
        live = [job for job in jobs if job.deadline > lane.started]
        for job in jobs:
            if job.deadline <= lane.started:
                self._never_ran(job)
        if live:
            try:
                live[0].run(live, gear)
            except Exception as error:
                for job in live:
                    job.settle(error)
            flow = live[0].flow
            spent_s = (time.monotonic() - lane.started) / len(live)
            flow.cost_s += _COST_FOLLOWS * (spent_s - flow.cost_s)
        with self._changed:
            lane.jobs = []
            return not lane.abandoned


class Devices:
    """The lanes of every device: they are opened when the first model is loaded there, so a dead device fills no other.

    lanes_of: how many a device has, and how long a job may wait and run there.
    on_hang: as of `Lanes`; not told of endpoints, where a call that takes too long hangs nothing but its own lane.
    """

    def __init__(
        self,
        lanes_of: Callable[[str], tuple[int, float]],
        waiting_max: int,
        on_hang: Callable[[Flow], None],
    ) -> None:
        self._lanes_of = lanes_of
        self._waiting_max = waiting_max
        self._on_hang = on_hang
        self._lock = threading.Lock()
        self._lanes: dict[str, Lanes] = {}
        self._stopping = False

    def lanes(self, device: str) -> Lanes:
        found = self._lanes.get(device)
        if found is not None:
            return found
        with self._lock:
            if self._stopping:
                raise Overloaded("the appliance is stopping; try again in a moment")
            if device not in self._lanes:
                count, timeout_s = self._lanes_of(device)
                on_hang = _ignore if device.startswith(ENDPOINT) else self._on_hang
                opened = Lanes(device, count, self._waiting_max, timeout_s, on_hang)
                opened.start()
                self._lanes[device] = opened
            return self._lanes[device]

    def stop(self) -> bool:
        """As `Lanes.stop`, of every device."""
        with self._lock:
            self._stopping = True
        ended = [lanes.stop() for lanes in self._lanes.values()]
        return all(ended)

    def check(self, now: float) -> None:
        for lanes in list(self._lanes.values()):
            lanes.check(now)

    def status(self) -> list[LanesStatus]:
        return [lanes.status() for lanes in list(self._lanes.values())]


def _ignore(flow: Flow) -> None:
    """A server that does not answer is no native call that hangs."""
