"""One model on trial: which inputs its new version is given, what came of them, and how the other version answers.

A comparison is a job of the lowest priority on the lanes, and never becomes a result. When too many wait it is left
out, so that a trial takes nothing from those who wait for an answer.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Literal

import msgspec
import structlog

from appliance.core.prediction import Prediction
from appliance.core.protocol import InferenceRequest
from appliance.core.release import Rollout
from appliance.core.rollout import answered_alike, p95, rule
from appliance.core.schedule import Gear
from appliance.core.verdict import Verdict, judge
from appliance.core.view import View
from appliance.errors import ApplianceError, InputError, LaneTimeout, ModelNotReady, Overloaded
from appliance.lanes import Devices, Job
from appliance.rollouts.evidence import DIFFERENCES_KEPT, Difference, ModelEvidence
from appliance.rules import SiteRules
from appliance.served import Inferred, Input, ServedModel

log = structlog.get_logger("rollouts")

COMPARING_MAX = 4
"""Comparisons of a model that may wait or run."""

_TIMES_KEPT = 4096

Mode = Literal["canary", "shadow", "probation"]

_NOT_ITS_FAULT = (LaneTimeout, ModelNotReady, Overloaded)
"""What says nothing of the version that was to answer: the lanes were busy, or another input was to blame."""


class Asked(msgspec.Struct, frozen=True):
    """An input as the lanes got it: after the rules of the site. route: that it came on."""

    request: InferenceRequest
    route: str | None
    view: View | None


class Turn:
    """What a trial has to do with one request.

    served: answers it. stand_in: answers when `served` cannot, so that no request fails because of a trial.
    """

    __slots__ = ("_asked", "_trial", "served", "stand_in")

    def __init__(self, trial: Trial, asked: Asked, served: ServedModel, stand_in: ServedModel | None) -> None:
        self._trial = trial
        self._asked = asked
        self.served = served
        self.stand_in = stand_in

    def answered(self, inferred: Inferred, gear: Gear, result: int) -> None:
        """`served` answered, and its answer is recorded under this number. Never raises."""
        self._trial.answered(self._asked, self.served, inferred, gear, result)

    def failed(self, error: BaseException) -> None:
        """`served` could not answer what its stand-in answers, or there is none."""
        if self.served is self._trial.tested:
            self._trial.failed(error)


class Trial:
    """tested: the version on trial or on probation. other: what it is measured by, None: nothing served before it, or
    it is not loaded any more. Any thread may call it.
    """

    def __init__(
        self,
        evidence: ModelEvidence,
        tested: ServedModel,
        other: ServedModel | None,
        mode: Mode,
        policy: Rollout,
        devices: Devices,
        rules: SiteRules,
    ) -> None:
        self.tested = tested
        self.other = other
        self._evidence = evidence
        self._mode = mode
        self._policy = policy
        self._devices = devices
        self._rules = rules
        self._is_alike = other is not None and (tested.manifest.inputs, tested.manifest.outputs) == (
            other.manifest.inputs,
            other.manifest.outputs,
        )
        self._lock = threading.Lock()
        self._owed = 0.0
        self._comparing = 0
        self._times_ms: deque[float] = deque(maxlen=_TIMES_KEPT)
        self._before_ms: deque[float] = deque(maxlen=_TIMES_KEPT)
        self._differences: deque[Difference] = deque(maxlen=DIFFERENCES_KEPT)

    def turn(self, asked: Asked, chosen: ServedModel) -> Turn | None:
        """Whether the trial has to do with a request that named no version. chosen: what serves.

        Who must be answered by a deadline is answered by what serves; the version on trial sees the input afterwards.
        """
        if self._mode == "probation":
            return Turn(self, asked, chosen, self.other) if chosen is self.tested else None
        request = asked.request
        # A door has read tensors, and will read the outputs, by the manifest of the version that serves.
        if not self._is_alike and (request.tensors is not None or request.outputs):
            return None
        if chosen is not self.other or not self._is_due():
            return None
        if self._mode == "canary" and request.deadline_s is None:
            return Turn(self, asked, self.tested, self.other)
        return Turn(self, asked, chosen, None)

    def answered(self, asked: Asked, served: ServedModel, inferred: Inferred, gear: Gear, result: int | None) -> None:
        """As of `Turn`."""
        if self._mode == "probation":
            with self._lock:
                self._add(probation_inputs=1)
            return
        if served is self.tested:
            with self._lock:
                self._add(inputs=1)
        self._compare(asked, served, inferred, gear, result)

    def failed(self, error: BaseException) -> None:
        """As of `Turn`."""
        if isinstance(error, _NOT_ITS_FAULT) or (self.other is None and isinstance(error, InputError)):
            # Where nobody else has tried, it may be the input that is wrong.
            return
        log.warning("candidate_failed", model=str(self.tested), reason=str(error), mode=self._mode)
        with self._lock:
            if self._mode == "probation":
                self._add(probation_inputs=1, probation_errors=1)
            else:
                self._add(inputs=1, errors=1)

    def replay(self, asked: Asked) -> Future[None]:
        """Give a recent input to both. The future ends when both have answered, or one of them has not."""
        done: Future[None] = Future()
        assert self.other is not None
        try:
            first = self._submit(self.other, asked, "throughput")
        except ApplianceError:
            done.set_result(None)
            return done
        first.add_done_callback(partial(self._replayed, asked, done))
        return done

    def has_room(self) -> bool:
        """Whether a comparison more may wait."""
        return self._comparing < COMPARING_MAX

    def evidence(self) -> ModelEvidence:
        """So far, with the ruling that it gives now."""
        with self._lock:
            found = msgspec.structs.replace(
                self._evidence,
                agreement=self._evidence.agreed / self._evidence.compared if self._evidence.compared else None,
                differences=tuple(self._differences) or self._evidence.differences,
            )
            if self._times_ms:
                new, before = p95(self._times_ms), p95(self._before_ms)
                assert new is not None
                assert before is not None
                found = msgspec.structs.replace(found, latency_ms_p95=round(new, 3), before_ms_p95=round(before, 3))
        if self._mode == "probation":
            return found
        ruling = rule(found.counts(), self._policy)
        return msgspec.structs.replace(found, ruling=ruling.decision, reason=ruling.reason)

    def _is_due(self) -> bool:
        """Every tenth input of a share of 0.1, as even as can be."""
        with self._lock:
            self._owed += self._policy.share
            if self._owed < 1.0 - 1e-9:
                return False
            self._owed -= 1.0
            return True

    def _compare(self, asked: Asked, first: ServedModel, inferred: Inferred, gear: Gear, result: int | None) -> None:
        second = self.other if first is self.tested else self.tested
        if second is None:
            return
        with self._lock:
            if self._comparing >= COMPARING_MAX:
                self._add(dropped=1)
                return
            self._comparing += 1
        try:
            job = self._submit(second, asked, gear)
        except ApplianceError:
            with self._lock:
                self._comparing -= 1
                self._add(dropped=1)
            return
        job.add_done_callback(partial(self._compared, asked, second, inferred, result))

    def _submit(self, model: ServedModel, asked: Asked, gear: Gear) -> Future[Inferred]:
        """Raises Overloaded."""
        lanes = self._devices.lanes(model.loaded.device)
        return lanes.submit(model.flow, _run, (model, asked, gear), "backlog")

    def _compared(
        self,
        asked: Asked,
        second: ServedModel,
        inferred: Inferred,
        result: int | None,
        job: Future[Inferred],
        replayed: int = 0,
    ) -> None:
        error = job.exception()
        if error is not None:
            with self._lock:
                self._comparing -= 1
                if isinstance(error, _NOT_ITS_FAULT):
                    self._add(dropped=1)
            if second is self.tested:
                self.failed(error)
            return
        was_second = second is self.tested
        new, before = (job.result(), inferred) if was_second else (inferred, job.result())
        judged_now, judged_before = self._judged(self.tested, asked, new), self._judged(self.other, asked, before)
        alike = answered_alike(judged_before, judged_now)
        with self._lock:
            self._comparing -= 1
            self._add(inputs=1 if was_second else 0, compared=1, agreed=1 if alike else 0, replayed=replayed)
            self._times_ms.append(_worked_ms(new))
            self._before_ms.append(_worked_ms(before))
            if not alike:
                before_now = ((b[0], n[0]) for b, n in zip(judged_before, judged_now, strict=False) if b[0] != n[0])
                verdicts = next(before_now, (judged_before[0][0], judged_now[0][0]))
                self._differences.append(Difference(result, *verdicts))

    def _replayed(self, asked: Asked, done: Future[None], first: Future[Inferred]) -> None:
        if first.exception() is not None:
            # The version before cannot use it either, or nobody had time: it says nothing.
            done.set_result(None)
            return
        with self._lock:
            self._comparing += 1
        try:
            second = self._submit(self.tested, asked, "throughput")
        except ApplianceError:
            with self._lock:
                self._comparing -= 1
            done.set_result(None)
            return
        second.add_done_callback(partial(self._compared, asked, self.tested, first.result(), None, replayed=1))
        second.add_done_callback(lambda _: done.set_result(None))

    def _judged(self, model: ServedModel | None, asked: Asked, inferred: Inferred) -> list[tuple[Verdict, Prediction]]:
        """A row each."""
        assert model is not None
        rule = self._rules.verdict_rule(model.manifest, asked.request, asked.route)
        return [(judge(prediction, rule), prediction) for prediction in inferred.predictions]

    def _add(self, **counts: int) -> None:
        """Under the lock."""
        more = {name: getattr(self._evidence, name) + count for name, count in counts.items()}
        self._evidence = msgspec.structs.replace(self._evidence, **more)


def _run(jobs: list[Job], _: Gear) -> None:
    """Comparisons in a lane's thread, in the gear in which the other version answered, so that times compare."""
    model, _, gear = jobs[0].task
    inputs = [_input(job.task[1], job.queued_at) for job in jobs]
    for job, outcome in zip(jobs, model.run(inputs, gear), strict=True):
        job.settle(outcome)


def _input(asked: Asked, queued_at: float) -> Input:
    request = asked.request
    return Input(request.body, request.media_type, request.tensors, queued_at, False, asked.view)


def _worked_ms(inferred: Inferred) -> float:
    timing = inferred.timing
    return timing.preprocess_ms + timing.infer_ms + timing.postprocess_ms
