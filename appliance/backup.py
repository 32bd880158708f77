"""A copy of what a box knows, made while it runs, and put back: at once, or by a box that runs at its next start.

A backup is a folder: `results.db` as it was at one moment, the segments in `frames/` when they were asked for, and
`backup.json` with the SHA-256 of each file. Models, keys and the configuration are not in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import structlog

from appliance import __version__, disk, opening, schema
from appliance.config import StoreConfig
from appliance.errors import BackupError, DataDirError
from appliance.synced import sync_file, sync_folder

log = structlog.get_logger("backup")

_PAGES = 1000
_LIST = "backup.json"
_COMING = "restoring"
_WHOLE = "restore-next"
"""A backup in the data folder: while it is copied there, and when nothing is missing any more."""

_IDS_AHEAD = 1_000_000
"""Results that may have been told, and rows that may have been sent, since the backup was made: none of their numbers
comes again, or central would take what is new for what it has."""

_COUNTED = """SELECT
    coalesce((SELECT value FROM counters WHERE name = 'result_id'), 0),
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)"""


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`backup.json`. at: seconds since 1970. files: path in the folder -> SHA-256. images: whether they are in it."""

    at: float
    version: str
    images: bool
    files: dict[str, str]


class Restored(msgspec.Struct, frozen=True):
    """results: in the backup. aside: where what was there before is now, None when nothing was.

    at_next_start: the box runs, and goes on with what it has until it is started again.
    """

    results: int
    images: bool
    at: float
    aside: str | None = None
    at_next_start: bool = False


def back_up(
    data_dir: Path, target: Path, *, images: bool, now: float, progress: Callable[[int, int], None] = lambda *_: None
) -> Contents:
    """Copy the box's data into `target`, a folder that does not exist or is empty. progress: pages left, of how many.

    The copy is of one moment, and the box goes on writing; its log grows for as long as this takes. Raises BackupError.
    """
    database = data_dir / opening.NAME
    if not database.exists():
        raise BackupError(f"{data_dir} has no {opening.NAME}; give --data-dir the folder of the box")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{target} is there already; give a folder that is new or empty")
    try:
        target.mkdir(parents=True, exist_ok=True)
        needed = database.stat().st_size + (_frames_bytes(data_dir) if images else 0)
        if disk.free_bytes(target) < needed:
            raise BackupError(f"{target} needs {needed >> 20} MiB and has {disk.free_bytes(target) >> 20}; make room")
        files: dict[str, str] = {}
        with closing(schema.open_reader(database)) as reader:
            # While this transaction is open the copy sees one moment, and what is written meanwhile begins no restart.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(target / opening.NAME)) as copy:
                reader.backup(copy, pages=_PAGES, progress=lambda _, left, total: progress(left, total))
                copy.execute("PRAGMA journal_mode = DELETE")
        files[opening.NAME] = _synced_digest(target / opening.NAME)
        if images:
            (target / "frames").mkdir()
            for segment in sorted((data_dir / "frames").glob("*.seg")):
                copied = target / "frames" / segment.name
                try:
                    shutil.copyfile(segment, copied)
                except FileNotFoundError:
                    continue  # it went past its retention just now
                files[f"frames/{segment.name}"] = _synced_digest(copied)
        contents = Contents(now, __version__, images, files)
        (target / _LIST).write_bytes(msgspec.json.format(msgspec.json.encode(contents)))
        _synced_digest(target / _LIST)
        sync_folder(target)
    except sqlite3.Error as error:
        raise BackupError(f"{database}: {error}; the backup in {target} is not complete") from error
    except OSError as error:
        raise BackupError(f"{error.filename or target}: {error.strerror}; the backup is not complete") from error
    return contents


def restore(source: Path, data_dir: Path, config: StoreConfig) -> Restored:
    """Put a backup in the place of what `data_dir` holds, which is moved aside; a box that runs does so when it starts.

    Everything is verified before anything is changed. Numbers of results go on above all that may have been told.
    Raises BackupError for a backup that is not whole or is of a newer appliance, DataDirError for an unusable folder.
    """
    contents = _verified(source)
    try:
        lock = opening.lock(data_dir, config)
    except DataDirError as error:
        if "in use" not in str(error):
            raise
        return _copy_in(source, contents, data_dir)
    try:
        there = _copy_in(source, contents, data_dir)
        return msgspec.structs.replace(there, aside=_take(data_dir), at_next_start=False)
    except sqlite3.Error as error:
        raise BackupError(f"{source}: {error}; nothing was changed") from error
    except OSError as error:
        raise BackupError(f"{error.filename or data_dir}: {error.strerror}; free or replace the disk") from error
    finally:
        os.close(lock)


def take_waiting(data_dir: Path, config: StoreConfig) -> None:
    """At a start: go on with the backup that was put into the folder while the box ran, if one was.

    Raises DataDirError.
    """
    if not (data_dir / _WHOLE).is_dir():
        return
    lock = opening.lock(data_dir, config)
    try:
        log.warning("backup_restored", aside=_take(data_dir))
    except (sqlite3.Error, OSError) as error:
        raise DataDirError(
            f"{data_dir / _WHOLE} cannot be taken over: {error}; free space on the disk, or remove that folder to go "
            "on with what the box has"
        ) from error
    finally:
        os.close(lock)


