"""Readings joined to windows while their model changes under them, loads, or is too slow for their deadline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Part
from appliance.errors import ApplianceError, Expired, ModelNotReady, Overloaded
from appliance.mqtt.stream import Reading
from appliance.mqtt.streams import Streams
from tests.support.by_hand import PipelineByHand, Run, StoreByHand
from tests.support.wait import until

WAIT_S = 20.0
XYZ = ("x", "y", "z")


class Line:
    """One stream of the route `wave`, whose model is what `steps` says. Readings are numbered from 1."""

    def __init__(self, size: int, channels: tuple[str, ...] = XYZ, *, expires_ms: int | None = None) -> None:
        self.pipeline = PipelineByHand()
        self.load(size, channels)
        self.route = RouteConfig(name="wave", topic="plc/+", model="wave", expires_ms=expires_ms)
        self.acknowledged: list[int] = []
        self._sent = 0
        self.streams = Streams(
            cast(Any, self.pipeline),
            cast(Any, StoreByHand()),
            cast(Any, SimpleNamespace(watching=False)),
            lambda route: self.steps,
            lambda letter: None,
        )

    def load(self, size: int, channels: tuple[str, ...] = XYZ) -> None:
        self.steps = WindowPreprocess(channels=channels, unit="g", rate_hz=1.0, size=size)

    def send(self, samples: int, *, channels: int = 3, came_at: float | None = None) -> None:
        """The n-th reading has the value n; returns when it is acknowledged."""
        self._sent += 1
        number = self._sent
        reading = Reading(number, np.full((samples, channels), number, np.float32), 0.0, Part(), ())
        if came_at is not None:
            reading = msgspec.structs.replace(reading, came_at=came_at)
        self.streams.add(self.route, "s", reading, lambda: self.acknowledged.append(number))
        until(lambda: number in self.acknowledged, WAIT_S, f"the acknowledgement of reading {number}")

    def run(self, number: int) -> Run:
        """The n-th window that was ever started, from 1."""
        runs = self.pipeline.runs
        until(lambda: len(runs) >= number, WAIT_S, f"window {number}")
        return runs[number - 1]


@contextmanager
def line(size: int, channels: tuple[str, ...] = XYZ, *, expires_ms: int | None = None) -> Iterator[Line]:
    made = Line(size, channels, expires_ms=expires_ms)
    made.streams.start()
    try:
        yield made
    finally:
        made.streams.stop()


def values(run: Run, channels: int = 3) -> list[float]:
    """The first channel of each sample."""
    samples: list[float] = np.frombuffer(run.request.body, "<f4").reshape(-1, channels)[:, 0].tolist()
    return samples


def cursor(run: Run) -> tuple[int, int]:
    assert run.recording.cursor is not None
    return run.recording.cursor.reading, run.recording.cursor.offset


def test_model_with_a_smaller_window_goes_on_from_the_cursor() -> None:
    with line(4) as plc:
        plc.send(6)
        first = plc.run(1)
        assert values(first) == [1, 1, 1, 1]
        plc.load(2)
        first.end()
        second = plc.run(2)
        assert (values(second), cursor(second)) == ([1, 1], (1, 6))
        second.end()
        plc.send(2)
        assert values(plc.run(3)) == [2, 2]


def test_model_with_a_larger_window_goes_on_from_the_cursor() -> None:
    with line(2) as plc:
        plc.send(3)
        plc.run(1).end()
        plc.load(4)
        plc.send(3)
        second = plc.run(2)
        assert (values(second), cursor(second)) == ([1, 2, 2, 2], (2, 3))


def test_window_that_waits_is_cut_anew() -> None:
    with line(4) as plc:
        plc.pipeline.refuses["wave"] = Overloaded("full")
        plc.send(4)
        plc.load(3)
        plc.pipeline.refuses.clear()
        assert values(plc.run(1)) == [1, 1, 1]


def test_model_with_other_channels_begins_with_the_first_reading_that_has_them() -> None:
    with line(4) as plc:
        plc.send(5)
        first = plc.run(1)
        plc.load(2, ("x",))
        plc.send(1, channels=1)
        # Parsed before the model was loaded.
        plc.send(3, channels=3)
        first.end()
        plc.send(1, channels=1)
        second = plc.run(2)
        assert values(second, 1) == [2, 4]
        assert (second.recording.window, cursor(second)) == ((4, 1), (4, 1))
        second.end()
        plc.send(2, channels=1)
        assert values(plc.run(3), 1) == [5, 5]


def test_held_readings_are_acknowledged_when_a_new_model_takes_none_of_them() -> None:
    with line(2) as plc:
        plc.send(2)
        first = plc.run(1)
        held = threading.Event()
        samples = np.zeros((100, 3), np.float32)
        plc.streams.add(plc.route, "s", Reading(100, samples, 0.0, Part(), ()), held.set)
        until(lambda: plc.streams.behind(plc.route, "s"), WAIT_S, "the stream lagging")
        assert not held.is_set()
        plc.load(2, ("x",))
        first.end()
        assert held.wait(WAIT_S)
        assert not plc.streams.behind(plc.route, "s")


def rejected(plc: Line, count: int) -> list[tuple[ApplianceError, bool, tuple[int, int]]]:
    """Error, whether a letter went with it, and the cursor."""
    found = plc.pipeline.rejected
    until(lambda: len(found) >= count, WAIT_S, f"{count} rejected")
    cursors = [recording.cursor for _, _, _, recording in found if recording.cursor is not None]
    return [
        (error, letter is not None, (each.reading, each.offset))
        for (_, error, letter, _), each in zip(found, cursors, strict=True)
    ]


def test_window_that_waited_for_a_loading_model_expires_and_the_stream_goes_on() -> None:
    with line(2, expires_ms=60_000) as plc:
        plc.pipeline.refuses["wave"] = ModelNotReady("loading")
        plc.send(2, came_at=-1e9)
        ((error, has_letter, at),) = rejected(plc, 1)
        assert (type(error), has_letter, at) == (Expired, False, (1, 2))
        plc.pipeline.refuses.clear()
        plc.send(2)
        assert values(plc.run(1)) == [2, 2]


def test_time_behind_the_stream_counts() -> None:
    """The first window is in time; the ones behind it are too late when their turn comes."""
    with line(2, expires_ms=60_000) as plc:
        plc.send(2)
        first = plc.run(1)
        assert first.request.deadline_s is not None
        assert 0 < first.request.deadline_s <= 60
        plc.send(4, came_at=-1e9)
        plc.send(2)
        first.end()
        assert [at for _, _, at in rejected(plc, 2)] == [(2, 2), (3, 0)]
        last = plc.run(2)
        assert values(last) == [3, 3]
        assert last.request.deadline_s is not None


def test_window_without_a_deadline_waits_for_its_model() -> None:
    with line(2) as plc:
        plc.pipeline.refuses["wave"] = ModelNotReady("loading")
        plc.send(2, came_at=-1e9)
        plc.pipeline.refuses.clear()
        assert plc.run(1).request.deadline_s is None
        assert plc.pipeline.rejected == []


def test_window_that_shared_a_hung_call_is_tried_again() -> None:
    with line(2) as plc:
        plc.send(2)
        plc.run(1).end(ModelNotReady("it hung, with others"))
        again = plc.run(2)
        assert again.request.body == plc.run(1).request.body
        again.end()
        plc.send(2)
        assert values(plc.run(3)) == [2, 2]
        assert plc.pipeline.rejected == []
