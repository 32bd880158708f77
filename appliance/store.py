"""The one writer of `results.db` and of the frame segments.

Every write goes through one thread that takes all that waits, syncs the frames, and commits the rows in one
transaction with `synchronous=FULL`. Only then are the writes' `done` functions called: what they acknowledge is on
disk. When the disk cannot take it, writes that must not be lost are kept and tried again; the others fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from appliance import ballast, retention
from appliance.config import StoreConfig
from appliance.core.protocol import Part
from appliance.errors import DataDirError, Overloaded, StoreError, StoreFull, StoreUnavailable
from appliance.frames import Frames, Location
from appliance.schema import open_writer
from appliance.writes import Cursor, NewReading, NewResult, Receipt, Write, Written

log = structlog.get_logger("store")

_BATCH_WRITES_MAX = 2000
_BATCH_BYTES_MAX = 32 << 20
_UNAWAITED_LINGER_S = 0.02
"""Every commit costs two syncs: results that were answered before their commit go in groups."""

_WAITING_BYTES_MAX = 256 << 20
_ID_BLOCK = 10_000
_RETRY_S = (0.05, 0.2, 1.0)
_RETENTION_EVERY_S = 60.0
_SPACE_CHECK_S = 0.5


class StoreStatus(msgspec.Struct, frozen=True):
    """state `full` and `failing` come with a reason; last_commit_at is monotonic."""

    state: Literal["ok", "full", "failing"]
    reason: str | None
    waiting: int
    lost: int
    last_commit_at: float


class Store:
    """Owns `results.db`, `frames/` and the writer thread. Raises DataDirError when the folder cannot be used."""

    def __init__(self, data_dir: Path, config: StoreConfig, *, now: Callable[[], float] = time.time) -> None:
        self._data_dir = data_dir
        self._config = config
        self._now = now
        self._lock_file = _lock(data_dir)
        self.path = data_dir / "results.db"
        try:
            if ballast.drop_when_full(data_dir):
                log.warning("ballast_dropped", data_dir=str(data_dir))
            self._db = open_writer(self.path)
            self.frames = _open_frames(data_dir / "frames", config.segment_bytes)
        except DataDirError:
            os.close(self._lock_file)
            raise
        self._waiting: deque[Write] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._awaited = 0
        self._state: Literal["ok", "full", "failing"] = "ok"
        self._reason: str | None = None
        self._lost = 0
        self._last_commit_at = time.monotonic()
        self._space_checked_at = 0.0
        self.beat = time.monotonic()
        self._next_retention = time.monotonic() + _RETENTION_EVERY_S
        self._id_lock = threading.Lock()
        self._abandoned = False
        try:
            self.unclean_stops, self._run = self._begin_run()
            self._id_reserved = self._counter("result_id")
            self._next_id = self._id_reserved + 1
            self._reserve_ids()
            self._reading_id = self._last_reading_id()
            self._streams = set(self._db.execute("SELECT route, source FROM cursors"))
        except sqlite3.Error as error:
            self._close()
            raise DataDirError(f"{self.path}: {error}; free space on the disk, or give another --data-dir") from error
        ballast.lay(data_dir, config.free_bytes_min)
        try:
            self._check_space()
        except StoreFull as error:
            self._set_state("full", str(error))
        self._thread = threading.Thread(target=self._write_for_ever, name="store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Commit what waits, mark the stop as clean, close."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if not self._thread.is_alive() and not self._waiting and not self._abandoned:
            try:
                self._db.execute("UPDATE runs SET stopped_at = ? WHERE id = ?", (self._now(), self._run))
            except sqlite3.Error as error:
                log.error("stop_not_recorded", error=str(error))
        self._close()

    def _close(self) -> None:
        self._db.close()
        try:
            self.frames.close()
        except OSError as error:
            log.error("frames_not_synced", error=str(error))
        os.close(self._lock_file)

    def next_id(self) -> int:
        """A result id, in order of acceptance.

        A crash does not bring it again, unless more than 5,000 answers were given while the disk took no writes.
        """
        with self._id_lock:
            self._next_id += 1
            return self._next_id - 1

    def submit(self, write: Write) -> None:
        """Queue a write; `done` is called once, from the writer thread. Raises Overloaded when too much waits."""
        weight = write.weight()
        with self._changed:
            if not write.must and (self._waiting_bytes > _WAITING_BYTES_MAX or self._state != "ok"):
                if self._state == "ok":
                    raise Overloaded("the store is behind; try again in a moment")
                raise self._refusal()
            self._waiting.append(write)
            self._waiting_bytes += weight
            self._awaited += write.awaited
            # Waking the writer for each write of a group would cost more than the writes.
            if len(self._waiting) == 1 or (write.awaited and self._awaited == 1) or self._urgent():
                self._changed.notify()

    def status(self) -> StoreStatus:
        return StoreStatus(self._state, self._reason, len(self._waiting), self._lost, self._last_commit_at)

    # What a start needs to know of the last run. Called before `start`, from the thread that opened the store.

    def cursors(self) -> list[Cursor]:
        return [Cursor(*row) for row in self._db.execute("SELECT route, source, reading, offset FROM cursors")]

    def receipts(self) -> list[Receipt]:
        return [
            Receipt(*row)
            for row in self._db.execute("SELECT client, route, packet_id, hash, seq FROM receipts ORDER BY seq")
        ]

    def suspects(self) -> set[bytes]:
        """Hashes of the inputs that were being inferred, alone, when the box last went down."""
        return {row[0] for row in self._db.execute("SELECT hash FROM suspects")}

    def sessions(self) -> list[bytes]:
        return [row[0] for row in self._db.execute("SELECT body FROM sessions")]

    def open_readings(self) -> Iterable[tuple[int, NewReading]]:
        """Readings that no cursor has passed, in order: the open windows of every stream."""
        rows = self._db.execute(
            """SELECT id, r.route, r.source, at, key, part, lot, recipe, flags, channels, samples
            FROM cursors c CROSS JOIN readings r ON r.route = c.route AND r.source = c.source AND r.id >= c.reading
            ORDER BY id"""
        )
        for number, route, source, at, key, part, lot, recipe, flags, channels, samples in rows:
            yield (
                number,
                NewReading(
                    route=route,
                    source=source,
                    at=at,
                    key=key,
                    part=Part(part, lot, recipe),
                    flags=tuple((flags or "").split()),
                    channels=channels,
                    samples=samples,
                ),
            )

    def _begin_run(self) -> tuple[int, int]:
        """Returns how many runs in a row ended uncleanly just before this one, and this run's number."""
        unclean = 0
        for (stopped_at,) in self._db.execute("SELECT stopped_at FROM runs ORDER BY id DESC LIMIT 100"):
            if stopped_at is not None:
                break
            unclean += 1
        run = self._db.execute("INSERT INTO runs (started_at) VALUES (?)", (self._now(),)).lastrowid
        assert run is not None
        return unclean, run

    def _counter(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def _last_reading_id(self) -> int:
        row = self._db.execute(
            "SELECT max(coalesce((SELECT max(id) FROM readings), 0), coalesce((SELECT max(reading) FROM cursors), 0))"
        ).fetchone()
        return int(row[0])

    def _write_for_ever(self) -> None:
        if self._state != "ok":
            self._probe(0)
        while True:
            batch = self._take()
            if batch is None:
                return
            if batch:
                self._commit_until_done(batch)
            self._retain_when_due()

    def _take(self) -> list[Write] | None:
        """All that waits, up to a bound; an empty list now and then, for the heartbeat; None to stop."""
        with self._changed:
            if not self._waiting and not self._stopping:
                self._changed.wait(1.0)
            self.beat = time.monotonic()
            if not self._waiting:
                return None if self._stopping else []
            self._linger()
            batch: list[Write] = []
            weight = 0
            while self._waiting and len(batch) < _BATCH_WRITES_MAX and weight < _BATCH_BYTES_MAX:
                write = self._waiting.popleft()
                self._awaited -= write.awaited
                weight += write.weight()
                batch.append(write)
            self._waiting_bytes -= weight
            return batch

    def _linger(self) -> None:
        """Let a group gather: as long as the configuration says, and a moment longer while nobody waits for it."""
        linger_s = self._config.linger_ms / 1000
        self._changed.wait_for(lambda: self._awaited > 0 or self._urgent(), max(linger_s, _UNAWAITED_LINGER_S))
        if linger_s and self._awaited:
            self._changed.wait_for(self._urgent, linger_s)

    def _urgent(self) -> bool:
        return self._stopping or len(self._waiting) >= _BATCH_WRITES_MAX or self._waiting_bytes >= _BATCH_BYTES_MAX

    def _commit_until_done(self, batch: list[Write]) -> None:
        attempt = 0
        while batch:
            try:
                written = self._commit(batch)
            except (StoreFull, StoreUnavailable) as error:
                self._set_state("full" if isinstance(error, StoreFull) else "failing", str(error))
                lossy = [write for write in batch if not write.must]
                batch = [write for write in batch if write.must]
                self._lost += sum(
                    1 + len(write.more) for write in lossy if write.result is not None and not write.awaited
                )
                for write in lossy:
                    _tell(write, error)
                if not batch and not self._stopping:
                    self._probe(attempt)
                    return
                if self._stopping:
                    self._abandoned = self._abandoned or bool(batch)
                    return
                self._pause(attempt)
                attempt += 1
                continue
            self._set_state("ok", None)
            self._last_commit_at = time.monotonic()
            for write, outcome in zip(batch, written, strict=True):
                _tell(write, outcome)
            return

    def _probe(self, attempt: int) -> None:
        """With nothing to keep, try an empty commit until the disk takes writes again, so that the state recovers."""
        while not self._stopping:
            self._pause(attempt)
            attempt += 1
            if any(write.must for write in list(self._waiting)):
                return
            try:
                self._commit([Write()])
            except (StoreFull, StoreUnavailable) as error:
                self._set_state("full" if isinstance(error, StoreFull) else "failing", str(error))
                continue
            self._set_state("ok", None)
            return

    def _retain_when_due(self) -> None:
        if time.monotonic() < self._next_retention:
            return
        self._next_retention = time.monotonic() + _RETENTION_EVERY_S
        try:
            if self.retain():
                self._next_retention = time.monotonic()
        except (sqlite3.Error, OSError) as error:
            log.error("retention_failed", error=str(error))

    def _pause(self, attempt: int) -> None:
        """Between two attempts. Retention goes on: it may be what makes room."""
        self._retain_when_due()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _RETRY_S[min(attempt, len(_RETRY_S) - 1)])
        self.beat = time.monotonic()

    def _set_state(self, state: Literal["ok", "full", "failing"], reason: str | None) -> None:
        if state != self._state:
            log.log(20 if state == "ok" else 40, f"store_{state}", reason=reason)
        self._state, self._reason = state, reason

    def _refusal(self) -> StoreError:
        kind = StoreFull if self._state == "full" else StoreUnavailable
        return kind(self._reason or "the store cannot write")

    def _check_space(self) -> None:
        now = time.monotonic()
        if now - self._space_checked_at < _SPACE_CHECK_S and self._state == "ok":
            return
        self._space_checked_at = now
        free = ballast.free_bytes(self._data_dir)
        if free < self._config.free_bytes_min:
            raise StoreFull(
                f"{free >> 20} MiB free on the disk of {self._data_dir}, {self._config.free_bytes_min >> 20} MiB must "
                "stay free; delete files or shorten the retention"
            )

    def _commit(self, batch: list[Write]) -> list[Written]:
        """One transaction for the whole batch. Raises StoreFull or StoreUnavailable, leaving nothing behind."""
        db = self._db
        before = self._reading_id, self._id_reserved
        try:
            self._check_space()
            frames = [self._append_frames(write) for write in batch]
            self.frames.sync()
            db.execute("BEGIN IMMEDIATE")
            written = self._insert(batch, frames)
            streams = self._insert_cursors(batch, written)
            db.execute("COMMIT")
            self.frames.settle()
        except (sqlite3.Error, OSError, StoreFull) as error:
            self._reading_id, self._id_reserved = before
            self._undo()
            raise _translate(error, self._data_dir) from error
        self._streams.update(streams)
        return written

    def _insert_cursors(self, batch: list[Write], written: list[Written]) -> set[tuple[str, str]]:
        """A new stream's cursor stands before its first reading, so that a start looks at open windows only."""
        first: dict[tuple[str, str], int] = {}
        for write, outcome in zip(batch, written, strict=True):
            reading = write.reading
            if reading is None or outcome.reading_id is None or (reading.route, reading.source) in self._streams:
                continue
            first.setdefault((reading.route, reading.source), outcome.reading_id)
        if first:
            self._db.executemany(
                "INSERT INTO cursors VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
                [(*stream, number) for stream, number in first.items()],
            )
        return set(first)

    def _undo(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self.frames.forget_unsettled()
        except (sqlite3.Error, OSError) as error:
            log.error("rollback_failed", error=str(error))

    def _append_frames(self, write: Write) -> Location | None:
        if write.result is not None and write.result.frame is not None:
            return self.frames.append(write.result.frame)
        if write.dead_letter is not None and write.dead_letter.payload:
            return self.frames.append(write.dead_letter.payload)
        return None

    def _insert(self, batch: list[Write], frames: list[Location | None]) -> list[Written]:
        db = self._db
        written: list[Written] = []
        rows: list[tuple[object, ...]] = []
        results: list[tuple[object, ...]] = []
        receipts: dict[tuple[str, str, int], Receipt] = {}
        sources: dict[str, list[object]] = {}
        for write, frame in zip(batch, frames, strict=True):
            outcome = Written()
            if write.reading is not None:
                outcome = Written(reading_id=self._add_row(write.reading, rows))
            if write.result is not None:
                row = _result_row(write.result, frame)
                if write.result.key is None and write.result.window is None:
                    # Nothing but its id, which is new, could make it a duplicate.
                    results.append(row)
                else:
                    added = db.execute(_INSERT_RESULT, row).rowcount
                    outcome = Written(duplicate=added == 0)
                if not outcome.duplicate:
                    results += [_result_row(each, None) for each in write.more]
                    for each in (write.result, *write.more):
                        _note_source(each, sources)
            if write.dead_letter is not None and not outcome.duplicate:
                letter = write.dead_letter
                place = _place(None if write.result is not None and write.result.frame is not None else frame)
                db.execute(
                    "INSERT INTO dead_letters (at, topic, client, code, reason, segment, offset, length) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (letter.at, letter.topic, letter.client, letter.code, letter.reason, *place),
                )
            if write.cursor is not None:
                cursor = write.cursor
                db.execute(
                    "INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET reading = excluded.reading, "
                    "offset = excluded.offset",
                    (cursor.route, cursor.source, cursor.reading, cursor.offset),
                )
            if write.receipt is not None:
                receipts[write.receipt.client, write.receipt.route, write.receipt.packet_id] = write.receipt
            if write.suspect is not None:
                db.execute("INSERT OR IGNORE INTO suspects VALUES (?)", (write.suspect,))
            if write.cleared is not None:
                db.execute("DELETE FROM suspects WHERE hash = ?", (write.cleared,))
            if write.session is not None:
                self._save_session(*write.session)
            if write.outbox and not outcome.duplicate:
                db.executemany("INSERT INTO outbox (topic, payload) VALUES (?, ?)", write.outbox)
            if not outcome.duplicate:
                for statement, values in write.also:
                    db.execute(statement, values)
            if write.sent:
                db.executemany("DELETE FROM outbox WHERE id = ?", [(number,) for number in write.sent])
            written.append(outcome)
        if rows:
            self._insert_readings(rows, written)
        self._insert_rows(_INSERT_RESULT, _INSERT_RESULTS, results)
        if receipts:
            db.executemany(
                "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?)",
                [(each.client, each.route, each.packet_id, each.hash, each.seq) for each in receipts.values()],
            )
        if sources:
            db.executemany(_UPSERT_SOURCE, list(sources.values()))
        self._reserve_ids()
        return written

    def _add_row(self, reading: NewReading, rows: list[tuple[object, ...]]) -> int:
        self._reading_id += 1
        rows.append(
            (
                self._reading_id,
                reading.at,
                reading.route,
                reading.source,
                reading.key,
                reading.part.part,
                reading.part.lot,
                reading.part.recipe,
                " ".join(reading.flags) or None,
                reading.channels,
                reading.samples,
            )
        )
        return self._reading_id

    def _insert_readings(self, rows: list[tuple[object, ...]], written: list[Written]) -> None:
        if self._insert_rows(_INSERT_READING, _INSERT_READINGS, rows) == len(rows):
            return
        new = {number for (number,) in self._db.execute("SELECT id FROM readings WHERE id >= ?", rows[0][:1])}
        for index, outcome in enumerate(written):
            if outcome.reading_id is not None and outcome.reading_id not in new:
                written[index] = Written(duplicate=True)

    def _insert_rows(self, one: str, many: str, rows: list[tuple[object, ...]]) -> int:
        """Many rows in a statement: after each one, this thread has to wait for its turn to run Python again."""
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        added = 0
        for at in range(0, whole, _ROWS_AT_ONCE):
            values = [value for row in rows[at : at + _ROWS_AT_ONCE] for value in row]
            added += self._db.execute(many, values).rowcount
        if whole < len(rows):
            added += self._db.executemany(one, rows[whole:]).rowcount
        return added

    def _save_session(self, client: str, body: bytes | None) -> None:
        if body is None:
            self._db.execute("DELETE FROM sessions WHERE client = ?", (client,))
            self._db.execute("DELETE FROM receipts WHERE client = ?", (client,))
        else:
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?)", (client, body))

    def _reserve_ids(self) -> None:
        """Reserve result ids ahead, so that an id told to a caller is never given again after a crash."""
        if self._next_id + _ID_BLOCK // 2 > self._id_reserved:
            self._id_reserved = self._next_id + _ID_BLOCK
            self._db.execute(
                "INSERT INTO counters VALUES ('result_id', ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                (self._id_reserved,),
            )

    def retain(self) -> bool:
        """Drop what is past its age, a step of it; returns whether more is left. Writer thread only."""
        return retention.retain(self._db, self.frames, self._data_dir, self._config, self._now())


