"""What a release may say of a box's configuration, how it goes with the file, and how a bad one is worded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.config import Config
from appliance.core.verdict import VerdictRule
from appliance.errors import ReleaseInvalid
from appliance.release_config import read_configuration, with_release

FILE: dict[str, Any] = {
    "device": "line-3",
    "data_dir": "/data",
    "models": {"tiny": {"weight": 20, "verdict": {"score_review_min": 0.2, "score_ng_min": 0.8}}},
    "routes": [
        {"name": "left", "topic": "left/+", "model": "tiny"},
        {"name": "right", "topic": "right/+", "model": "tiny"},
    ],
    "recipes": {"fine": {"models": {"tiny": {"score_ng_min": 0.4}}}, "coarse": {}},
    "cameras": {"front": {"kind": "mqtt", "topic": "front"}},
    "triggers": [{"name": "part", "cameras": ["front"], "model": "tiny"}],
}


def route(name: str, topic: str = "new/+", **fields: Any) -> dict[str, Any]:
    return {"name": name, "topic": topic, "model": "tiny", **fields}


def file() -> Config:
    return msgspec.convert(FILE, Config)


def merged(**content: Any) -> Config:
    return with_release(file(), content)


def topics(config: Config) -> dict[str, str]:
    return {each.name: each.topic for each in config.routes}


def test_nothing_in_it_changes_nothing() -> None:
    assert merged() == file()


def test_a_route_comes_in_place_of_the_one_with_its_name() -> None:
    config = merged(routes=[route("right", "r/#"), route("third")])
    assert topics(config) == {"left": "left/+", "right": "r/#", "third": "new/+"}


def test_a_recipe_comes_whole_in_place_of_the_one_with_its_name() -> None:
    config = merged(recipes={"fine": {"other": {"score_ng_min": 0.3}}, "new": {"routes": {"left": {"model": "b"}}}})
    assert sorted(config.recipes) == ["coarse", "fine", "new"]
    assert list(config.recipes["fine"].models) == ["other"]
    assert config.recipes["new"].routes["left"].model == "b"


def test_a_verdict_goes_over_the_one_of_the_file_value_by_value_and_leaves_the_rest_of_the_model() -> None:
    config = merged(models={"tiny": {"verdict": {"score_ng_min": 0.5}}, "other": {"verdict": {"count_ng_min": 2}}})
    assert config.models["tiny"].verdict == VerdictRule(score_review_min=0.2, score_ng_min=0.5)
    assert config.models["tiny"].weight == 20
    assert config.models["other"].verdict == VerdictRule(count_ng_min=2)


def test_what_is_for_one_box_goes_over_what_is_for_all_and_reaches_no_other() -> None:
    content = {
        "routes": [route("third")],
        "models": {"tiny": {"verdict": {"score_ng_min": 0.5, "score_review_min": 0.3}}},
        "devices": {
            "line-3": {"routes": [route("third", "mine/+")], "models": {"tiny": {"verdict": {"score_ng_min": 0.6}}}},
            "line-4": {"routes": [route("fourth")], "recipes": {"theirs": {}}},
        },
    }
    config = merged(**content)
    assert topics(config)["third"] == "mine/+"
    assert "fourth" not in topics(config)
    assert "theirs" not in config.recipes
    assert config.models["tiny"].verdict == VerdictRule(score_review_min=0.3, score_ng_min=0.6)
    other = with_release(msgspec.structs.replace(file(), device="line-5"), content)
    assert topics(other)["third"] == "new/+"


@pytest.mark.parametrize("key", [each for each in Config.__struct_fields__ if each not in ("routes", "recipes")])
def test_what_belongs_to_the_installation_cannot_come_with_a_release(key: str) -> None:
    content = {key: {"tiny": {"weight": 3}} if key == "models" else {}}
    for where in (content, {"devices": {"line-3": content}}):
        with pytest.raises(ReleaseInvalid, match=rf"{key}.*may bring only .* stands in the file of the box"):
            merged(**where)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "configuration: expected an object, got list"),
        ({"routes": {}}, "configuration routes: Expected `array`, got `object`"),
        ({"routes": [route("a", "x/#/y")]}, "configuration routes[0]: topic 'x/#/y' is not an MQTT topic filter"),
        ({"routes": [route("a"), route("b", hop=0)]}, "configuration routes[1].hop: Expected `int` >= 1"),
        ({"routes": [route("a", tpoic=1)]}, "configuration routes[0]: Object contains unknown field `tpoic`"),
        ({"routes": [route("a"), route("a")]}, "configuration routes[1].name: 'a' is there twice"),
        ({"routes": [route("part")]}, "with the file of this box: trigger 'part': a route or another trigger has"),
        (
            {"models": {"tiny": {"verdict": {"score_ng_min": "high"}}}},
            "configuration models.tiny.verdict.score_ng_min: Expected `float | null`, got `str`",
        ),
        ({"models": {"Tiny": {"verdict": {}}}}, "configuration models.Tiny: Expected `str` matching regex"),
        ({"recipes": {"a b": {}}}, "configuration recipes.a b: Expected `str` matching regex"),
        ({"recipes": {"a": {"tiny": 1}}}, "configuration recipes.a.models[...]: Expected `object`, got `int`"),
        ({"devices": []}, "configuration devices: expected an object, got list"),
        ({"devices": {"line-4": {"routes": [{}]}}}, "configuration devices.line-4.routes[0]: Object missing required"),
    ],
)
def test_a_bad_one_is_one_line_that_names_the_key(content: Any, reason: str) -> None:
    with pytest.raises(ReleaseInvalid) as raised:
        with_release(file(), content)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_one_that_is_good_for_every_box_is_read_without_any() -> None:
    found = read_configuration({"routes": [route("a")], "devices": {"x": {"recipes": {"r": {}}}}})
    assert [each.name for each in found.everywhere.routes] == ["a"]
    assert list(found.devices["x"].recipes) == ["r"]
