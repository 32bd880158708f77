"""A file system that a fault has made read-only: nothing is acknowledged, the box says why, and what was kept stays."""

from __future__ import annotations

from pathlib import Path

from tests.support.box import Box, run_appliance, running_box
from tests.support.failing_disk import failing_disk
from tests.support.mqtt import device
from tests.support.records import readings
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
DISK_BYTES = 64 << 20


def numbers(box: Box) -> list[float]:
    return [float(each[0, 0]) for each in readings(box.data_dir, "press")]


def test_disk_that_becomes_read_only_holds_back_acknowledgements_until_it_is_repaired(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    with (
        failing_disk(tmp_path / "disk", DISK_BYTES) as disk,
        running_box(tmp_path / "box", models, data_dir=str(disk.path / "data"), routes=ROUTES) as box,
        device(box.mqtt_port, "plc", expiry_s=600) as plc,
    ):
        plc.send("plc/press/wave", [0, 0, 0])
        disk.fail()
        sent = {plc.publish("plc/press/wave", f"[{number}, 0, 0]") for number in range(1, 21)}
        until(lambda: box.status()["store"]["state"] != "ok", WAIT_S, "the store saying so")
        assert box.status()["store"]["reason"]
        assert "store_" in str(box.status()["problems"])
        assert not sent & plc.acknowledged
        assert box.http.get("/v2/health/live").status_code == 200

        box.kill()
        refused = run_appliance("serve", "--config", box.config)
        assert refused.returncode == 2
        assert "Read-only file system; give --data-dir a folder" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        disk.repair()
        box.start()
        until(lambda: sent <= plc.acknowledged, WAIT_S, "every reading being acknowledged")
        assert sorted(numbers(box)) == list(range(21))
        box.kill()
