"""The way of every message: route, parse, commit, acknowledge.

A picture goes through a lane first; a reading is committed at once and then joins its window. A message is
acknowledged when it is committed, as a result, a reading or a dead letter, and never before. What cannot be
committed yet is not acknowledged, so that its publisher's window fills: that is the backpressure.

After an unclean stop, pictures that are delivered again run alone, with their hash committed first. One that was being
judged, alone, when the box went down again is a dead letter: it cannot keep the box down.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

import msgspec
import structlog

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import InferenceRequest
from appliance.errors import (
    ApplianceError,
    InferenceError,
    InputError,
    ModelNotReady,
    Overloaded,
    PoisonInput,
    RouteNotFound,
    StoreError,
)
from appliance.fields import check_source
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.payloads import parse_picture, parse_readings
from appliance.mqtt.receipts import MAYBE_DUPLICATE, Receipts, hash_of
from appliance.mqtt.streams import Reading, Streams
from appliance.mqtt.topics import matched_levels
from appliance.pipeline import Answer, Pipeline, Recording, now
from appliance.slots import Slots
from appliance.store import DeadLetter, NewReading, Receipt, Store, Write, Written

log = structlog.get_logger("intake")

_TOPICS_REMEMBERED_MAX = 10_000
_WATCHFUL_S = 60.0
_UNCLEAN_STOPS_WATCHFUL = 2


class IntakeStatus(msgspec.Struct, frozen=True):
    """Messages since the start. dropped: at QoS 0, when there was no room."""

    received: int
    duplicates: int
    dead_letters: int
    dropped: int
    waiting: int


class _Picture:
    """A picture on its way to a lane. `suspect`: its hash, when it must run alone."""

    __slots__ = ("message", "recording", "request", "suspect")

    def __init__(
        self, message: InboundMessage, request: InferenceRequest, recording: Recording, suspect: bytes | None
    ) -> None:
        self.message = message
        self.request = request
        self.recording = recording
        self.suspect = suspect


class Intake:
    """`deliver` is called by the doors, each from its own thread."""

    def __init__(
        self,
        routes: Iterable[RouteConfig],
        slots: Slots,
        pipeline: Pipeline,
        store: Store,
        streams: Streams,
        *,
        at_once: int,
        in_flight_max: int,
        announce_letter: Callable[[DeadLetter], None],
    ) -> None:
        self._routes = tuple(routes)
        self._slots = slots
        self._pipeline = pipeline
        self._store = store
        self._streams = streams
        self._at_once = at_once
        self._announce_letter = announce_letter
        self._receipts = Receipts(in_flight_max, store.receipts())
        self._suspects = store.suspects()
        self._unclean_stops = store.unclean_stops
        self._started = time.monotonic()
        self._matched: dict[str, list[tuple[RouteConfig, str]]] = {}
        self._lock = threading.Lock()
        self._waiting: deque[_Picture] = deque()
        self._running = 0
        self._alone = False
        self._received = self._duplicates = self._dead_letters = self._dropped = 0

    def deliver(self, message: InboundMessage, ack: Acknowledge) -> None:
        """Take a message; `ack` is called once it is committed. Never raises."""
        self._received += 1
        try:
            matched = self._match(message.topic)
        except InputError as error:
            self._dead_letter(message, error, None, ack)
            return
        if not matched:
            names = ", ".join(f"{route.name} ({route.topic})" for route in self._routes) or "none"
            unknown = RouteNotFound(f"no route takes topic {message.topic[:200]!r}; the routes are {names}")
            self._dead_letter(message, unknown, None, ack)
            return
        if len(matched) > 1:
            ack = _after(len(matched), ack)
        for route, source in matched:
            try:
                self._deliver(message, route, source, ack)
            except ApplianceError as error:
                self._dead_letter(message, error, None, ack)
            except Exception as error:
                log.exception("message_failed", topic=message.topic)
                self._dead_letter(message, InferenceError(f"{type(error).__name__}: {error}"), None, ack)

    def tick(self, _now: float) -> None:
        """Try again what found no lane; called by the watchdog."""
        self._pump()

    def status(self) -> IntakeStatus:
        return IntakeStatus(
            self._received, self._duplicates, self._dead_letters, self._dropped, len(self._waiting) + self._running
        )

    def _match(self, topic: str) -> list[tuple[RouteConfig, str]]:
        """The routes that take a topic, with the source each reads from it. Raises FieldError for a bad source."""
        matched = self._matched.get(topic)
        if matched is None:
            matched = []
            for route in self._routes:
                levels = matched_levels(route.topic, topic)
                if levels is not None:
                    matched.append((route, check_source(route.source or "-".join(levels) or route.name)))
            if len(self._matched) >= _TOPICS_REMEMBERED_MAX:
                self._matched.clear()
            self._matched[topic] = matched
        return matched

    def _deliver(self, message: InboundMessage, route: RouteConfig, source: str, ack: Acknowledge) -> None:
        if message.retain and not route.retain_as_reading:
            # A broker sends what it retains again on every new subscription: old news, not a new reading.
            self._dropped += 1
            ack()
            return
        steps = self._slots.manifest(route.model).preprocess
        keyed = route.key_field is not None or route.key_property is not None
        receipt: Receipt | None = None
        flags: tuple[str, ...] = ()
        if not keyed:
            delivery, known, doubtful = self._receipts.accept(message, route.name, ack)
            if known:
                self._duplicates += 1
                return
            if delivery is not None:
                receipt = delivery.receipt
                ack = _both(partial(self._receipts.committed, delivery), ack)
            flags = (MAYBE_DUPLICATE,) if doubtful else ()
        try:
            if isinstance(steps, WindowPreprocess):
                self._deliver_readings(message, route, source, steps, receipt, flags, ack)
            else:
                self._deliver_picture(message, route, source, receipt, flags, ack)
        except InputError as error:
            self._reject(message, route, source, error, receipt, ack)

    def _deliver_readings(
        self,
        message: InboundMessage,
        route: RouteConfig,
        source: str,
        steps: WindowPreprocess,
        receipt: Receipt | None,
        flags: tuple[str, ...],
        ack: Acknowledge,
    ) -> None:
        readings = parse_readings(message, route, steps.channels)
        at = now()

        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, StoreError):
                self._dropped += 1
            elif outcome.reading_id is None:
                self._duplicates += 1
                ack()
            else:
                reading = Reading(outcome.reading_id, readings.samples, at, readings.part, flags)
                self._streams.add(route, source, reading, ack)

        self._submit(
            Write(
                reading=NewReading(
                    route=route.name,
                    source=source,
                    at=at,
                    key=readings.key,
                    part=readings.part,
                    flags=flags,
                    channels=len(steps.channels),
                    samples=readings.samples.tobytes(),
                ),
                receipt=receipt,
                must=message.qos > 0,
                done=done,
            )
        )

    def _deliver_picture(
        self,
        message: InboundMessage,
        route: RouteConfig,
        source: str,
        receipt: Receipt | None,
        flags: tuple[str, ...],
        ack: Acknowledge,
    ) -> None:
        digest = hash_of(message) if self._unclean_stops else b""
        if digest in self._suspects:
            self._suspects.discard(digest)
            error = PoisonInput("this picture was being judged, alone, when the box went down; it is not tried again")
            self._reject(message, route, source, error, receipt, ack, cleared=digest)
            return
        picture = parse_picture(message, route)
        suspect = digest if self._must_run_alone(message) else None

        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, StoreError):
                self._dropped += 1
                return
            self._duplicates += outcome.duplicate
            ack()

        request = InferenceRequest(
            model=route.model,
            body=picture.body,
            media_type=picture.media_type,
            source=source,
            door="mqtt",
            part=picture.part,
            override=route.verdict,
            at=now(),
        )
        recording = Recording(
            route=route.name,
            key=picture.key,
            receipt=receipt,
            cleared=suspect,
            flags=flags,
            must=message.qos > 0,
            done=done,
        )
        job = _Picture(message, request, recording, suspect)
        if message.qos == 0 and len(self._waiting) >= 4 * self._at_once:
            self._dropped += 1
            return
        if suspect is None:
            self._queue(job)
        else:
            self._submit(Write(suspect=suspect, must=True, done=lambda _: self._queue(job)))

    def _must_run_alone(self, message: InboundMessage) -> bool:
        """A repeat after an unclean stop; after two in a row, every picture of the first minute."""
        if not self._unclean_stops or message.qos == 0:
            return False
        watchful = self._unclean_stops >= _UNCLEAN_STOPS_WATCHFUL and time.monotonic() - self._started < _WATCHFUL_S
        return message.duplicate or watchful

    def _queue(self, job: _Picture) -> None:
        with self._lock:
            self._waiting.append(job)
        self._pump()

    def _pump(self) -> None:
        """Give waiting pictures to the lanes, a few at a time, so that callers of HTTP find room between them."""
        while (job := self._next()) is not None:
            try:
                future = self._pipeline.submit(job.request, job.recording)
            except (Overloaded, ModelNotReady):
                with self._lock:
                    self._waiting.appendleft(job)
                    self._leave(job)
                return
            except ApplianceError as error:
                with self._lock:
                    self._leave(job)
                self._reject_picture(job, error)
            else:
                future.add_done_callback(partial(self._judged, job))

    def _next(self) -> _Picture | None:
        with self._lock:
            if not self._waiting or self._alone or self._running >= self._at_once:
                return None
            if self._waiting[0].suspect is not None:
                if self._running:
                    return None
                self._alone = True
            self._running += 1
            return self._waiting.popleft()

    def _leave(self, job: _Picture) -> None:
        """Under the lock."""
        self._running -= 1
        if job.suspect is not None:
            self._alone = False

    def _judged(self, job: _Picture, future: Future[Answer]) -> None:
        """In the lane's thread; the acknowledgement follows with the commit."""
        with self._lock:
            self._leave(job)
        error = future.exception()
        if isinstance(error, Overloaded):
            with self._lock:
                self._waiting.appendleft(job)
            return
        if error is not None:
            if not isinstance(error, ApplianceError):
                log.error("inference_failed", topic=job.message.topic, exc_info=error)
                error = InferenceError(f"{type(error).__name__}: {error}")
            self._reject_picture(job, error)
        self._pump()

    def _reject_picture(self, job: _Picture, error: ApplianceError) -> None:
        self._count_letter(job.message, error)
        letter = _letter(job.message, error)
        try:
            self._pipeline.reject(job.request, error, letter, job.recording)
        except (StoreError, Overloaded):
            self._dropped += 1
            return
        self._announce_letter(letter)

    def _reject(
        self,
        message: InboundMessage,
        route: RouteConfig,
        source: str,
        error: ApplianceError,
        receipt: Receipt | None,
        ack: Acknowledge,
        cleared: bytes | None = None,
    ) -> None:
        """A message of a known route that cannot be used: a dead letter, and the answer `error` for its source."""
        request = InferenceRequest(model=route.model, body=b"", media_type="", source=source, door="mqtt", at=now())
        recording = Recording(
            route=route.name, receipt=receipt, cleared=cleared, must=message.qos > 0, done=_acknowledge(ack)
        )
        self._reject_picture(_Picture(message, request, recording, None), error)

    def _dead_letter(
        self, message: InboundMessage, error: ApplianceError, receipt: Receipt | None, ack: Acknowledge
    ) -> None:
        self._count_letter(message, error)
        letter = _letter(message, error)
        self._submit(Write(dead_letter=letter, receipt=receipt, must=message.qos > 0, done=_acknowledge(ack)))
        self._announce_letter(letter)

    def _count_letter(self, message: InboundMessage, error: ApplianceError) -> None:
        self._dead_letters += 1
        log.warning("dead_letter", topic=message.topic, client=message.client, code=error.code, reason=str(error))

    def _submit(self, write: Write) -> None:
        """What need not be kept (QoS 0) is dropped and counted when there is no room."""
        try:
            self._store.submit(write)
        except (StoreError, Overloaded):
            self._dropped += 1


def _letter(message: InboundMessage, error: ApplianceError) -> DeadLetter:
    return DeadLetter(
        at=now(),
        topic=message.topic,
        client=message.client,
        code=error.code,
        reason=str(error),
        payload=message.payload,
    )


def _acknowledge(ack: Acknowledge) -> Callable[[Written | StoreError], None]:
    def done(outcome: Written | StoreError) -> None:
        if isinstance(outcome, Written):
            ack()

    return done


def _both(first: Callable[[], None], second: Acknowledge) -> Acknowledge:
    def ack() -> None:
        first()
        second()

    return ack


def _after(count: int, ack: Acknowledge) -> Acknowledge:
    """An acknowledgement that is due when `count` routes have committed."""
    left = [count]
    lock = threading.Lock()

    def one() -> None:
        with lock:
            left[0] -= 1
            due = left[0] == 0
        if due:
            ack()

    return one