def _copy_in(source: Path, contents: Contents, data_dir: Path) -> Restored:
    """Copy a verified backup into the data folder, where it takes its name when it is whole. Raises BackupError."""
    try:
        needed = sum((source / name).stat().st_size for name in contents.files)
        if disk.free_bytes(data_dir) < needed:
            raise BackupError(f"{data_dir} needs {needed >> 20} MiB more; make room on its disk")
        coming, whole = data_dir / _COMING, data_dir / _WHOLE
        shutil.rmtree(coming, ignore_errors=True)
        (coming / "frames").mkdir(parents=True)
        for name, digest in contents.files.items():
            shutil.copyfile(source / name, coming / name)
            if _synced_digest(coming / name) != digest:
                raise BackupError(f"{source / name} changed while it was read; try again")
        with closing(schema.open_reader(coming / opening.NAME)) as database:
            (results,) = database.execute("SELECT count(*) FROM results").fetchone()
        _own_as(data_dir, coming)
        shutil.rmtree(whole, ignore_errors=True)
        coming.rename(whole)
        sync_folder(data_dir)
    except sqlite3.Error as error:
        raise BackupError(f"{source}: {error}; nothing was changed") from error
    except OSError as error:
        raise BackupError(f"{error.filename or data_dir}: {error.strerror}; nothing was changed") from error
    return Restored(int(results), contents.images, contents.at, at_next_start=True)


def _verified(source: Path) -> Contents:
    try:
        contents = msgspec.json.decode((source / _LIST).read_bytes(), type=Contents)
    except (OSError, msgspec.DecodeError) as error:
        raise BackupError(f"{source} is no backup ({error}); give the folder that `appliance backup` made") from error
    for name, digest in contents.files.items():
        path = source / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file() or _digest(path) != digest:
            raise BackupError(f"{path} is missing or not as it was backed up; use another backup")
    if opening.NAME not in contents.files:
        raise BackupError(f"{source} has no {opening.NAME}; use another backup")
    try:
        with closing(sqlite3.connect(f"{(source / opening.NAME).absolute().as_uri()}?mode=ro", uri=True)) as database:
            if strange := schema.unknown(database):
                raise BackupError(
                    f"{source} is of a newer appliance, {contents.version} ({strange[-1]} is unknown here); install it"
                )
            opening.check(database, float("inf"))
    except sqlite3.Error as error:
        raise BackupError(f"{source / opening.NAME}: {error}; use another backup") from error
    return contents


def _prepare(coming: Path, present: Path) -> None:
    """Let no number of a result, and no key of a row for central, be given twice."""
    told = sent = 0
    if present.exists():
        with suppress(sqlite3.Error), closing(schema.open_reader(present)) as now:
            told, sent = now.execute(_COUNTED).fetchone()
    with closing(sqlite3.connect(coming, isolation_level=None)) as database:
        database.execute(
            "INSERT INTO counters VALUES ('result_id', ?) ON CONFLICT DO UPDATE SET "
            "value = max(value + ?, excluded.value)",
            (told, _IDS_AHEAD),
        )
        _, before = database.execute(_COUNTED).fetchone()
        database.execute("DELETE FROM sqlite_sequence WHERE name = 'outbox'")
        database.execute("INSERT INTO sqlite_sequence VALUES ('outbox', ?)", (max(before + _IDS_AHEAD, sent),))


def _take(data_dir: Path) -> str | None:
    """Move aside what is there and put the whole backup in its place; returns the name of the folder aside.

    Nothing is deleted. After a power cut in between, doing it again completes it: the pictures go first, so where they
    are gone from the backup only its database is left to move. Raises sqlite3.Error, OSError.
    """
    whole, aside = data_dir / _WHOLE, None
    if (whole / "frames").exists():
        _prepare(whole / opening.NAME, data_dir / opening.NAME)
        names = [opening.NAME + ending for ending in ("-wal", "-shm", "")] + ["frames"]
        if there := [name for name in names if (data_dir / name).exists()]:
            aside = _folder_aside(data_dir)
            for name in there:
                (data_dir / name).rename(aside / name)
            _own_as(data_dir, aside)
        (whole / "frames").rename(data_dir / "frames")
    if (whole / opening.NAME).exists():
        (whole / opening.NAME).rename(data_dir / opening.NAME)
    whole.rmdir()
    sync_folder(data_dir)
    return None if aside is None else aside.name


def _folder_aside(data_dir: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside, number = data_dir / f"before-restore.{stamp}", 1
    while aside.exists():
        number += 1
        aside = data_dir / f"before-restore.{stamp}-{number}"
    aside.mkdir()
    return aside


def _own_as(data_dir: Path, folder: Path) -> None:
    """What root puts back for a service must be the service's."""
    if os.geteuid() == 0:
        owner = data_dir.stat()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)


def _frames_bytes(data_dir: Path) -> int:
    return sum(path.stat().st_size for path in (data_dir / "frames").glob("*.seg"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _synced_digest(path: Path) -> str:
    sync_file(path)
    return _digest(path)
