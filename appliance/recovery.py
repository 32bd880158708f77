"""A damaged database: put aside as it is, and what can be read of the small tables taken over into a new one.

Results and raw readings stay in the file that was put aside, where `sqlite3 FILE .recover` finds them. What others
wait for goes on: the outbox, receipts and cursors, sessions, counters, the readings of open windows.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import structlog

from appliance.schema import open_reader
from appliance.synced import sync_folder

log = structlog.get_logger("store")

_LEFT_BEHIND = frozenset({"results", "readings", "dead_letters", "runs", "_sqlite_migrations", "outbox_totals"})
"""Those that are large, and those that follow others by themselves."""

_FIRST_FREE_ID = 10**12
"""Ids go on from here, far above all that were told, when nobody can say any more which those were."""

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Saved(msgspec.Struct, frozen=True):
    """aside: the damaged file. rows: how many were saved of each table. broken: tables of which some were not."""

    aside: str
    rows: dict[str, int]
    broken: tuple[str, ...]


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file itself is wrong, not the disk or the moment."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def put_aside(path: Path, now: float) -> Path:
    """Rename the database, and its WAL with it, to `<name>.corrupt.<time>`; returns the new path. Raises OSError."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    aside = path.with_name(f"{path.name}.corrupt.{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt.{stamp}-{number}")
    # Its WAL first: a new database must never meet the WAL of the old one.
    for ending in ("-wal", "-shm", ""):
        old = path.with_name(path.name + ending)
        if old.exists():
            old.rename(aside.with_name(aside.name + ending))
    sync_folder(path.parent)
    log.error("database_put_aside", file=str(aside))
    return aside


def put_aside_files(data_dir: Path) -> list[str]:
    """The names of the damaged databases that still lie in the folder."""
    names = [path.name for path in data_dir.glob("results.db.corrupt.*")]
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


def save(aside: Path, db: sqlite3.Connection, now: float) -> Saved:
    """Take over what can be read of a damaged database into a new, empty one, in one transaction.

    now: wall clock. Raises sqlite3.Error when the new one cannot be written.
    """
    broken: list[str] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        with closing(open_reader(aside)) as old:
            tables = _tables(db)
            for table in tables:
                _copy(old, db, table, "", (), broken)
            for route, source, reading in db.execute("SELECT route, source, reading FROM cursors").fetchall():
                where = "WHERE route = ? AND source = ? AND id >= ?"
                _copy(old, db, "readings", where, (route, source, reading), broken)
            _forget_broken_sessions(db, broken)
            _go_on_counting(old, db, now)
        counts = {table: _count(db, table) for table in (*tables, "readings")}
        db.execute("COMMIT")
    except sqlite3.Error:
        db.execute("ROLLBACK")
        raise
    saved = Saved(aside.name, {table: count for table, count in counts.items() if count}, tuple(dict.fromkeys(broken)))
    log.error("database_saved", file=saved.aside, rows=saved.rows, broken=saved.broken)
    return saved


def _tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'")
    return [name for (name,) in rows.fetchall() if name not in _LEFT_BEHIND]


def _count(db: sqlite3.Connection, table: str) -> int:
    (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def _copy(
    old: sqlite3.Connection,
    db: sqlite3.Connection,
    table: str,
    where: str,
    values: tuple[object, ...],
    broken: list[str],
) -> None:
    try:
        there = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error:
        broken.append(table)
        return
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] in there]
    if not columns:
        return
    names = ", ".join(columns)
    insert = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
    # What lies behind a damaged page is reached from the other end.
    for order in ("", f"ORDER BY {columns[0]} DESC"):
        try:
            for row in _readable(old, f"SELECT {names} FROM {table} {where} {order}", values):
                try:
                    db.execute(insert, row)
                except sqlite3.IntegrityError:
                    broken.append(table)
        except _Unreadable:
            broken.append(table)
            continue
        return


class _Unreadable(Exception):
    """The old database cannot be read any further this way."""


def _readable(old: sqlite3.Connection, query: str, values: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    try:
        yield from old.execute(query, values)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # A text of random bytes is damage too.
        raise _Unreadable from error


def _forget_broken_sessions(db: sqlite3.Connection, broken: list[str]) -> None:
    for client, body in db.execute("SELECT client, body FROM sessions").fetchall():
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, TypeError):
            db.execute("DELETE FROM sessions WHERE client IS ?", (client,))
            broken.append("sessions")


def _go_on_counting(old: sqlite3.Connection, db: sqlite3.Connection, now: float) -> None:
    """No number that was told to anybody may come again."""
    for name, last in _all(old, "SELECT name, seq FROM sqlite_sequence"):
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, last))
    if db.execute("SELECT 1 FROM counters WHERE name = 'result_id'").fetchone():
        return
    highest = max((number for (number,) in _all(old, "SELECT max(id) FROM results") if number), default=None)
    # Numbers are reserved in blocks, of which some may have been told without a row.
    floor = _FIRST_FREE_ID + int(max(0.0, now)) * 1000 if highest is None else highest + 1_000_000
    db.execute("INSERT INTO counters VALUES ('result_id', ?)", (floor,))


def _all(old: sqlite3.Connection, query: str) -> list[Any]:
    try:
        return old.execute(query).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return []
