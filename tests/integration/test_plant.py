"""Recipes, alarms and privacy of a box as it runs: over HTTP and MQTT, on disk, and after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.codecs import decode_image
from tests.support.box import Box, running_box
from tests.support.models import encode, picture, spotted, write_model
from tests.support.mqtt import Device, device
from tests.support.records import query, results
from tests.support.wait import until

WAIT_S = 20.0
ALARMS = "appliance/box/alarms"

RECIPES: dict[str, Any] = {
    "strict": {"tiny": {"score_ng_min": 0.02, "score_review_min": 0.01}},
    "corner": {"sources": {"cropped": {"crop": [0.5, 0.5, 0.5, 0.5]}, "located": {"crop": [0.0, 0.0, 0.75, 0.75]}}},
    "other": {"routes": {"line": {"model": "second"}}},
}
LEFT_HALF = {"rectangle": [0.0, 0.0, 0.5, 1.0]}
SOURCES: dict[str, Any] = {
    "masked": {"masks": [LEFT_HALF]},
    "secret": {"images": "none"},
    "findings": {"images": "findings"},
    "quiet": {"expected_every_s": 1.0},
    "seeing": {"dark_below": 0.2},
}
ROUTES = [{"name": "line", "topic": "line/+/camera", "model": "tiny"}]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("plant")
    models = folder / "models"
    write_model(models)
    write_model(models, "second")
    with running_box(folder, models, recipes=RECIPES, sources=SOURCES, routes=ROUTES) as running:
        yield running


@pytest.fixture
def plc(box: Box) -> Iterator[Device]:
    with device(box.mqtt_port) as one:
        yield one


@pytest.fixture(autouse=True)
def no_recipe(box: Box) -> Iterator[None]:
    """Each test begins and ends without one."""
    yield
    for source in (None, *box.http.get("/v1/recipe").json()["sources"]):
        run(box, None, source)


def run(box: Box, recipe: str | None, source: str | None = None, **fields: Any) -> dict[str, Any]:
    reply = box.http.put("/v1/recipe", json={"recipe": recipe, "source": source, **fields})
    assert reply.status_code == 200, reply.text
    change: dict[str, Any] = reply.json()
    return change


def judge(box: Box, body: bytes, source: str, **headers: str) -> dict[str, Any]:
    reply = box.http.post(
        "/v1/predict/tiny?durable=1",
        content=body,
        headers={"Content-Type": "image/png", "X-Source": source, **headers},
    )
    assert reply.status_code == 200, reply.text
    result: dict[str, Any] = reply.json()
    return result


def stored(box: Box, result: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return decode_image(box.http.get(f"/v1/results/{result['id']}/image").content, 1 << 20)


# -- recipes


def test_recipe_over_http_changes_verdicts_from_then_on(box: Box) -> None:
    assert judge(box, picture(230), "any")["verdict"] == "ok"
    change = run(box, "strict", by="Anna")
    assert (change["old"], change["new"], change["door"], change["client"]) == (None, "strict", "http", "127.0.0.1")
    result = judge(box, picture(230), "any")
    assert (result["verdict"], result["recipe"], result["score_ng_min"]) == ("ng", "strict", 0.02)
    (last, *_) = box.http.get("/v1/recipe/changes").json()["changes"]
    assert (last["new"], last["by"]) == ("strict", "Anna")


def test_recipe_of_the_part_goes_before_the_one_that_runs(box: Box) -> None:
    run(box, "strict")
    result = judge(box, picture(230), "any", **{"X-Recipe": "corner"})
    assert (result["verdict"], result["recipe"]) == ("ok", "corner")


def test_recipe_by_message_is_answered_and_counts(box: Box, plc: Device) -> None:
    plc.send("appliance/box/cmd/recipe", b"strict")
    plc.send("line/by-message/camera", picture(230))
    (result,) = results(box.data_dir, "by-message")
    assert (result["verdict"], result["recipe"]) == ("ng", "strict")
    (last, *_) = box.http.get("/v1/recipe/changes").json()["changes"]
    assert (last["door"], last["new"]) == ("mqtt", "strict")


def test_recipe_changes_the_model_of_a_route_and_not_of_a_call_that_names_one(box: Box, plc: Device) -> None:
    run(box, "other")
    plc.send("line/switched/camera", picture(230))
    (result,) = results(box.data_dir, "switched")
    assert (result["model"], result["recipe"]) == ("second", "other")
    assert judge(box, picture(230), "switched")["model"] == "tiny"


def test_source_may_run_a_recipe_of_its_own(box: Box) -> None:
    run(box, "strict", "special")
    assert judge(box, picture(230), "special")["verdict"] == "ng"
    assert judge(box, picture(230), "ordinary")["verdict"] == "ok"
    assert box.http.get("/v1/recipe").json()["sources"] == {"special": "strict"}
    assert box.status()["recipe"]["sources"] == {"special": "strict"}


def test_crop_is_what_the_model_sees_and_boxes_are_in_the_whole_picture(box: Box) -> None:
    # Dark is the upper left quarter: the lower right one is good.
    assert judge(box, spotted(), "cropped")["prediction"]["classes"][0]["score"] < 0.9
    whole = judge(box, spotted(64), "located")["prediction"]["regions"][0]
    run(box, "corner")
    assert judge(box, spotted(), "cropped")["prediction"]["classes"][0]["score"] > 0.95
    result = judge(box, spotted(64), "located")
    (region,) = result["prediction"]["regions"]
    # A cell of the heat map is six pixels here.
    assert np.abs(np.subtract(region["box"], whole["box"])).max() <= 6
    assert region["area"] == pytest.approx(whole["area"], abs=0.1)
    assert stored(box, result).shape == (64, 64, 3), "the whole picture is kept"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"recipe": "sunday"}', "recipe_unknown"),
        (b'{"recipe": "strict", "source": "a b"}', "field_invalid"),
        (b'{"recipe": "strict", "sorce": "a"}', "input_undecodable"),
        (b'{"recipe": 4}', "input_undecodable"),
        (b"strict", "input_undecodable"),
        (b"", "input_undecodable"),
    ],
)
def test_order_that_cannot_be_followed_is_refused(box: Box, body: bytes, code: str) -> None:
    reply = box.http.put("/v1/recipe", content=body)
    assert (reply.status_code, reply.json()["code"]) == (400, code)
    assert box.http.get("/v1/recipe").json()["recipe"] is None


def test_unknown_recipe_is_refused_with_the_list(box: Box, plc: Device) -> None:
    reply = box.http.put("/v1/recipe", json={"recipe": "sunday"})
    assert reply.json()["detail"] == "there is no recipe 'sunday'; the recipes are corner, other, strict"
    letters = box.status()["dead_letters"]["total"]
    plc.send("appliance/box/cmd/recipe", b"sunday")
    assert box.status()["dead_letters"]["total"] == letters + 1
    assert box.http.get("/v1/recipe").json()["recipe"] is None


# -- alarms


def heard(plc: Device, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The list of alarms, once it is as wanted."""

    def newest() -> list[dict[str, Any]]:
        bodies = [json.loads(message.payload) for message in plc.messages if message.topic == ALARMS]
        alarms: list[dict[str, Any]] = bodies[-1]["alarms"]
        return alarms

    until(lambda: bool(plc.messages) and wanted(newest()), WAIT_S, "the alarms")
    return newest()


