"""What the listener remembers of one client, and of one message on its way to it. No clock, no socket.

Times called `now`, `expires_at` (of a message) and `ends_at` are monotonic seconds; `SavedSession.expires_at` is wall
clock, as it outlives the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec


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

    @property
    def weight(self) -> int:
        """Bytes that it holds in memory, roughly."""
        size = len(self.payload) + len(self.topic) + len(self.correlation_data or b"")
        if self.user_properties:
            size += sum(len(name) + len(value) for name, value in self.user_properties)
        return size


class Will(msgspec.Struct, frozen=True):
    """The message a client leaves behind. delay_s: how long after the connection ended; expiry_s: from then on."""

    message: Message
    delay_s: int = 0
    expiry_s: int | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """qos: the granted one, 0 or 1. identifier: sent back with each message that matched (MQTT 5).

    topic_filter: as the client gave it, `$share/<group>/` included.
    """

    topic_filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int | None = None


class SavedSession(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives the process of a session with an expiry.

    expires_at: wall clock, seconds since 1970; None: its client is connected; 0: the session is over, forget it.
    user: whose it is, None where nobody logs in.
    """

    client_id: str
    version: int
    subscriptions: tuple[Subscription, ...]
    expiry_s: int
    expires_at: float | None
    user: str | None = None


class Delivery(msgspec.Struct, frozen=True):
    """A message for one subscriber: the QoS and RETAIN flag it travels with, the identifiers that asked for it.

    share: the whole filter of the shared subscription it came by.
    """

    message: Message
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    share: str | None = None


class Budget:
    """Bytes that wait for all subscribers together."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Link(Protocol):
    """The connection of a session, as far as a session knows it. No call raises."""

    def pump(self) -> None:
        """Send what waits, as far as the client's window and the socket allow."""

    def taken_over(self) -> None:
        """Another connection came with the same client id: leave the session."""

    def received(self, packet_id: int) -> None:
        """The message that the client sent at QoS 2 is safe: PUBREC."""

    def released(self, packet_id: int, found: bool) -> None:
        """Its packet id is free again: PUBCOMP. found: it was in use before."""


class Session:
    """Subscriptions, the messages that wait, and those sent but not acknowledged.

    waiting_max, bytes_max: messages and bytes that wait; the oldest give way. expiry_s: how long it outlives its
    connection. receiving, unreleased: packet ids of QoS 2 from its client, before and after their PUBREC.
    """

    def __init__(
        self, client_id: str, version: int, *, expiry_s: int, waiting_max: int, bytes_max: int, budget: Budget
    ) -> None:
        self.client_id = client_id
        self.version = version
        self.expiry_s = expiry_s
        self.user: str | None = None
        self.ends_at: float | None = None
        self.over = False
        self.subscriptions: dict[str, Subscription] = {}
        self.link: Link | None = None
        self.will: Will | None = None
        self.will_due = 0.0
        self.saved: SavedSession | None = None
        self.receiving: set[int] = set()
        self.unreleased: set[int] = set()
        self._waiting_max = waiting_max
        self._bytes_max = bytes_max
        self._budget = budget
        self._bytes = 0
        self._retained: deque[Delivery] = deque()
        self._waiting: deque[Delivery] = deque()
        self._sent: dict[int, Delivery] = {}
        self._unsent: dict[int, Delivery] = {}
        self._last_id = 0

    @property
    def lasts(self) -> bool:
        """Whether it outlives its connection."""
        return self.expiry_s > 0

    def offer(self, delivery: Delivery) -> int:
        """Let a message wait for the client; returns how many were dropped, the oldest first.

        QoS 0 does not wait for a client that is away.
        """
        if self.link is None and delivery.qos == 0:
            return 0
        self._waiting.append(delivery)
        self._hold(delivery.message.weight)
        dropped = 0
        while len(self._waiting) > self._waiting_max or (
            (self._bytes > self._bytes_max and len(self._waiting) > 1)
            or (self._budget.held > self._budget.limit and self._waiting)
        ):
            self._hold(-self._waiting.popleft().message.weight)
            dropped += 1
        return dropped

    def offer_retained(self, delivery: Delivery, most: int) -> bool:
        """Let a retained message wait, ahead of what is new; it is none of the `waiting_max`.

        most: retained messages that may wait. False: there was no room.
        """
        if len(self._retained) >= most or self._budget.held > self._budget.limit:
            return False
        self._retained.append(delivery)
        self._hold(delivery.message.weight)
        return True

    def take(self, window: int) -> tuple[int | None, Delivery, bool] | None:
        """The next to send as (packet id, delivery, duplicate); None when there is none or `window` are in flight."""
        full = len(self._sent) >= window
        if self._unsent:
            if full:
                return None
            packet_id = next(iter(self._unsent))
            self._sent[packet_id] = again = self._unsent.pop(packet_id)
            return packet_id, again, True
        queue = self._retained or self._waiting
        if not queue:
            return None
        if queue[0].qos == 0:
            delivery = queue.popleft()
            self._hold(-delivery.message.weight)
            return None, delivery, False
        if full:
            return None
        packet_id = self._free_id()
        self._sent[packet_id] = delivery = queue.popleft()
        return packet_id, delivery, False

    def acknowledge(self, packet_id: int) -> bool:
        """Whether a message with that id was in flight."""
        delivery = self._sent.pop(packet_id, None)
        if delivery is None:
            return False
        self._hold(-delivery.message.weight)
        return True

    def detach(self) -> None:
        """The connection is gone: what was in flight is sent again first, QoS 0 is let go."""
        self.link = None
        self._unsent = self._sent | self._unsent
        self._sent = {}
        self._keep_where(lambda delivery: delivery.qos > 0)

    def surrender(self, shares: set[str]) -> list[Delivery]:
        """While detached: give up what came by these shared subscriptions and was not acknowledged."""
        given = [delivery for delivery in self._unsent.values() if delivery.share in shares]
        given += [delivery for delivery in self._waiting if delivery.share in shares]
        if given:
            self._unsent = {number: one for number, one in self._unsent.items() if one.share not in shares}
            self._keep_where(lambda delivery: delivery.share not in shares)
        return given

    def end(self) -> None:
        """It is over; nothing that belongs to it is to be done any more."""
        self.over = True
        self._unsent = {}
        self._keep_where(lambda _: False)

    def _keep_where(self, wanted: Callable[[Delivery], bool]) -> None:
        """Of what waits. Nothing is in flight now, so what is held is counted anew."""
        self._retained = deque(filter(wanted, self._retained))
        self._waiting = deque(filter(wanted, self._waiting))
        held = (*self._unsent.values(), *self._retained, *self._waiting)
        self._hold(sum(delivery.message.weight for delivery in held) - self._bytes)

    def _hold(self, size: int) -> None:
        self._bytes += size
        self._budget.held += size

    def _free_id(self) -> int:
        packet_id = self._last_id
        while True:
            packet_id = packet_id % 65_535 + 1
            if packet_id not in self._sent and packet_id not in self._unsent:
                self._last_id = packet_id
                return packet_id
