"""While the disk takes nothing, nothing is acknowledged and nothing piles up; afterwards everything is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.box import Box, running_box
from tests.support.disk import small_disk
from tests.support.models import encode
from tests.support.mqtt import RawClient, device
from tests.support.records import readings, results
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
DISK_BYTES = 24 << 20
PICTURES = 20
RECONNECTS = 40
GROWTH_BYTES_MAX = 30 << 20
"""Each round of pictures is 1.8 MB: kept anew each time, they would come to 72 MB and more."""


def noise(number: int) -> bytes:
    """A picture of about 90 kB."""
    return encode(np.random.default_rng(number).integers(0, 256, (174, 174, 3), np.uint8), ".png")


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
        assert [each["code"] for each in box.status()["problems"]] == ["store_full", "model_missing"]

        disk.free()
        assert sorted(camera.acknowledged() for _ in pictures) == list(range(1, PICTURES + 1))
        camera.vanish()
        until(lambda: sent <= plc.acknowledged, WAIT_S, "every reading being acknowledged")
        assert len(results(box.data_dir, "cell")) == PICTURES
        assert [float(each[0, 0]) for each in readings(box.data_dir, "press")] == list(range(51))
        until(lambda: len(results(box.data_dir, "press")) == 3, WAIT_S, "the windows")


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
