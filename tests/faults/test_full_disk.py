"""While the disk takes nothing, nothing is acknowledged and nothing piles up; afterwards everything is recorded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.box import Box, running_box
from tests.support.disk import small_disk
from tests.support.models import encode
from tests.support.mqtt import RawClient, device, mosquitto
from tests.support.proxy import proxy
from tests.support.records import query, readings, results
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
DISK_BYTES = 24 << 20
PICTURES = 20
RECONNECTS = 40
GROWTH_BYTES_MAX = 30 << 20
"""Each round of pictures is 1.8 MB, behind the broker 6 MB: kept anew each time, they would come to 60 MB and more."""

FAR_READINGS = 300
CUTS = 10


def noise(number: int, *, side: int = 174) -> bytes:
    """A picture of about 90 kB, of 310 kB with a side of 320."""
    return encode(np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8), ".png")


def test_full_disk_holds_back_acknowledgements_and_loses_nothing(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", DISK_BYTES) as disk,
        running_box(tmp_path / "box", write_models(tmp_path / "models"), data_dir=str(disk.path), routes=ROUTES) as box,
        device(box.mqtt_port, "plc", expiry_s=600) as plc,
    ):
        plc.send("plc/press/wave", [0, 0, 0])
        disk.fill()
        pictures = [noise(number) for number in range(PICTURES)]
        camera = publish(box, pictures, again=False)
        until(lambda: box.status()["store"]["state"] == "full", WAIT_S, "the store being full")
        acknowledged = listener(box)["acknowledged"]
        sent = {plc.publish("plc/press/wave", f"[{number}, 0, 0]") for number in range(1, 51)}

        before = resident_bytes(box)
        for _ in range(RECONNECTS):
            camera.vanish()
            camera = publish(box, pictures, again=True)
        grown = resident_bytes(box) - before
        assert grown < GROWTH_BYTES_MAX
        assert box.status()["store"]["state"] == "full"
        assert listener(box)["acknowledged"] == acknowledged
        assert not sent & plc.acknowledged
        assert box.http.get("/v2/health/live").status_code == 200
        assert problems(box) == ["store_full", "model_missing"]

        disk.free()
        assert sorted(camera.acknowledged() for _ in pictures) == list(range(1, PICTURES + 1))
        camera.vanish()
        until(lambda: sent <= plc.acknowledged, WAIT_S, "every reading being acknowledged")
        assert len(results(box.data_dir, "cell")) == PICTURES
        assert [float(each[0, 0]) for each in readings(box.data_dir, "press")] == list(range(51))
        until(lambda: len(results(box.data_dir, "press")) == 3, WAIT_S, "the windows")
        until(lambda: problems(box) == ["model_missing"], WAIT_S, "the alarms being over")


def test_full_disk_behind_a_broker_holds_back_acknowledgements_and_loses_nothing(tmp_path: Path) -> None:
    with (
        mosquitto(tmp_path / "broker") as broker,
        proxy(broker.port) as between,
        small_disk(tmp_path / "disk", DISK_BYTES) as disk,
        running_box(
            tmp_path / "box",
            write_models(tmp_path / "models"),
            data_dir=str(disk.path),
            routes=ROUTES,
            broker={"host": "127.0.0.1", "port": between.port, "reconnect_s_max": 0.1},
        ) as box,
        device(broker.port, "plc", in_flight=500) as plc,
    ):
        subscribed = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
        until(lambda: query(box.data_dir, subscribed), WAIT_S, "the subscriptions")
        plc.send("plc/far/wave", [0, 0, 0])
        until(lambda: len(readings(box.data_dir, "far")) == 1, WAIT_S, "the first reading")
        # Given back once the disk is full, it would have room for some of the pictures.
        (box.data_dir / "ballast").unlink()
        disk.fill()
        for number in range(1, FAR_READINGS):
            plc.publish("plc/far/wave", f"[{number}, 0, 0]")
        for number in range(PICTURES):
            plc.publish("line/far/camera", noise(number, side=320))
        unacknowledged = FAR_READINGS - 1 + PICTURES
        until(lambda: from_broker(box) >= 1 + unacknowledged, WAIT_S, "all being with the box")
        until(lambda: box.status()["store"]["state"] == "full", WAIT_S, "the store being full")
        until(lambda: "store_full" in alarms(box), WAIT_S, "the alarm")

        before = resident_bytes(box)
        for _ in range(CUTS):
            # The broker has no acknowledgement of any; readings are so small that some find room all the same.
            enough = from_broker(box) + PICTURES
            between.cut()
            until(partial(has_received, box, enough), WAIT_S, "the pictures coming again")
        assert resident_bytes(box) - before < GROWTH_BYTES_MAX
        assert box.status()["store"]["state"] == "full"
        assert pictures_of(box) == 0

        disk.free()
        until(lambda: len(readings(box.data_dir, "far")) >= FAR_READINGS, WAIT_S, "every reading")
        until(lambda: pictures_of(box) >= PICTURES, WAIT_S, "every picture")
        assert [int(each[0, 0]) for each in readings(box.data_dir, "far")] == list(range(FAR_READINGS))
        assert pictures_of(box) == PICTURES
        until(lambda: not alarms(box), WAIT_S, "the alarms being over")


def pictures_of(box: Box) -> int:
    return sum(each["route"] == "camera" for each in results(box.data_dir, "far"))


def from_broker(box: Box) -> int:
    """Messages since the start of the box."""
    count: int = box.status()["mqtt"]["broker"]["received"]
    return count


def has_received(box: Box, count: int) -> bool:
    return from_broker(box) >= count


def alarms(box: Box) -> set[str]:
    return {each["kind"] for each in box.http.get("/v1/alarms").json()["alarms"]}


def problems(box: Box) -> list[str]:
    return [each["code"] for each in box.status()["problems"]]


def publish(box: Box, pictures: list[bytes], *, again: bool) -> RawClient:
    """Send all pictures in the camera's session, and wait until the box has them."""
    expected = listener(box)["received"] + len(pictures)
    camera = RawClient(box.mqtt_port, "camera")
    for number, content in enumerate(pictures, 1):
        camera.publish(number, "line/cell/camera", content, duplicate=again)
    until(lambda: listener(box)["received"] >= expected, WAIT_S, "the pictures")
    return camera


def listener(box: Box) -> dict[str, Any]:
    report: dict[str, Any] = box.status()["mqtt"]["listener"]
    return report


def resident_bytes(box: Box) -> int:
    """Memory of the box's process in RAM (`/proc/PID/statm`, second field, in pages of 4 KiB)."""
    return int(Path(f"/proc/{box.process.pid}/statm").read_text().split()[1]) * 4096
