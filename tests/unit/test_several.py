"""Several inputs in one call: their order, their errors, and one deadline for all of them."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.core.protocol import InferenceRequest
from appliance.errors import ApplianceError, Expired, Overloaded, ShapeError
from appliance.http import several
from appliance.http.several import PICTURES_MAX, hurried, judge_all, judge_pictures
from appliance.pipeline import Answer, Pipeline, Recording
from tests.support.models import picture

REQUEST = InferenceRequest(model="tiny", source="s", door="http", at=0.0, deadline_s=1.0)


class Clocked:
    """A pipeline that answers at once; each input takes `step_s` of its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
        self.now = 100.0
        self.step_s = step_s
        self.left_s: list[float | None] = []
        monkeypatch.setattr(several, "time", SimpleNamespace(monotonic=lambda: self.now))

    def submit(self, request: InferenceRequest, recording: Recording) -> Future[Answer]:
        self.left_s.append(request.deadline_s)
        self.now += self.step_s
        future: Future[Answer] = Future()
        future.set_result(Answer((), "queued"))
        return future

    def judge(self, count: int, began: float | None = None) -> list[Any]:
        asked: list[tuple[InferenceRequest, Recording] | ApplianceError] = [(REQUEST, Recording())] * count
        return asyncio.run(judge_all(cast(Pipeline, self), asked, began))


def test_deadline_counts_from_the_call_for_all_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Clocked(monkeypatch, 0.125)
    outcomes = pipeline.judge(10)
    assert pipeline.left_s == [1.0 - 0.125 * step for step in range(8)]
    assert [type(each) for each in outcomes] == [Answer] * 8 + [Expired] * 2


def test_deadline_may_have_begun_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Clocked(monkeypatch, 0.0)
    pipeline.judge(1, 99.5)
    assert pipeline.left_s == [0.5]
    assert [type(each) for each in pipeline.judge(2, 99.0)] == [Expired, Expired]
    with pytest.raises(Expired, match="1000 ms"):
        hurried(REQUEST, 99.0)


def test_error_stays_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = cast(Pipeline, Clocked(monkeypatch, 0.0))
    error = Overloaded("full")
    outcomes = asyncio.run(judge_all(pipeline, [(REQUEST, Recording()), error, (REQUEST, Recording())]))
    assert [each is error for each in outcomes] == [False, True, False]


def test_pictures_of_a_call_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Clocked(monkeypatch, 0.0)
    judged = asyncio.run(judge_pictures(cast(Pipeline, pipeline), REQUEST, [picture()] * PICTURES_MAX))
    assert len(judged) == PICTURES_MAX
    with pytest.raises(ShapeError, match=f"at most {PICTURES_MAX}"):
        asyncio.run(judge_pictures(cast(Pipeline, pipeline), REQUEST, [picture()] * (PICTURES_MAX + 1)))
    assert len(pipeline.left_s) == PICTURES_MAX
