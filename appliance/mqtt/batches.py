"""Plain readings of one client, many at a time: one write, one hand-over to their streams, one acknowledgement.

The same rules as for a message alone, at a fraction of its cost; what is not of the plain form goes that other way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.errors import StoreError
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.quick import QuickReadings, quick_readings
from appliance.mqtt.receipts import Delivery, Receipts
from appliance.mqtt.stream import Reading, StreamId
from appliance.mqtt.streams import Streams
from appliance.writes import NewReading, Write, Written

MESSAGE_BYTES = 1000
"""What a message costs in memory beside its payload, roughly."""


class Way:
    """Where the readings of a topic go, and the decoder for them."""

    __slots__ = ("channels", "keyed", "read", "route", "source")

    def __init__(self, route: RouteConfig, source: str, channels: int, quick: QuickReadings) -> None:
        self.route = route
        self.source = source
        self.channels = channels
        self.keyed = route.key_field is not None
        self.read = quick.read


class Ways:
    """The decoder of each route, until it or its model is another one. For several threads: entries are whole."""

    def __init__(self) -> None:
        self._quick: dict[str, tuple[RouteConfig, WindowPreprocess, QuickReadings | None]] = {}

    def way(self, route: RouteConfig, source: str, steps: WindowPreprocess) -> Way | None:
        """None: readings of this route are not of the plain form."""
        known = self._quick.get(route.name)
        if known is None or known[0] is not route or known[1] is not steps:
            known = self._quick[route.name] = (route, steps, quick_readings(route, len(steps.channels)))
        quick = known[2]
        return None if quick is None else Way(route, source, len(steps.channels), quick)


class Batch:
    """Readings that are committed together. at: wall clock, when they came."""

    def __init__(self, at: float) -> None:
        self.weight = 0
        self.duplicates = 0
        self._at = at
        self._readings: list[NewReading] = []
        self._messages: list[InboundMessage] = []
        self._ways: list[Way] = []
        self._acks: list[Acknowledge] = []
        self._deliveries: list[Delivery] = []

    def __len__(self) -> int:
        return len(self._readings)

    def add(self, message: InboundMessage, ack: Acknowledge, way: Way) -> bool:
        """False: its payload is not of the plain form."""
        found = way.read(message.payload)
        if found is None:
            return False
        samples, part, key = found
        self._readings.append(
            NewReading(
                route=way.route.name,
                source=way.source,
                at=self._at,
                key=key,
                part=part,
                channels=way.channels,
                samples=samples,
            )
        )
        self._messages.append(message)
        self._ways.append(way)
        self._acks.append(ack)
        self.weight += len(message.payload) + MESSAGE_BYTES
        return True

    def write(self, receipts: Receipts, streams: Streams, settled: Callable[[Batch], None]) -> Write:
        """settled: told when every reading is committed and its stream has room for it; `acknowledge` is due then."""
        pairs = list(zip(self._messages, self._ways, strict=True))
        self._deliveries = receipts.accept_new([(message, way.route.name) for message, way in pairs])
        # What is recorded under the publisher's key needs no receipt on disk.
        noted = [one.receipt for one, way in zip(self._deliveries, self._ways, strict=False) if not way.keyed]

        def done(outcome: Written | StoreError) -> None:
            if isinstance(outcome, Written):
                self._hand_over(outcome.reading_ids, streams, settled)

        return Write(readings=tuple(self._readings), receipts=tuple(noted), must=True, done=done)

    def acknowledge(self, receipts: Receipts) -> None:
        receipts.committed_all(self._deliveries)
        for ack in self._acks:
            ack()

    def _hand_over(self, numbers: Sequence[int | None], streams: Streams, settled: Callable[[Batch], None]) -> None:
        """To their streams, each of which says when it has room: with the last one all is settled."""
        came_at = time.monotonic()
        joined: dict[StreamId, tuple[RouteConfig, list[Reading]]] = {}
        flat = np.frombuffer(b"".join([new.samples for new in self._readings]), "<f4")
        end = 0
        for number, new, way in zip(numbers, self._readings, self._ways, strict=True):
            begin, end = end, end + len(new.samples) // 4
            _, readings = joined.setdefault((new.route, new.source), (way.route, []))
            if number is None:
                self.duplicates += 1
                continue
            samples = flat[begin:end].reshape(-1, new.channels)
            readings.append(Reading(number, samples, new.at, new.part, new.flags, came_at))
        left = len(joined)

        def one_settled() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                settled(self)

        for (_, source), (route, readings) in joined.items():
            # The streams' thread alone calls back.
            if readings:
                streams.add_all(route, source, readings, one_settled)
            else:
                streams.repeated(route, source, one_settled)