_READING = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS_AT_ONCE = 50
_INSERT_READING = f"INSERT INTO readings VALUES {_READING} ON CONFLICT DO NOTHING"
_INSERT_READINGS = f"INSERT INTO readings VALUES {', '.join([_READING] * _ROWS_AT_ONCE)} ON CONFLICT DO NOTHING"
_RESULT = f"({', '.join('?' * 16)})"
_INSERT_RESULT = f"INSERT INTO results VALUES {_RESULT} ON CONFLICT DO NOTHING"
_INSERT_RESULTS = f"INSERT INTO results VALUES {', '.join([_RESULT] * _ROWS_AT_ONCE)} ON CONFLICT DO NOTHING"
_UPSERT_SOURCE = (
    "INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET route = excluded.route, "
    "kind = excluded.kind, model = excluded.model, count = count + excluded.count, last_id = excluded.last_id, "
    "last_at = excluded.last_at, verdict = excluded.verdict"
)


def _result_row(new: NewResult, frame: Location | None) -> tuple[object, ...]:
    result = new.result
    last_reading, window_end = new.window or (None, None)
    return (
        result.id,
        result.at,
        result.model,
        result.source,
        result.route,
        result.verdict,
        result.part,
        result.lot,
        result.recipe,
        new.body,
        new.key,
        last_reading,
        window_end,
        *_place(frame if new.frame is not None else None),
    )


