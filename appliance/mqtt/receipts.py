"""Recognising a message that is delivered again, where the publisher gives no key.

A delivery is known by client, route, packet id and a hash of topic and payload. Packet ids come round again, and equal
readings are not duplicates: only a message with the DUP flag is compared, and only with the last `window` messages of
its client, as no client has more in flight.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable

from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.store import Receipt

MAYBE_DUPLICATE = "maybe_duplicate"


class Delivery:
    """One accepted message: committed or on its way. `waiting`: to be acknowledged with it."""

    __slots__ = ("committed", "receipt", "waiting")

    def __init__(self, receipt: Receipt, committed: bool) -> None:
        self.receipt = receipt
        self.committed = committed
        self.waiting: list[Acknowledge] = []


class Receipts:
    """Used from the doors' threads and the store's."""

    def __init__(self, window: int, known: Iterable[Receipt]) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._seq: dict[tuple[str, str], int] = {}
        self._streams: dict[tuple[str, str], OrderedDict[int, Delivery]] = {}
        for receipt in known:
            self._add(Delivery(receipt, committed=True))

    def accept(self, message: InboundMessage, route: str, ack: Acknowledge) -> tuple[Delivery | None, bool, bool]:
        """(delivery, known, doubtful). A known one needs no more: `ack` is called here or with the first delivery.

        doubtful: it looks like a repeat, but its session is new, so that nobody can tell; it is to be kept.
        """
        packet_id = message.packet_id
        if message.qos == 0 or packet_id is None:
            return None, False, False
        digest = hash_of(message)
        doubtful = False
        with self._lock:
            stream = self._streams.get((message.client, route))
            found = None if stream is None else stream.get(packet_id)
            if message.duplicate and found is not None and found.receipt.hash == digest:
                if message.session_resumed:
                    if not found.committed:
                        found.waiting.append(ack)
                        return None, True, False
                    ack_now = True
                else:
                    ack_now, doubtful = False, True
            else:
                ack_now = False
            if not ack_now:
                seq = self._seq.get((message.client, route), 0) + 1
                delivery = Delivery(Receipt(message.client, route, packet_id, digest, seq), committed=False)
                self._add(delivery)
        if ack_now:
            ack()
            return None, True, False
        return delivery, False, doubtful

    def committed(self, delivery: Delivery) -> None:
        """The message is on disk: acknowledge the repeats that came meanwhile."""
        with self._lock:
            delivery.committed = True
            waiting, delivery.waiting = delivery.waiting, []
        for ack in waiting:
            ack()

    def _add(self, delivery: Delivery) -> None:
        receipt = delivery.receipt
        stream = receipt.client, receipt.route
        self._seq[stream] = max(receipt.seq, self._seq.get(stream, 0))
        recent = self._streams.setdefault(stream, OrderedDict())
        recent.pop(receipt.packet_id, None)
        recent[receipt.packet_id] = delivery
        while len(recent) > self._window:
            recent.popitem(last=False)


def hash_of(message: InboundMessage) -> bytes:
    """16 bytes that stand for topic and payload."""
    return hashlib.blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16).digest()
