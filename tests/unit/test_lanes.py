"""Lanes: bounded queues, fair shares, batches, deadlines, a time limit, and a native call that never returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from appliance.core.protocol import Priority
from appliance.core.schedule import Gear
from appliance.errors import Expired, InferenceTimeout, ModelNotReady, Overloaded
from appliance.lanes import Devices, Flow, Job, Lanes
from tests.support.wait import until

LATER = 1e12
"""A monotonic time that is past every deadline."""

Work = Callable[[Job], Any]


def each(jobs: list[Job], gear: Gear) -> None:
    """Run the jobs of a call one after the other."""
    for job in jobs:
        try:
            job.settle(job.task(job))
        except Exception as error:
            job.settle(error)


class Crew:
    """Lanes whose jobs wait at a gate."""

    def __init__(self, lanes: int = 1, waiting_max: int = 2) -> None:
        self.hung: list[str] = []
        self.gate = threading.Event()
        self.lanes = Lanes("CPU", lanes, waiting_max, 1000.0, lambda flow: self.hung.append(flow.name))
        self.lanes.start()
        self._flows: dict[str, Flow] = {}

    def flow(self, owner: str, **options: int) -> Flow:
        if owner not in self._flows:
            self._flows[owner] = Flow(owner, **options)
        return self._flows[owner]

    def at_the_gate(self, owner: str = "model") -> Future[Any]:
        """A job that is running, and ends when the gate opens."""
        started = threading.Event()

        def run(_job: Job) -> str:
            started.set()
            self.gate.wait(30)
            return "done"

        future = self.submit(run, owner)
        assert started.wait(30)
        return future

    def dismiss(self) -> None:
        """Open the gate and end every lane, those that were given up as well."""
        self.gate.set()
        until(lambda: self.lanes.stop(30), 30, "the lanes ending")

    def submit(
        self,
        run: Work = lambda _: "done",
        owner: str = "model",
        priority: Priority = "interactive",
        deadline_s: float | None = None,
    ) -> Future[Any]:
        return self.lanes.submit(self.flow(owner), each, run, priority, deadline_s)


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.dismiss()


def test_job_gives_its_outcome(crew: Crew) -> None:
    assert crew.submit(lambda _: 5).result(30) == 5


def test_job_s_error_is_the_caller_s_error(crew: Crew) -> None:
    def fail(_job: Job) -> None:
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError, match="no"):
        crew.submit(fail).result(30)
    assert crew.submit().result(30) == "done"


def test_full_queue_is_refused_at_once(crew: Crew) -> None:
    running = crew.at_the_gate()
    waiting = [crew.submit(), crew.submit()]
    with pytest.raises(Overloaded, match="2 requests wait for this model already"):
        crew.submit()
    status = crew.lanes.status()
    assert (status.busy, status.waiting, status.refused) == (1, 2, 1)
    crew.gate.set()
    assert [future.result(30) for future in (running, *waiting)] == ["done"] * 3
    assert crew.submit().result(30) == "done"


def test_lanes_run_beside_each_other() -> None:
    crew = Crew(lanes=2)
    futures = [crew.at_the_gate(), crew.at_the_gate()]
    assert crew.lanes.status().busy == 2
    crew.gate.set()
    assert [future.result(30) for future in futures] == ["done", "done"]
    crew.dismiss()


def test_job_that_waits_past_its_deadline_is_never_run(crew: Crew) -> None:
    crew.at_the_gate("slow model")
    ran: list[int] = []
    waiting = crew.submit(lambda _: ran.append(1), "other model")
    crew.lanes.check(LATER)
    with pytest.raises(InferenceTimeout, match="waited 1000 s for a lane"):
        waiting.result(30)
    assert crew.submit().result(30) == "done"
    assert ran == []


def test_hung_job_is_answered_reported_and_its_lane_replaced(crew: Crew) -> None:
    hung = crew.at_the_gate("bad model")
    crew.lanes.check(LATER)
    with pytest.raises(InferenceTimeout, match="no answer within 1000 s"):
        hung.result(30)
    assert crew.hung == ["bad model"]
    assert crew.submit().result(30) == "done"
    crew.lanes.check(LATER)
    assert crew.hung == ["bad model"]
    until(lambda: crew.lanes.status().busy == 0, 30, "the new lane being free")


def test_lane_that_comes_back_after_it_was_given_up_takes_no_more_jobs(crew: Crew) -> None:
    crew.at_the_gate()
    crew.lanes.check(LATER)
    crew.gate.set()
    until(lambda: crew.lanes.status().busy == 0, 30, "the lane being free")
    crew.gate.clear()
    crew.at_the_gate()
    second = crew.submit()
    assert crew.lanes.status().waiting == 1
    crew.gate.set()
    assert second.result(30) == "done"


def test_job_that_waits_for_a_model_that_hangs_is_told_to_come_again() -> None:
    crew = Crew(lanes=1)
    crew.at_the_gate("bad model")
    lanes = crew.lanes
    behind = crew.submit(owner="bad model")
    # The running job is past its time, the waiting one is not yet.
    for lane in lanes._lanes:
        lane.started = 0.0
    lanes.check(1001.0)
    with pytest.raises(ModelNotReady):
        behind.result(30)
    crew.dismiss()


def test_answer_that_is_too_late_cannot_be_claimed(crew: Crew) -> None:
    claims: list[bool] = []

    def run(job: Job) -> None:
        started.set()
        crew.gate.wait(30)
        claims.append(job.claim())

    started = threading.Event()
    future = crew.submit(run)
    assert started.wait(30)
    crew.lanes.check(LATER)
    with pytest.raises(InferenceTimeout):
        future.result(30)
    crew.gate.set()
    until(lambda: claims, 30, "the late job")
    assert claims == [False]


def test_time_limit_cannot_contradict_an_answer_that_was_claimed(crew: Crew) -> None:
    claimed = threading.Event()

    def run(job: Job) -> str:
        assert job.claim()
        claimed.set()
        crew.gate.wait(30)
        return "mine"

    future = crew.submit(run)
    assert claimed.wait(30)
    crew.lanes.check(LATER)
    crew.gate.set()
    assert future.result(30) == "mine"


def test_caller_that_goes_away_does_not_harm_the_lane(crew: Crew) -> None:
    future = crew.at_the_gate()
    assert not future.cancel()
    waiting = crew.submit()
    assert not waiting.cancel()
    crew.gate.set()
    assert [future.result(30), waiting.result(30)] == ["done", "done"]


def test_stop_waits_for_healthy_lanes_only_and_says_that_one_hangs(crew: Crew) -> None:
    crew.at_the_gate()
    crew.lanes.check(LATER)
    assert not crew.lanes.stop(30)


def test_stop_refuses_what_waits_and_what_comes(crew: Crew) -> None:
    running = crew.at_the_gate()
    waiting = crew.submit()
    assert not crew.lanes.stop(0.0)
    with pytest.raises(Overloaded, match="stopping"):
        waiting.result(30)
    with pytest.raises(Overloaded, match="stopping"):
        crew.submit()
    crew.gate.set()
    assert running.result(30) == "done"


def test_job_past_the_deadline_of_its_sender_expires_and_never_runs(crew: Crew) -> None:
    running = crew.at_the_gate()
    ran: list[int] = []
    late = crew.submit(lambda _: ran.append(1), deadline_s=1e-4)
    passed = time.monotonic() + 1e-4
    until(lambda: time.monotonic() > passed, 30, "the deadline")
    crew.gate.set()
    with pytest.raises(Expired, match=r"deadline of 0\.1 ms"):
        late.result(30)
    assert running.result(30) == "done"
    assert ran == []


def test_deadline_longer_than_the_time_limit_changes_nothing(crew: Crew) -> None:
    crew.at_the_gate("slow model")
    waiting = crew.submit(owner="other", deadline_s=1e6)
    crew.lanes.check(LATER)
    with pytest.raises(InferenceTimeout, match="waited 1000 s"):
        waiting.result(30)


def test_full_queue_of_one_model_leaves_room_for_another(crew: Crew) -> None:
    running = crew.at_the_gate("flood")
    flood = [crew.submit(owner="flood") for _ in range(2)]
    with pytest.raises(Overloaded):
        crew.submit(owner="flood")
    other = crew.submit(owner="other")
    crew.gate.set()
    assert [future.result(30) for future in (running, *flood, other)] == ["done"] * 4


def order_of(crew: Crew, jobs: list[tuple[str, str, Priority]], costs_s: dict[str, float] | None = None) -> list[str]:
    """The names of the jobs (name, model, priority) in the order in which one lane runs them.

    costs_s: what a job of a model is known to take; a second unless given.
    """
    ran: list[str] = []

    def work(name: str, cost_s: float) -> Work:
        def run(job: Job) -> None:
            ran.append(name)
            job.flow.cost_s = cost_s

        return run

    first = crew.at_the_gate("first")
    futures = []
    for name, owner, priority in jobs:
        cost_s = (costs_s or {}).get(owner, 1.0)
        crew.flow(owner).cost_s = cost_s
        futures.append(crew.submit(work(name, cost_s), owner, priority))
    crew.gate.set()
    for future in (first, *futures):
        future.result(30)
    return ran


def test_interactive_goes_before_live_and_live_before_the_backlog() -> None:
    crew = Crew(waiting_max=100)
    kinds: list[Priority] = ["backlog", "live", "interactive"]
    ran = order_of(crew, [(kind, "model", kind) for kind in kinds for _ in range(4)])
    assert ran.index("interactive") < 3
    assert sorted(ran[:6]).count("interactive") == 4
    assert ran[-3:] == ["backlog"] * 3
    crew.dismiss()


def test_backlog_gets_on_while_there_is_always_something_interactive() -> None:
    crew = Crew(waiting_max=1000)
    jobs: list[tuple[str, str, Priority]] = [("i", "model", "interactive")] * 300
    ran = order_of(crew, jobs + [("b", "model", "backlog")] * 300)
    assert 2 <= ran[:200].count("b") <= 20
    crew.dismiss()


def test_models_share_the_lanes_by_their_weights() -> None:
    crew = Crew(waiting_max=1000)
    crew.flow("light", weight=10)
    crew.flow("heavy", weight=30)
    jobs: list[tuple[str, str, Priority]] = [("l", "light", "live")] * 200
    ran = order_of(crew, jobs + [("h", "heavy", "live")] * 200)
    assert 65 <= ran[:100].count("h") <= 85
    crew.dismiss()


def test_slow_model_does_not_take_the_share_of_a_quick_one() -> None:
    crew = Crew(waiting_max=1000)
    jobs: list[tuple[str, str, Priority]] = [(name, name, "live") for name in ("slow", "quick") for _ in range(50)]
    ran = order_of(crew, jobs, {"slow": 0.1, "quick": 0.001})
    assert ran[:40].count("slow") <= 3
    crew.dismiss()


def test_jobs_of_a_model_that_batches_share_a_call() -> None:
    crew = Crew(waiting_max=100)
    calls: list[int] = []

    def together(jobs: list[Job], gear: Gear) -> None:
        calls.append(len(jobs))
        for job in jobs:
            job.settle(job.task)

    first = crew.at_the_gate("first")
    flow = crew.flow("batching", batch_max=4)
    futures = [crew.lanes.submit(flow, together, number) for number in range(6)]
    crew.gate.set()
    assert first.result(30) == "done"
    assert [future.result(30) for future in futures] == list(range(6))
    assert calls == [4, 2]
    crew.dismiss()


def test_lone_job_runs_in_the_latency_gear_and_jobs_with_company_in_the_other() -> None:
    crew = Crew(waiting_max=100)
    gears: list[Gear] = []

    def note(jobs: list[Job], gear: Gear) -> None:
        gears.append(gear)
        for job in jobs:
            job.settle(None)

    flow = crew.flow("model")
    crew.lanes.submit(flow, note, None).result(30)
    assert gears == ["latency"]
    first = crew.at_the_gate("first")
    futures = [crew.lanes.submit(flow, note, None) for _ in range(3)]
    crew.gate.set()
    for future in (first, *futures):
        future.result(30)
    assert gears[1:3] == ["throughput", "throughput"]
    crew.dismiss()


def test_dead_device_fills_no_other() -> None:
    gate = threading.Event()
    hung: list[Flow] = []
    devices = Devices(lambda _: (1, 1000.0), 2, hung.append)

    def wait(jobs: list[Job], gear: Gear) -> None:
        gate.wait(30)
        each(jobs, gear)

    flow = Flow("remote")
    dead = devices.lanes("endpoint:cluster")
    futures = [dead.submit(flow, wait, lambda _: "late")]
    until(lambda: dead.status().busy == 1, 30, "the dead device being busy")
    futures += [dead.submit(flow, wait, lambda _: "late") for _ in range(2)]
    with pytest.raises(Overloaded):
        dead.submit(flow, wait, lambda _: "late")
    assert devices.lanes("CPU").submit(Flow("local"), each, lambda _: "done").result(30) == "done"
    # Even past its time limit it is not taken for a native call that hangs.
    devices.check(LATER)
    with pytest.raises(InferenceTimeout):
        futures[0].result(30)
    assert hung == []
    gate.set()
    until(devices.stop, 30, "the lanes ending")


def test_jobs_that_share_a_call_that_hangs_are_all_to_try_again() -> None:
    crew = Crew(waiting_max=100)
    started, stuck = threading.Event(), threading.Event()

    def hang(jobs: list[Job], gear: Gear) -> None:
        started.set()
        stuck.wait(30)

    held = crew.at_the_gate("first")
    flow = crew.flow("batching", batch_max=4)
    futures = [crew.lanes.submit(flow, hang, None) for _ in range(3)]
    crew.gate.set()
    assert held.result(30) == "done"
    assert started.wait(30)
    crew.lanes.check(LATER)
    for future in futures:
        with pytest.raises(ModelNotReady):
            future.result(30)
    assert crew.hung == ["batching"]
    stuck.set()
    crew.dismiss()
