"""One queue of the table: which row goes next in which lane, and which are on their way."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import Literal

import msgspec

from appliance.core.lateness import Lateness
from appliance.outbox.link import Row
from appliance.store import Store
from appliance.writes import DeadLetter, Write

LaneKind = Literal["live", "backlog", "images"]

BUSY_MAX = 2000
"""Rows on their way, or taken and not yet deleted: no more are sent while the disk refuses to delete them."""

_COLUMNS = "id, topic, media, payload, size, result"
_COUNT = "INSERT INTO outbox_counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"


class Queue:
    """Any lane may call it. Rows up to `border` are the backlog; what is newer is live.

    The border moves up to the newest row when the next live row is late: whatever waited is overtaken from then on.
    In each lane rows go in the order of their ids, which is the order of their commits.
    origin: of this box and its table, in the key of each row. newest: what is there at the start is late.
    """

    def __init__(self, name: str, origin: str, store: Store, late_after_s: float, newest: int) -> None:
        self.name = name
        self._origin = origin
        self._store = store
        self._lock = threading.Lock()
        self._lateness = Lateness(late_after_s, newest, time.monotonic())
        self._border = 0
        self._cursors: dict[LaneKind, int] = {"live": 0, "backlog": 0, "images": 0}
        self._busy: set[int] = set()

    def take(self, rows: sqlite3.Connection, lane: LaneKind, rows_max: int, bytes_max: int) -> list[Row]:
        """The next rows of a lane, which count as on their way from now on; one at least, whatever its size."""
        with self._lock:
            self._note_newest(rows)
            limit = min(rows_max, BUSY_MAX - len(self._busy))
            if limit <= 0:
                return []
            taken = self._select(rows, lane, limit, bytes_max)
            if lane == "live" and taken and self._lateness.is_late(taken[0].number):
                self._border = newest_row(rows, self.name)
                taken = []
            if taken:
                self._cursors[lane] = taken[-1].number
                self._busy.update(row.number for row in taken)
            return taken

    def is_late(self, row: Row) -> bool:
        return row.number <= self._border or self._lateness.is_late(row.number)

    def give_back(self, rows: Iterable[Row]) -> None:
        """They are to be sent again, by the lane that their age says."""
        with self._lock:
            for row in rows:
                self._busy.discard(row.number)
                for lane in self._cursors:
                    self._cursors[lane] = min(self._cursors[lane], row.number - 1)

    def busy(self) -> set[int]:
        with self._lock:
            return set(self._busy)

    def delete(self, numbers: list[int], what: str, *, busy: bool = False) -> None:
        """Rows that are done with: `sent`, `gone`, `dropped`. They are counted with the same commit.

        busy: they were not on their way, and from now on no lane takes them.
        """
        if numbers:
            if busy:
                with self._lock:
                    self._busy.update(numbers)
            counted = _COUNT, (self.name, what, len(numbers))
            self._write(Write(sent=tuple(numbers), also=(counted,), must=True, awaited=False), numbers)

    def bury(self, row: Row, reason: str) -> None:
        """A row that its destination refuses for ever becomes a dead letter, to be seen and looked into."""
        letter = DeadLetter(
            at=round(time.time(), 6),
            topic=row.topic,
            client=f"upstream {self.name}",
            code="upstream_refused",
            reason=reason,
            payload=b"" if row.result is not None else row.payload,
        )
        counted = _COUNT, (self.name, "dead_lettered", 1)
        write = Write(sent=(row.number,), dead_letter=letter, also=(counted,), must=True, awaited=False)
        self._write(write, [row.number])

    def count(self, what: str, count: int) -> None:
        """Count what never became a row."""
        self._store.submit(Write(also=((_COUNT, (self.name, what, count)),), must=True, awaited=False))

    def _write(self, write: Write, numbers: list[int]) -> None:
        def done(_: object) -> None:
            with self._lock:
                self._busy.difference_update(numbers)

        self._store.submit(msgspec.structs.replace(write, done=done))

    def _note_newest(self, rows: sqlite3.Connection) -> None:
        self._lateness.note(newest_row(rows, self.name), time.monotonic())

    def _select(self, rows: sqlite3.Connection, lane: LaneKind, limit: int, bytes_max: int) -> list[Row]:
        after = self._cursors[lane]
        upto = (1 << 63) - 1
        if lane == "live":
            after = max(after, self._border)
        elif lane == "backlog":
            upto = self._border
        if after >= upto:
            return []
        taken: list[Row] = []
        total = 0
        found = rows.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE queue = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?",
            (self.name, after, upto, limit + len(self._busy)),
        )
        try:
            for number, topic, media, payload, size, result in found:
                if number in self._busy:
                    continue
                total += size
                if taken and total > bytes_max:
                    break
                key = f"{self._origin}-{number}"
                taken.append(Row(self.name, number, topic, media, payload, size, result, key))
                if len(taken) == limit:
                    break
        finally:
            # A statement that is left open would keep the WAL from being emptied.
            found.close()
        return taken


def newest_row(rows: sqlite3.Connection, queue: str) -> int:
    (number,) = rows.execute("SELECT coalesce(max(id), 0) FROM outbox WHERE queue = ?", (queue,)).fetchone()
    return int(number)
