"""Connections that break, between devices, broker and box: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_kill import Publisher
from tests.support.box import Box, running_box
from tests.support.faults import tally, times
from tests.support.mqtt import Device, Mosquitto, device, mosquitto
from tests.support.proxy import proxy
from tests.support.records import query, readings
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 60.0
DROPS = times(30, 1000)
BROKER_STOPS = times(2, 100)
POISON = times(2000, 100_000)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


def at_broker(port: int, **changes: Any) -> dict[str, Any]:
    return {"broker": {"host": "127.0.0.1", "port": port, "reconnect_s_max": 0.5, **changes}, "routes": ROUTES}


def subscribed(box: Box) -> None:
    name = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
    until(lambda: query(box.data_dir, name), WAIT_S, "the subscriptions")


def bare(source: str) -> Callable[[Device, int], int]:
    return lambda device, number: device.publish(f"plc/{source}/wave", f"[{number}, 0, 0]")


def keyed(device: Device, number: int) -> int:
    return device.publish("keyed/keyed/wave", json.dumps({"seq": number, "values": [number, 0, 0]}))


def numbers(box: Box, source: str) -> list[int]:
    return [int(each[0, 0]) for each in readings(box.data_dir, source)]


def all_there(box: Box, source: str, publisher: Publisher) -> None:
    until(publisher.in_peace, WAIT_S, f"every number of {source} being acknowledged")
    count = publisher.sent
    until(lambda: len(set(numbers(box, source))) >= count, WAIT_S, f"{count} readings of {source}")


def test_dropped_connections_lose_and_double_nothing(tmp_path: Path, models: Path, broker: Mosquitto) -> None:
    line = tally("connections dropped", DROPS)
    with (
        proxy(broker.port) as to_broker,
        running_box(tmp_path / "box", models, **at_broker(to_broker.port)) as box,
        proxy(box.mqtt_port) as to_box,
    ):
        subscribed(box)
        far = Publisher(broker.port, "far", bare("far"))
        near = Publisher(to_box.port, "near", bare("near"))
        with_key = Publisher(to_box.port, "keyed", keyed)
        publishers = {"far": far, "near": near, "keyed": with_key}
        try:
            for publisher in publishers.values():
                publisher.device.connect()
            while line.done < DROPS:
                enough = {name: len(numbers(box, name)) + 40 for name in publishers}

                def went_on(enough: dict[str, int] = enough) -> bool:
                    for publisher in publishers.values():
                        publisher.keep_going()
                    return all(len(numbers(box, name)) >= count for name, count in enough.items())

                until(went_on, WAIT_S, "the streams going on")
                line.step(to_broker.cut() + to_box.cut())
            for name, publisher in publishers.items():
                all_there(box, name, publisher)
                found = numbers(box, name)
                line.compare(range(publisher.sent), found)
        finally:
            for publisher in publishers.values():
                publisher.device.close()
        assert (line.lost, line.doubled) == (0, 0)
        assert query(box.data_dir, "SELECT count(*) FROM readings WHERE flags IS NOT NULL") == [(0,)]


def test_connection_that_is_only_half_there_is_given_up_and_nothing_is_lost(
    tmp_path: Path, models: Path, broker: Mosquitto
) -> None:
    line = tally("connections half open", 1)
    with (
        proxy(broker.port) as between,
        running_box(tmp_path / "box", models, **at_broker(between.port, keep_alive_s=2)) as box,
        device(broker.port, "plc") as plc,
    ):
        subscribed(box)
        between.half_open()
        for number in range(50):
            plc.send("plc/half/wave", [number, 0, 0])
        assert not numbers(box, "half")
        until(lambda: between.connections > 1, WAIT_S, "another connection")
        until(lambda: len(numbers(box, "half")) >= 50, WAIT_S, "the readings")
        line.step()
        line.compare(range(50), numbers(box, "half"))
        assert numbers(box, "half") == list(range(50))


def test_broker_that_restarts_under_load_costs_nothing_it_has_kept(
    tmp_path: Path, models: Path, broker: Mosquitto
) -> None:
    line = tally("broker restarted, with its sessions", BROKER_STOPS)
    with running_box(tmp_path / "box", models, **at_broker(broker.port)) as box:
        subscribed(box)
        far = Publisher(broker.port, "far", bare("far"))
        try:
            far.device.connect()
            while line.done < BROKER_STOPS:
                enough = len(numbers(box, "far")) + 100

                def went_on(enough: int = enough) -> bool:
                    far.keep_going()
                    return len(numbers(box, "far")) >= enough

                until(went_on, WAIT_S, "the stream going on")
                broker.stop()
                broker.start()
                line.step()
            all_there(box, "far", far)
        finally:
            far.device.close()
        found = numbers(box, "far")
        line.compare(range(far.sent), found)
        assert line.lost == 0
        flagged = query(box.data_dir, "SELECT count(*) FROM readings WHERE flags IS NOT NULL")
        # A publisher's repeat after a restart is a new message to the broker: without a key it counts twice.
        assert line.doubled is not None
        assert line.doubled <= BROKER_STOPS * far.device.paho.max_inflight_messages
        assert flagged == [(0,)]


def test_broker_that_comes_back_without_its_sessions_is_subscribed_to_anew(
    tmp_path: Path, models: Path, broker: Mosquitto
) -> None:
    """What the broker had not passed on is gone with it. What the box had is there, once, and the stream goes on."""
    line = tally("broker killed, its sessions lost", BROKER_STOPS)
    with running_box(tmp_path / "box", models, **at_broker(broker.port)) as box:
        subscribed(box)
        publisher = Publisher(broker.port, "keyed", keyed)
        try:
            publisher.device.connect()

            def goes_on(count: int) -> None:
                enough = len(numbers(box, "keyed")) + count

                def went_on() -> bool:
                    publisher.keep_going()
                    return len(numbers(box, "keyed")) >= enough

                until(went_on, WAIT_S, "the stream going on")

            while line.done < BROKER_STOPS:
                goes_on(100)
                broker.kill()
                kept = numbers(box, "keyed")
                broker.forget()
                broker.start()
                goes_on(1)
                assert numbers(box, "keyed")[: len(kept)] == kept
                line.step()
            until(publisher.in_peace, WAIT_S, "the broker having taken every number")
            first = publisher.sent
            publisher.keep_going()
            all_of = range(first, publisher.sent)
            until(lambda: set(all_of) <= set(numbers(box, "keyed")), WAIT_S, "what came after the last restart")
        finally:
            publisher.device.close()
        found = numbers(box, "keyed")
        line.compare(all_of, [number for number in found if number in all_of])
        assert len(found) == len(set(found))


def test_nothing_but_poison_harms_nothing(tmp_path: Path, models: Path, broker: Mosquitto) -> None:
    line = tally("poison payloads", POISON)
    junk = (b"", b"\xff\xfe", b"{", b"[[[[", b'{"values": "x"}', b"[1, 2]", b"nan", b'{"values": [1e999, 0, 0]}')
    with (
        running_box(tmp_path / "box", models, **at_broker(broker.port), log_level="error") as box,
        device(broker.port, "plc", in_flight=500) as plc,
    ):
        subscribed(box)
        sent = 0
        while sent < POISON:
            last = 0
            for number in range(min(500, POISON - sent)):
                topic = ("plc/bad/wave", "line/bad/camera", "keyed/bad/wave")[number % 3]
                last = plc.publish(topic, junk[number % len(junk)])
                sent += 1
            until(lambda last=last: last in plc.acknowledged, WAIT_S, "the broker taking it")  # type: ignore[misc]
            line.step(sent - line.done)
        count = "SELECT count(*) FROM dead_letters"
        until(lambda: query(box.data_dir, count)[0][0] >= sent, WAIT_S, "the dead letters")
        plc.send("plc/good/wave", [7, 0, 0])
        until(lambda: numbers(box, "good") == [7], WAIT_S, "a good one after them")
        assert query(box.data_dir, count) == [(sent,)]
        assert numbers(box, "bad") == []
