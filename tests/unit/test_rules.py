"""What the site has ruled for a source and a recipe."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.codecs import decode_image
from appliance.config import SourceConfig
from appliance.core.area import Mask
from appliance.core.prediction import Prediction, Region
from appliance.core.privacy import Images, keeps_picture
from appliance.core.protocol import InferenceRequest, Part
from appliance.core.recipe import Recipe
from appliance.core.verdict import Verdict, VerdictRule
from appliance.core.view import View
from appliance.rules import SiteRules
from tests.support.models import encode, picture

FOUND = Prediction(regions=(Region("hole", 0.9, (0, 0, 1, 1), 0.1),))
LEFT_HALF = Mask(rectangle=(0.0, 0.0, 0.5, 1.0))
SOURCES = {
    "open": SourceConfig(),
    "masked": SourceConfig(masks=(LEFT_HALF,)),
    "secret": SourceConfig(images="none"),
    "findings": SourceConfig(images="findings", masks=(LEFT_HALF,)),
    "watched": SourceConfig(dark_below=0.1),
}
CROP = (0.5, 0.5, 0.5, 0.5)
RECIPES = {
    "close": msgspec.convert(
        {"models": {"tiny": {"score_ng_min": 0.2}}, "sources": {"open": {"model": "other", "crop": CROP}}}, Recipe
    ),
}


def make_rules(active: str | None = None, **sources: Any) -> SiteRules:
    return SiteRules(RECIPES, sources or SOURCES, lambda source: active, 1 << 20)


def make_request(source: str = "open", **fields: Any) -> InferenceRequest:
    return InferenceRequest(model="tiny", source=source, door="mqtt", at=0.0, **fields)


def test_running_recipe_is_stamped_and_chooses_the_model_of_a_route() -> None:
    request = make_rules("close").apply(make_request(version="1"), "line")
    assert (request.part.recipe, request.model, request.version) == ("close", "other", None)


def test_recipe_of_the_part_goes_before_the_one_that_runs() -> None:
    request = make_rules("close").apply(make_request(part=Part("P-1", recipe="tuesday")), "line")
    assert (request.part, request.model) == (Part("P-1", recipe="tuesday"), "tiny")


def test_model_that_was_named_over_http_stays() -> None:
    request = make_rules("close").apply(make_request(version="1"), None)
    assert (request.part.recipe, request.model, request.version) == ("close", "tiny", "1")


def test_without_a_recipe_nothing_changes() -> None:
    request = make_request()
    assert make_rules().apply(request, "line") is request


@pytest.mark.parametrize(
    ("source", "recipe", "view"),
    [
        ("open", None, None),
        ("unheard-of", "close", None),
        ("open", "close", View(CROP)),
        ("masked", "close", View(None, (LEFT_HALF,))),
        ("secret", None, None),
        ("watched", None, View(None, (), True)),
    ],
)
def test_view_of_a_picture(source: str, recipe: str | None, view: View | None) -> None:
    assert make_rules().view(make_request(source, part=Part(recipe=recipe)), "line") == view


def test_recipe_goes_over_the_route_and_the_route_over_the_model() -> None:
    rule = VerdictRule(score_review_min=0.5, score_ng_min=0.9)
    override = VerdictRule(score_review_min=0.4, score_ng_min=0.8)
    judged_by = make_rules().verdict_rule(rule, make_request(override=override, part=Part(recipe="close")), "line")
    assert (judged_by.score_review_min, judged_by.score_ng_min) == (0.4, 0.2)


@pytest.mark.parametrize(
    ("images", "verdict", "prediction", "kept"),
    [
        ("all", "ok", FOUND, True),
        ("none", "ng", FOUND, False),
        ("findings", "ng", FOUND, True),
        ("findings", "review", None, True),
        ("findings", "ok", FOUND, False),
        ("findings", "error", None, False),
        ("findings", "none", FOUND, True),
        ("findings", "none", Prediction(regions=()), False),
        ("findings", "none", Prediction(score=0.9), False),
    ],
)
def test_pictures_that_are_kept(images: Images, verdict: Verdict, prediction: Prediction | None, kept: bool) -> None:
    assert keeps_picture(images, verdict, prediction) is kept


@pytest.mark.parametrize("form", [".png", ".jpg"])
def test_rejected_picture_of_a_masked_source_is_kept_masked(form: str) -> None:
    payload = picture(250, form=form)
    kept = make_rules().keepable("masked", payload)
    image = decode_image(kept, 1 << 20)
    assert image[:, :14].max() < 40
    assert image[:, 18:].min() > 200
    assert kept[:4] == payload[:4], "the same kind of file"


@pytest.mark.parametrize("source", ["secret", "findings"])
def test_rejected_picture_of_a_source_that_keeps_none_is_not_kept(source: str) -> None:
    assert make_rules().keepable(source, picture()) == b""


@pytest.mark.parametrize("payload", [b"", b"not a picture", picture()[:60], b'{"image": "aGFsbG8="}'])
def test_what_cannot_be_masked_is_not_kept(payload: bytes) -> None:
    assert make_rules().keepable("masked", payload) == b""


def test_others_are_kept_as_they_came() -> None:
    payload = b"not a picture"
    assert make_rules().keepable("open", payload) is payload
    assert make_rules().keepable("unheard-of", payload) is payload


def test_message_of_nobody_known_is_kept_only_where_no_source_is_private() -> None:
    assert make_rules().keepable(None, b"x") == b""
    assert make_rules(open=SourceConfig(), watched=SourceConfig(dark_below=0.1)).keepable(None, b"x") == b"x"


def test_picture_is_black_where_the_mask_is() -> None:
    """Of a picture that is noise: nothing of it is left to find."""
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    image = decode_image(make_rules().keepable("masked", encode(noise, ".png")), 1 << 20)
    assert not image[:, :32].any()
    assert (image[:, 32:] == noise[:, 32:, ::-1]).all()
