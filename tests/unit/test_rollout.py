"""The ruling as a table."""

from __future__ import annotations

import pytest

from appliance.core.prediction import ClassScore, Prediction, Region
from appliance.core.release import Rollout
from appliance.core.rollout import (
    Counts,
    Decision,
    Ruling,
    answered_alike,
    p95,
    rule,
    rule_probation,
    rule_together,
)
from appliance.core.verdict import Verdict

POLICY = Rollout(inputs_min=100, errors_max=0.02, agreement_min=0.9, latency_ratio_max=2.0)
STRICT = Rollout(inputs_min=100)


def seen(
    inputs: int, errors: int = 0, differing: int = 0, now_ms: float | None = 10.0, before_ms: float | None = 10.0
) -> Counts:
    """All that the new version did not fail on were compared."""
    compared = inputs - errors
    return Counts(
        inputs=inputs,
        errors=errors,
        compared=compared,
        agreed=compared - differing,
        latency_ms_p95=now_ms,
        before_ms_p95=before_ms,
    )


@pytest.mark.parametrize(
    ("counts", "policy", "decision", "is_due", "word"),
    [
        (Counts(), POLICY, "wait", False, "0 inputs"),
        (Counts(), POLICY, "reject", True, "undecided"),
        (seen(99), POLICY, "wait", False, "100 are needed"),
        (seen(99), POLICY, "reject", True, "undecided"),
        (seen(100), POLICY, "promote", False, "100 of 100"),
        (seen(100), POLICY, "promote", True, "100 of 100"),
        # Errors: no further input makes up for the third of a hundred.
        (seen(2, errors=2), POLICY, "wait", False, "needed"),
        (seen(3, errors=3), POLICY, "reject", False, "failed on 3 of 3"),
        (seen(102, errors=2), POLICY, "promote", False, "2 errors"),
        (seen(200, errors=4), POLICY, "promote", False, "4 errors"),
        (seen(200, errors=5), POLICY, "reject", False, "failed on 5 of 200"),
        (seen(1, errors=1), STRICT, "reject", False, "failed on 1 of 1"),
        # Agreement.
        (seen(10, differing=10), POLICY, "wait", False, "needed"),
        (seen(11, differing=11), POLICY, "reject", False, "11 of 11"),
        (seen(100, differing=10), POLICY, "promote", False, "90 of 100"),
        (seen(100, differing=11), POLICY, "reject", False, "11 of 100"),
        (seen(1000, differing=100), POLICY, "promote", False, "900 of 1000"),
        (seen(5, differing=5), STRICT, "wait", False, "needed"),
        (seen(6, differing=6), STRICT, "reject", False, "6 of 6"),
        # Times, once there are enough.
        (seen(100, now_ms=20.0), POLICY, "promote", False, "100 of 100"),
        (seen(100, now_ms=20.1), POLICY, "reject", False, "20.1 ms"),
        (seen(99, now_ms=500.0), POLICY, "wait", False, "needed"),
        (seen(100, now_ms=0.9, before_ms=0.1), POLICY, "promote", False, "100 of 100"),
        (seen(100, now_ms=1.2, before_ms=0.1), POLICY, "reject", False, "1.2 ms"),
        (seen(100, now_ms=None, before_ms=None), POLICY, "promote", False, "100 of 100"),
        # Inputs that nobody compared decide nothing.
        (Counts(inputs=500, compared=99, agreed=99), POLICY, "wait", False, "99 of them"),
        (Counts(inputs=500, compared=99, agreed=99), POLICY, "reject", True, "undecided"),
        (Counts(is_new=True), POLICY, "promote", False, "golden cases"),
    ],
)
def test_one_model_is_ruled_from_counts(
    counts: Counts, policy: Rollout, decision: Decision, is_due: bool, word: str
) -> None:
    ruling = rule(counts, policy, is_due=is_due)
    assert ruling.decision == decision
    assert word in ruling.reason


GOOD, WAITS, BAD = Ruling("promote", "fine"), Ruling("wait", "early"), Ruling("reject", "wrong")


@pytest.mark.parametrize(
    ("rulings", "decision", "reason"),
    [
        ([("a", GOOD), ("b", GOOD)], "promote", "a: fine; b: fine"),
        ([("a", GOOD), ("b", WAITS)], "wait", "b: early"),
        ([("a", WAITS), ("b", BAD)], "reject", "b: wrong"),
        ([("a", GOOD), ("b", BAD)], "reject", "b: wrong"),
        ([], "promote", ""),
    ],
)
def test_models_of_one_release_switch_together_or_not_at_all(
    rulings: list[tuple[str, Ruling]], decision: Decision, reason: str
) -> None:
    assert rule_together(rulings) == Ruling(decision, reason)


@pytest.mark.parametrize(
    ("inputs", "errors", "policy", "goes_back"),
    [
        (0, 0, STRICT, False),
        (1, 1, STRICT, True),
        (10_000, 0, STRICT, False),
        (5, 2, POLICY, False),
        (5, 3, POLICY, True),
        (1000, 20, POLICY, False),
        (1000, 21, POLICY, True),
    ],
)
def test_a_version_on_probation_has_the_same_budget_of_errors(
    inputs: int, errors: int, policy: Rollout, goes_back: bool
) -> None:
    assert (rule_probation(inputs, errors, policy) is not None) == goes_back


def says(label: str, *regions: str) -> Prediction:
    return Prediction(
        classes=(ClassScore(label, 0.9),), regions=tuple(Region(each, 0.9, (0, 0, 1, 1), 0.1) for each in regions)
    )


@pytest.mark.parametrize(
    ("before", "now", "alike"),
    [
        (("ok", says("good")), ("ok", says("good")), True),
        (("ok", says("good")), ("ng", says("good")), False),
        # The rule has the last word: another name for the same verdict is no difference to the plant.
        (("ng", says("scratch")), ("ng", says("line")), True),
        (("none", says("cat")), ("none", says("cat")), True),
        (("none", says("cat")), ("none", says("dog")), False),
        (("none", says("a", "x", "y")), ("none", says("a", "y", "x")), True),
        (("none", says("a", "x", "x")), ("none", says("a", "x")), False),
        (("none", Prediction()), ("none", Prediction()), True),
    ],
)
def test_answers_are_compared_by_verdict_and_where_there_is_none_by_labels(
    before: tuple[Verdict, Prediction], now: tuple[Verdict, Prediction], alike: bool
) -> None:
    assert answered_alike([before], [now]) == alike
    assert answered_alike([before, before], [before, now]) == alike


def test_answers_with_other_numbers_of_rows_differ() -> None:
    row: tuple[Verdict, Prediction] = ("ok", says("good"))
    assert not answered_alike([row], [row, row])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([3.0], 3.0), ([2.0, 1.0], 2.0), (list(range(1, 101)), 95), (list(range(1, 21)), 19)],
)
def test_p95_is_the_nearest_rank(values: list[float], expected: float | None) -> None:
    assert p95(values) == expected
