"""Committed readings -> windows -> results.

One thread joins the readings of every stream (a route and a source). Of each stream one window is inferred at a time,
and its result is committed together with the stream's cursor, so that after a crash no window is missing or double.
A reading is acknowledged when this thread has it, and while its stream lags only when it has caught up: so the
publishers' windows bound what waits here.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec
import numpy as np
import structlog

from appliance.codecs import WINDOW
from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import InferenceRequest, Part
from appliance.core.windows import Samples, Window, WindowBuffer
from appliance.errors import (
    ApplianceError,
    Expired,
    InferenceError,
    LaneTimeout,
    ModelNotReady,
    Overloaded,
    PoisonInput,
)
from appliance.mqtt.message import Acknowledge
from appliance.mqtt.poison import Suspects, Suspicion
from appliance.pipeline import Answer, Pipeline, Recording
from appliance.store import Store
from appliance.writes import Cursor, DeadLetter, Write, both, when_added

log = structlog.get_logger("streams")

_LAG_WINDOWS_MAX = 16
_WAITING_MAX = 10_000
"""Readings that may wait for the thread before those that nobody waits for (QoS 0) are not taken."""

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
    """State of one stream; only the windows thread touches it. restored: the last reading from before the start."""

    def __init__(self, route: RouteConfig, source: str, size: int, start: tuple[int, int] | None) -> None:
        self.name: StreamId = (route.name, source)
        self.route = route
        self.source = source
        hop = route.hop or size
        self.buffer = WindowBuffer(size, hop, start)
        self.lag_max = size + _LAG_WINDOWS_MAX * hop
        self.readings: deque[Reading] = deque()
        self.busy = False
        self.waiting: Window | None = None
        self.held: list[Acknowledge] = []
        self.restored = 0


class Streams:
    """window_of: the preprocessing of a route's model. Raises what that raises from `restore`, never later."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        suspects: Suspects,
        window_of: Callable[[RouteConfig], WindowPreprocess],
        announce_letter: Callable[[DeadLetter], None],
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._suspects = suspects
        self._window_of = window_of
        self._announce_letter = announce_letter
        self._starts = {(each.route, each.source): (each.reading, each.offset) for each in store.cursors()}
        self._streams: dict[StreamId, _Stream] = {}
        self._tasks: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._lagging: set[StreamId] = set()
        self._again: dict[StreamId, _Stream] = {}
        self._again_at = 0.0
        self._marked: StreamId | None = None
        self._turns: dict[StreamId, _Stream] = {}
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
            stream = self._append(route, kept.source, Reading(number, samples, kept.at, kept.part, kept.flags))
            stream.restored = number
            self._again[stream.name] = stream

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def add(self, route: RouteConfig, source: str, reading: Reading, ack: Acknowledge) -> None:
        """Hand over a committed reading, in order of its number; acknowledged once the stream keeps up."""
        self._post(lambda: self._take(route, source, reading, ack))

    def behind(self, route: RouteConfig, source: str) -> bool:
        """Whether a reading that nobody waits for had better not be taken."""
        return (route.name, source) in self._lagging or len(self._tasks) > _WAITING_MAX

    def _post(self, task: Callable[[], None]) -> None:
        """From any thread. The thread is woken once for many tasks: a group commit brings hundreds."""
        self._tasks.append(task)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_RETRY_S if self._again else 1.0)
            self._wake.clear()
            while self._tasks and not self._stopping:
                self._guarded(self._tasks.popleft())
                self._retry()
            self._retry()

    def _retry(self) -> None:
        now = self.beat = time.monotonic()
        if self._again and now >= self._again_at:
            self._again_at = now + _RETRY_S
            again, self._again = self._again, {}
            for stream in again.values():
                self._guarded(partial(self._advance, stream))

    def _guarded(self, task: Callable[[], None]) -> None:
        """One stream's trouble must not end the windows of all others."""
        try:
            task()
        except Exception:
            log.exception("stream_failed")

    def _append(self, route: RouteConfig, source: str, reading: Reading) -> _Stream:
        name = route.name, source
        stream = self._streams.get(name)
        if stream is None:
            size = self._window_of(route).size
            stream = self._streams[name] = _Stream(route, source, size, self._starts.get(name))
        stream.buffer.add(reading.number, reading.samples)
        stream.readings.append(reading)
        if stream.buffer.samples > stream.lag_max:
            self._lagging.add(name)
        return stream

    def _take(self, route: RouteConfig, source: str, reading: Reading, ack: Acknowledge) -> None:
        try:
            stream = self._append(route, source, reading)
        except Exception:
            ack()  # it is committed, whatever keeps it from its window
            raise
        if stream.name in self._lagging:
            stream.held.append(ack)
        else:
            ack()
        if stream.name not in self._again:
            self._advance(stream)

    def _advance(self, stream: _Stream) -> None:
        """Start the inference of the stream's next window, if there is one and none is under way."""
        if stream.busy:
            return
        window = stream.waiting or stream.buffer.next()
        stream.waiting = None
        if window is None:
            return
        suspicion = None
        if self._suspects.watching:
            suspicion = self._suspects.judge(_digest(stream, window), repeated=window.last_reading <= stream.restored)
        if suspicion is None:
            self._start(stream, window, None)
        elif suspicion.poisonous:
            error = PoisonInput("it was being judged at two unclean stops of the box; it is not tried again")
            stream.busy = True
            self._reject(*self._request(stream, window, suspicion), error)
        elif self._pipeline.is_loading(stream.route.model):
            # Only what is about to be judged is marked.
            self._wait(stream, window)
        elif self._marked is not None:
            # Such windows are judged one at a time, the streams in turn.
            stream.waiting = window
            self._turns[stream.name] = stream
        else:
            self._turns.pop(stream.name, None)
            stream.busy = True
            self._marked = stream.name
            self._store.submit(
                Write(
                    suspect=suspicion.mark,
                    cleared=suspicion.replaces,
                    must=True,
                    done=lambda _: self._post(lambda: self._start(stream, window, suspicion)),
                )
            )

    def _start(self, stream: _Stream, window: Window, suspicion: Suspicion | None) -> None:
        request, recording = self._request(stream, window, suspicion)
        stream.busy = True
        try:
            future = self._pipeline.submit(request, recording)
        except (Overloaded, ModelNotReady):
            self._wait(stream, window)
        except ApplianceError as error:
            self._reject(request, recording, error)
        else:
            future.add_done_callback(lambda done: self._inferred(stream, window, request, recording, done))

    def _request(
        self, stream: _Stream, window: Window, suspicion: Suspicion | None
    ) -> tuple[InferenceRequest, Recording]:
        """A window has the part and the time of its last reading, and the flags of all."""
        covered = [reading for reading in stream.readings if reading.number <= window.last_reading]
        request = InferenceRequest(
            model=stream.route.model,
            body=window.samples.tobytes(),
            media_type=WINDOW,
            source=stream.source,
            door="mqtt",
            part=covered[-1].part,
            override=stream.route.verdict,
            at=covered[-1].at,
            priority=stream.route.priority,
            deadline_s=None if stream.route.expires_ms is None else stream.route.expires_ms / 1000,
        )
        recording = Recording(
            route=stream.route.name,
            window=(window.last_reading, window.end),
            cursor=Cursor(stream.route.name, stream.source, *window.next),
            cleared=None if suspicion is None else suspicion.mark,
            flags=tuple(sorted({flag for reading in covered for flag in reading.flags})),
            must=True,
            done=lambda _: self._post(lambda: self._done(stream, window)),
        )
        return request, recording

    def _wait(self, stream: _Stream, window: Window) -> None:
        """Try the same window again in a moment."""
        self._free(stream)
        stream.waiting = window
        self._again[stream.name] = stream

    def _inferred(
        self,
        stream: _Stream,
        window: Window,
        request: InferenceRequest,
        recording: Recording,
        future: Future[Answer],
    ) -> None:
        """In the lane's thread. A window that cannot be judged is answered with `error`, and the stream goes on."""
        error = future.exception()
        if error is None or self._stopping:
            return
        if isinstance(error, Expired):
            self._pipeline.reject(request, error, None, recording)
            return
        if isinstance(error, Overloaded | ModelNotReady | LaneTimeout):
            self._post(lambda: self._wait(stream, window))
            return
        if not isinstance(error, ApplianceError):
            log.error("inference_failed", source=request.source, exc_info=error)
            error = InferenceError(f"{type(error).__name__}: {error}")
        self._reject(request, recording, error)

    def _reject(self, request: InferenceRequest, recording: Recording, error: ApplianceError) -> None:
        letter = DeadLetter(
            at=request.at,
            topic=f"window of {request.source}",
            client=recording.route or "",
            code=error.code,
            reason=str(error),
            payload=request.body,
        )
        announced = both(recording.done, when_added(partial(self._announce_letter, letter)))
        self._pipeline.reject(request, error, letter, msgspec.structs.replace(recording, done=announced))

    def _done(self, stream: _Stream, window: Window) -> None:
        self._free(stream)
        while stream.readings and stream.readings[0].number < window.next[0]:
            stream.readings.popleft()
        if stream.name in self._lagging and stream.buffer.samples <= stream.lag_max:
            self._lagging.discard(stream.name)
            held, stream.held = stream.held, []
            for ack in held:
                ack()
        self._advance(stream)

    def _free(self, stream: _Stream) -> None:
        stream.busy = False
        if self._marked == stream.name:
            self._marked = None
        if self._marked is None and self._turns:
            following = self._turns.pop(next(iter(self._turns)))
            self._post(lambda: self._advance(following))


def _digest(stream: _Stream, window: Window) -> bytes:
    """16 bytes that stand for a window of a stream, also after a restart."""
    text = f"{stream.route.name}\0{stream.source}\0{window.last_reading}\0{window.end}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
