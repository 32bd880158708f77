"""The tables of `results.db`, and how it is opened.

Migrations run in order and are never edited once released; a new one is added below the last.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

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


@_migrations()
def alarms_and_recipes(db: Database) -> None:
    """What was wrong and when; who changed the recipe, of a source or (NULL) of the whole box."""
    for statement in (
        """CREATE TABLE alarms (
            id INTEGER PRIMARY KEY, kind TEXT NOT NULL, source TEXT, text TEXT NOT NULL, since REAL NOT NULL,
            until REAL)""",
        "CREATE INDEX alarms_open ON alarms (kind) WHERE until IS NULL",
        """CREATE TABLE recipe_changes (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, source TEXT, old TEXT, new TEXT, door TEXT NOT NULL,
            client TEXT NOT NULL, person TEXT)""",
        "CREATE INDEX recipe_changes_source ON recipe_changes (source, id)",
    ):
        db.execute(statement)


@_migrations()
def triggers(db: Database) -> None:
    """What PLCs asked and what they were told. answer: null until it is committed. sent: handed to the MQTT doors."""
    for statement in (
        """CREATE TABLE triggers (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, name TEXT NOT NULL, door TEXT NOT NULL,
            part TEXT, lot TEXT, recipe TEXT, key TEXT, topic TEXT, correlation BLOB, answer BLOB,
            sent INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX triggers_at ON triggers (at)",
        "CREATE UNIQUE INDEX triggers_key ON triggers (name, key) WHERE key IS NOT NULL",
        "CREATE INDEX triggers_open ON triggers (id) WHERE sent = 0",
    ):
        db.execute(statement)


@_migrations()
def marks_and_erasures(db: Database) -> None:
    """How far each table had come at what age of the box, which is all that retention goes by; who had what erased.

    A row of `marks` says: what has these numbers, or lower ones, was there at this age. clock: what is known of time.
    """
    for statement in (
        """CREATE TABLE marks (
            id INTEGER PRIMARY KEY, age REAL NOT NULL, result INTEGER NOT NULL, reading INTEGER NOT NULL,
            dead_letter INTEGER NOT NULL, segment INTEGER NOT NULL, written INTEGER NOT NULL)""",
        "CREATE INDEX marks_age ON marks (age)",
        "CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL)",
        """CREATE TABLE erasures (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
            results INTEGER NOT NULL, images INTEGER NOT NULL, readings INTEGER NOT NULL, letters INTEGER NOT NULL)""",
        "CREATE INDEX results_segment ON results (segment) WHERE segment IS NOT NULL",
        "CREATE INDEX dead_letters_segment ON dead_letters (segment) WHERE segment IS NOT NULL",
        # Nothing looks for readings by their time.
        "DROP INDEX IF EXISTS readings_at",
    ):
        db.execute(statement)


@_migrations()
def receipt_rows(db: Database) -> None:
    """The receipts of a commit, client and route share a row: packed, a MessagePack list of [packet id, hash]."""
    db.execute(
        """CREATE TABLE receipt_rows (
            id INTEGER PRIMARY KEY, client TEXT NOT NULL, route TEXT NOT NULL, count INTEGER NOT NULL,
            packed BLOB NOT NULL)"""
    )
    for client, route, packet_id, digest in db.execute(
        "SELECT client, route, packet_id, hash FROM receipts ORDER BY seq"
    ).fetchall():
        db.execute(
            "INSERT INTO receipt_rows (client, route, count, packed) VALUES (?, ?, 1, ?)",
            (client, route, msgspec.msgpack.encode([(packet_id, digest)])),
        )
    db.execute("DROP TABLE receipts")


@_migrations()
def times_of_samples(db: Database) -> None:
    """readings.times: when the samples were taken, as `core.sample_times` packs it; null: nobody said.

    cursors.next_ns: where the next window of time begins; null: windows by count.
    """
    db.execute("ALTER TABLE readings ADD COLUMN times BLOB")
    db.execute("ALTER TABLE cursors ADD COLUMN next_ns INTEGER")


def connect(path: Path) -> sqlite3.Connection:
    """For the one writer: in WAL, with every commit synced. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def applied(connection: sqlite3.Connection) -> list[str]:
    """The migrations that have shaped this database, in order; empty for a new one."""
    return [each.name for each in _migrations.applied(Database(connection))]


def pending(connection: sqlite3.Connection) -> list[str]:
    """The migrations that are still due."""
    return [each.name for each in _migrations.pending(Database(connection))]


def unknown(connection: sqlite3.Connection) -> list[str]:
    """Migrations that this appliance does not know: a newer one has made the database its own."""
    return sorted({*applied(connection)} - {*_known()})


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database up to date. Raises sqlite3.Error."""
    _migrations.apply(Database(connection))


def _known() -> list[str]:
    with closing(sqlite3.connect(":memory:")) as empty:
        return pending(empty)


def open_reader(path: Path) -> sqlite3.Connection:
    """Open for queries only; one connection belongs to one thread."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA query_only = ON")
    return connection


@_migrations()
def outbox_queues(db: Database) -> None:
    """What waits for whom: a destination's results and events in one queue, its pictures in another.

    result: whose picture is to be sent, in place of a payload. outbox_totals follow every row by themselves;
    outbox_counts are what became of rows; outbox_marks say which row was the newest at what age of the box.
    """
    for statement in (
        "ALTER TABLE outbox ADD COLUMN queue TEXT NOT NULL DEFAULT 'broker'",
        "ALTER TABLE outbox ADD COLUMN media TEXT NOT NULL DEFAULT 'application/json'",
        "ALTER TABLE outbox ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE outbox ADD COLUMN result INTEGER",
        "UPDATE outbox SET size = length(payload)",
        "CREATE INDEX outbox_queue ON outbox (queue, id, size)",
        """CREATE TABLE outbox_totals (
            queue TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID""",
        "INSERT INTO outbox_totals SELECT queue, count(*), sum(size) FROM outbox GROUP BY queue",
        """CREATE TRIGGER outbox_added AFTER INSERT ON outbox BEGIN
            INSERT INTO outbox_totals VALUES (new.queue, 1, new.size)
            ON CONFLICT DO UPDATE SET rows = rows + 1, bytes = bytes + new.size;
        END""",
        """CREATE TRIGGER outbox_removed AFTER DELETE ON outbox BEGIN
            UPDATE outbox_totals SET rows = rows - 1, bytes = bytes - old.size WHERE queue = old.queue;
        END""",
        """CREATE TABLE outbox_counts (
            queue TEXT, what TEXT, count INTEGER NOT NULL, PRIMARY KEY (queue, what)) WITHOUT ROWID""",
        "CREATE TABLE outbox_marks (age REAL NOT NULL, row INTEGER NOT NULL)",
        # A box that is set up anew under its old name must not send keys that central has seen.
        "CREATE TABLE outbox_origin (one INTEGER PRIMARY KEY CHECK (one = 1), nonce TEXT NOT NULL)",
        "INSERT INTO outbox_origin VALUES (1, lower(hex(randomblob(4))))",
    ):
        db.execute(statement)


@_migrations()
def unreleased(db: Database) -> None:
    """Packet ids of QoS 2 that the listener has taken (PUBREC) and their client has not released (PUBREL)."""
    db.execute(
        "CREATE TABLE unreleased (client TEXT, packet_id INTEGER, PRIMARY KEY (client, packet_id)) WITHOUT ROWID"
    )
