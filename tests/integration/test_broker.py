"""Through a real Mosquitto: in by paho, out by the outbox, and both when broker or box go away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import Box, running_box, write_config
from tests.support.models import picture
from tests.support.mqtt import Device, Mosquitto, device, mosquitto, mosquitto_pub, mosquitto_sub
from tests.support.records import letters, query, readings, results
from tests.support.routes import RECIPES, ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
STATUS = "appliance/box/status"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def box(tmp_path: Path, models: Path, broker: Mosquitto) -> Iterator[Box]:
    with running_box(tmp_path / "box", models, **settings(broker)) as running:
        connected(running)
        yield running


@pytest.fixture
def plc(broker: Mosquitto) -> Iterator[Device]:
    with device(broker.port, "plc", expiry_s=600) as one:
        yield one


def settings(broker: Mosquitto, **changes: Any) -> dict[str, Any]:
    return {
        "routes": ROUTES,
        "recipes": RECIPES,
        "broker": {"host": "127.0.0.1", "port": broker.port, "reconnect_s_max": 1.0},
        "listener": {"enabled": False},
        **changes,
    }


def connected(box: Box) -> None:
    """Wait until the box has its session and its subscriptions at the broker."""
    until(lambda: box.status()["mqtt"]["broker"]["state"] == "connected", WAIT_S, "the box at the broker")
    name = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
    until(lambda: query(box.data_dir, name), WAIT_S, "the subscriptions")


def recorded(box: Box, source: str, count: int) -> None:
    until(lambda: len(results(box.data_dir, source)) >= count, WAIT_S, f"{count} results of {source}")


def kept(box: Box, source: str, count: int) -> list[float]:
    """The first channel of all readings of a source, once there are `count`."""
    until(lambda: len(readings(box.data_dir, source)) >= count, WAIT_S, f"{count} readings of {source}")
    return [float(each[0, 0]) for each in readings(box.data_dir, source)]


def upload(box: Box, content: bytes) -> None:
    """Over HTTP, which needs no broker; answered after the commit."""
    headers = {"Content-Type": "image/png", "X-Source": "uploads"}
    box.http.post("/v1/predict/tiny?durable=1", content=content, headers=headers).raise_for_status()


def outbox(box: Box) -> int:
    ((count,),) = query(box.data_dir, "SELECT count(*) FROM outbox")
    return int(count)


def test_pictures_and_readings_come_in_and_results_go_out(box: Box, broker: Mosquitto, plc: Device) -> None:
    plc.subscribe("appliance/#")
    plc.send("line/cell/camera", picture(10), user={"part": "P-1"})
    for start in range(2):
        plc.send("plc/press/wave", [[0.1, 0.1, 0.1]] * 8, user={"part": f"P-{start}"})
    (image,) = plc.objects("appliance/box/results/tiny/cell")
    (window,) = plc.objects("appliance/box/results/wave/press")
    assert (image["verdict"], image["part"]) == ("ng", "P-1")
    assert (window["verdict"], window["part"]) == ("ok", "P-1")
    assert [image] == results(box.data_dir, "cell")
    until(lambda: outbox(box) == 0, WAIT_S, "the outbox being empty")


def test_mosquittos_own_commands_are_understood(box: Box, broker: Mosquitto) -> None:
    follower = mosquitto_sub(broker.port, "appliance/box/results/#", "-C", "1", "-W", "20", "-i", "sub", "-c")
    mosquitto_pub(broker.port, "-t", "strict/commands", payload=picture(230))
    recorded(box, "commands", 1)
    mosquitto_pub(broker.port, "-t", "strict/commands", payload=picture(230))
    output, _ = follower.communicate(timeout=WAIT_S)
    assert json.loads(output)["verdict"] == "ng"


def test_what_cannot_be_used_is_a_dead_letter(box: Box, plc: Device) -> None:
    plc.subscribe("appliance/#")
    plc.send("plc/bad/wave", b"what", user={"part": "P-2"})
    (letter,) = plc.objects("appliance/box/deadletter")
    assert (letter["topic"], letter["code"]) == ("plc/bad/wave", "input_undecodable")
    assert plc.objects("appliance/box/results/wave/bad")[0]["part"] == "P-2"
    assert [code for code, _ in letters(box.data_dir, "plc/bad/wave")] == ["input_undecodable"]


def test_keyed_duplicates_are_recorded_once_and_equal_readings_all(box: Box, plc: Device) -> None:
    for seq in (1, 2, 1):
        plc.send("keyed/counter/wave", {"seq": seq, "values": [seq, 0, 0]})
        plc.send("plc/equal/wave", [1, 0, 0])
    assert kept(box, "equal", 3) == [1, 1, 1]
    assert kept(box, "counter", 2) == [1, 2]


def test_retained_message_on_subscribe_is_no_reading(tmp_path: Path, models: Path, broker: Mosquitto) -> None:
    routes = [*ROUTES, {"name": "last-known", "topic": "last/+", "model": "wave", "retain_as_reading": True}]
    with device(broker.port, "plc") as plc:
        plc.send("plc/old/wave", [1, 0, 0], retain=True)
        plc.send("last/known", [2, 0, 0], retain=True)
        with running_box(tmp_path / "box", models, **settings(broker, routes=routes)) as box:
            connected(box)
            until(lambda: letters(box.data_dir, "plc/old/wave"), WAIT_S, "the dead letter")
            assert letters(box.data_dir, "plc/old/wave")[0][0] == "retained_not_a_reading"
            assert kept(box, "known", 1) == [2]
            # What is published with the flag while the box listens is a reading like any other.
            plc.send("plc/old/wave", [3, 0, 0], retain=True)
            assert kept(box, "old", 1) == [3]
            box.restart()
            connected(box)
            plc.send("plc/old/wave", [4, 0, 0])
            assert kept(box, "old", 2) == [3, 4]
            assert len(letters(box.data_dir, "plc/old/wave")) == 1


def test_box_that_is_down_finds_what_the_broker_queued(box: Box, plc: Device) -> None:
    plc.send("plc/queued/wave", [0, 0, 0])
    kept(box, "queued", 1)
    for end in (box.stop, box.kill):
        end()
        before = len(readings(box.data_dir, "queued"))
        for number in range(before, before + 50):
            plc.send("plc/queued/wave", [number, 0, 0])
        box.start()
        assert kept(box, "queued", before + 50) == list(range(before + 50))


def test_routes_that_change_are_followed_in_the_same_session(
    tmp_path: Path, models: Path, broker: Mosquitto, plc: Device
) -> None:
    old = {"name": "old", "topic": "old/+", "model": "wave"}
    new = {"name": "new", "topic": "new/+", "model": "wave"}
    with running_box(tmp_path / "box", models, **settings(broker, routes=[old])) as box:
        connected(box)
        plc.send("old/a", [1, 0, 0])
        kept(box, "a", 1)
        box.stop()
        write_config(
            tmp_path / "box",
            models,
            **settings(broker, routes=[new], http={"port": box.port}, listener={"port": box.mqtt_port}),
        )
        box.start()
        until(
            lambda: query(box.data_dir, "SELECT 1 FROM sessions WHERE cast(body AS TEXT) LIKE '%new/%'"),
            WAIT_S,
            "the new subscription",
        )
        plc.send("old/a", [2, 0, 0])
        plc.send("new/a", [3, 0, 0])
        assert kept(box, "a", 2) == [1, 3]
        assert not letters(box.data_dir, "old/a")


def test_broker_that_was_killed_loses_the_box_nothing(box: Box, broker: Mosquitto, plc: Device) -> None:
    plc.send("plc/before/wave", [1, 0, 0])
    kept(box, "before", 1)
    broker.kill()
    until(lambda: box.status()["mqtt"]["broker"]["state"] == "connecting", WAIT_S, "the box missing the broker")
    assert box.http.get("/v2/health/ready").status_code == 200
    broker.start()
    connected(box)
    plc.send("plc/before/wave", [2, 0, 0])
    assert kept(box, "before", 2) == [1, 2]


def test_subscriptions_come_back_when_the_broker_lost_its_sessions(box: Box, broker: Mosquitto, plc: Device) -> None:
    plc.send("plc/lost/wave", [1, 0, 0])
    kept(box, "lost", 1)
    broker.kill()
    broker.forget()
    broker.start()

    def heard() -> bool:
        plc.send("plc/lost/wave", [2, 0, 0])
        return len(readings(box.data_dir, "lost")) > 1

    until(heard, WAIT_S, "the box hearing again")


def test_results_made_while_the_broker_is_away_reach_it_later_once_and_in_order(box: Box, broker: Mosquitto) -> None:
    with device(broker.port, "line-display", expiry_s=600) as display:
        display.subscribe("appliance/box/results/#")
        broker.stop()
        for number in range(30):
            upload(box, picture(230 if number % 2 else 10))
        assert outbox(box) == 30
        broker.start()
        topic = "appliance/box/results/tiny/uploads"
        assert display.objects(topic, 30) == results(box.data_dir, "uploads")
        until(lambda: outbox(box) == 0, WAIT_S, "the outbox being empty")
        assert len(display.received(topic)) == 30


def test_results_survive_a_restart_of_the_box_while_the_broker_is_away(box: Box, broker: Mosquitto) -> None:
    with device(broker.port, "line-display", expiry_s=600) as display:
        display.subscribe("appliance/box/results/#")
        broker.stop()
        for end in (box.stop, box.kill):
            upload(box, picture())
            end()
            box.start()
        broker.start()
        seen = display.objects("appliance/box/results/tiny/uploads", 2)
        assert seen == results(box.data_dir, "uploads")


def test_last_will_tells_that_the_box_died(box: Box, broker: Mosquitto, plc: Device) -> None:
    plc.subscribe(STATUS)
    until(lambda: states(plc)[-1:] == ["online"], WAIT_S, "the status")
    box.kill()
    until(lambda: states(plc)[-1:] == ["offline"], WAIT_S, "the last will")
    box.start()
    until(lambda: states(plc)[-1:] == ["online"], WAIT_S, "the status of the new start")
    box.stop()
    until(lambda: states(plc)[-1:] == ["offline"], WAIT_S, "the goodbye")
    with device(broker.port) as late:
        late.subscribe(STATUS)
        assert late.received(STATUS)[0].retain
        assert states(late) == ["offline"]


def test_broker_that_refuses_is_reported_and_the_box_serves(tmp_path: Path, models: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("somebody:$7$101$AAAA$AAAA\n")
    with (
        mosquitto(tmp_path / "broker", "allow_anonymous false", f"password_file {passwords}") as broker,
        running_box(tmp_path / "box", models, **settings(broker)) as box,
    ):
        report = until(lambda: refusal(box), WAIT_S, "the refusal")
        assert "authori" in report.lower()


def states(client: Device) -> list[str]:
    return [json.loads(message.payload)["state"] for message in list(client.messages) if message.topic == STATUS]


def refusal(box: Box) -> str:
    report = box.status()["mqtt"]["broker"]
    reason = report["reason"] or ""
    return reason if report["state"] == "connecting" and "uthori" in reason else ""


def test_a_broker_that_refuses_what_the_box_publishes_is_a_problem_to_see(tmp_path: Path, models: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic read line/#\n")
    with (
        mosquitto(tmp_path / "broker", f"acl_file {rights}") as broker,
        running_box(tmp_path / "box", models, **settings(broker)) as box,
    ):

        def said() -> list[str]:
            return [each["message"] for each in box.status()["problems"] if each["code"] == "broker_refuses"]

        (message,) = until(said, WAIT_S, "the problem")
        assert "refuses what this box publishes" in message
