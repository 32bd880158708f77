"""`state/state.db`: where the updater and the server meet.

The updater writes `installs`, `trusted` and `polls`; the server writes `slots`, `rollouts`, `blocked`, `starts` and
`told`; a command or the page writes `orders`, which the server takes, and `holds`. Either side sees what another
process committed by `State.changed` (`PRAGMA data_version`, 1.5 us). Times are wall-clock seconds, for people; order is
by id.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from appliance.errors import DataDirError

POLL_NOW = "poll-now"
"""A file beside it: the updater looks as soon as somebody touches it. It carries no trust."""

_migrations = Migrations("state")


@_migrations()
def initial(db: Database) -> None:
    for statement in (
        # One row per attempt. status: checking, downloading, testing, ready, failed, superseded. release: its JSON.
        # models: JSON {name: ModelRef} of this box. bytes_done, bytes_total: of the download.
        # evidence: JSON of the self-test.
        """CREATE TABLE installs (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, ring TEXT NOT NULL, number INTEGER NOT NULL, status TEXT NOT NULL,
            models BLOB NOT NULL, release BLOB NOT NULL, origin TEXT NOT NULL, bytes_done INTEGER NOT NULL DEFAULT 0,
            bytes_total INTEGER NOT NULL DEFAULT 0, code TEXT, reason TEXT, evidence BLOB)""",
        # Manifests whose signatures were checked, by digest. origin: the registry's address, a folder, or `import`.
        # signed_by: the role and the key ids, as JSON.
        """CREATE TABLE trusted (
            manifest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, at REAL NOT NULL,
            origin TEXT NOT NULL, signed_by BLOB NOT NULL) WITHOUT ROWID""",
        # What serves. A model without a row is served in its newest version that did not come by an update.
        """CREATE TABLE slots (
            name TEXT PRIMARY KEY, current TEXT NOT NULL, previous TEXT, rollout INTEGER, at REAL NOT NULL)
            WITHOUT ROWID""",
        # state: loading, running, probation, done, rejected, rolled_back. models: JSON {name: version}.
        # before: JSON {name: version or null} of what served. evidence: JSON of the counts behind the ruling.
        # configuration: JSON {ring, number, content} of the release that brought what serves with it, NULL: none. That
        # of the newest one in probation or done is what serves, so it goes back with the models.
        """CREATE TABLE rollouts (
            id INTEGER PRIMARY KEY, install INTEGER NOT NULL, at REAL NOT NULL, state TEXT NOT NULL, mode TEXT NOT NULL,
            models BLOB NOT NULL, before BLOB NOT NULL, configuration BLOB, ruled_at REAL, reason TEXT,
            evidence BLOB)""",
        """CREATE TABLE blocked (
            name TEXT, version TEXT, manifest TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL,
            PRIMARY KEY (name, version)) WITHOUT ROWID""",
        # Counted before the first load; settled_at: when the box had served for long enough, or stopped cleanly.
        "CREATE TABLE starts (id INTEGER PRIMARY KEY, at REAL NOT NULL, settled_at REAL)",
        # orders: roll_back (model or NULL: the last rollout), promote, reject. by: who gave it.
        """CREATE TABLE orders (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, model TEXT, by TEXT NOT NULL, done_at REAL,
            outcome TEXT)""",
        """CREATE TABLE holds (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL, until REAL)""",
    ):
        db.execute(statement)


@_migrations()
def polls(db: Database) -> None:
    # One row: how the last look for updates went. answered_at: when a registry last gave anything; fresh_at: when it
    # last had signed something new. failures: in a row. next_at: not before, as the registry asked. expires_at: of the
    # signed metadata. warnings: JSON [{code, reason}] that somebody should see.
    db.execute(
        """CREATE TABLE polls (
            id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL, origin TEXT, answered_at REAL, fresh_at REAL,
            failures INTEGER NOT NULL DEFAULT 0, next_at REAL, expires_at REAL, code TEXT, reason TEXT,
            warnings BLOB NOT NULL DEFAULT '[]')"""
    )


@_migrations()
def told(db: Database) -> None:
    # What of an install (its status) or a rollout (its state) was reported last. The server writes it. kind: install or
    # rollout.
    db.execute("CREATE TABLE told (kind TEXT, id INTEGER, step TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID")


@_migrations()
def at_once(db: Database) -> None:
    # at_once: somebody wants this install outside of its windows.
    db.execute("ALTER TABLE installs ADD COLUMN at_once INTEGER NOT NULL DEFAULT 0")


class State:
    """One process's connection; any thread may use it. Writers of other processes are waited for, 5 s at most."""

    def __init__(self, data_dir: Path, *, read_only: bool = False) -> None:
        """Make the folder and the tables; read_only: only look at what is there. Raises DataDirError."""
        self.path = data_dir / "state" / "state.db"
        self._lock = threading.RLock()
        try:
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _make_shared(self.path)
            address = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA busy_timeout=5000")
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                _migrations.apply(Database(self._db))
        except (OSError, sqlite3.Error) as error:
            raise DataDirError(f"{self.path}: {error}; let this user write to the folder, or free the disk") from error
        self._version = self._data_version()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def changed(self) -> bool:
        """Whether another connection has committed since the last call."""
        with self._lock:
            version = self._data_version()
            changed, self._version = version != self._version, version
        return changed

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with self._lock:
            cursor = self._db.execute(query, values)
            cursor.row_factory = sqlite3.Row
            return cursor.fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed as a whole when the block ends, and on the disk then; rolled back when it raises."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _data_version(self) -> int:
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)


def _make_shared(path: Path) -> None:
    """The server and the updater are two users of one group; SQLite gives its other files the same rights."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o660))
        path.chmod(0o660)
