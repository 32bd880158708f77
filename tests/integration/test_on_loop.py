"""Tiny models run without a lane, on the thread of their caller, until one call takes too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from appliance.app import Box
from appliance.config import load
from appliance.core.manifest import ModelManifest, Variant
from appliance.core.protocol import InferenceRequest
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.errors import ShapeError
from appliance.pipeline import ON_LOOP_HELD_S_MAX
from appliance.runtimes import Infer, LoadedModel, LoadOptions, default_loaders
from tests.support.box import write_config
from tests.support.models import FEATURES, write_model
from tests.support.wait import until


class Threads:
    """A runtime that notes which thread it is called in, and can be made slow."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.slow = False

    def load(
        self, manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        return _Noting(default_loaders()["openvino"](manifest, variant, files, options), self)


class _Noting:
    def __init__(self, real: LoadedModel, threads: Threads) -> None:
        self._real = real
        self._threads = threads
        self.runtime = real.runtime
        self.device = real.device
        self.note = real.note
        self.gears = real.gears
        self.batches = real.batches

    def session(self, gear: Gear) -> Infer:
        infer = self._real.session(gear)

        def noting(tensors: Mapping[str, Array]) -> dict[str, Array]:
            self._threads.seen.append(threading.current_thread().name)
            if self._threads.slow:
                time.sleep(1.2 * ON_LOOP_HELD_S_MAX)
            return infer(tensors)

        return noting


@contextmanager
def running(folder: Path, threads: Threads) -> Iterator[Box]:
    write_model(folder / "models", "double", kind="tensor")
    config = load(write_config(folder, folder / "models", listener={"port": 0}, http={"port": 0}))
    box = Box(config, {"openvino": threads.load})
    box.start()
    try:
        until(lambda: box._slots.ready(()), 30, "the model being ready")
        # As the tuner finds it on a machine that is idle.
        box._slots.choose("double").on_loop = True
        threads.seen.clear()
        yield box
    finally:
        assert box.stop()


def request(rows: int = 1, *, on_loop: bool = True) -> InferenceRequest:
    return InferenceRequest(
        model="double",
        tensors={"features": np.ones((rows, FEATURES), np.float32)},
        outputs=True,
        source="test",
        door="oip",
        at=0.0,
        on_loop=on_loop,
    )


def test_tiny_model_answers_before_submit_returns(tmp_path: Path) -> None:
    threads = Threads()
    with running(tmp_path, threads) as box:
        future = box._pipeline.submit(request(3))
        assert future.done()
        outputs = future.result().outputs
        assert outputs is not None
        np.testing.assert_array_equal(outputs["doubled"], np.full((3, FEATURES), 2.0))
        assert threads.seen == [threading.current_thread().name]
        assert len(future.result().results) == 3


def test_caller_that_is_not_on_the_loop_gets_a_lane(tmp_path: Path) -> None:
    threads = Threads()
    with running(tmp_path, threads) as box:
        box._pipeline.submit(request(on_loop=False)).result(30)
        assert threads.seen == ["lane-CPU"]


def test_one_slow_call_sends_the_model_to_the_lanes_for_a_while(tmp_path: Path) -> None:
    threads = Threads()
    with running(tmp_path, threads) as box:
        # The first call of a thread is not judged: it makes a session.
        assert box._pipeline.submit(request()).done()
        threads.slow = True
        assert box._pipeline.submit(request()).done()
        threads.slow = False
        box._pipeline.submit(request()).result(30)
        assert threads.seen[1:] == [threading.current_thread().name, "lane-CPU"]
        served = box._slots.choose("double")
        until(served.may_run_on_loop, 30, "the loop being allowed again")
        assert box._pipeline.submit(request()).done()
        # What is slow time and again stays away for longer and longer.
        assert served.leave_loop() < served.leave_loop()


def test_input_that_does_not_fit_is_the_caller_s_error_without_a_lane_too(tmp_path: Path) -> None:
    with running(tmp_path, Threads()) as box:
        wrong = InferenceRequest(
            model="double",
            tensors={"features": np.ones((1, 5), np.float32)},
            source="test",
            door="oip",
            at=0.0,
            on_loop=True,
        )
        with pytest.raises(ShapeError):
            box._pipeline.submit(wrong).result(0)
