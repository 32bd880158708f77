"""What is told to the box itself, rather than to a model: triggers, pictures for triggers, commands.

A trigger and a command are acknowledged when they are committed. A picture on a camera's topic is acknowledged when it
is held in memory, and not committed: the next one takes its place, and only what a trigger makes of it is kept. Where
a route takes the same topic, the picture is an input of that route too, and acknowledged when that is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

import msgspec
import structlog

from appliance.codecs import decode_json, sniff
from appliance.core.asking import read_trigger
from appliance.core.protocol import Part
from appliance.errors import ApplianceError, DecodeError, InputError, RetainedStale, StoreError
from appliance.fields import base64_bytes, check_part
from appliance.mqtt.message import Acknowledge, Deliver, DeliverPlain, InboundMessage
from appliance.mqtt.receipts import Delivery, Receipts
from appliance.mqtt.topics import valid_topic
from appliance.plant.asked import Asked, ReplyTo
from appliance.plant.cameras import Cameras
from appliance.plant.triggers import Triggers
from appliance.store import Store
from appliance.writes import DeadLetter, Done, Outgoing, Write, Written, both, when_added

log = structlog.get_logger("commands")

Command = Callable[[bytes, str], Future[Any]]
"""(payload, client) -> what it came to, once that is committed. Raises ApplianceError, as the future does."""

Reply = Callable[[str, bytes, ReplyTo], bool]
"""(topic, body, where): publish an answer."""

_OWN = frozenset(("part", "lot", "recipe", "key"))


class Commands:
    """Stands before the intake: takes what is its own, by exact topic, and hands on everything else.

    takes: whether some route takes a topic. own: whether the box alone may speak there, or a route takes it. heard:
    told the camera of each picture. keepable: what of a payload may be kept.
    """

    def __init__(
        self,
        prefix: str,
        triggers: Triggers,
        cameras: Cameras,
        commands: Mapping[str, Command],
        receipts: Receipts,
        store: Store,
        *,
        deliver: Deliver,
        deliver_plain: DeliverPlain,
        takes: Callable[[str], bool],
        own: Callable[[str], bool],
        heard: Callable[[str], None],
        keepable: Callable[[str | None, bytes], bytes],
        broker: str | None,
        reply: Reply,
        announce_letter: Callable[[DeadLetter], None],
        outgoing_letter: Callable[[DeadLetter], tuple[Outgoing, ...]],
    ) -> None:
        self._triggers = triggers
        self._cameras = cameras
        self._receipts = receipts
        self._store = store
        self._pass_on = deliver
        self._pass_on_plain = deliver_plain
        self._takes = takes
        self._own = own
        self._heard = heard
        self._keepable = keepable
        self._broker = broker
        self._reply = reply
        self._announce_letter = announce_letter
        self._outgoing_letter = outgoing_letter
        self._handlers: dict[str, Callable[[InboundMessage, Acknowledge], None]] = {}
        for topic, names in cameras.topics.items():
            self._handlers[topic] = partial(self._frame, names)
        for config in triggers.configs:
            for topic in filter(None, (config.topic, f"{prefix}/cmd/trigger/{config.name}")):
                self._handlers[topic] = partial(self._trigger, config.name)
        for name, command in commands.items():
            self._handlers[f"{prefix}/cmd/{name}"] = partial(self._command, name, command)

    @property
    def topics(self) -> Iterable[str]:
        """What the box subscribes to for this."""
        return self._handlers

    def deliver(self, message: InboundMessage, ack: Acknowledge) -> None:
        """As `Intake.deliver`."""
        handler = self._handlers.get(message.topic)
        copied_for_others = message.subscriptions and message.topic not in message.subscriptions
        if handler is None or copied_for_others:
            self._pass_on(message, ack)
        else:
            handler(message, ack)

    def deliver_plain(self, messages: Sequence[tuple[InboundMessage, Acknowledge]]) -> None:
        """As `Intake.deliver_plain`; the order of what a client sent is kept."""
        if not any(message.topic in self._handlers for message, _ in messages):
            self._pass_on_plain(messages)
            return
        for message, ack in messages:
            self.deliver(message, ack)

    def _frame(self, names: Sequence[str], message: InboundMessage, ack: Acknowledge) -> None:
        routed = self._takes(message.topic)
        if message.retain:
            # Nobody knows how old it is.
            self._pass_on(message, ack) if routed else ack()
            return
        try:
            body = _picture(message.payload)
        except InputError as error:
            if routed:
                self._pass_on(message, ack)
            else:
                self._dead_letter(message, error, ack, names[0])
            return
        for name in names:
            self._cameras.put(name, body)
        if routed:
            self._pass_on(message, ack)
            return
        for name in names:
            self._heard(name)
        ack()

    def _trigger(self, name: str, message: InboundMessage, ack: Acknowledge) -> None:
        if message.retain:
            self._dead_letter(message, RetainedStale("a retained trigger was sent again: no part waits for it"), ack)
            return
        acceptance = self._receipts.accept(message, f"trigger {name}", ack)
        if acceptance.known:
            return
        delivery = acceptance.delivery
        part, key, error = _said(message)
        self._triggers.ask(
            Asked(
                trigger=name,
                part=part,
                key=key,
                at=round(time.time(), 6),
                received=time.monotonic(),
                must=message.qos > 0,
                error=error,
                receipt=None if delivery is None else delivery.receipt,
                taken=self._taken(delivery, ack),
                reply=self._reply_to(message),
            )
        )

    def _command(self, name: str, command: Command, message: InboundMessage, ack: Acknowledge) -> None:
        if message.retain:
            self._dead_letter(message, RetainedStale(f"a retained command {name} was sent again"), ack)
            return
        try:
            future = command(message.payload, message.client)
        except ApplianceError as error:
            self._refuse_command(message, error, ack)
        else:
            future.add_done_callback(partial(self._commanded, message, ack))

    def _commanded(self, message: InboundMessage, ack: Acknowledge, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._answer_command(message, msgspec.json.encode(future.result()))
            ack()
        elif isinstance(error, StoreError):
            return  # it is not acknowledged, and comes again
        else:
            told = error if isinstance(error, ApplianceError) else ApplianceError(f"{type(error).__name__}: {error}")
            self._refuse_command(message, told, ack)

    def _refuse_command(self, message: InboundMessage, error: ApplianceError, ack: Acknowledge) -> None:
        refusal = {"error": {"code": error.code, "message": str(error)}}
        self._answer_command(message, msgspec.json.encode(refusal))
        self._dead_letter(message, error, ack)

    def _answer_command(self, message: InboundMessage, body: bytes) -> None:
        reply = self._reply_to(message)
        if reply.topic is not None:
            self._reply(reply.topic, body, reply)

    def _reply_to(self, message: InboundMessage) -> ReplyTo:
        """A response topic where only the box may speak, or where it listens, is not used: it would forge, or loop."""
        topic = message.response_topic
        if topic is not None and (not valid_topic(topic) or topic in self._handlers or self._own(topic)):
            log.warning("response_topic_refused", client=message.client, topic=topic[:200])
            topic = None
        via: Literal["listener", "broker"] = "broker" if message.client == self._broker else "listener"
        return ReplyTo(via, topic, None if topic is None else message.correlation_data)

    def _taken(self, delivery: Delivery | None, ack: Acknowledge) -> Done:
        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, StoreError):
                return
            if delivery is not None:
                self._receipts.committed(delivery)
            ack()

        return done

    def _dead_letter(
        self, message: InboundMessage, error: ApplianceError, ack: Acknowledge, camera: str | None = None
    ) -> None:
        """camera: whose picture it was to be, and whose rules of privacy hold."""
        log.warning("dead_letter", topic=message.topic, client=message.client, code=error.code, reason=str(error))
        letter = DeadLetter(
            at=round(time.time(), 6),
            topic=message.topic,
            client=message.client,
            code=error.code,
            reason=str(error),
            payload=message.payload,
        )
        # Whoever is told hears how long it was, whatever of it may be kept.
        kept = msgspec.structs.replace(letter, payload=self._keepable(camera, message.payload))
        outbox = self._outgoing_letter(letter)
        done = both(self._taken(None, ack), when_added(partial(self._announce_letter, letter)))
        try:
            self._store.submit(Write(dead_letter=kept, outbox=outbox, must=message.qos > 0, done=done))
        except ApplianceError:
            return  # at QoS 0, and there is no room


def _said(message: InboundMessage) -> tuple[Part, str | None, InputError | None]:
    named = {name: value for name, value in message.user_properties if name in _OWN}
    try:
        said = read_trigger(message.payload, named)
        return check_part(said.part, said.lot, said.recipe), said.key, None
    except InputError as error:
        return Part(), None, error


def _picture(payload: bytes) -> bytes:
    """JPEG or PNG, as it is or in JSON with `image` in base64. Raises InputError."""
    if payload[:1] == b"{":
        content = decode_json(payload)
        if not isinstance(content, dict) or "image" not in content:
            raise DecodeError('expected a JSON object with "image" in base64')
        payload = base64_bytes(content["image"], "image")
    sniff(payload)
    return payload
