"""A thread that takes rows from a queue, gives them to the link, and deletes what central has acknowledged."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable

import structlog

from appliance.core.pace import Pace
from appliance.outbox.gate import Gate
from appliance.outbox.link import Link, Row, Sent
from appliance.outbox.queue import LaneKind, Queue
from appliance.schema import open_reader
from appliance.store import Store

log = structlog.get_logger("outbox")

_POLL_S = 1.0
_ERROR_PAUSE_S = 1.0

Fetch = Callable[[Row], "Row | str"]
"""Puts the picture into a row that names one, or says why it cannot be sent."""


class Lane:
    """kind: which of the queue's rows. pace: in rows, for pictures in bytes. fetch: for pictures.

    No more than `rows_max` rows of `bytes_max` bytes together are in memory. What the link could not send is held, and
    goes first, as it was: the same batch again.
    """

    def __init__(
        self,
        kind: LaneKind,
        queue: Queue,
        link: Link,
        gate: Gate,
        store: Store,
        *,
        rows_max: int,
        bytes_max: int,
        pace: Pace | None = None,
        fetch: Fetch | None = None,
        yields_to: Lane | None = None,
    ) -> None:
        self._kind = kind
        self._queue = queue
        self._link = link
        self._gate = gate
        self._path = store.path
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._pace = pace
        self._fetch = fetch
        self._yields_to = yields_to
        self._held: list[Row] = []
        self._rows: sqlite3.Connection | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"outbox-{queue.name}-{kind}", daemon=True)
        self.beat: float | None = None
        """None while it is with the destination, which has a time limit of its own."""
        self.has_work = False

    @property
    def name(self) -> str:
        return self._thread.name

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """A row was committed, the destination is there again, or something was acknowledged."""
        self._wake.set()

    def ask_to_stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def settle(self) -> None:
        """Delete what was acknowledged meanwhile. After `join`, once more, when the link has ended."""
        self._note(self._link.settled(self._queue.name), hold=False)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping:
            self._wake.wait(pause_s)
            self._wake.clear()
            self.beat = time.monotonic()
            try:
                pause_s = 0.0 if self._stopping else self._turn()
            except Exception as error:
                # The rows are on disk; whatever keeps them from their way, a later turn tries again.
                log.error("outbox_failed", lane=self.name, error=f"{type(error).__name__}: {error}")
                pause_s = _ERROR_PAUSE_S
                self._close_rows()
        self._close_rows()

    def _turn(self) -> float:
        """Send once, if there is anything and it may go; returns how long to wait for more."""
        self.settle()
        now = time.monotonic()
        rows = self._held or self._next(now)
        self.has_work = bool(rows)
        if not rows:
            return self._idle_s(now)
        self._held = rows
        if (wait_s := self._gate.wait_s(now)) > 0:
            self._sleep(wait_s)
            return 0.0
        if self._yields_to is not None and self._yields_to.has_work:
            return 0.02
        ready = self._fetched(rows)
        self._held = []
        if not ready:
            return 0.0
        late = self._kind == "backlog" or self._queue.is_late(ready[0])
        self.beat = None
        try:
            sent = self._link.send(ready, late=late)
        except BaseException:
            self._held = ready
            raise
        finally:
            self.beat = time.monotonic()
        if self._pace is not None:
            self._pace.spend(sum(row.size for row in ready) if self._fetch is not None else len(ready))
        self._note(sent, hold=True)
        return 0.0

    def _next(self, now: float) -> list[Row]:
        rows_max = min(self._rows_max, self._link.room(late=self._kind != "live"))
        if self._pace is not None:
            left = self._pace.left(now)
            rows_max = min(rows_max, left if self._fetch is None else self._rows_max if left > 0 else 0)
        # Looked at even when nothing may go: what is late depends on how long it has waited.
        self._rows = self._rows or open_reader(self._path)
        return self._queue.take(self._rows, self._kind, max(rows_max, 0), self._bytes_max)

    def _idle_s(self, now: float) -> float:
        if self._pace is not None and self._pace.left(now) == 0:
            return min(self._pace.wait_s(), _POLL_S)
        return _POLL_S

    def _sleep(self, wait_s: float) -> None:
        """Until the gate opens, whoever wakes this lane meanwhile; but heed a stop."""
        ends_at = time.monotonic() + wait_s
        while not self._stopping and self._gate.wait_s(now := time.monotonic()) > 0 and now < ends_at:
            self.beat = now
            self._wake.wait(min(_POLL_S, ends_at - now))
            self._wake.clear()

    def _fetched(self, rows: list[Row]) -> list[Row]:
        if self._fetch is None:
            return rows
        ready: list[Row] = []
        for row in rows:
            found = self._fetch(row)
            if isinstance(found, Row):
                ready.append(found)
            else:
                log.warning("picture_not_sent", queue=self._queue.name, result=row.result, reason=found)
                self._queue.delete([row.number], "gone")
        return ready

    def _note(self, sent: Sent, *, hold: bool) -> None:
        """hold: what could not be sent stays in this lane, else it goes back into the queue."""
        self._queue.delete([row.number for row in sent.taken], "sent")
        for row, reason in sent.refused:
            log.error("upstream_refused", queue=self._queue.name, topic=row.topic, reason=reason)
            self._queue.bury(row, reason)
        if hold:
            self._held = list(sent.again)
        else:
            self._queue.give_back(sent.again)
        if sent.away is not None:
            if self._gate.away is None:
                log.warning("upstream_away", queue=self._queue.name, reason=sent.away.reason)
            self._gate.failed(sent.away, time.monotonic())
        elif sent.taken or sent.refused:
            if self._gate.away is not None:
                log.info("upstream_back", queue=self._queue.name)
            self._gate.passed()

    def _close_rows(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None
