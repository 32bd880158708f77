"""Committed readings -> windows -> results.

One thread joins the readings of every stream (a route and a source). Of each stream one window is inferred at a time,
and its result is committed together with the stream's cursor, so that after a crash no window is missing or double.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import msgspec
import numpy as np
import structlog

from appliance.codecs import WINDOW
from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import InferenceRequest, Part
from appliance.core.windows import Samples, Window, WindowBuffer
from appliance.errors import ApplianceError, InferenceError, ModelNotReady, Overloaded
from appliance.mqtt.message import Acknowledge
from appliance.pipeline import Answer, Pipeline, Recording
from appliance.store import Cursor, DeadLetter, Store

log = structlog.get_logger("streams")

_LAG_WINDOWS_MAX = 16
_RETRY_S = 0.05

StreamId = tuple[str, str]
"""Route and source."""


class Reading(msgspec.Struct, frozen=True):
    """A committed reading. samples: (n, channels) float32."""

    number: int
    samples: Samples
    at: float
    part: Part
    flags: tuple[str, ...]


class _Stream:
    """State of one stream; only the windows thread touches it."""

    def __init__(self, route: RouteConfig, source: str, size: int, start: tuple[int, int] | None) -> None:
        self.route = route
        self.source = source
        hop = route.hop or size
        self.buffer = WindowBuffer(size, hop, start)
        self.lag_max = size + _LAG_WINDOWS_MAX * hop
        self.readings: deque[Reading] = deque()
        self.busy = False
        self.waiting: Window | None = None
        self.held: list[Acknowledge] = []


class Streams:
    """window_of: the preprocessing of a route's model. Raises what that raises from `restore`, never later."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        window_of: Callable[[RouteConfig], WindowPreprocess],
        announce_letter: Callable[[DeadLetter], None],
    ) -> None:
        self._pipeline = pipeline
        self._window_of = window_of
        self._announce_letter = announce_letter
        self._starts = {(each.route, each.source): (each.reading, each.offset) for each in store.cursors()}
        self._streams: dict[StreamId, _Stream] = {}
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lagging: set[StreamId] = set()
        self._retry: list[_Stream] = []
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)
        self._stopping = False
        self.beat = time.monotonic()

    def restore(self, store: Store, routes: dict[str, RouteConfig]) -> None:
        """Rebuild the open windows from the readings that were kept. Before `start`."""
        for number, kept in store.open_readings():
            route = routes.get(kept.route)
            if route is None:
                continue
            samples = np.frombuffer(kept.samples, "<f4").reshape(-1, kept.channels)
            try:
                if kept.channels != len(self._window_of(route).channels):
                    continue
            except ApplianceError:
                continue
            self._take(route, kept.source, Reading(number, samples, kept.at, kept.part, kept.flags))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(5.0)

    def add(self, route: RouteConfig, source: str, reading: Reading, ack: Acknowledge) -> None:
        """Hand over a committed reading, in order of its number; acknowledged now, or once the stream keeps up."""
        if (route.name, source) in self._lagging:
            self._queue.put(lambda: self._take(route, source, reading, ack))
        else:
            ack()
            self._queue.put(lambda: self._take(route, source, reading))

    def _run(self) -> None:
        while not self._stopping:
            try:
                task = self._queue.get(timeout=_RETRY_S if self._retry else 1.0)
            except queue.Empty:
                task = None
            self.beat = time.monotonic()
            try:
                if task is not None:
                    task()
                elif self._retry:
                    again, self._retry = self._retry, []
                    for stream in again:
                        self._advance(stream)
            except Exception:
                # One stream's trouble must not end the windows of all others.
                log.exception("stream_failed")

    def _take(self, route: RouteConfig, source: str, reading: Reading, ack: Acknowledge | None = None) -> None:
        name = route.name, source
        stream = self._streams.get(name)
        if stream is None:
            size = self._window_of(route).size
            stream = self._streams[name] = _Stream(route, source, size, self._starts.get(name))
        stream.buffer.add(reading.number, reading.samples)
        stream.readings.append(reading)
        if ack is not None:
            stream.held.append(ack)
        if stream.buffer.samples > stream.lag_max:
            self._lagging.add(name)
        if self._thread.is_alive():
            self._advance(stream)
        else:
            self._retry.append(stream)

    def _advance(self, stream: _Stream) -> None:
        """Start the inference of the stream's next window, if there is one and none is under way."""
        if stream.busy:
            return
        window = stream.waiting or stream.buffer.next()
        stream.waiting = None
        if window is None:
            return
        reading = self._last_reading(stream, window)
        request = InferenceRequest(
            model=stream.route.model,
            body=window.samples.tobytes(),
            media_type=WINDOW,
            source=stream.source,
            door="mqtt",
            part=reading.part,
            override=stream.route.verdict,
            at=reading.at,
        )
        recording = Recording(
            route=stream.route.name,
            window=(window.last_reading, window.end),
            cursor=Cursor(stream.route.name, stream.source, *window.next),
            flags=reading.flags,
            must=True,
            done=lambda _: self._queue.put(lambda: self._done(stream, window)),
        )
        stream.busy = True
        try:
            future = self._pipeline.submit(request, recording)
        except (Overloaded, ModelNotReady):
            stream.busy, stream.waiting = False, window
            self._retry.append(stream)
        except ApplianceError as error:
            self._reject(request, error, recording)
        else:
            future.add_done_callback(lambda done: self._inferred(request, recording, done))

    def _inferred(self, request: InferenceRequest, recording: Recording, future: Future[Answer]) -> None:
        """In the lane's thread. A window that cannot be judged is answered with `error`, and the stream goes on."""
        error = future.exception()
        if error is not None and not self._stopping:
            if not isinstance(error, ApplianceError):
                log.error("inference_failed", source=request.source, exc_info=error)
                error = InferenceError(f"{type(error).__name__}: {error}")
            self._reject(request, error, recording)

    def _reject(self, request: InferenceRequest, error: ApplianceError, recording: Recording) -> None:
        letter = DeadLetter(
            at=request.at,
            topic=f"window of {request.source}",
            client=recording.route or "",
            code=error.code,
            reason=str(error),
            payload=request.body,
        )
        self._pipeline.reject(request, error, letter, recording)
        self._announce_letter(letter)

    def _done(self, stream: _Stream, window: Window) -> None:
        stream.busy = False
        while stream.readings and stream.readings[0].number < window.next[0]:
            stream.readings.popleft()
        if stream.buffer.samples <= stream.lag_max:
            self._lagging.discard((stream.route.name, stream.source))
            held, stream.held = stream.held, []
            for ack in held:
                ack()
        self._advance(stream)

    @staticmethod
    def _last_reading(stream: _Stream, window: Window) -> Reading:
        return next(each for each in stream.readings if each.number == window.last_reading)
