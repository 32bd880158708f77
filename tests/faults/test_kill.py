"""kill -9 at random moments of four QoS 1 streams: nothing acknowledged is lost, nothing is doubled.

Readings and pictures with the publisher's key, and readings without one in a session that lasts, on the listener and
through a site broker.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.box import Box, write_config
from tests.support.faults import Tally, tally, times
from tests.support.models import WINDOW_SIZE, encode
from tests.support.mqtt import Device, Mosquitto
from tests.support.records import query, readings, results, window_ends
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

KILLS = times(30, 1000)
WAIT_S = 60.0
AHEAD = 30
"""Messages that a publisher has on their way at once."""

FAR_AHEAD = 500
BACKLOG = times(5_000, 20_000)
"""Messages that wait at the broker: far more than it may send to the box before the first is acknowledged."""


class Publisher:
    """Publishes numbers without end, over every restart of the box, and notes which ones were acknowledged."""

    def __init__(self, port: int, name: str, publish: Callable[[Device, int], int], *, ahead: int = AHEAD) -> None:
        self.device = Device(port, name, expiry_s=3600, in_flight=max(20, ahead))
        self._publish = publish
        self._ahead = ahead
        self._on_their_way: dict[int, int] = {}
        self._acknowledged: set[int] = set()
        self.sent = 0

    def keep_going(self) -> None:
        for _ in range(self._ahead - self.sent + len(self.acknowledged())):
            self._on_their_way[self._publish(self.device, self.sent)] = self.sent
            self.sent += 1

    def in_peace(self) -> bool:
        return len(self.acknowledged()) == self.sent

    def acknowledged(self) -> set[int]:
        """The numbers; packet ids come round again, so they are taken over at once."""
        for mid in self._on_their_way.keys() & set(self.device.acknowledged):
            self.device.acknowledged.discard(mid)
            self._acknowledged.add(self._on_their_way.pop(mid))
        return self._acknowledged


def publish_reading(device: Device, number: int) -> int:
    return device.publish("keyed/plc/wave", json.dumps({"seq": number, "values": [value(number), 0, 0]}))


def publish_picture(device: Device, number: int) -> int:
    """Every picture differs from all others, as a camera's do: one pixel holds the number."""
    image = np.full((32, 32, 3), brightness(number), np.uint8)
    image[0, 0] = number % 256, number // 256 % 256, number // 65_536
    user = {"seq": str(number), "part": str(number)}
    return device.publish("keyed/cell/camera", encode(image, ".png"), user=user)


def publish_bare(device: Device, number: int) -> int:
    return device.publish("plc/bare/wave", f"[{number}, 0, 0]")


def publish_far(device: Device, number: int) -> int:
    return device.publish("plc/far/wave", f"[{number}, 0, 0]")


def brightness(number: int) -> int:
    return 100 + number % 150


def value(number: int) -> float:
    return (number % 97) / 97


