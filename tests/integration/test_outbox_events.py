"""What happens on a running box reaches central as an event: recipes, answers to triggers, dead letters, alarms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from appliance.core.picture_quality import IN_A_ROW
from tests.support.box import Box, running_box
from tests.support.central import WAIT_S, Central
from tests.support.models import picture, write_model
from tests.support.mqtt import Device, device
from tests.support.records import query
from tests.support.wait import until


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Central]:
    server = Central(tmp_path_factory.mktemp("server") / "central")
    yield server
    server.close()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, central: Central) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    write_model(folder / "models")
    settings: dict[str, Any] = {
        "upstreams": {"central": {"kind": "https", "url": central.url, "ca_file": str(central.ca)}},
        "recipes": {"strict": {"tiny": {"score_ng_min": 0.02, "score_review_min": 0.01}}},
        "cameras": {"last": {"kind": "mqtt", "topic": "cell/last"}},
        "triggers": [{"name": "end", "cameras": ["last"], "model": "tiny", "frame_age_ms_max": 5000}],
        "sources": {"dim": {"dark_below": 0.2}},
    }
    with running_box(folder, folder / "models", **settings) as running:
        yield running


@pytest.fixture
def plc(box: Box) -> Iterator[Device]:
    with device(box.mqtt_port) as one:
        yield one


def came(central: Central, kind: str, count: int = 1) -> list[Any]:
    """Wait for so many events of a kind; returns all of them."""
    until(lambda: len(central.events(kind)) >= count, WAIT_S, f"{count} events {kind}")
    return central.events(kind)


def test_change_of_recipe_over_http_and_mqtt(box: Box, plc: Device, central: Central) -> None:
    box.http.put("/v1/recipe", json={"recipe": "strict", "by": "Anna"}).raise_for_status()
    plc.send("appliance/box/cmd/recipe", {"recipe": None})
    first, second = came(central, "recipe", 2)
    assert (first["schema"], first["device"], first["client"]) == (1, "box", "127.0.0.1")
    assert [(each["old"], each["new"], each["door"], each["by"]) for each in (first, second)] == [
        (None, "strict", "http", "Anna"),
        ("strict", None, "mqtt", None),
    ]
    changes = query(box.data_dir, "SELECT at FROM recipe_changes ORDER BY id")
    assert [(each["at"],) for each in (first, second)] == changes
    # What ran already is no change.
    plc.send("appliance/box/cmd/recipe", {"recipe": None})
    box.http.post("/v1/triggers/end").raise_for_status()
    came(central, "trigger")
    assert len(central.events("recipe")) == 2


def test_answer_to_a_trigger_is_told_once_with_its_part(box: Box, plc: Device, central: Central) -> None:
    plc.send("cell/last", picture(230))
    before = len(central.events("trigger"))
    for _ in range(2):
        answer = box.http.post("/v1/triggers/end", json={"part": "P-7", "key": "k-7"}).json()
    assert answer["duplicate"]
    plc.send("appliance/box/cmd/trigger/end", {"part": "P-8"})
    first, second = came(central, "trigger", before + 2)[before:]
    assert (first["answer"]["part"], first["answer"]["verdict"]) == ("P-7", "ok")
    assert first["answer"] == {name: value for name, value in answer.items() if name != "duplicate"}
    assert second["answer"]["part"] == "P-8"
    assert (second["event"], second["device"]) == ("trigger", "box")


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        ("appliance/box/cmd/recipe", b"sunday", "recipe_unknown"),
        ("cell/last", b"no picture", "media_type_unsupported"),
        ("in/tiny/camera", b"no picture", "media_type_unsupported"),
    ],
)
def test_dead_letter_of_whatever_topic(
    box: Box, plc: Device, central: Central, topic: str, payload: bytes, code: str
) -> None:
    before = len(central.events("dead_letter"))
    plc.send(topic, payload)
    (letter,) = came(central, "dead_letter", before + 1)[before:]
    assert (letter["topic"], letter["code"], letter["bytes"]) == (topic, code, len(payload))
    stored = query(box.data_dir, "SELECT code, reason FROM dead_letters WHERE topic = ?", topic)
    assert stored == [(letter["code"], letter["reason"])]


def test_alarm_when_it_comes_and_when_it_goes(box: Box, central: Central) -> None:
    for _ in range(IN_A_ROW):
        box.http.post(
            "/v1/predict/tiny",
            content=picture(5),
            headers={"Content-Type": "image/png", "X-Source": "dim"},
        ).raise_for_status()
    (raised,) = came(central, "alarm")
    assert (raised["alarm"], raised["source"], raised["state"]) == ("picture_dark", "dim", "raised")
    for _ in range(IN_A_ROW):
        box.http.post(
            "/v1/predict/tiny", content=picture(230), headers={"Content-Type": "image/png", "X-Source": "dim"}
        ).raise_for_status()
    assert came(central, "alarm", 2)[1]["state"] == "cleared"


def test_status_says_what_was_sent(box: Box, central: Central) -> None:
    came(central, "recipe")

    def report() -> Any:
        (one,) = box.status()["upstreams"]
        return one if one["waiting"]["rows"] == 0 and one["waiting"]["sent"] else None

    found = until(report, WAIT_S, "the report")
    assert (found["name"], found["kind"], found["state"], found["reason"], found["images"]) == (
        "central",
        "https",
        "ok",
        None,
        None,
    )
    schemas = box.http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["BoxReport"]["properties"]["upstreams"]["items"] == {"$ref": "#/components/schemas/UpstreamReport"}
    assert set(found) == set(schemas["UpstreamReport"]["properties"])
    assert set(found["waiting"]) == set(schemas["QueueReport"]["properties"])
