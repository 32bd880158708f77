"""What is dropped from the store, and when: what is past its age, and early what does not fit its quota.

Everything goes a bounded number of rows at a time, in order of ids. Readings that an open window needs stay, and what
waits in an outbox is no business of this module.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

import msgspec
import structlog

from appliance import marks
from appliance.config import StoreConfig
from appliance.core.quota import CRITICAL, LOW, Room
from appliance.frames import Frames, Location

log = structlog.get_logger("store")

_ROWS = {"readings": 5000, "results": 1000, "dead_letters": 1000}
"""Rows that go in one step: a few milliseconds each, in which nothing is committed."""

_SEEN = 2000
_SEGMENTS = 8
_VACUUM_PAGES = 256
_FREE_SHARE = 4
_NO_END = (1 << 63) - 1

_NEEDED = "AND id < coalesce((SELECT reading FROM cursors c WHERE c.route = t.route AND c.source = t.source), 0)"


class Rooms(msgspec.Struct, frozen=True):
    """How full the database, the pictures and the disk are."""

    database: Room
    images: Room
    disk: Room

    @property
    def share(self) -> float:
        return max(self.database.share, self.images.share, self.disk.share)


def by_age(
    db: sqlite3.Connection, frames: Frames, config: StoreConfig, images_days: Mapping[str, float], age: float
) -> bool:
    """Drop what is too old; returns whether more is left. images_days: of sources that keep pictures for less long.

    age: of the box, seconds. Raises sqlite3.Error, OSError.
    """
    more = False
    aged = marks.at_age(db, age - config.images_days * marks.DAY_S)
    if aged is not None:
        frames.drop(number for number in frames.numbers if number <= aged.segment)
    for source, days in images_days.items():
        if days < config.images_days:
            more = _drop_pictures(db, frames, source, marks.at_age(db, age - days * marks.DAY_S)) or more
    for table, keep_s, needed in (
        ("results", config.results_days * marks.DAY_S, ""),
        ("dead_letters", config.dead_letters_days * marks.DAY_S, ""),
        ("readings", config.readings_hours * 3600, _NEEDED),
    ):
        aged = marks.at_age(db, age - keep_s)
        if aged is not None:
            limit = {"results": aged.result, "dead_letters": aged.dead_letter, "readings": aged.reading}[table]
            more = _drop_rows(db, table, limit, needed) == _ROWS[table] or more
    marks.forget_before(db, age - max(config.results_days, config.dead_letters_days, config.images_days) * 2 * 86_400)
    return more


def early(db: sqlite3.Connection, frames: Frames, look: Callable[[], Rooms]) -> tuple[str, ...]:
    """Drop what can best be spared while something is nearly full; returns what was dropped, in words.

    From 90% on: the oldest pictures, when they or the disk have no room, and the oldest readings for the database. From
    95% of its own quota on the database loses its oldest results too; what others put on the disk costs no result.
    Raises sqlite3.Error, OSError.
    """
    dropped: list[str] = []
    rooms = look()
    for number in frames.numbers[:-1][:_SEGMENTS]:
        if max(rooms.images.share, rooms.disk.share) < LOW:
            break
        frames.drop([number])
        dropped = ["pictures"]
        rooms = look()
    tight = rooms.database.share >= LOW or rooms.disk.share >= CRITICAL
    if tight and _drop_rows(db, "readings", _NO_END, _NEEDED):
        dropped.append("readings")
    elif rooms.database.share >= CRITICAL:
        for table in ("dead_letters", "results"):
            if _drop_rows(db, table, _NO_END, ""):
                dropped.append(table.replace("_", " "))
    return tuple(dropped)


def vacuum(db: sqlite3.Connection, *, tight: bool) -> bool:
    """Give free pages back to the disk, at most a MiB at once; returns whether more could be given.

    A file that is full of rows keeps its free pages, which the next rows take; one that is a quarter empty gives some
    back, and one on a disk that is nearly full gives all. Raises sqlite3.Error.
    """
    (free,), (pages,) = db.execute("PRAGMA freelist_count").fetchone(), db.execute("PRAGMA page_count").fetchone()
    if not free or (not tight and free * _FREE_SHARE < pages):
        return False
    # `execute` would take one step of it, and give back one page.
    db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
    return bool(free > _VACUUM_PAGES)


def _drop_rows(db: sqlite3.Connection, table: str, limit: int, needed: str) -> int:
    """The oldest rows, up to this id, some of them."""
    return db.execute(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} t WHERE id <= ? {needed} ORDER BY id LIMIT ?)",
        (limit, _ROWS[table]),
    ).rowcount


def _drop_pictures(db: sqlite3.Connection, frames: Frames, source: str, aged: marks.Mark | None) -> bool:
    """Blank the pictures of one source before its rows say that they are gone. The counter says how far it has come."""
    if aged is None:
        return False
    counter = f"pictures of {source}"
    known = db.execute("SELECT value FROM counters WHERE name = ?", (counter,)).fetchone()
    rows = db.execute(
        "SELECT id, segment, offset, length FROM results WHERE source = ? AND id > ? AND id <= ? "
        f"ORDER BY id LIMIT {_SEEN}",
        (source, known[0] if known else 0, aged.result),
    ).fetchall()
    if not rows:
        return False
    pictures = [(number, Location(*place)) for number, *place in rows if place[0] is not None]
    frames.blank(place for _, place in pictures)
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany(
            "UPDATE results SET segment = NULL, offset = NULL, length = NULL WHERE id = ?",
            [(number,) for number, _ in pictures],
        )
        db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (counter, rows[-1][0]))
        db.execute("COMMIT")
    except sqlite3.Error:
        db.execute("ROLLBACK")
        raise
    return len(rows) == _SEEN