def of(alarms: list[dict[str, Any]], source: str) -> list[str]:
    return [alarm["kind"] for alarm in alarms if alarm["source"] == source]


def test_silent_source_is_told_over_mqtt_and_http_until_it_speaks(box: Box, plc: Device) -> None:
    plc.subscribe(ALARMS)
    heard(plc, lambda alarms: of(alarms, "quiet") == ["source_silent"])
    listed = box.http.get("/v1/alarms").json()
    assert of(listed["alarms"], "quiet") == ["source_silent"]
    assert of(box.status()["alarms"], "quiet") == ["source_silent"]
    plc.send("line/quiet/camera", picture(230))
    heard(plc, lambda alarms: of(alarms, "quiet") == [])
    history = box.http.get("/v1/alarms?limit=500").json()["history"]
    assert any(past["source"] == "quiet" and past["until"] is not None for past in history)


def test_garbage_is_no_silence(box: Box, plc: Device) -> None:
    plc.send("line/quiet/camera", b"not a picture")
    assert {each["source"]: each["silent_s"] for each in box.status()["watched"]}["quiet"] < 1.0


def test_dark_pictures_raise_an_alarm_and_bright_ones_clear_it(box: Box, plc: Device) -> None:
    plc.subscribe(ALARMS)
    for _ in range(3):
        plc.send("line/seeing/camera", picture(5))
    (alarm,) = [
        each for each in heard(plc, lambda alarms: "picture_dark" in of(alarms, "seeing")) if each["source"] == "seeing"
    ]
    assert "check its light" in alarm["text"]
    for _ in range(3):
        judge(box, picture(230), "seeing")
    heard(plc, lambda alarms: of(alarms, "seeing") == [])
    (watched,) = [each for each in box.status()["watched"] if each["source"] == "seeing"]
    assert watched["brightness"] == pytest.approx(230 / 255, abs=0.01)


