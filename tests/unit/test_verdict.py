"""The verdict rule as a table."""

from __future__ import annotations

import pytest

from appliance.core.prediction import ClassScore, Prediction, Region
from appliance.core.verdict import Verdict, VerdictRule, judge

CLASSES = VerdictRule(classes={"good": "ok", "dust": "review", "scratch": "ng"}, class_score_min=0.6)
SCORE = VerdictRule(score_review_min=0.3, score_ng_min=0.7)
COUNT = VerdictRule(count_review_min=1, count_ng_min=3)
AREA = VerdictRule(area_review_min=0.1, area_ng_min=0.25)


def make_prediction(
    label: str = "good", sure: float = 0.9, score: float | None = None, areas: tuple[float, ...] | None = None
) -> Prediction:
    regions = None if areas is None else tuple(Region("finding", 0.9, (0, 0, 1, 1), area) for area in areas)
    return Prediction(classes=(ClassScore(label, sure), ClassScore("other", 1 - sure)), score=score, regions=regions)


@pytest.mark.parametrize(
    ("prediction", "rule", "verdict"),
    [
        (make_prediction("good"), CLASSES, "ok"),
        (make_prediction("dust"), CLASSES, "review"),
        (make_prediction("scratch"), CLASSES, "ng"),
        (make_prediction("unheard-of"), CLASSES, "review"),
        (make_prediction("good", 0.6), CLASSES, "ok"),
        (make_prediction("good", 0.59), CLASSES, "review"),
        (make_prediction("scratch", 0.59), CLASSES, "ng"),
        (Prediction(), CLASSES, "none"),
        (make_prediction(score=0.29), SCORE, "ok"),
        (make_prediction(score=0.3), SCORE, "review"),
        (make_prediction(score=0.69), SCORE, "review"),
        (make_prediction(score=0.7), SCORE, "ng"),
        (make_prediction(score=None), SCORE, "none"),
        (make_prediction(score=0.5), VerdictRule(score_ng_min=0.7), "ok"),
        (make_prediction(score=0.9), VerdictRule(score_review_min=0.7), "review"),
        (make_prediction(areas=()), COUNT, "ok"),
        (make_prediction(areas=(0.1,)), COUNT, "review"),
        (make_prediction(areas=(0.1, 0.1, 0.1)), COUNT, "ng"),
        (make_prediction(areas=None), COUNT, "none"),
        (make_prediction(areas=(0.05,)), AREA, "ok"),
        (make_prediction(areas=(0.0625, 0.0625)), AREA, "review"),
        (make_prediction(areas=(0.125, 0.125)), AREA, "ng"),
        (make_prediction("scratch", score=0.9), VerdictRule(), "none"),
        # The worst part wins, whichever it is.
        (make_prediction("good", score=0.9), CLASSES.override(SCORE), "ng"),
        (make_prediction("scratch", score=0.1), CLASSES.override(SCORE), "ng"),
        (make_prediction("good", score=0.5), CLASSES.override(SCORE), "review"),
        (make_prediction("good", score=0.1, areas=(0.3,)), CLASSES.override(SCORE).override(AREA), "ng"),
    ],
)
def test_verdict_is_the_worst_of_the_configured_parts(
    prediction: Prediction, rule: VerdictRule, verdict: Verdict
) -> None:
    assert judge(prediction, rule) == verdict


def test_override_changes_only_what_it_sets() -> None:
    rule = SCORE.override(VerdictRule(score_ng_min=0.9))
    assert rule == VerdictRule(score_review_min=0.3, score_ng_min=0.9)


def test_override_by_nothing_changes_nothing() -> None:
    assert SCORE.override(None) == SCORE
    assert SCORE.override(VerdictRule()) == SCORE


def test_recipe_overrides_the_route_which_overrides_the_manifest() -> None:
    route = VerdictRule(score_review_min=0.2, score_ng_min=0.5)
    recipe = VerdictRule(score_ng_min=0.4)
    assert SCORE.override(route).override(recipe) == VerdictRule(score_review_min=0.2, score_ng_min=0.4)


def test_a_recipe_may_put_ng_below_the_review_of_the_manifest() -> None:
    rule = SCORE.override(VerdictRule(score_ng_min=0.2))
    assert judge(make_prediction(score=0.25), rule) == "ng"
    assert judge(make_prediction(score=0.1), rule) == "ok"
