"""The way of every message: route, parse, commit, acknowledge.

A picture goes through a lane first; a reading is committed at once and then joins its window. A message is
acknowledged when it is committed, as a result, a reading or a dead letter, and never before. What cannot be
committed yet is not acknowledged, so that its publisher's window fills: that is the backpressure.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import structlog

from appliance.config import RouteConfig
from appliance.core.manifest import Kind, WindowPreprocess
from appliance.core.protocol import InferenceRequest, Part
from appliance.errors import (
    ApplianceError,
    Expired,
    FieldError,
    InferenceError,
    InputError,
    Overloaded,
    PoisonInput,
    RetainedStale,
    RouteNotFound,
    StoreError,
)
from appliance.fields import check_source
from appliance.mqtt.arrivals import Arrival
from appliance.mqtt.batches import MESSAGE_BYTES, Batch, Way, Ways
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.payloads import parse_input, part_of
from appliance.mqtt.pictures import Picture, Pictures
from appliance.mqtt.poison import Suspects
from appliance.mqtt.readings import Readers
from appliance.mqtt.receipts import Receipts
from appliance.mqtt.stream import Reading
from appliance.mqtt.streams import Streams
from appliance.mqtt.topics import matched_levels
from appliance.pipeline import Pipeline, Recording, now
from appliance.slots import Slots
from appliance.store import Store
from appliance.writes import DeadLetter, Done, NewReading, Receipt, Write, Written, both, when_added

log = structlog.get_logger("intake")

OPEN_BYTES_MAX = 256 << 20
"""Payload bytes at QoS 1 that may wait for their commit, of all clients together."""

_TOPICS_REMEMBERED_MAX = 10_000
_TOPIC_CHARS_REMEMBERED = 256

_Routing = tuple[tuple[RouteConfig, ...], dict[str, list[tuple[RouteConfig, str | FieldError]]]]
"""The routes, and what they make of topics that came."""


class IntakeStatus(msgspec.Struct, frozen=True):
    """Messages since the start. dropped: at QoS 0, when there was no room."""

    received: int
    duplicates: int
    dead_letters: int
    dropped: int
    waiting: int


class Intake:
    """`deliver` is called by the doors, each from its own thread.

    at_once: pictures of one model given to the lanes.
    """

    def __init__(
        self,
        routes: Iterable[RouteConfig],
        slots: Slots,
        pipeline: Pipeline,
        store: Store,
        streams: Streams,
        receipts: Receipts,
        suspects: Suspects,
        *,
        at_once: int,
        announce_letter: Callable[[DeadLetter], None],
    ) -> None:
        self._routing: _Routing = (tuple(routes), {})
        self._slots = slots
        self._pipeline = pipeline
        self._store = store
        self._streams = streams
        self._receipts = receipts
        self._suspects = suspects
        self._announce_letter = announce_letter
        self._lock = threading.Lock()
        self._open_bytes = 0
        self._ways = Ways()
        self._readers = Readers()
        self._pictures = Pictures(pipeline, store, at_once, expired=self._expire, rejected=self._reject_picture)
        self._received = self._duplicates = self._dead_letters = self._dropped = 0

    def follow(self, routes: Iterable[RouteConfig]) -> None:
        """From now on these routes."""
        self._routing = (tuple(routes), {})

    def deliver(self, message: InboundMessage, ack: Acknowledge) -> None:
        """Take a message; `ack` is called once it is committed. Raises Overloaded, and nothing else: `Deliver`."""
        self._received += 1
        matched = self._match(message.topic)
        if message.subscriptions:
            matched = [each for each in matched if each[0].subscription in message.subscriptions]
        settle = self._open(message, max(1, len(matched)), ack)
        if not matched:
            names = ", ".join(f"{route.name} ({route.topic})" for route in self._routing[0]) or "none"
            self._dead_letter(
                message, RouteNotFound(f"no route takes topic {message.topic[:200]!r}; the routes are {names}"), settle
            )
            return
        for route, source in matched:
            if isinstance(source, FieldError):
                self._dead_letter(message, source, settle)
                continue
            acceptance = self._receipts.accept(message, route.name, partial(self._repeated, route, source, settle))
            if acceptance.known:
                self._duplicates += 1
                continue
            arrival = Arrival(message, route, source, settle, self._receipts, acceptance.delivery, acceptance.doubtful)
            try:
                self._deliver(arrival)
            except ApplianceError as error:
                self._reject(arrival, error)
            except Exception as error:
                log.exception("message_failed", topic=message.topic)
                self._reject(arrival, InferenceError(f"{type(error).__name__}: {error}"))

    def deliver_plain(self, messages: Sequence[tuple[InboundMessage, Acknowledge]]) -> None:
        """As `deliver`, for many of one client: at QoS 1, sent for the first time, without properties.

        Overloaded says that those which were not acknowledged are to come again.
        """
        self._check_room()
        batch = Batch(now())
        ways: dict[str, Way | None] = {}
        for message, ack in messages:
            topic = message.topic
            if topic not in ways:
                ways[topic] = found = self._way(topic)
                if found is not None:
                    self._pipeline.heard(found.source)
            way = ways[topic]
            if way is None or not batch.add(message, ack, way):
                # What came before it in its stream goes before it.
                self._commit_together(batch)
                batch = Batch(now())
                self.deliver(message, ack)
        self._commit_together(batch)

    def tick(self, now: float) -> None:
        """Try again what found no lane or no model, and give up what is too late; called by the watchdog.

        now: monotonic.
        """
        self._pictures.tick(now)

    def status(self) -> IntakeStatus:
        return IntakeStatus(self._received, self._duplicates, self._dead_letters, self._dropped, len(self._pictures))

    def _open(self, message: InboundMessage, routes: int, ack: Acknowledge) -> Acknowledge:
        """Count the message in; what is returned is to be called once for each route, and acknowledges at the last."""
        if message.qos == 0:
            return _nothing
        weight = len(message.payload) + MESSAGE_BYTES
        with self._lock:
            self._check_room()
            self._open_bytes += weight
        left = routes

        def settle() -> None:
            nonlocal left
            with self._lock:
                left -= 1
                if left:
                    return
                self._open_bytes -= weight
            ack()

        return settle

    def _check_room(self) -> None:
        if self._open_bytes > OPEN_BYTES_MAX:
            raise Overloaded(f"{self._open_bytes >> 20} MiB of messages wait for their commit; send it again later")

    def _way(self, topic: str) -> Way | None:
        """How plain readings on a topic are taken many at a time; None: each message for itself."""
        matched = self._match(topic)
        if len(matched) != 1:
            return None
        route, source = matched[0]
        if isinstance(source, FieldError):
            return None
        try:
            steps = self._slots.manifest(route.model).preprocess
        except ApplianceError:
            return None
        return self._ways.way(route, source, steps) if isinstance(steps, WindowPreprocess) else None

    def _commit_together(self, batch: Batch) -> None:
        if not len(batch):
            return
        self._received += len(batch)
        with self._lock:
            self._open_bytes += batch.weight
        self._store.submit(batch.write(self._receipts, self._streams, self._settle_all))

    def _settle_all(self, batch: Batch) -> None:
        self._duplicates += batch.duplicates
        with self._lock:
            self._open_bytes -= batch.weight
        batch.acknowledge(self._receipts)

    def _match(self, topic: str) -> list[tuple[RouteConfig, str | FieldError]]:
        """The routes that take a topic, with the source that each reads from it, or what is wrong with it."""
        routes, known = self._routing
        matched = known.get(topic)
        if matched is None:
            matched = []
            for route in routes:
                levels = matched_levels(route.topic, topic)
                if levels is None:
                    continue
                try:
                    matched.append((route, check_source(_source(route, topic, levels))))
                except FieldError as error:
                    matched.append((route, error))
            if len(topic) <= _TOPIC_CHARS_REMEMBERED:
                if len(known) >= _TOPICS_REMEMBERED_MAX:
                    known.clear()
                known[topic] = matched
        return matched

    def _repeated(self, route: RouteConfig, source: str, settle: Acknowledge) -> None:
        self._streams.repeated(route, source, settle)

    def _deliver(self, arrival: Arrival) -> None:
        """Raises ApplianceError for what cannot be used."""
        message, route = arrival.message, arrival.route
        if message.retain and not route.retain_as_reading:
            # A broker sends what it retains again to a new subscriber: old news, and no part waits for its verdict.
            self._dead_letter(
                message,
                RetainedStale("the broker sent a retained message again; set retain_as_reading to take it"),
                arrival.settled,
                arrival.receipt,
                arrival.source,
            )
            return
        manifest = self._slots.manifest(route.model)
        if isinstance(manifest.preprocess, WindowPreprocess):
            self._deliver_readings(arrival, manifest.preprocess)
        else:
            self._deliver_input(arrival, manifest.kind)

    def _deliver_readings(self, arrival: Arrival, steps: WindowPreprocess) -> None:
        message, route, source = arrival.message, arrival.route, arrival.source
        self._pipeline.heard(source)
        if message.qos == 0 and self._streams.behind(route, source):
            self._dropped += 1
            return
        at = now()
        readings = self._readers.reader(route, steps).read(message, source, at)

        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, StoreError):
                self._dropped += 1
            elif (number := outcome.reading_ids[0]) is None:
                self._duplicates += 1
                self._streams.repeated(route, source, arrival.settled)
            else:
                reading = Reading(number, readings.samples, at, readings.part, arrival.flags, times=readings.times)
                self._streams.add(route, source, reading, arrival.settled)

        self._submit(
            Write(
                readings=(
                    NewReading(
                        route=route.name,
                        source=source,
                        at=at,
                        key=readings.key,
                        part=readings.part,
                        flags=arrival.flags,
                        channels=len(steps.channels),
                        samples=readings.samples.tobytes(),
                        times=readings.times,
                    ),
                ),
                receipt=arrival.receipt_unless_keyed,
                must=arrival.must,
                done=done,
            )
        )

    def _deliver_input(self, arrival: Arrival, kind: Kind) -> None:
        message, route = arrival.message, arrival.route
        if message.qos == 0 and self._pictures.crowded(route.model, route.priority):
            self._dropped += 1
            return
        whole = parse_input(message, route, kind)

        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, StoreError):
                self._dropped += 1
                return
            self._duplicates += outcome.duplicate
            arrival.settled()

        suspicion = None
        if self._suspects.watching:
            suspicion = self._suspects.judge(_digest(message, route), repeated=message.duplicate)
        request = InferenceRequest(
            model=route.model,
            body=whole.body,
            media_type=whole.media_type,
            source=arrival.source,
            door="mqtt",
            part=whole.part,
            override=route.verdict,
            at=now(),
            priority=route.priority,
        )
        recording = Recording(
            route=route.name,
            key=whole.key,
            receipt=arrival.receipt_unless_keyed,
            cleared=None if suspicion is None else suspicion.mark,
            flags=arrival.flags,
            must=arrival.must,
            done=done,
        )
        job = Picture(arrival, request, recording, suspicion)
        if suspicion is not None and suspicion.poisonous:
            self._reject_picture(
                job, PoisonInput("it was being judged at two unclean stops of the box; it is not tried again")
            )
            return
        self._pictures.add(job)

    def _expire(self, job: Picture) -> None:
        """Nothing is wrong with it, but it is too late: its result says so."""
        expired = Expired(f"it was not judged within {job.arrival.route.expires_ms} ms; nobody waits for it any more")
        recording = msgspec.structs.replace(job.recording, receipt=job.arrival.receipt)
        try:
            self._pipeline.reject(job.request, expired, None, recording)
        except (StoreError, Overloaded):
            self._dropped += 1

    def _reject_picture(self, job: Picture, error: ApplianceError) -> None:
        """With its key and its mark; and with a receipt even if it has a key, as it may have none the next time."""
        recording = msgspec.structs.replace(job.recording, receipt=job.arrival.receipt)
        self._record_rejected(job.arrival, job.request, recording, error)

    def _reject(self, arrival: Arrival, error: ApplianceError) -> None:
        """A message of a known route that cannot be used: a dead letter, and the answer `error` for its part."""
        message, route = arrival.message, arrival.route
        try:
            part = part_of(message, {})
        except InputError:
            part = Part()
        request = InferenceRequest(
            model=route.model, body=b"", media_type="", source=arrival.source, door="mqtt", part=part, at=now()
        )
        recording = Recording(
            route=route.name, receipt=arrival.receipt, flags=arrival.flags, must=arrival.must, done=arrival.done
        )
        self._record_rejected(arrival, request, recording, error)

    def _record_rejected(
        self, arrival: Arrival, request: InferenceRequest, recording: Recording, error: ApplianceError
    ) -> None:
        letter = self._letter(arrival.message, error)
        announced = msgspec.structs.replace(recording, done=both(recording.done, self._announcing(letter)))
        try:
            self._pipeline.reject(request, error, letter, announced)
        except (StoreError, Overloaded):
            self._dropped += 1

    def _announcing(self, letter: DeadLetter) -> Done:
        """A dead letter is spoken of when it is committed, and once."""
        return when_added(partial(self._announce_letter, letter))

    def _dead_letter(
        self,
        message: InboundMessage,
        error: ApplianceError,
        settle: Acknowledge,
        receipt: Receipt | None = None,
        source: str | None = None,
    ) -> None:
        """source: None when it cannot be told."""
        letter = self._letter(message, error)

        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, Written):
                settle()

        announced = both(done, self._announcing(letter))
        kept = msgspec.structs.replace(letter, payload=self._pipeline.keepable(source, letter.payload))
        outbox = self._pipeline.letter_rows(letter)
        self._submit(Write(dead_letter=kept, outbox=outbox, receipt=receipt, must=message.qos > 0, done=announced))

    def _letter(self, message: InboundMessage, error: ApplianceError) -> DeadLetter:
        self._dead_letters += 1
        log.warning("dead_letter", topic=message.topic[:200], client=message.client, code=error.code, reason=str(error))
        return DeadLetter(
            at=now(),
            topic=message.topic,
            client=message.client,
            code=error.code,
            reason=str(error),
            payload=message.payload,
        )

    def _submit(self, write: Write) -> bool:
        """What need not be kept (QoS 0) is dropped and counted when there is no room."""
        try:
            self._store.submit(write)
        except (StoreError, Overloaded):
            self._dropped += 1
            return False
        return True


def _source(route: RouteConfig, topic: str, levels: tuple[str, ...]) -> str:
    """levels: those that stand where the route's filter has wildcards."""
    if route.source_level is None:
        return route.source or "-".join(levels) or route.name
    named = topic.split("/")[route.source_level - 1 : route.source_level]
    return named[0] if named else ""


def _digest(message: InboundMessage, route: RouteConfig) -> bytes:
    """16 bytes that stand for a picture on one of its routes."""
    return hashlib.blake2b(message.payload, digest_size=16, key=route.name.encode()).digest()


def _nothing() -> None:
    pass
