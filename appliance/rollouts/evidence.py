"""What was seen of one model while its version was tried: live while it runs, and kept with the ruling for good."""

from __future__ import annotations

import msgspec

from appliance.core.rollout import Counts, Decision
from appliance.core.verdict import Verdict

DIFFERENCES_KEPT = 20


class Difference(msgspec.Struct, frozen=True):
    """An input that both answered otherwise. result: its number, null for one that was replayed.

    before, now: the verdicts of the version before and of the one on trial.
    """

    result: int | None
    before: Verdict
    now: Verdict


class ModelEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """before: the version that served, null for a new model. agreement: share, 0..1. latency_ms_p95, before_ms_p95: of
    the inputs that both answered, without the wait for a lane. replayed: how many of the inputs were recent pictures.
    dropped: comparisons left out since the lanes were busy. ruling, reason: on this model alone.
    probation_inputs, probation_errors: since it serves.
    """

    name: str
    version: str
    before: str | None = None
    inputs: int = 0
    errors: int = 0
    compared: int = 0
    agreed: int = 0
    agreement: float | None = None
    latency_ms_p95: float | None = None
    before_ms_p95: float | None = None
    replayed: int = 0
    dropped: int = 0
    ruling: Decision | None = None
    reason: str | None = None
    differences: tuple[Difference, ...] = ()
    probation_inputs: int = 0
    probation_errors: int = 0

    def counts(self) -> Counts:
        return Counts(
            inputs=self.inputs,
            errors=self.errors,
            compared=self.compared,
            agreed=self.agreed,
            latency_ms_p95=self.latency_ms_p95,
            before_ms_p95=self.before_ms_p95,
            is_new=self.before is None,
        )
