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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

import msgspec
import numpy as np
import structlog

from appliance.codecs import WINDOW
from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import InferenceRequest
from appliance.core.route_report import StreamCounts
from appliance.core.windows import Window
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
from appliance.mqtt.stream import Reading, Stream, StreamId
from appliance.pipeline import Answer, Pipeline, Recording
from appliance.store import Store
from appliance.writes import DeadLetter, Write, both, when_added

log = structlog.get_logger("streams")

_WAITING_MAX = 10_000
"""Readings that may wait for the thread before those that nobody waits for (QoS 0) are not taken."""

_RETRY_S = 0.05

_ROW_BYTES = 90
"""What a reading takes on disk beside its samples and their times, its index included, roughly."""


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
        self._starts = {(each.route, each.source): each for each in store.cursors()}
        self._routes: Mapping[str, RouteConfig] = {}
        self._streams: dict[StreamId, Stream] = {}
        self._counts: dict[str, StreamCounts] = {}
        self._tasks: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._lagging: set[StreamId] = set()
        self._again: dict[StreamId, Stream] = {}
        self._again_at = 0.0
        self._marked: StreamId | None = None
        self._turns: dict[StreamId, Stream] = {}
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)
        self._stopping = False
        self.beat = time.monotonic()

    def restore(self, store: Store, routes: dict[str, RouteConfig]) -> None:
        """Rebuild the open windows from the readings that were kept. Before `start`."""
        self._routes = routes
        for number, kept in store.open_readings():
            route = routes.get(kept.route)
            if route is None:
                continue
            samples = np.frombuffer(kept.samples, "<f4").reshape(-1, kept.channels)
            try:
                reading = Reading(number, samples, kept.at, kept.part, kept.flags, times=kept.times)
                stream = self._append(route, kept.source, reading)
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

    def follow(self, routes: Mapping[str, RouteConfig]) -> None:
        """From now on these routes, by name. A stream whose windows change begins anew at its cursor."""
        self._post(lambda: self._follow(routes))

    def add(self, route: RouteConfig, source: str, reading: Reading, ack: Acknowledge) -> None:
        """Hand over a committed reading, in order of its number; acknowledged once the stream keeps up."""
        self._post(lambda: self._take(route, source, (reading,), ack))

    def add_all(self, route: RouteConfig, source: str, readings: Sequence[Reading], ack: Acknowledge) -> None:
        """As `add`, for several at once: acknowledged together."""
        self._post(lambda: self._take(route, source, readings, ack))

    def repeated(self, route: RouteConfig, source: str, ack: Acknowledge) -> None:
        """A message that was committed before is acknowledged once the stream keeps up, as if it were new.

        At once it would make room for another one: what waits here would grow from restart to restart.
        """
        self._post(lambda: self._settle((route.name, source), ack))

    def behind(self, route: RouteConfig, source: str) -> bool:
        """Whether a reading that nobody waits for had better not be taken."""
        return (route.name, source) in self._lagging or len(self._tasks) > _WAITING_MAX

    def counts(self) -> dict[str, tuple[StreamCounts, int]]:
        """Of each route that had readings since the start: what became of them, and how many sources it has."""
        streams = list(self._streams)
        return {
            name: (msgspec.structs.replace(counts), sum(route == name for route, _ in streams))
            for name, counts in list(self._counts.items())
        }

    def _counts_of(self, route: RouteConfig) -> StreamCounts:
        counts = self._counts.get(route.name)
        if counts is None:
            counts = self._counts[route.name] = StreamCounts()
        return counts

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

    def _append(self, route: RouteConfig, source: str, reading: Reading) -> Stream | None:
        """None: it has not the channels of its model, which was loaded anew meanwhile; it is kept, but in no window.

        Raises ModelError, ConfigError.
        """
        name = route.name, source
        # It may have come just before its route was changed.
        route = self._routes.get(route.name, route)
        steps = self._window_of(route)
        if reading.samples.shape[1] != len(steps.channels):
            self._counts_of(route).not_joined += 1
            log.warning("readings_not_joined", route=route.name, source=source, readings=1)
            return None
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(route, source, steps, self._counts_of(route), self._starts.get(name))
        stream.add(reading)
        if stream.buffer.samples > stream.lag_max:
            self._lagging.add(name)
        return stream

    def _take(self, route: RouteConfig, source: str, readings: Sequence[Reading], ack: Acknowledge) -> None:
        counts = self._counts_of(route)
        counts.readings += len(readings)
        for reading in readings:
            counts.samples += len(reading.samples)
            counts.bytes += _ROW_BYTES + reading.samples.nbytes + len(reading.times or b"")
        stream = None
        try:
            for reading in readings:
                stream = self._append(route, source, reading) or stream
        except Exception:
            ack()  # they are committed, whatever keeps them from their window
            raise
        self._settle((route.name, source), ack)
        if stream is not None and stream.name not in self._again:
            self._advance(stream)

    def _settle(self, name: StreamId, ack: Acknowledge) -> None:
        if name in self._lagging:
            self._streams[name].held.append(ack)
        else:
            ack()

    def _advance(self, stream: Stream) -> None:
        """Start the inference of the stream's next window, if there is one and none is under way."""
        if stream.busy:
            return
        self._follow_model(stream)
        window = stream.waiting or stream.buffer.next()
        stream.waiting = None
        if window is None:
            self._catch_up(stream)
            self._pass_by(stream)
            return
        suspicion = None
        if window.last_reading <= stream.restored:
            # One window of a stream is under way at a time: the first one again, and no other, may have been it.
            suspicion = self._suspects.judge(_digest(stream, window), repeated=True)
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

    def _start(self, stream: Stream, window: Window, suspicion: Suspicion | None) -> None:
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
        self, stream: Stream, window: Window, suspicion: Suspicion | None
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
            cursor=stream.cursor_after(window),
            cleared=None if suspicion is None else suspicion.mark,
            flags=tuple(sorted({*window.flags, *(flag for reading in covered for flag in reading.flags)})),
            must=True,
            done=lambda _: self._post(lambda: self._done(stream, window)),
        )
        return request, recording

    def _wait(self, stream: Stream, window: Window) -> None:
        """Try the same window again in a moment."""
        self._free(stream)
        stream.waiting = window
        self._again[stream.name] = stream

    def _inferred(
        self,
        stream: Stream,
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

    def _follow(self, routes: Mapping[str, RouteConfig]) -> None:
        self._routes = routes
        for stream in list(self._streams.values()):
            self._guarded(partial(self._advance, stream))

    def _follow_model(self, stream: Stream) -> None:
        """Its route may be another one, or its model loaded anew, and take other windows now."""
        stream.route = self._routes.get(stream.route.name, stream.route)
        try:
            steps = self._window_of(stream.route)
            if stream.fits(steps):
                return
            left_out = stream.cut(steps)
        except ApplianceError:
            return  # what its windows meet, or the status of its route, says why
        log.warning("windows_changed", route=stream.route.name, source=stream.source, size=steps.size)
        if left_out:
            stream.counts.not_joined += left_out
            log.warning("readings_not_joined", route=stream.route.name, source=stream.source, readings=left_out)
        self._catch_up(stream)

    def _done(self, stream: Stream, window: Window) -> None:
        self._free(stream)
        stream.restored = 0
        stream.counts.windows += 1
        stream.move_to(stream.cursor_after(window))
        self._catch_up(stream)
        self._advance(stream)

    def _pass_by(self, stream: Stream) -> None:
        """Tell the store when readings are not needed any more, although they made no window."""
        cursor = stream.passed()
        if cursor is not None:
            stream.move_to(cursor)
            self._store.submit(Write(cursor=cursor, must=True))

    def _catch_up(self, stream: Stream) -> None:
        """Acknowledge what was held while the stream lagged, once it does no more."""
        if stream.name in self._lagging and stream.buffer.samples <= stream.lag_max:
            self._lagging.discard(stream.name)
            held, stream.held = stream.held, []
            for ack in held:
                ack()

    def _free(self, stream: Stream) -> None:
        stream.busy = False
        if self._marked == stream.name:
            self._marked = None
        if self._marked is None and self._turns:
            following = self._turns.pop(next(iter(self._turns)))
            self._post(lambda: self._advance(following))


def _digest(stream: Stream, window: Window) -> bytes:
    """16 bytes that stand for a window of a stream, also after a restart."""
    text = f"{stream.route.name}\0{stream.source}\0{window.last_reading}\0{window.end}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
