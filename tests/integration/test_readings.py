"""Readings with times, in many forms, become windows of time, in a whole box and over its restarts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest

from tests.support.box import Box, running_box
from tests.support.models import RATE_HZ, WINDOW_SIZE
from tests.support.mqtt import device
from tests.support.records import letters, query, results
from tests.support.routes import write_models
from tests.support.wait import until

WAIT_S = 20.0
START = 1_700_000_000
SPAN_S = WINDOW_SIZE / RATE_HZ
TIMED = {"model": "wave", "time_field": "t"}
ROUTES: list[dict[str, Any]] = [
    {"name": "time", "topic": "time/+", "hop_s": SPAN_S / 2, "late": "reorder", "late_ms_max": 10, **TIMED},
    {"name": "fill", "topic": "fill/+", "gaps": "fill", "gap_ms_max": 2, **TIMED},
    {"name": "level", "topic": "plant/+/+/wave", "source_level": 3, "model": "wave"},
    {"name": "cbor", "topic": "cbor/+", "payload": "cbor", "model": "wave"},
    {"name": "raw", "topic": "raw/+", "payload": "raw", "dtype": "int16", "model": "wave"},
    {"name": "csv", "topic": "csv/+", "payload": "csv", "model": "wave"},
    {"name": "unfit", "topic": "unfit/+", "window_s": 1.0, "model": "wave"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def block(first: int, count: int = 4) -> dict[str, Any]:
    """Samples number `first` and on; each has its number."""
    return {
        "t": START + first / RATE_HZ,
        "values": [[number / 1000, 0.0, 0.0] for number in range(first, first + count)],
    }


def windows(box: Box, source: str) -> list[tuple[int, float]]:
    rows = query(box.data_dir, "SELECT window_end FROM results WHERE source = ? ORDER BY id", source)
    scores = [round(each["prediction"]["score"], 6) for each in results(box.data_dir, source)]
    return [(end, score) for (end,), score in zip(rows, scores, strict=True)]


def sent(folder: Path, models: Path, restart: bool) -> list[tuple[int, float]]:
    """40 blocks of four samples, every second pair in the wrong order."""
    order = [first for at in range(0, 160, 8) for first in ((at, at + 4) if at % 16 else (at + 4, at))]
    with running_box(folder, models, routes=ROUTES) as box:
        for index, first in enumerate(order):
            with device(box.mqtt_port) as plc:
                plc.send("time/motor", block(first))
            if restart and index in (5, 13, 21):
                box.kill()
                box.start()
        until(lambda: len(windows(box, "motor")) >= 17, WAIT_S, "the windows")
        route = next(each for each in box.status()["mqtt"]["routes"] if each["name"] == "time")
        assert route["counts"]["late"] == 0
        assert restart or route["counts"]["reordered"] == 40
        return windows(box, "motor")


def test_restart_changes_no_window_of_time(tmp_path: Path, models: Path) -> None:
    whole = sent(tmp_path / "whole", models, restart=False)
    assert np.diff([end for end, _ in whole]).tolist() == [round(SPAN_S / 2 * 1e9)] * (len(whole) - 1)
    assert sent(tmp_path / "killed", models, restart=True) == whole


def test_forms_gaps_sources_and_unfit_routes(tmp_path: Path, models: Path) -> None:
    rows = [[100, 0, 0]] * WINDOW_SIZE
    with running_box(tmp_path, models, routes=ROUTES) as box, device(box.mqtt_port) as plc:
        plc.send("cbor/a-cbor", cbor2.dumps({"values": rows}))
        plc.send("raw/a-raw", np.array(rows, "<i2").tobytes())
        plc.send("csv/a-csv", b"x,y,z\n" + b"0.1,0,0\n" * WINDOW_SIZE)
        plc.send("plant/hall/press/wave", {"values": rows})
        for source in ("a-cbor", "a-raw", "a-csv", "press"):
            until(partial(results, box.data_dir, source), WAIT_S, f"a window of {source}")
        plc.send("fill/holed", block(0))
        plc.send("fill/holed", block(8, 40))
        until(lambda: len(results(box.data_dir, "holed")) >= 2, WAIT_S, "two windows")
        assert [each.get("flags", []) for each in results(box.data_dir, "holed")][:2] == [["filled"], []]
        plc.send("unfit/u", {"values": rows})
        plc.send("raw/a-raw", b"\0")
        plc.send("cbor/a-cbor", b"\xff")
        until(lambda: letters(box.data_dir, "cbor/a-cbor"), WAIT_S, "the letters")
        codes = {topic: letters(box.data_dir, topic)[0][0] for topic in ("unfit/u", "raw/a-raw", "cbor/a-cbor")}
        assert codes == {
            "unfit/u": "configuration_invalid",
            "raw/a-raw": "input_shape_wrong",
            "cbor/a-cbor": "input_undecodable",
        }
        status = box.status()
        reports = {each["name"]: each for each in status["mqtt"]["routes"]}
        assert (reports["fill"]["counts"]["gaps"], reports["fill"]["counts"]["filled"]) == (1, 1)
        assert "window_s = 1" in reports["unfit"]["problem"]
        assert reports["csv"]["windows"] == "16 samples every 16"
        assert "route_unfit" in [problem["code"] for problem in status["problems"]]
