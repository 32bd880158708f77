"""What a recipe changes, and where."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.core.recipe import Recipe, about
from appliance.core.verdict import VerdictRule

RULE = VerdictRule(score_review_min=0.3, score_ng_min=0.7)


def make_recipe(**content: Any) -> Recipe:
    return msgspec.convert(content, Recipe)


FULL = make_recipe(
    models={"surface": {"score_ng_min": 0.5}},
    routes={"line": {"model": "small", "verdict": {"score_ng_min": 0.4}}},
    sources={"left": {"model": "tiny", "crop": [0, 0, 0.5, 1], "verdict": {"score_review_min": 0.1}}},
)


@pytest.mark.parametrize(
    ("route", "source", "model"),
    [
        ("line", "left", "tiny"),
        ("line", "right", "small"),
        ("other", "left", "tiny"),
        ("other", "right", None),
        # Whoever names a model over HTTP gets it.
        (None, "left", None),
    ],
)
def test_source_goes_before_route_in_the_choice_of_the_model(route: str | None, source: str, model: str | None) -> None:
    assert FULL.model(route, source) == model


def test_limits_are_laid_over_each_other() -> None:
    assert FULL.rule(RULE, "surface", None, "right").score_ng_min == 0.5
    assert FULL.rule(RULE, "other", None, "right") == RULE
    over = FULL.rule(RULE, "surface", "line", "left")
    assert (over.score_review_min, over.score_ng_min) == (0.1, 0.4)


def test_crop_is_of_the_source() -> None:
    assert FULL.crop("line", "left") == (0, 0, 0.5, 1)
    assert FULL.crop(None, "left") == (0, 0, 0.5, 1)
    assert FULL.crop("line", "right") is None


def test_every_model_is_named_once() -> None:
    assert FULL.named_models() == ["small", "surface", "tiny"]


def test_recipe_is_told_in_one_line() -> None:
    assert about(FULL) == (
        "surface: NG from 0.5; left: model tiny, a part of the picture, review from 0.1; line: model small, NG from 0.4"
    )
    assert about(Recipe()) == "as it is"
    assert about(make_recipe(models={"surface": {"classes": {"dust": "ok"}}})) == "surface: dust ok"


@pytest.mark.parametrize("crop", [[0.5, 0, 0.6, 1], [0, 0, 0, 1], [-0.1, 0, 1, 1], [0, 0, 1]])
def test_crop_outside_the_picture_is_refused(crop: list[float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_recipe(sources={"left": {"crop": crop}})