def _note_source(new: NewResult, sources: dict[str, list[object]]) -> None:
    """Count the result for its source, and make it the source's last."""
    result = new.result
    known = sources.get(result.source)
    count = 1 if known is None else known[4] + 1  # type: ignore[operator]
    sources[result.source] = [
        result.source,
        result.route,
        new.kind,
        result.model,
        count,
        result.id,
        result.at,
        result.verdict,
    ]


def _place(frame: Location | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if frame is None else (frame.segment, frame.offset, frame.length)


def _tell(write: Write, outcome: Written | StoreError) -> None:
    if write.done is None:
        return
    try:
        write.done(outcome)
    except Exception:
        # The writer must live on: the rows are committed, only their announcement failed.
        log.exception("done_failed")


def _translate(error: Exception, data_dir: Path) -> StoreError:
    if isinstance(error, StoreError):
        return error
    text = str(error)
    full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "full" in text
    if full:
        return StoreFull(f"the disk of {data_dir} is full ({text}); delete files or shorten the retention")
    return StoreUnavailable(f"the store in {data_dir} cannot write ({text}); check the disk")


def _open_frames(folder: Path, segment_bytes: int) -> Frames:
    try:
        return Frames(folder, segment_bytes)
    except OSError as error:
        raise DataDirError(f"{folder}: {error.strerror}; free or replace the disk") from error


def _lock(data_dir: Path) -> int:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
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
