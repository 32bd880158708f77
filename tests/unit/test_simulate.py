"""What the simulated devices publish."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from provisioning.simulate import CAMERA_TURNS, SAMPLES_PER_MESSAGE, Message, camera, plc, publish
from tests.support.mqtt import Mosquitto


def test_a_camera_publishes_jpegs_whose_parts_and_keys_count_up() -> None:
    messages = list(itertools.islice(camera(0, 1.0, "7"), 3))

    assert [dict(each.properties)["part"] for each in messages] == ["P-000001", "P-000002", "P-000003"]
    assert [dict(each.properties)["seq"] for each in messages] == ["7-1", "7-2", "7-3"]
    for each in messages:
        image = cv2.imdecode(np.frombuffer(each.payload, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (480, 480, 3)


def test_the_same_camera_shows_the_same_parts_again() -> None:
    first, again = (next(camera(3, 1.0, "7")).payload for _ in range(2))

    assert first == again
    assert next(camera(4, 1.0, "7")).payload != first


def test_good_parts_come_with_every_kind_of_fault() -> None:
    assert set(CAMERA_TURNS) == {"good", "scratch", "hole", "stain"}
    assert CAMERA_TURNS.count("good") > len(CAMERA_TURNS) // 2


def test_a_plc_publishes_rows_of_three_axes_in_real_time() -> None:
    messages = list(itertools.islice(plc(0, "7"), 2))
    first, second = (json.loads(each.payload) for each in messages)

    assert np.shape(first["values"]) == (SAMPLES_PER_MESSAGE, 3)
    assert (first["seq"], second["seq"]) == ("7-1", "7-2")
    assert messages[0].pause_s == SAMPLES_PER_MESSAGE / 8192


def test_a_device_goes_on_after_its_broker_was_away(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path).start()

    def messages() -> Iterator[Message]:
        for number in range(30):
            if number == 10:
                broker.stop()
            if number == 20:
                broker.start()
            # It connects again after a second or two.
            yield Message(0.01 if number < 29 else 3.0, b"%d" % number, "text/plain")

    try:
        acknowledged = publish(messages(), "127.0.0.1", broker.port, "line/part", "device", threading.Event())
    finally:
        broker.stop()
    assert acknowledged == 30
