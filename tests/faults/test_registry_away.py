"""A box whose registry is away for sixty days, stopped or killed every day: it starts and serves, and nobody is needed.

Then the registry is back, and the box takes the next release.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import Box, free_port, run_appliance, write_config
from tests.support.clocks import DAY_S, ShiftedClock
from tests.support.faults import tally, times
from tests.support.models import picture, write_model
from tests.support.simulated import DEVICE, Simulated
from tests.support.wait import until

DAYS = 60
WAIT_S = 30.0


class Remote:
    """A box with a clock that is set by hand. sticks: how many were brought to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ShiftedClock(folder)
        self.registry = Simulated()
        self.sticks = 0
        (folder / "models").mkdir()
        (folder / "root.json").write_bytes(self.registry.first_root)
        updates = {"root": str(folder / "root.json"), "url": f"https://127.0.0.1:{free_port()}/"}
        config = write_config(folder / "box", folder / "models", device=DEVICE, updates=updates)
        self.box = Box(config, environment=self.clock.environment)

    def release(self, version: str) -> None:
        folder = write_model(self.folder / "bundles", "tiny", version, title=f"version {version}")
        self.registry.release({"tiny": (version, self.registry.publish(folder))}, rollout={"mode": "blue_green"})

    def update(self, *arguments: str | Path) -> Any:
        return run_appliance("update", *arguments, "--config", self.box.config, environment=self.clock.environment)

    def stick(self) -> Path:
        self.sticks += 1
        return self.registry.write(self.folder / f"stick-{self.sticks}")

    def version(self) -> str | None:
        """Of what judges a picture now."""
        reply = self.box.http.post("/v1/predict/tiny", content=picture(230), headers={"Content-Type": "image/png"})
        return str(reply.json()["version"]) if reply.status_code == 200 else None


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


def test_box_serves_for_sixty_days_without_its_registry_and_takes_the_next_release(remote: Remote) -> None:
    restarts = times(4, DAYS)
    line = tally("restart on a day without the registry", restarts)
    began = time.time()
    box = remote.box
    remote.release("1")
    try:
        # It has no model yet.
        box.start(ready=False)
        assert remote.update("--from", remote.stick()).returncode == 0
        until(lambda: remote.version() == "1", WAIT_S, "version 1 serving")
        for number in range(1, restarts + 1):
            if number % 2:
                box.kill()
            else:
                box.stop()
            remote.clock.show(began + number / restarts * DAYS * DAY_S)
            box.start()
            assert remote.version() == "1"
            look = remote.update()
            assert (look.returncode, look.stderr.split(": ")[:2]) == (1, ["appliance", "registry_unavailable"])
            assert remote.version() == "1"
            line.step()
        old = remote.update("--from", remote.folder / "stick-1")
        assert (old.returncode, old.stderr.split(": ")[:2]) == (1, ["appliance", "metadata_expired"])
        assert remote.version() == "1"
        remote.registry.later(days=DAYS)
        remote.release("2")
        again = remote.update("--from", remote.stick())
        assert again.returncode == 0, again.stderr
        until(lambda: remote.version() == "2", WAIT_S, "version 2 serving")
    finally:
        box.kill()
