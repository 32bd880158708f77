"""kill -9 at random moments of two QoS 1 streams with keys: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.box import Box, write_config
from tests.support.models import WINDOW_SIZE, encode
from tests.support.mqtt import Device
from tests.support.records import query, readings, results, window_ends
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

KILLS = int(os.environ.get("KILLS", "20"))
WAIT_S = 60.0
AHEAD = 60
"""Messages that a publisher has on their way at once."""


class Publisher:
    """Publishes numbers without end, over every restart of the box, and notes which ones were acknowledged."""

    def __init__(self, port: int, name: str, publish: Callable[[Device, int], int]) -> None:
        self.device = Device(port, name, expiry_s=3600)
        self._publish = publish
        self._numbers: dict[int, int] = {}
        self.sent = 0

    def keep_going(self) -> None:
        while self.sent - len(self.device.acknowledged) < AHEAD:
            self._numbers[self._publish(self.device, self.sent)] = self.sent
            self.sent += 1

    def in_peace(self) -> bool:
        return len(self.acknowledged()) == self.sent

    def acknowledged(self) -> set[int]:
        return {self._numbers[mid] for mid in self.device.acknowledged}


def publish_reading(device: Device, number: int) -> int:
    return device.publish("keyed/plc/wave", json.dumps({"seq": number, "values": [value(number), 0, 0]}))


def publish_picture(device: Device, number: int) -> int:
    """Every picture differs from all others, as a camera's do: one pixel holds the number."""
    image = np.full((32, 32, 3), brightness(number), np.uint8)
    image[0, 0] = number % 256, number // 256 % 256, number // 65_536
    user = {"seq": str(number), "part": str(number)}
    return device.publish("keyed/cell/camera", encode(image, ".png"), user=user)


def brightness(number: int) -> int:
    return 100 + number % 150


def value(number: int) -> float:
    return (number % 97) / 97


class Outcome:
    def __init__(self, box: Box, plc: Publisher, camera: Publisher) -> None:
        self.data_dir = box.data_dir
        self.plc = plc
        self.camera = camera


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Two publishers, a box that is killed KILLS times under their hands, and all in peace at the end."""
    folder: Path = tmp_path_factory.mktemp("kill")
    moments = random.Random(20)
    box = Box(write_config(folder, write_models(folder / "models"), routes=ROUTES, log_level="warning"))
    plc = Publisher(box.mqtt_port, "plc", publish_reading)
    camera = Publisher(box.mqtt_port, "camera", publish_picture)
    publishers = (plc, camera)
    try:
        box.start(ready=False)
        for publisher in publishers:
            publisher.device.connect()
        for _ in range(KILLS):
            # Now and then the camera decides, so that the moment falls into an inference.
            who = moments.choice(publishers)
            enough = len(who.device.acknowledged) + moments.randint(1, 150)

            def reached(who: Publisher = who, enough: int = enough) -> bool:
                for publisher in publishers:
                    publisher.keep_going()
                return len(who.device.acknowledged) >= enough

            until(reached, WAIT_S, "the publishers going on")
            box.kill()
            box.start(ready=False)
        for publisher in publishers:
            until(publisher.in_peace, WAIT_S, "every number being acknowledged")
        windows = plc.sent // WINDOW_SIZE
        until(lambda: len(window_ends(box.data_dir, "plc")) >= windows, WAIT_S, "the last window")
        yield Outcome(box, plc, camera)
    finally:
        for publisher in publishers:
            publisher.device.close()
        box.kill()


def test_every_acknowledged_reading_is_there_once_and_in_order(outcome: Outcome) -> None:
    keys = [int(key) for (key,) in query(outcome.data_dir, "SELECT key FROM readings ORDER BY id")]
    assert set(keys) >= outcome.plc.acknowledged()
    assert keys == list(range(outcome.plc.sent))
    assert [float(each[0, 0]) for each in readings(outcome.data_dir, "plc")] == [
        float(np.float32(value(number))) for number in keys
    ]


def test_windows_cover_all_readings_without_gap_or_overlap(outcome: Outcome) -> None:
    numbers = dict(query(outcome.data_dir, "SELECT id, key FROM readings"))
    ends = [int(numbers[last]) + end for last, end in window_ends(outcome.data_dir, "plc")]
    assert ends == list(range(WINDOW_SIZE, outcome.plc.sent + 1, WINDOW_SIZE))
    for result, end in zip(results(outcome.data_dir, "plc"), ends, strict=True):
        if not refused(result):
            assert result["prediction"]["score"] == pytest.approx(rms(end), abs=0.002)


def test_every_acknowledged_picture_has_one_result(outcome: Outcome) -> None:
    found = results(outcome.data_dir, "cell")
    numbers = sorted(int(result["part"]) for result in found)
    assert set(numbers) >= outcome.camera.acknowledged()
    assert numbers == list(range(outcome.camera.sent))
    assert all(expected(result) for result in found if not refused(result))


def test_few_inputs_are_taken_for_poisonous(outcome: Outcome) -> None:
    """Whatever was being judged at two kills is not tried again: at most one picture and one window for each kill."""
    for source in ("cell", "plc"):
        assert sum(map(refused, results(outcome.data_dir, source))) <= KILLS


def test_images_of_all_results_are_there(outcome: Outcome) -> None:
    rows = query(outcome.data_dir, "SELECT segment, offset, length FROM results WHERE segment IS NOT NULL")
    assert rows
    for segment, offset, length in rows:
        with open(outcome.data_dir / "frames" / f"{segment:08d}.seg", "rb") as file:
            file.seek(offset)
            content = file.read(length)
        assert len(content) == length
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB`\x82")


def test_database_is_whole(outcome: Outcome) -> None:
    assert query(outcome.data_dir, "PRAGMA integrity_check") == [("ok",)]
    assert query(outcome.data_dir, "SELECT count(*) FROM runs") == [(KILLS + 1,)]


def refused(result: dict[str, Any]) -> bool:
    """Whether it was not judged; the only reason may be that it was taken for poisonous."""
    if result["verdict"] != "error":
        return False
    assert result["error"]["code"] == "input_poisonous"
    return True


def rms(end: int) -> float:
    """Of the window that ends before sample `end`: three channels, of which two are 0."""
    first = np.array([value(number) for number in range(end - WINDOW_SIZE, end)])
    return float(np.sqrt(np.mean(first**2) / 3))


def expected(result: dict[str, Any]) -> bool:
    """Whether the score is that of the picture with this part's number."""
    score = 1 - brightness(int(result["part"])) / 255
    return bool(abs(result["prediction"]["score"] - score) < 0.01)
