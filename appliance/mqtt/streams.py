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
    """A committed reading. samples: (n, channels) float32. came_at: monotonic; of a restored one, when it was read."""

    number: int
    samples: Samples
    at: float
    part: Part
    flags: tuple[str, ...]
    came_at: float = msgspec.field(default_factory=time.monotonic)


class _Stream:
    """State of one stream; only the windows thread touches it.

    readings: from the cursor on. restored: the last reading from before the start.
    """

    def __init__(
        self, route: RouteConfig, source: str, steps: WindowPreprocess, cursor: tuple[int, int] | None
    ) -> None:
        self.name: StreamId = (route.name, source)
        self.route = route
        self.source = source
        self.cursor = cursor
        self.readings: deque[Reading] = deque()
        self.busy = False
        self.held: list[Acknowledge] = []
        self.restored = 0
        self.cut(steps)

    def fits(self, steps: WindowPreprocess) -> bool:
        return (self.size, self.channels) == (steps.size, len(steps.channels))

    def cut(self, steps: WindowPreprocess) -> int:
        """Begin anew at the cursor, with windows for these steps. Returns how many readings have other channels.

        Not while a window is under way, which would be judged twice.
        """
        self.size = steps.size
        self.channels = len(steps.channels)
        hop = self.route.hop or self.size
        self.buffer = WindowBuffer(self.size, hop, self.cursor)
        self.lag_max = self.size + _LAG_WINDOWS_MAX * hop
        self.waiting: Window | None = None
        kept = deque(reading for reading in self.readings if reading.samples.shape[1] == self.channels)
        left_out = len(self.readings) - len(kept)
        self.readings = kept
        for reading in kept:
            self.buffer.add(reading.number, reading.samples)
        return left_out

    def add(self, reading: Reading) -> None:
        """A reading with the channels of windows to come waits until these can be cut."""
        self.readings.append(reading)
        if reading.samples.shape[1] == self.channels:
            self.buffer.add(reading.number, reading.samples)

    def covered(self, window: Window) -> list[Reading]:
        """The readings up to the last one of a window."""
        return [reading for reading in self.readings if reading.number <= window.last_reading]

    def left_s(self, window: Window) -> float | None:
        """Seconds until nobody waits for a window any more, from when it was complete; None: never."""
        if self.route.expires_ms is None:
            return None
        return self.covered(window)[-1].came_at + self.route.expires_ms / 1000 - time.monotonic()


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
                stream = self._append(route, kept.source, Reading(number, samples, kept.at, kept.part, kept.flags))
            except ApplianceError:
                continue
            if stream is not None:
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

    def _append(self, route: RouteConfig, source: str, reading: Reading) -> _Stream | None:
        """None: it has not the channels of its model, which was loaded anew meanwhile; it is kept, but in no window.

        Raises ModelError.
        """
        name = route.name, source
        steps = self._window_of(route)
        if reading.samples.shape[1] != len(steps.channels):
            log.warning("readings_not_joined", route=route.name, source=source, readings=1)
            return None
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(route, source, steps, self._starts.get(name))
        stream.add(reading)
        if stream.buffer.samples > stream.lag_max:
            self._lagging.add(name)
        return stream

    def _take(self, route: RouteConfig, source: str, reading: Reading, ack: Acknowledge) -> None:
        try:
            stream = self._append(route, source, reading)
        except Exception:
            ack()  # it is committed, whatever keeps it from its window
            raise
        if stream is None:
            ack()
            return
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
        self._follow_model(stream)
        window = stream.waiting or stream.buffer.next()
        stream.waiting = None
        if window is None:
            return
        suspicion = None
        if self._suspects.watching:
            suspicion = self._suspects.judge(_digest(stream, window), repeated=window.last_reading <= stream.restored)
        if suspicion is not None and suspicion.poisonous:
            error = PoisonInput("it was being judged at two unclean stops of the box; it is not tried again")
            stream.busy = True
            self._reject(*self._request(stream, window, suspicion), error)
        elif (left_s := stream.left_s(window)) is not None and left_s <= 0:
            stream.busy = True
            self._expire(*self._request(stream, window, suspicion), stream.route)
        elif suspicion is None:
            self._start(stream, window, None)
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
        covered = stream.covered(window)
        left_s = stream.left_s(window)
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
            deadline_s=None if left_s is None else max(0.0, left_s),
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
            self._expire(request, recording, stream.route)
            return
        if isinstance(error, Overloaded | ModelNotReady | LaneTimeout):
            self._post(lambda: self._wait(stream, window))
            return
        if not isinstance(error, ApplianceError):
            log.error("inference_failed", source=request.source, exc_info=error)
            error = InferenceError(f"{type(error).__name__}: {error}")
        self._reject(request, recording, error)

    def _expire(self, request: InferenceRequest, recording: Recording, route: RouteConfig) -> None:
        """Nothing is wrong with it, but it is too late: its result says so, and the stream goes on."""
        expired = Expired(f"it was not judged within {route.expires_ms} ms; nobody waits for it any more")
        self._pipeline.reject(request, expired, None, recording)

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

    def _follow_model(self, stream: _Stream) -> None:
        """Its model may have been loaded anew, and take other windows now."""
        try:
            steps = self._window_of(stream.route)
        except ApplianceError:
            return  # what its windows meet says why
        if not stream.fits(steps):
            left_out = stream.cut(steps)
            log.warning("windows_changed", route=stream.route.name, source=stream.source, size=stream.size)
            if left_out:
                log.warning("readings_not_joined", route=stream.route.name, source=stream.source, readings=left_out)
            self._catch_up(stream)

    def _done(self, stream: _Stream, window: Window) -> None:
        self._free(stream)
        stream.cursor = window.next
        while stream.readings and stream.readings[0].number < window.next[0]:
            stream.readings.popleft()
        self._catch_up(stream)
        self._advance(stream)

    def _catch_up(self, stream: _Stream) -> None:
        """Acknowledge what was held while the stream lagged, once it does no more."""
        if stream.name in self._lagging and stream.buffer.samples <= stream.lag_max:
            self._lagging.discard(stream.name)
            held, stream.held = stream.held, []
            for ack in held:
                ack()

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
