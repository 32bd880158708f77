"""A destination behind a broker: each row a message of QoS 1, taken when its PUBACK is there.

A message carries the user properties `key`, the same whenever it is sent, and `late`, on rows that waited too long
(MQTT 5; a broker that knows 3.1.1 only hands neither on). What a lost connection swallowed is repeated by paho itself,
for as long as this process lives, so a row is handed over once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from appliance.config import MqttUpstream
from appliance.core.upstream import fate_of_reason
from appliance.mqtt.client import BrokerClient
from appliance.outbox.link import REFUSED_AT_ONCE, Away, Row, Sent

_IN_FLIGHT_MAX = 100
_LATE_IN_FLIGHT_MAX = 10
"""Late rows that may stand before a live one in the connection's queue."""


def upstream_connection(device: str, name: str, config: MqttUpstream) -> BrokerClient:
    """A connection of its own, not started; central sees by the retained status whether the box is there.

    Raises ConfigError.
    """
    assert config.broker is not None
    return BrokerClient(
        config.broker,
        config.broker.client_id or f"{device}-{name}",
        (),
        lambda _message, ack: ack(),
        (f"appliance/{device}/status", b'{"state":"offline"}'),
    )


class MqttLink:
    """on_settled: told in the network thread that `settled` has news. owned: the connection ends with it."""

    def __init__(self, broker: BrokerClient, on_settled: Callable[[], None], status_topic: str, *, owned: bool) -> None:
        self._broker = broker
        self._on_settled = on_settled
        self._status_topic = status_topic
        self._owned = owned
        self._lock = threading.Lock()
        self._in_flight: dict[int, tuple[Row, bool]] = {}
        self._late = 0
        # Filled under paho's lock, where ours must not be taken.
        self._told: deque[tuple[int, int]] = deque()
        self._outcomes: dict[str, list[tuple[Row, int]]] = {}
        self._refused_in_a_row = 0
        broker.on_sent = self._sent
        if owned:
            broker.on_connected = self._connected

    def room(self, *, late: bool) -> int:
        if not self._broker.status().connected:
            return 0
        with self._lock:
            return (_LATE_IN_FLIGHT_MAX - self._late) if late else _IN_FLIGHT_MAX - len(self._in_flight)

    def send(self, rows: Sequence[Row], *, late: bool) -> Sent:
        for index, row in enumerate(rows):
            user = (("key", row.key), ("late", "true")) if late else (("key", row.key),)
            with self._lock:
                mid = self._broker.publish(row.topic, row.payload, content_type=row.media, user=user)
                if mid is None:
                    return Sent(again=tuple(rows[index:]))
                self._in_flight[mid] = (row, late)
                self._late += late
        return Sent()

    def settled(self, queue: str) -> Sent:
        with self._lock:
            while self._told:
                mid, reason = self._told.popleft()
                # Ids of other messages, such as the status, come by here too.
                row, late = self._in_flight.pop(mid, (None, False))
                if row is not None:
                    self._late -= late
                    self._outcomes.setdefault(row.queue, []).append((row, reason))
            outcomes = self._outcomes.pop(queue, [])
            return self._judge(outcomes) if outcomes else Sent()

    def state(self) -> str | None:
        status = self._broker.status()
        return None if status.connected else f"no connection to {self._broker.address}: {status.reason}"

    def close(self) -> None:
        if self._owned:
            self._broker.stop()

    def _connected(self) -> None:
        """In the network thread: the last will may have announced the box as offline."""
        self._broker.publish(self._status_topic, b'{"state":"online"}', retain=True)
        self._on_settled()

    def _sent(self, mid: int, reason: int) -> None:
        """In paho's thread, under its lock: only note it."""
        self._told.append((mid, reason))
        self._on_settled()

    def _judge(self, outcomes: list[tuple[Row, int]]) -> Sent:
        taken: list[Row] = []
        refused: list[tuple[Row, str]] = []
        again: list[Row] = []
        away: Away | None = None
        for row, reason in outcomes:
            fate = fate_of_reason(reason)
            if fate == "taken":
                self._refused_in_a_row = 0
                taken.append(row)
                continue
            if fate == "refused" and self._refused_in_a_row < REFUSED_AT_ONCE:
                self._refused_in_a_row += 1
                refused.append((row, f"the broker refused it with reason code 0x{reason:02x}"))
                continue
            if fate == "refused" and not refused and not again:
                # One for each try: neither is all lost quickly, nor does one row keep the others for ever.
                refused.append((row, f"the broker refused it with reason code 0x{reason:02x}, as many before it"))
                away = Away(f"the broker refuses everything (reason code 0x{reason:02x})", fault=True)
                continue
            again.append(row)
            away = away or Away(
                f"the broker refuses what this box publishes (reason code 0x{reason:02x}); give its user the right to",
                fault=fate != "later",
            )
        return Sent(tuple(taken), tuple(refused), tuple(again), away)
