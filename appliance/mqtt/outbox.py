"""Results on their way to the site broker: rows of the table `outbox`, deleted when the broker has acknowledged them.

paho's own queue is memory; so rows are handed to it a few at a time, and stay in SQLite until their PUBACK. A row is
handed over once in the life of a process: paho repeats what a lost connection swallowed. Rows that were on their way
when the box went down are sent again, as with every delivery at QoS 1.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque

import structlog

from appliance.mqtt.client import BrokerClient
from appliance.schema import open_reader
from appliance.store import Store
from appliance.writes import Write

log = structlog.get_logger("outbox")

_IN_FLIGHT_MAX = 100
_POLL_S = 1.0


class Outbox:
    """A thread that feeds the broker connection from SQLite, in order."""

    def __init__(self, store: Store, broker: BrokerClient) -> None:
        self._store = store
        self._broker = broker
        self._wake = threading.Event()
        self._stopping = False
        self._last = 0
        self._in_flight: dict[int, int] = {}
        self._acknowledged: deque[int] = deque()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self.beat = time.monotonic()
        broker.on_sent = self._sent

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Hand over no more."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def settle(self) -> None:
        """After `stop`, and after the connection has ended: forget what was acknowledged to the last."""
        self._delete_acknowledged()

    def wake(self) -> None:
        """A result was committed, or the broker is there again."""
        self._wake.set()

    def _sent(self, mid: int) -> None:
        """In paho's thread, under its lock: only note it."""
        self._acknowledged.append(mid)
        self._wake.set()

    def _run(self) -> None:
        rows: sqlite3.Connection | None = None
        while not self._stopping:
            self._wake.wait(_POLL_S)
            self._wake.clear()
            self.beat = time.monotonic()
            try:
                rows = rows or open_reader(self._store.path)
                self._delete_acknowledged()
                self._send(rows)
            except Exception as error:
                # The rows are on disk; whatever keeps them from their way, the next turn tries again.
                log.error("outbox_failed", error=f"{type(error).__name__}: {error}")
        if rows is not None:
            rows.close()

    def _send(self, rows: sqlite3.Connection) -> None:
        room = _IN_FLIGHT_MAX - len(self._in_flight)
        if room <= 0 or not self._broker.status().connected:
            return
        for number, topic, payload in rows.execute(
            "SELECT id, topic, payload FROM outbox WHERE id > ? ORDER BY id LIMIT ?", (self._last, room)
        ).fetchall():
            mid = self._broker.publish(topic, payload)
            if mid is None:
                return
            self._in_flight[mid] = number
            self._last = number

    def _delete_acknowledged(self) -> None:
        done: list[int] = []
        while self._acknowledged:
            # Ids of other messages, such as the status, come by here too.
            number = self._in_flight.pop(self._acknowledged.popleft(), None)
            if number is not None:
                done.append(number)
        if done:
            self._store.submit(Write(sent=tuple(done), must=True))