class Outcome:
    def __init__(self, box: Box, plc: Publisher, camera: Publisher, bare: Publisher, far: Publisher) -> None:
        self.data_dir = box.data_dir
        self.plc = plc
        self.camera = camera
        self.bare = bare
        self.far = far
        self.tally: Tally = tally("kill -9 under load", KILLS)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Four publishers, a box that is killed KILLS times under their hands, and all in peace at the end."""
    folder: Path = tmp_path_factory.mktemp("kill")
    # It is never stopped; to save a backlog at every change would be most of its work. 0: no limit, or what it has
    # sent and not had acknowledged, which is not ours to bound, makes it drop what comes.
    broker = Mosquitto(folder / "broker", "max_queued_messages 0", queue_max=None)
    try:
        yield from _kill_again_and_again(folder, broker.start())
    finally:
        broker.kill()


def _kill_again_and_again(folder: Path, broker: Mosquitto) -> Iterator[Outcome]:
    moments = random.Random(20)
    at = {"host": "127.0.0.1", "port": broker.port, "reconnect_s_max": 1.0}
    config = write_config(folder, write_models(folder / "models"), routes=ROUTES, log_level="warning", broker=at)
    box = Box(config)
    plc = Publisher(box.mqtt_port, "plc", publish_reading)
    camera = Publisher(box.mqtt_port, "camera", publish_picture)
    bare = Publisher(box.mqtt_port, "bare", publish_bare)
    far = Publisher(broker.port, "far", publish_far, ahead=FAR_AHEAD)
    near = (plc, camera, bare)
    publishers = (*near, far)
    outcome = Outcome(box, plc, camera, bare, far)
    try:
        box.start(ready=False)
        subscribed = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
        until(lambda: query(box.data_dir, subscribed), WAIT_S, "the subscriptions at the broker")
        for publisher in publishers:
            publisher.device.connect()
        for _ in range(KILLS):
            # Now and then the camera decides, so that the moment falls into an inference.
            who = moments.choice(near)
            enough = len(who.acknowledged()) + moments.randint(1, 150)

            def reached(who: Publisher = who, enough: int = enough) -> bool:
                for publisher in near:
                    publisher.keep_going()
                # The broker acknowledges whatever the box does.
                if far.sent - _came(box.data_dir, "far") < BACKLOG:
                    far.keep_going()
                return len(who.acknowledged()) >= enough

            until(reached, WAIT_S, "the publishers going on")
            box.kill()
            box.start(ready=False)
            outcome.tally.step()
        for publisher in publishers:
            until(publisher.in_peace, WAIT_S, "every number being acknowledged")
        until(lambda: _came(box.data_dir, "far") >= far.sent, WAIT_S, "what came through the broker")
        for source, publisher in (("plc", plc), ("bare", bare), ("far", far)):
            count = publisher.sent // WINDOW_SIZE
            until(partial(_has_windows, box.data_dir, source, count), WAIT_S, f"the windows of {source}")
        yield outcome
    finally:
        for publisher in publishers:
            publisher.device.close()
        box.kill()


def test_every_acknowledged_reading_is_there_once(outcome: Outcome) -> None:
    found = query(outcome.data_dir, "SELECT key FROM readings WHERE source = 'plc' ORDER BY id")
    keys = [int(key) for (key,) in found]
    assert set(keys) >= outcome.plc.acknowledged()
    outcome.tally.compare(range(outcome.plc.sent), keys)
    assert sorted(keys) == list(range(outcome.plc.sent))
    samples = [float(each[0, 0]) for each in readings(outcome.data_dir, "plc")]
    assert samples == pytest.approx([value(number) for number in keys])


@pytest.mark.parametrize("source", ["bare", "far"])
def test_every_acknowledged_reading_without_a_key_is_there_once(outcome: Outcome, source: str) -> None:
    publisher: Publisher = getattr(outcome, source)
    numbers = [int(each[0, 0]) for each in readings(outcome.data_dir, source)]
    outcome.tally.compare(range(publisher.sent), numbers)
    assert set(numbers) >= publisher.acknowledged()
    assert sorted(numbers) == list(range(publisher.sent))
    assert query(outcome.data_dir, "SELECT count(*) FROM readings WHERE flags IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("source", ["plc", "bare", "far"])
def test_windows_cover_all_readings_in_order_without_gap_or_overlap(outcome: Outcome, source: str) -> None:
    """In the order of the commits: paho may send a new number just before those that it repeats."""
    ids = query(outcome.data_dir, "SELECT id FROM readings WHERE source = ? ORDER BY id", source)
    position = {number: index for index, (number,) in enumerate(ids)}
    ends = [position[last] + end for last, end in window_ends(outcome.data_dir, source)]
    assert ends == list(range(WINDOW_SIZE, len(ids) + 1, WINDOW_SIZE))
    first_channel = np.concatenate(readings(outcome.data_dir, source))[:, 0]
    for result, end in zip(results(outcome.data_dir, source), ends, strict=True):
        if not refused(result):
            window = first_channel[end - WINDOW_SIZE : end]
            assert result["prediction"]["score"] == pytest.approx(anomaly(window), abs=0.002)


def test_every_acknowledged_picture_has_one_result(outcome: Outcome) -> None:
    found = results(outcome.data_dir, "cell")
    numbers = sorted(int(result["part"]) for result in found)
    assert set(numbers) >= outcome.camera.acknowledged()
    outcome.tally.compare(range(outcome.camera.sent), numbers)
    assert numbers == list(range(outcome.camera.sent))
    assert all(expected(result) for result in found if not refused(result))


def test_few_inputs_are_taken_for_poisonous(outcome: Outcome) -> None:
    """Whatever was being judged at two kills is not tried again: at most one picture and one window for each kill."""
    windows = [each for source in ("plc", "bare", "far") for each in results(outcome.data_dir, source)]
    for judged in (results(outcome.data_dir, "cell"), windows):
        assert sum(map(refused, judged)) <= KILLS


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


def _came(data_dir: Path, source: str) -> int:
    """The number in the last reading, and one: they come in order."""
    statement = "SELECT samples FROM readings WHERE route = 'wave' AND source = ? ORDER BY id DESC LIMIT 1"
    last = query(data_dir, statement, source)
    return 1 + int(np.frombuffer(last[0][0], "<f4")[0]) if last else 0


def _has_windows(data_dir: Path, source: str, count: int) -> bool:
    return len(window_ends(data_dir, source)) == count


def refused(result: dict[str, Any]) -> bool:
    """Whether it was not judged; the only reason may be that it was taken for poisonous."""
    if result["verdict"] != "error":
        return False
    assert result["error"]["code"] == "input_poisonous"
    return True


def anomaly(first_channel: npt.NDArray[np.float32]) -> float:
    """The RMS over three channels, of which two are 0, at most 1: what the tiny window model answers."""
    return min(1.0, float(np.sqrt(np.mean(first_channel.astype(float) ** 2) / 3)))


def expected(result: dict[str, Any]) -> bool:
    """Whether the score is that of the picture with this part's number."""
    score = 1 - brightness(int(result["part"])) / 255
    return bool(abs(result["prediction"]["score"] - score) < 0.01)