@pytest.mark.parametrize("text", ["limit=-1", "limit=501", "limit=x", "kind=dark"])
def test_odd_query_is_refused(box: Box, text: str) -> None:
    for path in ("/v1/alarms", "/v1/recipe/changes"):
        reply = box.http.get(f"{path}?{text}")
        assert (reply.status_code, reply.json()["code"]) == (400, "field_invalid")


# -- privacy


def noise() -> bytes:
    """A picture of which nothing can be guessed."""
    return encode(np.random.default_rng(3).integers(1, 255, (64, 64, 3), np.uint8), ".png")


def test_masked_part_is_in_nothing_that_is_kept_or_sent(box: Box, plc: Device) -> None:
    body = noise()
    result = judge(box, body, "masked")
    kept = stored(box, result)
    assert not kept[:, :32].any()
    assert (kept[:, 32:] == decode_image(body, 1 << 20)[:, 32:]).all()
    drawn = box.http.post(
        "/v1/predict/tiny",
        content=body,
        headers={"Content-Type": "image/png", "X-Source": "masked", "Accept": "image/jpeg"},
    )
    # Below the line that says the verdict.
    assert decode_image(drawn.content, 1 << 20)[40:, :28].max() < 60 or result["verdict"] != "ok"
    plc.send("line/masked/camera", body)
    mine = results(box.data_dir, "masked")[-1]
    assert not stored(box, mine)[:, :32].any()
    on_disk = b"".join(path.read_bytes() for path in sorted((box.data_dir / "frames").glob("*.seg")))
    assert body[100:200] not in on_disk


def test_model_judges_what_is_left_of_a_masked_picture(box: Box) -> None:
    assert judge(box, picture(250), "unmasked")["verdict"] == "ok"
    assert judge(box, picture(250), "masked")["verdict"] == "ng"


def test_source_without_pictures_keeps_none(box: Box) -> None:
    for brightness in (230, 10):
        result = judge(box, picture(brightness), "secret")
        assert not result.get("has_image", False)
        assert box.http.get(f"/v1/results/{result['id']}/image").status_code == 404


def test_findings_alone_keep_their_pictures(box: Box) -> None:
    good, bad = judge(box, picture(230), "findings"), judge(box, picture(10), "findings")
    assert (good["verdict"], good.get("has_image", False)) == ("ok", False)
    assert (bad["verdict"], bad["has_image"]) == ("ng", True)
    assert box.http.get(f"/v1/results/{bad['id']}/image").content == picture(10)


@pytest.mark.parametrize("source", ["masked", "secret", "findings"])
def test_what_cannot_be_masked_is_not_kept_as_a_dead_letter(box: Box, plc: Device, source: str) -> None:
    secret = noise()[:-20]
    plc.send(f"line/{source}/camera", secret)
    on_disk = b"".join(path.read_bytes() for path in sorted((box.data_dir / "frames").glob("*.seg")))
    assert secret[100:200] not in on_disk
    (last,) = query(box.data_dir, "SELECT topic, length FROM dead_letters ORDER BY id DESC LIMIT 1")
    assert tuple(last) == (f"line/{source}/camera", None)


def test_message_that_no_route_takes_is_not_kept_beside_private_sources(box: Box, plc: Device) -> None:
    plc.send("nobody/takes/this", noise())
    (last,) = query(box.data_dir, "SELECT topic, length FROM dead_letters ORDER BY id DESC LIMIT 1")
    assert tuple(last) == ("nobody/takes/this", None)


# -- restart


def test_recipe_and_audit_survive_kill_and_restart(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models)
    with running_box(tmp_path, models, recipes=RECIPES) as box:
        run(box, "strict")
        box.kill()
        box.start()
        assert box.http.get("/v1/recipe").json()["recipe"] == "strict"
        assert judge(box, picture(230), "any")["verdict"] == "ng"
        assert [each["new"] for each in box.http.get("/v1/recipe/changes").json()["changes"]] == ["strict"]
