"""A PLC's view, with Mosquitto and its own commands: a trigger, a flat answer with its part, a late verdict counted."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from appliance.core.packed import PACKED_BYTES, PACKED_FORMAT
from tests.support.box import Box, running_box
from tests.support.models import picture, write_model
from tests.support.mqtt import Mosquitto, device, mosquitto, mosquitto_pub, mosquitto_sub
from tests.support.records import query
from tests.support.wait import until

WAIT_S = 20.0
BRIGHT, DARK = picture(230), picture(10)
TRIGGER = {"model": "tiny", "cameras": ["last"], "frame_age_ms_max": 10_000}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    write_model(folder / "models", "tiny")
    settings: dict[str, Any] = {
        "broker": {"host": "127.0.0.1", "port": broker.port, "reconnect_s_max": 1.0},
        "cameras": {"last": {"kind": "mqtt", "topic": "cell/last"}},
        "routes": [{"name": "camera", "topic": "line/+", "model": "tiny", "also": ["flat", "packed"]}],
        "triggers": [
            {**TRIGGER, "name": "end", "topic": "plc/end", "answer_format": "flat"},
            {**TRIGGER, "name": "bytes", "topic": "plc/bytes", "answer_format": "packed"},
        ],
    }
    with running_box(folder / "box", folder / "models", **settings) as running:
        subscribed = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
        until(lambda: query(running.data_dir, subscribed), WAIT_S, "the subscriptions")
        yield running


def test_plc_triggers_and_reads_a_flat_answer(box: Box, broker: Mosquitto) -> None:
    with device(broker.port) as camera:
        camera.send("cell/last", DARK)
    until(lambda: box.http.post("/v1/triggers/end").json()["verdict"] == "ng", WAIT_S, "the picture being there")
    with device(broker.port) as plc:
        plc.subscribe("appliance/box/answers/end")
        mosquitto_pub(broker.port, "-t", "plc/end", payload=b"P-1")
        (message,) = plc.received("appliance/box/answers/end")
    answer = json.loads(message.payload)
    assert len(message.payload) <= 256
    assert (answer["part"], answer["verdict"], answer["source"]) == ("P-1", "ng", "end")
    assert box.http.get(f"/v1/results/{answer['id']}").json()["part"] == "P-1"
    assert not message.retain


def test_packed_answer_is_the_documented_struct(box: Box, broker: Mosquitto) -> None:
    with device(broker.port) as plc:
        plc.send("cell/last", BRIGHT)
        until(lambda: box.http.post("/v1/triggers/end").json()["verdict"] == "ok", WAIT_S, "the picture being there")
        plc.subscribe("appliance/box/answers/bytes").send("plc/bytes", {"part": "P-2", "lot": "L"})
        (message,) = plc.received("appliance/box/answers/bytes")
    assert len(message.payload) == PACKED_BYTES
    layout, verdict, flags, _, _, _, _, part, lot, *_ = struct.unpack(PACKED_FORMAT, message.payload)
    assert (layout, verdict, flags) == (1, 1, 0)
    assert (part.rstrip(b"\0"), lot.rstrip(b"\0")) == (b"P-2", b"L")


@pytest.mark.parametrize("where", ["listener", "broker"])
def test_answer_goes_to_the_response_topic_with_its_correlation_data(box: Box, broker: Mosquitto, where: str) -> None:
    with device(box.mqtt_port if where == "listener" else broker.port) as plc:
        plc.send("cell/last", BRIGHT)
        plc.subscribe("mine/answers")
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = "mine/answers"
        properties.CorrelationData = b"\x00\x01"
        plc.paho.publish("appliance/box/cmd/trigger/end", b"P-3", qos=1, properties=properties)
        (message,) = plc.received("mine/answers")
    assert json.loads(message.payload)["part"] == "P-3"
    assert vars(message.properties)["CorrelationData"] == b"\x00\x01"


def test_nobody_makes_the_box_speak_where_it_alone_speaks(box: Box) -> None:
    with device(box.mqtt_port) as plc:
        plc.subscribe("appliance/box/answers/end")
        for forged in ("appliance/box/status", "plc/end", "line/x"):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = forged
            plc.paho.publish("plc/end", forged.encode(), qos=1, properties=properties)
        answers = plc.objects("appliance/box/answers/end", 3)
    assert {each["part"] for each in answers} == {"appliance/box/status", "plc/end", "line/x"}


def test_results_of_a_route_come_flat_and_packed(box: Box, broker: Mosquitto) -> None:
    with device(broker.port) as plc:
        plc.subscribe("appliance/box/flat/tiny/+").subscribe("appliance/box/packed/tiny/+")
        plc.send("line/cam", DARK, user={"part": "P-4"})
        (flat,) = plc.objects("appliance/box/flat/tiny/cam")
        (packed,) = plc.received("appliance/box/packed/tiny/cam")
    assert (flat["part"], flat["verdict"], flat["source"]) == ("P-4", "ng", "cam")
    assert struct.unpack(PACKED_FORMAT, packed.payload)[1] == 3
    latest = box.http.get("/v1/sources/cam/latest", params={"form": "flat"})
    assert latest.json() == flat
    assert box.http.get("/v1/sources/cam/latest", params={"form": "packed"}).content == packed.payload


def test_counter_beats_as_a_number_and_as_bytes(box: Box, broker: Mosquitto) -> None:
    follower = mosquitto_sub(broker.port, "appliance/box/beat", "-C", "2", "-W", "20")
    first, second = map(int, follower.communicate(timeout=WAIT_S)[0].split())
    assert second == first + 1
    with device(box.mqtt_port) as plc:
        plc.subscribe("appliance/box/beat/packed")
        (beat, *_) = plc.received("appliance/box/beat/packed")
        assert struct.unpack("<I", beat.payload)[0] > first
        assert not beat.retain
    assert int(box.http.get("/v1/beat").text) > first
    assert len(box.http.get("/v1/beat", params={"form": "packed"}).content) == 4


def test_late_verdict_is_counted_and_recorded_and_not_answered_again(tmp_path: Path) -> None:
    """A model that works longer than the PLC waits."""
    write_model(tmp_path / "models", "tiny")
    settings: dict[str, Any] = {
        "cameras": {"last": {"kind": "mqtt", "topic": "cell/last"}},
        "triggers": [{**TRIGGER, "name": "end", "topic": "plc/end", "answer_within_ms": 150}],
    }
    with running_box(tmp_path / "box", tmp_path / "models", module="tests.support.odd_box", **settings) as box:
        gate = box.config.with_name("gate")
        with device(box.mqtt_port) as plc:
            plc.subscribe("appliance/box/answers/end")
            plc.send("cell/last", DARK)
            gate.touch()
            plc.send("plc/end", b"P-5")
            (answer,) = plc.objects("appliance/box/answers/end")
            assert (answer["part"], answer["error"]["code"]) == ("P-5", "answer_late")
            gate.unlink()
            until(lambda: box.status()["triggers"][0]["late"] == 1, WAIT_S, "the late verdict")
            recorded = until(
                lambda: query(box.data_dir, "SELECT verdict FROM results WHERE part = 'P-5'"), WAIT_S, "its result"
            )
            assert ("ng",) in recorded
            # Whatever were said of it a second time would come before the answer to the next part.
            plc.send("plc/end", b"P-6")
            assert [each["part"] for each in plc.objects("appliance/box/answers/end", 2)] == ["P-5", "P-6"]
            assert box.status()["triggers"][0]["errors"] == 1
