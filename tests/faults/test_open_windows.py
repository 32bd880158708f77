"""Open windows are rebuilt after a restart: the results are those of a box that was never stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.support.box import Box, running_box
from tests.support.mqtt import device
from tests.support.records import query, readings, results, window_ends
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
READINGS = 40
SOURCES = ("plc/tumbling/wave", "hop/overlapping", "skip/spaced")
EXPECTED = {"tumbling": 7, "overlapping": 27, "spaced": 5}
"""Windows in 120 samples: of 16 every 16, every 4, every 24."""

CURSORS = {"tumbling": 7 * 16, "overlapping": 27 * 4, "spaced": 5 * 24}
"""Samples before the next window, which is where a restart begins."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


class Windows(msgspec.Struct):
    """Per source: where each window ended, in samples of the stream, with its score; where the next begins."""

    ends: dict[str, list[tuple[int, float]]] = {}
    cursors: dict[str, int] = {}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Windows:
    return windows_of(tmp_path_factory.mktemp("whole"), models, lambda box, number: None)


def stop_and_start(box: Box, number: int) -> None:
    if number in (3, 17, 18):
        box.stop()
        box.start()


def kill_and_start(box: Box, number: int) -> None:
    if number in (2, 9, 29):
        box.kill()
        box.start()


@pytest.mark.parametrize("interrupt", [stop_and_start, kill_and_start])
def test_restart_changes_no_window(
    tmp_path: Path, models: Path, uninterrupted: Windows, interrupt: Callable[[Box, int], None]
) -> None:
    assert windows_of(tmp_path, models, interrupt) == uninterrupted


def test_windows_are_as_many_as_the_samples_give(uninterrupted: Windows) -> None:
    assert {source: len(found) for source, found in uninterrupted.ends.items()} == EXPECTED
    assert uninterrupted.cursors == CURSORS


def windows_of(folder: Path, models: Path, interrupt: Callable[[Box, int], None]) -> Windows:
    """Publish 40 readings of three samples to each source; what became of them."""
    with running_box(folder, models, routes=ROUTES) as box:
        for number in range(READINGS):
            with device(box.mqtt_port) as plc:
                for topic in SOURCES:
                    values = [[(3 * number + sample) / 200, 0.0, 0.0] for sample in range(3)]
                    plc.send(topic, values)
            interrupt(box, number)
        found = Windows()
        for source, count in EXPECTED.items():
            enough = partial(_has, box.data_dir, source, count)
            until(enough, WAIT_S, f"{count} windows of {source}")
            found.ends[source], found.cursors[source] = _windows(box.data_dir, source)
        return found


def _has(data_dir: Path, source: str, count: int) -> bool:
    return len(results(data_dir, source)) >= count


def _windows(data_dir: Path, source: str) -> tuple[list[tuple[int, float]], int]:
    assert len(readings(data_dir, source)) == READINGS
    ids = query(data_dir, "SELECT id FROM readings WHERE source = ? ORDER BY id", source)
    before = {number: 3 * index for index, (number,) in enumerate(ids)}
    ends = [before[last] + end for last, end in window_ends(data_dir, source)]
    scores = [result["prediction"]["score"] for result in results(data_dir, source)]
    ((reading, offset),) = query(data_dir, "SELECT reading, offset FROM cursors WHERE source = ?", source)
    return list(zip(ends, scores, strict=True)), before[reading] + offset
