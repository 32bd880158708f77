"""The ruling on versions that are tried beside what serves: from counts, times and agreement alone.

The caller owns the clock, the slots and the counting. Nothing is believed before `inputs_min` inputs, except what no
further input could make good.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec

from appliance.core.prediction import Prediction
from appliance.core.release import Rollout
from appliance.core.verdict import Verdict

Decision = Literal["wait", "promote", "reject"]

LATENCY_SLACK_MS = 1.0
"""A difference that no plant notices: of a model that takes a tenth of it, a ratio says nothing."""

_ROUNDING = 1e-9


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one model on trial.

    inputs: that the new version was given. errors: those that it failed on and the other one did not.
    compared, agreed: inputs that both answered, and those that both answered alike.
    latency_ms_p95, before_ms_p95: of the new one and of the other, without the wait for a lane; None before the first.
    is_new: nothing served before it, so there is nobody to compare it with, nor to give it inputs.
    """

    inputs: int = 0
    errors: int = 0
    compared: int = 0
    agreed: int = 0
    latency_ms_p95: float | None = None
    before_ms_p95: float | None = None
    is_new: bool = False


class Ruling(msgspec.Struct, frozen=True):
    """reason: in words with figures, for people."""

    decision: Decision
    reason: str


def rule(counts: Counts, policy: Rollout, *, is_due: bool = False) -> Ruling:
    """On one model. is_due: no further input comes; what is undecided then is rejected."""
    if counts.is_new:
        return Ruling("promote", "its golden cases hold, and nothing served before it")
    fault = _errors(counts.inputs, counts.errors, policy) or _disagreement(counts, policy)
    if fault is not None:
        return Ruling("reject", fault)
    if min(counts.inputs, counts.compared) < policy.inputs_min:
        seen = f"{counts.inputs} inputs, {counts.compared} of them compared; {policy.inputs_min} are needed"
        if is_due:
            return Ruling("reject", f"undecided at the deadline: {seen}")
        return Ruling("wait", seen)
    fault = _slowness(counts, policy)
    if fault is not None:
        return Ruling("reject", fault)
    return Ruling(
        "promote",
        f"{counts.inputs} inputs, {counts.errors} errors, {counts.agreed} of {counts.compared} answered alike",
    )


def rule_together(rulings: Sequence[tuple[str, Ruling]]) -> Ruling:
    """On all models of a release, by name: they switch together or not at all."""
    for wanted in ("reject", "wait"):
        found = [f"{name}: {ruling.reason}" for name, ruling in rulings if ruling.decision == wanted]
        if found:
            return Ruling("reject" if wanted == "reject" else "wait", "; ".join(found))
    return Ruling("promote", "; ".join(f"{name}: {ruling.reason}" for name, ruling in rulings))


def rule_probation(inputs: int, errors: int, policy: Rollout) -> str | None:
    """Why a version that serves goes back, None: it stays. errors: as of `Counts`."""
    return _errors(inputs, errors, policy)


def answered_alike(before: Sequence[tuple[Verdict, Prediction]], now: Sequence[tuple[Verdict, Prediction]]) -> bool:
    """Whether two answers to one input say the same of every row: the verdict, or, where none is asked, the labels."""
    if len(before) != len(now):
        return False
    return all(_row_alike(*one, *other) for one, other in zip(before, now, strict=True))


def p95(values: Collection[float]) -> float | None:
    """Nearest rank; None of nothing."""
    if not values:
        return None
    return sorted(values)[-(-len(values) * 95 // 100) - 1]


def _errors(inputs: int, errors: int, policy: Rollout) -> str | None:
    # Even if all that is still to come is answered, the share stays too high.
    if errors <= policy.errors_max * max(inputs, policy.inputs_min) + _ROUNDING:
        return None
    return f"it failed on {errors} of {inputs} inputs that the version before it answers; {policy.errors_max:.3g} may"


def _disagreement(counts: Counts, policy: Rollout) -> str | None:
    of = max(counts.compared, policy.inputs_min)
    differing = counts.compared - counts.agreed
    if of - differing >= policy.agreement_min * of - _ROUNDING:
        return None
    return (
        f"it answered {differing} of {counts.compared} inputs otherwise than the version before it; "
        f"a share of {policy.agreement_min:.3g} is to be alike"
    )


def _slowness(counts: Counts, policy: Rollout) -> str | None:
    new, before = counts.latency_ms_p95, counts.before_ms_p95
    if new is None or before is None or new <= max(before * policy.latency_ratio_max, before + LATENCY_SLACK_MS):
        return None
    allowed = f"{policy.latency_ratio_max:.3g} times as long is allowed"
    return f"it takes {new:.3g} ms (p95), the version before it {before:.3g} ms; {allowed}"


def _row_alike(verdict: Verdict, prediction: Prediction, other_verdict: Verdict, other: Prediction) -> bool:
    if verdict != other_verdict:
        return False
    return verdict != "none" or _labels(prediction) == _labels(other)


def _labels(prediction: Prediction) -> tuple[str | None, list[str]]:
    first = prediction.classes[0].label if prediction.classes else None
    return first, sorted(region.label for region in prediction.regions or ())
