"""A box whose clock shows 1970, 2099 or yesterday: it says so, nothing is lost, and the order is that of the ids."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import Box, write_config
from tests.support.clocks import DAY_S, ShiftedClock
from tests.support.faults import tally
from tests.support.models import WINDOW_SIZE, picture
from tests.support.mqtt import device
from tests.support.records import readings, results, window_ends
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
IN_1970 = 10 * DAY_S
IN_2099 = 4_070_908_800.0
SLACK_S = 60.0


@pytest.fixture
def clock(tmp_path: Path) -> ShiftedClock:
    return ShiftedClock(tmp_path)


def is_believed(box: Box, good: bool) -> bool:
    """Whether the box says of its clock that it is good, or that it is not."""
    return box.status()["store"]["upkeep"]["clock_ok"] is good


def has_windows(box: Box, count: int) -> bool:
    return len(window_ends(box.data_dir, "press")) == count


def problems(box: Box) -> set[str]:
    return {each["code"] for each in box.status()["problems"]}


def test_wrong_clock_is_told_and_harms_nothing(tmp_path: Path, clock: ShiftedClock) -> None:
    now = time.time()
    # What the clock shows, whether that can be believed, and whether the box is killed while it shows that.
    steps = (
        (IN_1970, False, True),
        (now, True, False),
        (IN_2099, False, True),
        (now, True, False),
        (now - DAY_S, False, False),
        (now, True, True),
    )
    line = tally("wrong clocks", len(steps))
    clock.show(IN_1970)
    config = write_config(tmp_path / "box", write_models(tmp_path / "models"), routes=ROUTES)
    box = Box(config, environment=clock.environment)
    shown: list[float] = []
    try:
        box.start()
        with device(box.mqtt_port, "plc", expiry_s=3600) as plc:
            for number, (wall, good, killed) in enumerate(steps):
                clock.show(wall)
                until(partial(is_believed, box, good), WAIT_S, f"the clock being {'believed' if good else 'doubted'}")
                assert ("clock_wrong" in problems(box)) is not good
                shown.append(wall + time.time() - now)
                plc.send("line/cell/camera", picture(200), user={"part": str(number)})
                for sample in range(WINDOW_SIZE):
                    plc.send("plc/press/wave", [number * WINDOW_SIZE + sample, 0, 0])
                until(partial(has_windows, box, number + 1), WAIT_S, "the window")
                if killed:
                    box.kill()
                    box.start()
                    assert is_believed(box, good)
                line.step()
        parts = [str(number) for number in range(len(steps))]
        page: list[dict[str, Any]] = box.http.get("/v1/results", params={"source": "cell"}).json()["results"]
        newest: dict[str, Any] = box.http.get("/v1/sources/cell/latest").json()
    finally:
        box.kill()
    found = results(box.data_dir, "cell")
    assert [each["part"] for each in found] == parts
    assert [each.get("clock_ok", True) for each in found] == [good for _, good, _ in steps]
    assert [each["at"] for each in found] == pytest.approx(shown, abs=SLACK_S)
    assert [each["part"] for each in page] == parts[::-1]
    assert newest["part"] == parts[-1]
    numbers = [int(each[0, 0]) for each in readings(box.data_dir, "press")]
    line.compare(range(len(steps) * WINDOW_SIZE), numbers)
    assert numbers == list(range(len(steps) * WINDOW_SIZE))
    ends = window_ends(box.data_dir, "press")
    assert ends == sorted(ends)
