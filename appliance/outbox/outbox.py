"""The outbox put together: a desk that makes rows, and for each destination the lanes that carry them away.

Three lanes at most, each a thread: `live` rows at once; the `backlog` of late ones behind it, at a bounded rate;
pictures of findings, in a queue of their own, when no live row waits. One more thread keeps the bounds and says what
is wrong.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Literal

import msgspec
import structlog

from appliance.config import AnyUpstream, Config, HttpsUpstream, MqttUpstream
from appliance.core.pace import Pace
from appliance.core.upstream_report import QueueReport, UpstreamReport
from appliance.mqtt.client import BrokerClient
from appliance.outbox import bounds
from appliance.outbox.bounds import Bounds
from appliance.outbox.destinations import IMAGES, Desk, destinations
from appliance.outbox.gate import Gate
from appliance.outbox.https import HttpsLink
from appliance.outbox.lane import Lane
from appliance.outbox.link import Link
from appliance.outbox.mqtt import MqttLink
from appliance.outbox.pictures import Pictures
from appliance.outbox.queue import Queue, newest_row
from appliance.schema import open_reader
from appliance.store import Store
from appliance.watchdog import Beat
from appliance.writes import Write

log = structlog.get_logger("outbox")

_LOOK_S = 1.0
_STOP_S = 5.0
_ROWS_AT_ONCE = 100
_BYTES_AT_ONCE = 1 << 20
_UNKNOWN_DAYS_MAX = 90.0

Alarm = Callable[[str, str | None, str | None], None]
"""Raise (a text) or clear (None) an alarm of this kind about this destination."""


class _Destination(msgspec.Struct):
    """What there is at run time for one destination."""

    config: AnyUpstream
    links: list[Link]
    gates: list[Gate]
    """Of the rows, then of the pictures, which may be refused alone."""
    lanes: list[Lane]
    bounds: list[Bounds]
    owned: BrokerClient | None


class Outbox:
    """Raises ConfigError when a file that a destination names cannot be read.

    site: the connection to the site broker. connect: makes a connection of its own, by the name of the upstream.
    age: seconds that the box has run in its life, which no jump of the clock changes.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        site: BrokerClient | None,
        connect: Callable[[str, MqttUpstream], BrokerClient],
        alarm: Alarm,
        age: Callable[[], float],
    ) -> None:
        named = destinations(config)
        self.desk = Desk(config.device, named)
        self._store = store
        self._alarm = alarm
        self._age = age
        self._next_mark = 0.0
        self._stopping = threading.Event()
        with closing(open_reader(store.path)) as rows:
            (nonce,) = rows.execute("SELECT nonce FROM outbox_origin").fetchone()
            self._destinations = {
                name: self._destination(name, each, config.device, f"{config.device}-{nonce}", site, connect, rows)
                for name, each in named.items()
            }
            left = {queue.removesuffix(IMAGES) for queue in bounds.totals(rows)} - named.keys()
            self._unknown = [
                Bounds(Queue(queue, "", store, 1.0, 0), 1 << 62, _UNKNOWN_DAYS_MAX, "drop_oldest")
                for name in sorted(left)
                for queue in (name, name + IMAGES)
            ]
        self._reports: list[UpstreamReport] = []
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self.beat = time.monotonic()

    def start(self) -> None:
        """After the store."""
        self._store.submit(Write(also=bounds.RECOUNT, must=True, awaited=False))
        for each in self._destinations.values():
            if each.owned is not None:
                each.owned.start()
            for lane in each.lanes:
                lane.start()
        self._thread.start()

    def stop(self) -> None:
        """Hand over no more."""
        self._stopping.set()
        lanes = self._lanes()
        for lane in lanes:
            lane.ask_to_stop()
        ends_at = time.monotonic() + _STOP_S
        for lane in lanes:
            lane.join(max(0.0, ends_at - time.monotonic()))
        if self._thread.is_alive():
            self._thread.join(max(0.1, ends_at - time.monotonic()))
        for each in self._destinations.values():
            for link in each.links:
                link.close()

    def settle(self) -> None:
        """After `stop`, and after the connections have ended: forget what was acknowledged to the last."""
        for lane in self._lanes():
            lane.settle()

    def wake(self) -> None:
        """A row was committed, or the broker is there again."""
        for each in self._destinations.values():
            each.lanes[0].wake()

    def beats(self) -> dict[str, Beat]:
        beats: dict[str, Beat] = {"outbox": lambda: self.beat}
        for lane in self._lanes():
            beats[lane.name] = _beat_of(lane)
        return beats

    def report(self) -> list[UpstreamReport]:
        """As it was at the last look, less than two seconds ago."""
        return self._reports

    def _lanes(self) -> list[Lane]:
        return [lane for each in self._destinations.values() for lane in each.lanes]

    def _destination(
        self,
        name: str,
        config: AnyUpstream,
        device: str,
        origin: str,
        site: BrokerClient | None,
        connect: Callable[[str, MqttUpstream], BrokerClient],
        rows: sqlite3.Connection,
    ) -> _Destination:
        store = self._store
        queue = Queue(name, origin, store, config.late_after_s, newest_row(rows, name))
        kept = [Bounds(queue, config.bytes_max, config.age_days_max, config.policy)]
        gates = [Gate(config.retry_s_max)]
        owned: BrokerClient | None = None
        links: list[Link]
        if isinstance(config, HttpsUpstream):
            links = [HttpsLink(name, config, device) for _ in range(3 if config.images else 2)]
            rows_max, bytes_max = config.batch_rows, config.batch_bytes
        else:
            broker = site
            if config.broker is not None:
                broker = owned = connect(name, config)
            assert broker is not None, "the configuration was checked"
            links = [
                MqttLink(broker, lambda: self._wake_all(name), f"appliance/{device}/status", owned=owned is not None)
            ] * 3
            rows_max, bytes_max = _ROWS_AT_ONCE, _BYTES_AT_ONCE
        now = time.monotonic()
        live = Lane("live", queue, links[0], gates[0], store, rows_max=rows_max, bytes_max=bytes_max)
        lanes = [
            live,
            Lane(
                "backlog",
                queue,
                links[1],
                gates[0],
                store,
                rows_max=rows_max,
                bytes_max=bytes_max,
                pace=Pace(config.backlog_per_s, now),
            ),
        ]
        if config.images:
            gates.append(Gate(config.retry_s_max))
            pictures = Queue(name + IMAGES, origin, store, config.late_after_s, newest_row(rows, name + IMAGES))
            kept.append(Bounds(pictures, config.images_bytes_max, config.age_days_max, config.policy))
            lanes.append(
                Lane(
                    "images",
                    pictures,
                    links[2],
                    gates[1],
                    store,
                    rows_max=1,
                    bytes_max=_BYTES_AT_ONCE,
                    pace=Pace(config.images_bytes_per_s, now),
                    fetch=Pictures(store, config.image_bytes_max).fetch,
                    yields_to=live,
                )
            )
        return _Destination(config, links, gates, lanes, kept, owned)

    def _wake_all(self, name: str) -> None:
        for lane in self._destinations[name].lanes:
            lane.wake()

    def _run(self) -> None:
        rows: sqlite3.Connection | None = None
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            self.beat = time.monotonic()
            pause_s = _LOOK_S
            try:
                rows = rows or open_reader(self._store.path)
                if self._look(rows):
                    pause_s = 0.05
            except Exception as error:
                log.error("outbox_failed", lane="bounds", error=f"{type(error).__name__}: {error}")
        if rows is not None:
            rows.close()

    def _look(self, rows: sqlite3.Connection) -> bool:
        """Keep the bounds, count, say what is wrong. Returns whether more is to be given up at once."""
        age = self._age()
        if self.beat >= self._next_mark:
            self._next_mark = self.beat + bounds.MARK_EVERY_S
            longest = max([each.config.age_days_max for each in self._destinations.values()], default=_UNKNOWN_DAYS_MAX)
            bounds.mark(self._store, rows, age, max(longest, _UNKNOWN_DAYS_MAX) * bounds.DAY_S)
        totals = bounds.totals(rows)
        more = False
        full: set[str] = set()
        for each in [*(kept for one in self._destinations.values() for kept in one.bounds), *self._unknown]:
            total = totals.get(each.queue.name, (0, 0))
            if each.rejects and total[1] >= each.bytes_max:
                full.add(each.queue.name)
            more = each.keep(rows, age) or more
        self.desk.full = frozenset(full)
        refused = self.desk.refused()
        for one in self._destinations.values():
            for kept in one.bounds:
                if kept.queue.name in refused:
                    kept.queue.count("refused", refused[kept.queue.name])
        self._reports = self._report(totals, bounds.counts(rows), full)
        return more

    def _report(
        self, totals: Mapping[str, bounds.Total], counted: Mapping[str, dict[str, int]], full: set[str]
    ) -> list[UpstreamReport]:
        reports: list[UpstreamReport] = []
        for name, each in self._destinations.items():
            state, reason = _state(name, each, full)
            queues = [_queue_report(kept.queue.name, kept.bytes_max, totals, counted) for kept in each.bounds]
            kind: Literal["mqtt", "https"] = "https" if isinstance(each.config, HttpsUpstream) else "mqtt"
            reports.append(
                UpstreamReport(
                    name=name,
                    kind=kind,
                    state=state,
                    reason=reason,
                    waiting=queues[0],
                    images=queues[1] if len(queues) > 1 else None,
                )
            )
            # That the site broker is away is told as such, by whoever looks after the connection.
            shared = kind == "mqtt" and each.owned is None and state == "away"
            self._alarm("upstream", None if state == "ok" or shared else f"{name}: {reason}", name)
        for left in self._unknown:
            waiting = _queue_report(left.queue.name, 0, totals, counted)
            if waiting.rows:
                reason = "the configuration has no such upstream any more; add it again, or let its rows grow too old"
                reports.append(
                    UpstreamReport(
                        name=left.queue.name,
                        kind="unknown",
                        state="unknown",
                        reason=reason,
                        waiting=waiting,
                        images=None,
                    )
                )
        return reports


def _state(
    name: str, each: _Destination, full: set[str]
) -> tuple[Literal["ok", "away", "refuses", "full"], str | None]:
    away = next((gate.away for gate in each.gates if gate.away is not None), None)
    reason = each.links[0].state() or (away.reason if away is not None else None)
    queues = [kept.queue.name for kept in each.bounds if kept.queue.name in full]
    if queues:
        return "full", f"{queues[0]} is full, and what is new is not queued ({reason or 'it is being sent'})"
    if away is not None and away.fault:
        return "refuses", away.reason
    return ("ok", None) if reason is None else ("away", reason)


def _queue_report(
    queue: str, bytes_max: int, totals: Mapping[str, bounds.Total], counted: Mapping[str, dict[str, int]]
) -> QueueReport:
    count, size = totals.get(queue, (0, 0))
    return QueueReport(rows=count, bytes=size, bytes_max=bytes_max, **counted.get(queue, {}))


def _beat_of(lane: Lane) -> Beat:
    return lambda: lane.beat
