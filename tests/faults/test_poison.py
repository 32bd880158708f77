"""An input that crashes or hangs the runtime costs itself, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import Box, running_box
from tests.support.misbehaving import BLACK, CRASH, WHITE
from tests.support.models import WINDOW_SIZE, picture
from tests.support.mqtt import Device, device, mosquitto
from tests.support.records import letters, query, readings, results, window_ends
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 60.0
TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def box(tmp_path: Path, models: Path) -> Iterator[Box]:
    with running_box(
        tmp_path,
        models,
        module="tests.support.misbehaving",
        routes=ROUTES,
        lanes={"lanes": 2, "timeout_s": TIMEOUT_S},
    ) as running:
        yield running


@pytest.fixture
def camera(box: Box) -> Iterator[Device]:
    with device(box.mqtt_port, "camera", expiry_s=3600) as one:
        yield one


def run_until_acknowledged(box: Box, camera: Device, sent: set[int]) -> int:
    """Start the box again whenever it ends, as systemd does; returns how often it ended."""
    return run_until(box, lambda: sent <= camera.acknowledged, "all messages being acknowledged")


def run_until(box: Box, done: Callable[[], bool], what: str) -> int:
    ended = 0

    def in_peace() -> bool:
        nonlocal ended
        if not box.running:
            box.ended()
            ended += 1
            assert ended < 10, "the box does not stay up"
            box.start(ready=False)
        return done()

    until(in_peace, WAIT_S, what)
    return ended


def verdicts(box: Box, source: str) -> dict[str, str]:
    """Part -> verdict; each part once."""
    found = results(box.data_dir, source)
    assert len({each["part"] for each in found}) == len(found)
    return {each["part"]: each["verdict"] for each in found}


def code_of(box: Box, source: str, part: str) -> str:
    (error,) = [each["error"]["code"] for each in results(box.data_dir, source) if each["part"] == part]
    return str(error)


@pytest.mark.parametrize("topic", ["keyed/cell/camera", "line/cell/camera"])
def test_picture_that_crashes_the_runtime_is_given_up_after_two_unclean_stops(
    box: Box, camera: Device, topic: str
) -> None:
    brightness: dict[str, float] = {f"P-{number}": 200 + number for number in range(12)}
    brightness["P-5"] = BLACK
    sent = {
        camera.publish(topic, picture(value), user={"part": part, "seq": part}) for part, value in brightness.items()
    }
    assert run_until_acknowledged(box, camera, sent) == 2
    assert [code for code, _ in letters(box.data_dir, topic)] == ["input_poisonous"]
    assert verdicts(box, "cell") == {part: "error" if part == "P-5" else "ok" for part in brightness}
    assert code_of(box, "cell", "P-5") == "input_poisonous"
    camera.send(topic, picture(10), user={"part": "P-12", "seq": "P-12"})
    assert verdicts(box, "cell")["P-12"] == "ng"
    assert query(box.data_dir, "SELECT count(*) FROM suspects") == [(0,)]


def test_picture_that_crashes_the_runtime_is_given_up_though_its_broker_sends_it_again(
    tmp_path: Path, models: Path
) -> None:
    with (
        mosquitto(tmp_path / "broker") as broker,
        running_box(
            tmp_path / "box",
            models,
            module="tests.support.misbehaving",
            routes=ROUTES,
            lanes={"lanes": 2, "timeout_s": TIMEOUT_S},
            broker={"host": "127.0.0.1", "port": broker.port, "reconnect_s_max": 0.5},
        ) as box,
        device(broker.port, "camera") as camera,
    ):
        name = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
        until(lambda: query(box.data_dir, name), WAIT_S, "the subscriptions")
        topic = "line/cell/camera"
        brightness: dict[str, float] = {f"P-{number}": 200 + number for number in range(12)}
        brightness["P-5"] = BLACK
        for part, value in brightness.items():
            camera.publish(topic, picture(value), user={"part": part})
        ended = run_until(box, lambda: len(results(box.data_dir, "cell")) >= len(brightness), "a result for each")
        assert ended == 2
        assert [code for code, _ in letters(box.data_dir, topic)] == ["input_poisonous"]
        assert verdicts(box, "cell") == {part: "error" if part == "P-5" else "ok" for part in brightness}
        assert code_of(box, "cell", "P-5") == "input_poisonous"
        camera.publish(topic, picture(10), user={"part": "P-12"})
        until(lambda: verdicts(box, "cell").get("P-12") == "ng", WAIT_S, "the next picture")
        assert query(box.data_dir, "SELECT count(*) FROM suspects") == [(0,)]


def test_window_that_crashes_the_runtime_is_given_up_and_the_stream_goes_on(box: Box, camera: Device) -> None:
    topic = "keyed/press/wave"
    sent = set()
    for seq in range(3 * WINDOW_SIZE):
        value = CRASH if seq == WINDOW_SIZE else 0.1
        sent.add(camera.publish(topic, json.dumps({"seq": seq, "values": [value, 0.1, 0.1]})))
    run_until_acknowledged(box, camera, sent)

    run_until(box, lambda: len(window_ends(box.data_dir, "press")) == 3, "three windows")
    assert [each["verdict"] for each in results(box.data_dir, "press")] == ["ok", "error", "ok"]
    assert [code for code, _ in letters(box.data_dir, "window of press")] == ["input_poisonous"]
    assert len(readings(box.data_dir, "press")) == 3 * WINDOW_SIZE


def test_box_is_not_suspicious_after_a_clean_stop(box: Box, camera: Device) -> None:
    sent = {camera.publish("line/cell/camera", picture(BLACK), user={"part": "P-1"})}
    run_until_acknowledged(box, camera, sent)
    box.restart()
    camera.send("line/cell/camera", picture(), user={"part": "P-2"})
    assert verdicts(box, "cell") == {"P-1": "error", "P-2": "ok"}


def test_picture_that_hangs_the_runtime_is_a_dead_letter_and_the_others_are_judged(box: Box, camera: Device) -> None:
    topic = "line/cell/camera"
    brightness: dict[str, float] = {f"P-{number}": 200 + number for number in range(12)}
    brightness["P-3"] = WHITE
    sent = {camera.publish(topic, picture(value), user={"part": part}) for part, value in brightness.items()}
    assert run_until_acknowledged(box, camera, sent) == 0
    assert [code for code, _ in letters(box.data_dir, topic)] == ["inference_timeout"]
    assert verdicts(box, "cell") == {part: "error" if part == "P-3" else "ok" for part in brightness}
    assert code_of(box, "cell", "P-3") == "inference_timeout"
    camera.send(topic, picture(10), user={"part": "P-12"})
    assert verdicts(box, "cell")["P-12"] == "ng"


def test_second_hang_ends_the_box_and_costs_no_other_picture(box: Box, camera: Device) -> None:
    topic = "keyed/cell/camera"
    hanging = ("P-2", "P-9")
    brightness: dict[str, float] = {f"P-{number}": 200 + number for number in range(12)}
    for part in hanging:
        brightness[part] = WHITE
    sent = {
        camera.publish(topic, picture(value, side=32 + index), user={"part": part, "seq": part})
        for index, (part, value) in enumerate(brightness.items())
    }
    assert run_until_acknowledged(box, camera, sent) >= 1
    found: Any = verdicts(box, "cell")
    assert {part for part, verdict in found.items() if verdict == "error"} == set(hanging)
    assert len(found) == 12
