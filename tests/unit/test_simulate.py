"""What the simulated devices publish."""

from __future__ import annotations

import itertools
import json

import cv2
import numpy as np

from provisioning.simulate import CAMERA_TURNS, SAMPLES_PER_MESSAGE, camera, plc


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
