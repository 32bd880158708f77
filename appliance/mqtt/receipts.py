"""Recognising a message that is delivered again in a session that was resumed.

A delivery is known by client, route, packet id and a hash of what was sent. Packet ids come round again, and equal
readings are not duplicates: only a message with the DUP flag is compared, and only with the last messages of its
client, as no client has more in flight. In a new session nobody can tell: the message is kept, and flagged.

Only clients whose session outlives their connection are remembered; for the others there is nothing to resume.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.writes import Receipt

MAYBE_DUPLICATE = "maybe_duplicate"


class Delivery:
    """One accepted message: committed or on its way. `waiting`: a repeat that is to be acknowledged with it."""

    __slots__ = ("committed", "receipt", "waiting")

    def __init__(self, receipt: Receipt, committed: bool) -> None:
        self.receipt = receipt
        self.committed = committed
        self.waiting: Acknowledge | None = None


class Acceptance:
    """known: it came before, no more is to be done. doubtful: perhaps it did. delivery: None where none is kept."""

    __slots__ = ("delivery", "doubtful", "known")

    def __init__(self, *, known: bool = False, doubtful: bool = False, delivery: Delivery | None = None) -> None:
        self.known = known
        self.doubtful = doubtful
        self.delivery = delivery


_FREED = b""
"""In place of a hash: no message has it."""

_NEW = Acceptance()
_DOUBTFUL = Acceptance(doubtful=True)
_KNOWN = Acceptance(known=True)


class Receipts:
    """Used from the doors' threads and the store's.

    window: messages that a client may have in flight. windows: of clients that have another one.
    """

    def __init__(self, window: int, known: Iterable[Receipt], windows: Mapping[str, int] | None = None) -> None:
        self._window = window
        self._windows = windows or {}
        self._lock = threading.Lock()
        # client -> route -> packet id -> delivery, oldest first
        self._clients: dict[str, dict[str, OrderedDict[int, Delivery]]] = {}
        self._seq = 0
        for receipt in known:
            self._clients.setdefault(receipt.client, {})
            self._add(Delivery(receipt, committed=True))

    def remember(self, client: str) -> None:
        """The session of this client lasts."""
        with self._lock:
            self._clients.setdefault(client, {})

    def forget(self, client: str) -> None:
        """The session of this client is over, and its packet ids mean nothing any more."""
        with self._lock:
            self._clients.pop(client, None)

    def accept(self, message: InboundMessage, route: str, ack: Acknowledge) -> Acceptance:
        """Take note of a message. `ack` of a known one is called here, or when the first delivery is committed."""
        packet_id = message.packet_id
        if packet_id is None:
            return _NEW
        doubtful = message.duplicate and not message.session_resumed
        if message.client not in self._clients:
            return _DOUBTFUL if doubtful else _NEW
        digest = hash_of(message)
        with self._lock:
            routes = self._clients.setdefault(message.client, {})
            recent = routes.get(route)
            found = None if recent is None or not message.duplicate or doubtful else recent.get(packet_id)
            if found is None or found.receipt.hash != digest:
                self._seq += 1
                delivery = Delivery(Receipt(message.client, route, packet_id, digest, self._seq), committed=False)
                self._add(delivery)
                return Acceptance(doubtful=doubtful, delivery=delivery)
            if found.committed:
                stale: Acknowledge | None = ack
            else:
                # Of several repeats only the last one still has a connection; what the others hold is let go.
                stale, found.waiting = found.waiting, ack
        if stale is not None:
            stale()
        return _KNOWN

    def accept_new(self, messages: Sequence[tuple[InboundMessage, str]]) -> list[Delivery]:
        """Take note of messages of one client, each with its route, that were sent for the first time.

        Empty for a client whose messages are not remembered.
        """
        if not messages or messages[0][0].client not in self._clients:
            return []
        noted: list[Delivery] = []
        with self._lock:
            for message, route in messages:
                assert message.packet_id is not None
                self._seq += 1
                receipt = Receipt(message.client, route, message.packet_id, hash_of(message), self._seq)
                noted.append(Delivery(receipt, committed=False))
                self._clients.setdefault(message.client, {})
                self._add(noted[-1])
        return noted

    def committed_all(self, deliveries: Sequence[Delivery]) -> None:
        """As `committed`, of many."""
        waiting: list[Acknowledge] = []
        with self._lock:
            for delivery in deliveries:
                delivery.committed = True
                if delivery.waiting is not None:
                    waiting.append(delivery.waiting)
                    delivery.waiting = None
        for acknowledge in waiting:
            acknowledge()

    def release(self, client: str, packet_id: int) -> tuple[Receipt, ...]:
        """At QoS 2 the client has said that it will not repeat this message. Returns what takes its place on disk."""
        with self._lock:
            freed = []
            for route, recent in self._clients.get(client, {}).items():
                if recent.pop(packet_id, None) is not None:
                    self._seq += 1
                    freed.append(Receipt(client, route, packet_id, _FREED, self._seq))
            return tuple(freed)

    def committed(self, delivery: Delivery) -> None:
        """The message is on disk: acknowledge the repeat that came meanwhile."""
        with self._lock:
            delivery.committed = True
            waiting, delivery.waiting = delivery.waiting, None
        if waiting is not None:
            waiting()

    def _add(self, delivery: Delivery) -> None:
        receipt = delivery.receipt
        self._seq = max(self._seq, receipt.seq)
        recent = self._clients[receipt.client].setdefault(receipt.route, OrderedDict())
        recent.pop(receipt.packet_id, None)
        recent[receipt.packet_id] = delivery
        window = self._windows.get(receipt.client, self._window)
        while len(recent) > window:
            oldest = next(iter(recent.values()))
            if not oldest.committed:
                # A slow one, such as a hanging picture, is overtaken by many; it may still come again.
                break
            recent.popitem(last=False)


def hash_of(message: InboundMessage) -> bytes:
    """16 bytes that stand for what was sent: topic, payload and user properties."""
    digest = hashlib.blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16)
    if message.user_properties:
        digest.update(repr(message.user_properties).encode())
    return digest.digest()
