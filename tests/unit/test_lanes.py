"""Lanes: a bounded queue, a time limit, and a native call that never returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from appliance.errors import InferenceTimeout, ModelNotReady, Overloaded
from appliance.lanes import Job, Lanes
from tests.support.wait import until

LATER = 1e12
"""A monotonic time that is past every deadline."""


class Crew:
    """Lanes whose jobs wait at a gate."""

    def __init__(self, lanes: int = 1, waiting_max: int = 2) -> None:
        self.hung: list[Hashable] = []
        self.gate = threading.Event()
        self.lanes = Lanes("CPU", lanes, waiting_max, 1000.0, self.hung.append)
        self.lanes.start()

    def at_the_gate(self, owner: Hashable = "model") -> Future[Any]:
        """A job that is running, and ends when the gate opens."""
        started = threading.Event()

        def run(_job: Job) -> str:
            started.set()
            self.gate.wait(30)
            return "done"

        future = self.lanes.submit(owner, run)
        assert started.wait(30)
        return future

    def dismiss(self) -> None:
        """Open the gate and end every lane, those that were given up as well."""
        self.gate.set()
        until(lambda: self.lanes.stop(30), 30, "the lanes ending")

    def submit(self, run: Callable[[Job], Any] = lambda _: "done", owner: Hashable = "model") -> Future[Any]:
        return self.lanes.submit(owner, run)


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
    with pytest.raises(Overloaded, match="2 requests wait already"):
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
    with pytest.raises(InferenceTimeout):
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
        assert lane.job is not None
        lane.job.deadline = 0.0
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
