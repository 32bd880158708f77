"""How a start comes to a database it can rely on.

In this order: a local disk, a folder of its own, no newer database, a check after an unclean stop, a damaged file put
aside and its outbox saved, a copy before the tables change, and only then a connection that writes.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from appliance import ballast, disk, recovery, schema
from appliance.config import StoreConfig
from appliance.errors import DataDirError
from appliance.frames import Frames

log = structlog.get_logger("store")

NAME = "results.db"
_DAMAGED = "results.db.damaged"
"""A file of this name says that the writer met damage which a quick check need not find."""

_COPY = "results.db.before."
_CHECK_OPCODES = 10_000
_SEGMENTS_IN_QUOTA = 8
_SEGMENT_BYTES_MIN = 1 << 16

Checked = Literal["whole", "partly", "not needed"]


class Opened(msgspec.Struct, frozen=True):
    """What a start found. checked: the quick check after an unclean stop, `partly` when its time was up.

    unclean_stops: runs in a row that ended uncleanly just before this one. saved: None unless a file was put aside.
    """

    db: sqlite3.Connection
    checked: Checked
    saved: recovery.Saved | None
    unclean_stops: int


def lock(data_dir: Path, config: StoreConfig) -> int:
    """Make the folder and take it for this process; returns the file that holds the lock. Raises DataDirError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        _refuse_network(data_dir, config)
        file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise DataDirError(
            f"{data_dir}: {error.strerror}; give --data-dir a folder that this user may write"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise DataDirError(f"{data_dir} is in use by another appliance; stop it or give another --data-dir") from error
    return file


def open_database(data_dir: Path, config: StoreConfig, now: float) -> Opened:
    """Open or create `results.db`, whole and up to date. now: wall clock, to name a file that is put aside.

    Raises DataDirError: a newer appliance has written it, there is no room, the disk takes no writes.
    """
    path = data_dir / NAME
    try:
        if ballast.drop_when_full(data_dir):
            log.warning("ballast_dropped", data_dir=str(data_dir))
        if (data_dir / _DAMAGED).exists() and path.exists():
            return _replace(path, config, now)
        try:
            return _open(path, config)
        except sqlite3.Error as error:
            if not recovery.is_damage(error):
                raise
            log.error("database_damaged", error=str(error))
            return _replace(path, config, now)
    except sqlite3.Error as error:
        full = error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
        advice = "free space on the disk" if full else "let this user write to the folder, or give another --data-dir"
        raise DataDirError(f"{path}: {error}; {advice}") from error
    except OSError as error:
        raise DataDirError(f"{data_dir}: {error.strerror}; free or replace the disk") from error


def open_frames(data_dir: Path, db: sqlite3.Connection, config: StoreConfig, images_bytes_max: int) -> Frames:
    """The segments, without those that no row points to. Raises DataDirError."""
    folder = data_dir / "frames"
    # Dropped whole, they have to be small beside what all may take.
    segment_bytes = min(config.segment_bytes, max(_SEGMENT_BYTES_MIN, images_bytes_max // _SEGMENTS_IN_QUOTA))
    try:
        used = _segments(db)
        (marked,) = db.execute("SELECT coalesce(max(segment), 0) FROM marks").fetchone()
        frames = Frames(folder, segment_bytes, after=max(used | {marked + 1}) if used or marked else 0)
        if frames.number not in used:
            frames.roll()
        orphans = frames.drop(set(frames.numbers) - used)
    except OSError as error:
        raise DataDirError(f"{folder}: {error.strerror}; free or replace the disk") from error
    if orphans:
        log.warning("orphans_dropped", segments=orphans)
    return frames


def note_damage(data_dir: Path) -> None:
    """Have the next start put the database aside, whatever a check would find. Raises OSError."""
    (data_dir / _DAMAGED).touch()


def copies(data_dir: Path) -> list[Path]:
    """The copies that were made before the tables changed."""
    return sorted(data_dir.glob(f"{_COPY}*"))


def check(db: sqlite3.Connection, seconds: float) -> Checked:
    """SQLite's quick check, for so long at most: then what was read so far is taken as a sample.

    Raises sqlite3.DatabaseError with the code of damage when something is wrong.
    """
    deadline = time.monotonic() + seconds
    db.set_progress_handler(lambda: time.monotonic() > deadline, _CHECK_OPCODES)
    try:
        found = db.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return "partly"
    finally:
        db.set_progress_handler(None, 0)
    if found != [("ok",)]:
        raise _damage(f"quick_check: {found[0][0] if found else 'no answer'}")
    return "whole"


def _open(path: Path, config: StoreConfig) -> Opened:
    db = schema.connect(path)
    try:
        shaped = schema.applied(db)
        if strange := schema.unknown(db):
            raise DataDirError(
                f"{path} was written by a newer appliance ({strange[-1]} is not known here); install that version, or "
                f"restore a backup of this one"
            )
        unclean = _unclean_stops(db) if shaped else 0
        checked = check(db, config.check_s_max) if unclean and config.check_s_max else "not needed"
        if checked != "not needed":
            log.info("database_checked", result=checked)
        due = schema.pending(db)
        if shaped and due:
            _copy_first(path, db, due[0], config)
        schema.migrate(db)
        if shaped and due:
            db.execute("DELETE FROM counters WHERE name = 'copied_at'")
    except BaseException:
        db.close()
        raise
    return Opened(db, checked, None, unclean)


def _replace(path: Path, config: StoreConfig, now: float) -> Opened:
    """A new database in the place of the damaged one. An unclean stop it is: something broke what was whole."""
    aside = recovery.put_aside(path, now)
    opened = _open(path, config)
    saved = recovery.save(aside, opened.db, now)
    (path.parent / _DAMAGED).unlink(missing_ok=True)
    return Opened(opened.db, "not needed", saved, 1)


def _unclean_stops(db: sqlite3.Connection) -> int:
    unclean = 0
    for (stopped_at,) in db.execute("SELECT stopped_at FROM runs ORDER BY id DESC LIMIT 100"):
        if stopped_at is not None:
            break
        unclean += 1
    return unclean


def _copy_first(path: Path, db: sqlite3.Connection, due: str, config: StoreConfig) -> None:
    """A copy of the database as it was, beside it, before its tables change. Raises DataDirError without room."""
    (pages,), (page_bytes,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA page_size").fetchone()
    needed = pages * page_bytes + config.free_bytes_min
    free = disk.free_bytes(path.parent)
    if free < needed:
        raise DataDirError(
            f"{path} has to be brought up to date, and a copy is made first: {needed >> 20} MiB are needed and "
            f"{free >> 20} MiB free; free space on the disk, or run the version from before"
        )
    target = path.with_name(f"{_COPY}{due}")
    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(target)) as copy:
        db.backup(copy)
    log.info("database_copied", file=str(target))


def _segments(db: sqlite3.Connection) -> set[int]:
    """Every segment that a row of any table points to: one look into an index for each."""
    tables = db.execute(
        "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' "
        "AND c.name = 'segment' AND m.name <> 'marks'"
    ).fetchall()
    found: set[int] = set()
    for (table,) in tables:
        (number,) = db.execute(f"SELECT min(segment) FROM {table}").fetchone()
        while number is not None:
            found.add(number)
            (number,) = db.execute(f"SELECT min(segment) FROM {table} WHERE segment > ?", (number,)).fetchone()
    return found


def _damage(text: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _refuse_network(data_dir: Path, config: StoreConfig) -> None:
    name = disk.network_file_system(disk.magic_of(data_dir))
    if name is not None and not config.network_disk:
        raise DataDirError(
            f"{data_dir} is on {name}, where what is written may be lost; give --data-dir a folder on a local disk, or "
            "set store.network_disk = true if it is one"
        )
