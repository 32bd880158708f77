"""What the site has ruled for a source and a recipe."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.codecs import decode_image
from appliance.config import Config, ModelConfig, RouteConfig, SourceConfig
from appliance.core.area import Mask
from appliance.core.manifest import ModelManifest, parse_manifest
from appliance.core.prediction import Prediction, Region
from appliance.core.privacy import Images, keeps_picture
from appliance.core.protocol import InferenceRequest, Part
from appliance.core.recipe import Recipe
from appliance.core.verdict import Verdict, VerdictRule
from appliance.core.view import View
from appliance.rules import SiteRules
from tests.support.models import encode, picture, write_model

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
    config = Config(recipes=RECIPES, sources=sources or SOURCES, pixels_max=1 << 20)
    return SiteRules(config, lambda source: active)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ModelManifest:
    path = write_model(tmp_path_factory.mktemp("models")) / "manifest.toml"
    return parse_manifest(path.read_bytes(), str(path))


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


def limits(rules: SiteRules, manifest: ModelManifest, **fields: Any) -> tuple[float | None, float | None]:
    rule = rules.verdict_rule(manifest, make_request(**fields), "line")
    return rule.score_review_min, rule.score_ng_min


def test_recipe_goes_over_the_route_the_route_over_the_site_and_the_site_over_the_model(
    manifest: ModelManifest,
) -> None:
    assert limits(make_rules(), manifest) == (0.3, 0.7)
    config = Config(
        models={"tiny": ModelConfig(verdict=VerdictRule(score_review_min=0.2, score_ng_min=0.6))}, recipes=RECIPES
    )
    assert limits(SiteRules(config, lambda _: None), manifest) == (0.2, 0.6)
    route = RouteConfig(name="line", topic="line/+", model="tiny", verdict=VerdictRule(score_ng_min=0.5))
    rules = SiteRules(msgspec.structs.replace(config, routes=(route,)), lambda _: None)
    assert limits(rules, manifest) == (0.2, 0.5)
    assert limits(rules, manifest, part=Part(recipe="close")) == (0.2, 0.2)


def test_a_version_on_trial_is_judged_by_the_limits_that_came_with_it(manifest: ModelManifest) -> None:
    rules = make_rules()
    newer = msgspec.structs.replace(manifest, version="2")
    came = Config(models={"tiny": ModelConfig(verdict=VerdictRule(score_ng_min=0.1))})
    rules.use_beside({("tiny", "2"): came})
    assert (limits(rules, manifest), limits(rules, newer)) == ((0.3, 0.7), (0.3, 0.1))
    rules.use_beside({("tiny", "1"): Config()})
    rules.use(came)
    assert (limits(rules, manifest), limits(rules, newer)) == ((0.3, 0.7), (0.3, 0.1))
    rules.use_beside({})
    assert limits(rules, manifest) == (0.3, 0.1)


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
