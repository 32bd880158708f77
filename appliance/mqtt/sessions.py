"""What the listener remembers of one client, and of one message on its way to it. No clock, no socket.

Times called `now`, `expires_at` (of a message) and `ends_at` are monotonic seconds; `SavedSession.expires_at` is wall
clock, as it outlives the process.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import msgspec

WAITING_BYTES_MAX = 32 << 20
"""Payload bytes that may wait for one subscriber, beside the count that the configuration allows."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """An application message with the properties that are passed through to subscribers."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    payload_format: int = 0
    expires_at: float | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


class Will(msgspec.Struct, frozen=True):
    """The message a client leaves behind. delay_s: how long after the connection ended; expiry_s: from then on."""

    message: Message
    delay_s: int = 0
    expiry_s: int | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """qos: the granted one, 0 or 1. identifier: sent back with each message that matched (MQTT 5)."""

    topic_filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int | None = None


class SavedSession(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives the process of a session with an expiry.

    expires_at: wall clock, seconds since 1970; None: its client is connected; 0: the session is over, forget it.
    """

    client_id: str
    version: int
    subscriptions: tuple[Subscription, ...]
    expiry_s: int
    expires_at: float | None


class Delivery(msgspec.Struct, frozen=True):
    """A message for one subscriber: the QoS and RETAIN flag it travels with, the identifiers that asked for it."""

    message: Message
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()


class Link(Protocol):
    """The connection of a session, as far as a session knows it. Neither call raises."""

    def pump(self) -> None:
        """Send what waits, as far as the client's window and the socket allow."""

    def taken_over(self) -> None:
        """Another connection came with the same client id: leave the session."""


class Session:
    """Subscriptions, the messages that wait, and those sent but not acknowledged.

    waiting_max: messages; the oldest give way. expiry_s: how long it outlives its connection.
    """

    def __init__(self, client_id: str, version: int, *, expiry_s: int, waiting_max: int) -> None:
        self.client_id = client_id
        self.version = version
        self.expiry_s = expiry_s
        self.ends_at: float | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.link: Link | None = None
        self.will: Will | None = None
        self.will_due = 0.0
        self.saved: SavedSession | None = None
        self._waiting_max = waiting_max
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._sent: dict[int, Delivery] = {}
        self._unsent: dict[int, Delivery] = {}
        self._last_id = 0

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._unsent

    def offer(self, delivery: Delivery) -> int:
        """Let a message wait for the client; returns how many were dropped, the oldest first.

        QoS 0 does not wait for a client that is away.
        """
        if self.link is None and delivery.qos == 0:
            return 0
        self._waiting.append(delivery)
        self._waiting_bytes += len(delivery.message.payload)
        dropped = 0
        while len(self._waiting) > self._waiting_max or (
            self._waiting_bytes > WAITING_BYTES_MAX and len(self._waiting) > 1
        ):
            self._pop()
            dropped += 1
        return dropped

    def take(self, window: int) -> tuple[int | None, Delivery, bool] | None:
        """The next to send as (packet id, delivery, duplicate); None when there is none or `window` are in flight."""
        full = len(self._sent) >= window
        if self._unsent:
            if full:
                return None
            packet_id = next(iter(self._unsent))
            self._sent[packet_id] = again = self._unsent.pop(packet_id)
            return packet_id, again, True
        if not self._waiting:
            return None
        if self._waiting[0].qos == 0:
            return None, self._pop(), False
        if full:
            return None
        packet_id = self._free_id()
        self._sent[packet_id] = delivery = self._pop()
        return packet_id, delivery, False

    def acknowledge(self, packet_id: int) -> bool:
        """Whether a message with that id was in flight."""
        return self._sent.pop(packet_id, None) is not None

    def detach(self) -> None:
        """The connection is gone: what was in flight is sent again first, QoS 0 is let go."""
        self.link = None
        self._unsent = self._sent | self._unsent
        self._sent = {}
        self._waiting = deque(delivery for delivery in self._waiting if delivery.qos)
        self._waiting_bytes = sum(len(delivery.message.payload) for delivery in self._waiting)

    def _pop(self) -> Delivery:
        delivery = self._waiting.popleft()
        self._waiting_bytes -= len(delivery.message.payload)
        return delivery

    def _free_id(self) -> int:
        packet_id = self._last_id
        while True:
            packet_id = packet_id % 65_535 + 1
            if packet_id not in self._sent and packet_id not in self._unsent:
                self._last_id = packet_id
                return packet_id
