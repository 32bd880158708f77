"""The tables of `results.db`, and how it is opened.

Migrations run in order and are never edited once released; a new one is added below the last.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from appliance.errors import DataDirError

_migrations = Migrations("results")


@_migrations()
def initial(db: Database) -> None:
    """Rows are ordered by id, never by wall time: a box without a clock battery boots in 1970."""
    for statement in (
        """CREATE TABLE results (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, source TEXT NOT NULL, route TEXT,
            verdict TEXT NOT NULL, part TEXT, lot TEXT, recipe TEXT, body BLOB NOT NULL,
            key TEXT, last_reading INTEGER, window_end INTEGER,
            segment INTEGER, offset INTEGER, length INTEGER)""",
        "CREATE INDEX results_at ON results (at)",
        "CREATE INDEX results_source ON results (source, id)",
        "CREATE INDEX results_verdict ON results (verdict, id)",
        "CREATE INDEX results_part ON results (part) WHERE part IS NOT NULL",
        "CREATE INDEX results_lot ON results (lot) WHERE lot IS NOT NULL",
        "CREATE UNIQUE INDEX results_key ON results (route, source, key) WHERE key IS NOT NULL",
        """CREATE UNIQUE INDEX results_window ON results (route, source, last_reading, window_end)
            WHERE last_reading IS NOT NULL""",
        """CREATE TABLE readings (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, route TEXT NOT NULL, source TEXT NOT NULL, key TEXT,
            part TEXT, lot TEXT, recipe TEXT, flags TEXT, channels INTEGER NOT NULL, samples BLOB NOT NULL)""",
        "CREATE INDEX readings_at ON readings (at)",
        "CREATE INDEX readings_source ON readings (route, source, id)",
        "CREATE UNIQUE INDEX readings_key ON readings (route, source, key) WHERE key IS NOT NULL",
        """CREATE TABLE cursors (
            route TEXT, source TEXT, reading INTEGER NOT NULL, offset INTEGER NOT NULL,
            PRIMARY KEY (route, source)) WITHOUT ROWID""",
        """CREATE TABLE receipts (
            client TEXT, route TEXT, packet_id INTEGER, hash BLOB NOT NULL, seq INTEGER NOT NULL,
            PRIMARY KEY (client, route, packet_id)) WITHOUT ROWID""",
        """CREATE TABLE dead_letters (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, topic TEXT NOT NULL, client TEXT NOT NULL, code TEXT NOT NULL,
            reason TEXT NOT NULL, segment INTEGER, offset INTEGER, length INTEGER)""",
        "CREATE TABLE suspects (hash BLOB PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE sessions (client TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL)",
        """CREATE TABLE sources (
            source TEXT PRIMARY KEY, route TEXT, kind TEXT NOT NULL, model TEXT NOT NULL, count INTEGER NOT NULL,
            last_id INTEGER NOT NULL, last_at REAL NOT NULL, verdict TEXT NOT NULL) WITHOUT ROWID""",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE runs (id INTEGER PRIMARY KEY, started_at REAL NOT NULL, stopped_at REAL)",
    ):
        db.execute(statement)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open or create the database, up to date, in WAL with every commit synced.

    Raises DataDirError when the file is not a database or cannot be written.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        _migrations.apply(Database(connection))
    except sqlite3.Error as error:
        full = error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
        advice = "free space on the disk" if full else "restore a backup, or move the file away to start empty"
        raise DataDirError(f"{path}: {error}; {advice}") from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open for queries only; one connection belongs to one thread."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA query_only = ON")
    return connection
