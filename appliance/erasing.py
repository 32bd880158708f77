"""What one source gave in a stretch of time, erased on command so that nothing of it is left.

The bytes of a picture are overwritten before its row goes, so that a power cut in between leaves no picture that
nobody knows of. Deleted rows are overwritten too, in the database and in its log. Results that wait for central go with
the others; what is on its way there arrives. Messages that could not be used have no source: of all that came in that
time the payload goes, and why it could not be used stays.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Generator

import msgspec

from appliance.frames import Frames, Location

_SEEN = 2000
"""Rows that are looked at in one step."""

Steps = Generator[None, None, "Erased"]
"""One bounded step at each `next`; other writes go on in between. Returns what was erased."""


class Erasure(msgspec.Struct, frozen=True):
    """since, until: seconds since 1970, by the wall clock of the box when it recorded; until is not included."""

    source: str
    since: float
    until: float


class Erased(msgspec.Struct, frozen=True):
    """How many there were. letters: payloads of messages that could not be used, whatever their source.

    unsent: results that still waited for central.
    """

    results: int = 0
    images: int = 0
    readings: int = 0
    letters: int = 0
    unsent: int = 0


class _Timed(msgspec.Struct, frozen=True):
    """Of a result, the one thing that is looked at."""

    at: float = math.nan


def erase(db: sqlite3.Connection, frames: Frames, wanted: Erasure, now: float) -> Steps:
    """Erase, and write down that it was done. now: wall clock. For the store's thread, between two commits.

    The steps raise sqlite3.Error and OSError; doing it again then completes it.
    """
    results = images = readings = letters = 0
    unsent = yield from _erase_unsent(db, wanted)
    at, after = wanted.since, -1
    while seen := db.execute(
        "SELECT id, at, source, segment, offset, length FROM results WHERE at >= ? AND at < ? AND (at > ? OR id > ?) "
        f"ORDER BY at, id LIMIT {_SEEN}",
        (at, wanted.until, at, after),
    ).fetchall():
        after, at = seen[-1][:2]
        rows = [row for row in seen if row[2] == wanted.source]
        images += frames.blank(Location(*place) for _, _, _, *place in rows if place[0] is not None)
        results += _delete(db, "results", [row[0] for row in rows])
        yield
    for (route,) in db.execute("SELECT DISTINCT route FROM cursors WHERE source = ?", (wanted.source,)).fetchall():
        after = -1
        while seen := db.execute(
            f"SELECT id, at FROM readings WHERE route = ? AND source = ? AND id > ? ORDER BY id LIMIT {_SEEN}",
            (route, wanted.source, after),
        ).fetchall():
            after = seen[-1][0]
            readings += _delete(db, "readings", [number for number, at in seen if wanted.since <= at < wanted.until])
            yield
    after = -1
    while seen := db.execute(
        f"SELECT id, at, segment, offset, length FROM dead_letters WHERE id > ? ORDER BY id LIMIT {_SEEN}", (after,)
    ).fetchall():
        after = seen[-1][0]
        rows = [row for row in seen if row[2] is not None and wanted.since <= row[1] < wanted.until]
        letters += frames.blank(Location(*place) for _, _, *place in rows)
        db.executemany(
            "UPDATE dead_letters SET segment = NULL, offset = NULL, length = NULL WHERE id = ?",
            [(row[0],) for row in rows],
        )
        yield
    done = Erased(results, images, readings, letters, unsent)
    db.execute(
        "INSERT INTO erasures (at, source, since, until, results, images, readings, letters) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (now, wanted.source, wanted.since, wanted.until, results, images, readings, letters),
    )
    _empty_log(db)
    return done


def _erase_unsent(db: sqlite3.Connection, wanted: Erasure) -> Generator[None, None, int]:
    """Rows for central say by their topic whose they are, and in their payload when it was."""
    unsent, after = 0, -1
    while seen := db.execute(
        f"SELECT id, topic, payload FROM outbox WHERE id > ? ORDER BY id LIMIT {_SEEN}", (after,)
    ).fetchall():
        after = seen[-1][0]
        theirs = [
            number
            for number, topic, payload in seen
            if _is_of(topic, wanted.source) and wanted.since <= _moment(payload) < wanted.until
        ]
        unsent += _delete(db, "outbox", theirs)
        yield
    return unsent


def _is_of(topic: str, source: str) -> bool:
    """`appliance/<device>/results/<model>/<source>`"""
    return topic.split("/")[2:3] == ["results"] and topic.rpartition("/")[2] == source


def _moment(payload: bytes) -> float:
    return msgspec.json.decode(payload, type=_Timed).at


def _delete(db: sqlite3.Connection, table: str, numbers: list[int]) -> int:
    if not numbers:
        return 0
    db.execute("PRAGMA secure_delete = ON")
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany(f"DELETE FROM {table} WHERE id = ?", [(number,) for number in numbers])
        db.execute("COMMIT")
    except sqlite3.Error:
        db.execute("ROLLBACK")
        raise
    finally:
        db.execute("PRAGMA secure_delete = OFF")
    return len(numbers)


def _empty_log(db: sqlite3.Connection) -> None:
    """The WAL still holds the pages as they were. Somebody who reads keeps it for now; it is overwritten in turn."""
    (before,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        db.execute(f"PRAGMA busy_timeout = {before}")
