"""How much may wait: by bytes and by age, in small steps through the one writer, with counts of what was given up."""

from __future__ import annotations

import sqlite3
from typing import Literal

import structlog

from appliance.outbox.queue import Queue
from appliance.store import Store
from appliance.writes import Write

log = structlog.get_logger("outbox")

_STEP = 1000
"""Rows deleted in one write: a few milliseconds."""

MARK_EVERY_S = 600.0
DAY_S = 86_400.0

RECOUNT = (
    ("DELETE FROM outbox_totals", ()),
    ("INSERT INTO outbox_totals SELECT queue, count(*), sum(size) FROM outbox GROUP BY queue", ()),
)
"""At a start: what was saved from a damaged file is counted anew."""

Total = tuple[int, int]
"""Rows and bytes that wait."""


class Bounds:
    """Of one queue. policy: what happens past bytes_max."""

    def __init__(
        self, queue: Queue, bytes_max: int, age_days_max: float, policy: Literal["drop_oldest", "reject_new"]
    ) -> None:
        self.queue = queue
        self.bytes_max = bytes_max
        self._age_s_max = age_days_max * DAY_S
        self.rejects = policy == "reject_new"
        self._given_up: set[int] = set()

    def keep(self, rows: sqlite3.Connection, age: float) -> bool:
        """Give up a step of what is too old or too much; returns whether more is left. age: of the box, seconds.

        What a lane has in its hands, a batch at most, stays until it was tried again.
        """
        (aged,) = rows.execute(
            "SELECT coalesce(max(row), 0) FROM outbox_marks WHERE age <= ?", (age - self._age_s_max,)
        ).fetchone()
        busy = self.queue.busy()
        if self._given_up & busy:
            # The totals do not know yet of the step before.
            return True
        waiting = totals(rows).get(self.queue.name, (0, 0))[1]
        excess = 0 if self.rejects else waiting - self.bytes_max
        given_up: list[int] = []
        found = rows.execute(
            "SELECT id, size FROM outbox WHERE queue = ? ORDER BY id LIMIT ?", (self.queue.name, _STEP + len(busy))
        ).fetchall()
        for number, size in found:
            if number > aged and excess <= 0:
                break
            if number not in busy:
                given_up.append(number)
                excess -= size
        if given_up:
            log.warning("outbox_dropped", queue=self.queue.name, rows=len(given_up))
            self._given_up = set(given_up)
            self.queue.delete(given_up, "dropped", busy=True)
        return len(given_up) >= _STEP


def mark(store: Store, rows: sqlite3.Connection, age: float, age_s_max: float) -> None:
    """Note how far the outbox has come at this age of the box."""
    (newest,) = rows.execute("SELECT coalesce(max(id), 0) FROM outbox").fetchone()
    also = (
        ("INSERT INTO outbox_marks VALUES (?, ?)", (age, newest)),
        ("DELETE FROM outbox_marks WHERE age < ?", (age - 2 * age_s_max,)),
    )
    store.submit(Write(also=also, must=True, awaited=False))


def totals(rows: sqlite3.Connection) -> dict[str, Total]:
    return {queue: (count, size) for queue, count, size in rows.execute("SELECT queue, rows, bytes FROM outbox_totals")}


def counts(rows: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """What became of rows of each queue, over all starts."""
    found: dict[str, dict[str, int]] = {}
    for queue, what, count in rows.execute("SELECT queue, what, count FROM outbox_counts"):
        found.setdefault(queue, {})[what] = count
    return found
