"""The one writer of `results.db` and of the frame segments.

Every write goes through one thread that takes all that waits, syncs the frames, and commits the rows in one
transaction with `synchronous=FULL`. Only then are the writes' `done` functions called: what they acknowledge is on
disk. When the disk cannot take it, writes that must not be lost are kept and tried again; the others fail.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from appliance import disk, opening, recovery
from appliance.clock import Clocks, read_clocks
from appliance.config import StoreConfig
from appliance.core.protocol import Part
from appliance.erasing import Erased, Erasure, erase
from appliance.errors import DataDirError, Overloaded, StoreError, StoreFull, StoreUnavailable
from appliance.frames import Location
from appliance.inserts import Inserts
from appliance.upkeep import Upkeep, quotas
from appliance.writes import Cursor, NewReading, Receipt, Write, Written

log = structlog.get_logger("store")

_BATCH_ROWS_MAX = 2000
_COMPANY_ROWS = 200
"""Rows for which a commit need not linger: what it writes beside them is little by then."""

_BATCH_BYTES_MAX = 32 << 20
_UNAWAITED_LINGER_S = 0.02
"""Every commit costs two syncs: results that were answered before their commit go in groups."""

_WAITING_BYTES_MAX = 256 << 20
_ID_BLOCK = 10_000
_RETRY_S = (0.05, 0.2, 1.0)
_SPACE_CHECK_S = 0.5
_PROBE = "INSERT INTO counters VALUES ('probes', 1) ON CONFLICT DO UPDATE SET value = value + 1", ()
"""A commit that changes nothing would succeed on a disk that takes nothing."""


class StoreStatus(msgspec.Struct, frozen=True):
    """state `full` and `failing` come with a reason; last_commit_at is monotonic."""

    state: Literal["ok", "full", "failing"]
    reason: str | None
    waiting: int
    lost: int
    last_commit_at: float


class Store:
    """Owns `results.db`, `frames/` and the writer thread. Raises DataDirError when the folder cannot be used.

    images_days: for how long pictures of a source are kept, where that is shorter than the store's own.
    """

    def __init__(
        self,
        data_dir: Path,
        config: StoreConfig,
        *,
        images_days: Mapping[str, float] | None = None,
        clocks: Clocks = read_clocks,
    ) -> None:
        self._data_dir = data_dir
        self._config = config
        self._clocks = clocks
        self._lock_file = opening.lock(data_dir, config)
        self.path = data_dir / opening.NAME
        try:
            opened = opening.open_database(data_dir, config, clocks().wall)
            self._db = opened.db
            try:
                self.frames = opening.open_frames(data_dir, self._db, config, quotas(config, data_dir)[1])
            except DataDirError:
                self._db.close()
                raise
        except DataDirError:
            os.close(self._lock_file)
            raise
        self._waiting: deque[tuple[Write, int]] = deque()
        self._waiting_bytes = 0
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._awaited = 0
        self._state: Literal["ok", "full", "failing"] = "ok"
        self._reason: str | None = None
        self._lost = 0
        self._last_commit_at = time.monotonic()
        self._space_checked_at = 0.0
        self.beat = time.monotonic()
        self._id_lock = threading.Lock()
        self._abandoned = False
        try:
            self.unclean_stops = opened.unclean_stops
            self._run = self._begin_run()
            self._id_reserved = self._counter("result_id")
            self._next_id = self._id_reserved + 1
            self._reserve_ids()
            self._inserts = Inserts(self._db)
            self.upkeep = Upkeep(opened, self.frames, data_dir, config, images_days or {}, clocks)
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise DataDirError(f"{self.path}: {error}; free space on the disk, or give another --data-dir") from error
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
                self.upkeep.close()
                self._db.execute("UPDATE runs SET stopped_at = ? WHERE id = ?", (self._clocks().wall, self._run))
            except (sqlite3.Error, OSError) as error:
                log.error("stop_not_recorded", error=str(error))
        self.upkeep.abandon()
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
            self._waiting.append((write, weight))
            self._waiting_bytes += weight
            self._waiting_rows += _rows(write)
            self._awaited += write.awaited
            # Waking the writer for each write of a group would cost more than the writes.
            if len(self._waiting) == 1 or (write.awaited and self._awaited == 1) or self._in_company():
                self._changed.notify()

    def status(self) -> StoreStatus:
        return StoreStatus(self._state, self._reason, len(self._waiting), self._lost, self._last_commit_at)

    # What a start needs to know of the last run. Called before `start`, from the thread that opened the store.

    def cursors(self) -> list[Cursor]:
        rows = self._db.execute("SELECT route, source, reading, offset, next_ns FROM cursors")
        return [Cursor(*row) for row in rows]

    def receipts(self) -> list[Receipt]:
        return self._inserts.receipts.all()

    def keep_receipts(self, messages: int) -> None:
        """How many of each client and route are kept at least; called before `start`."""
        self._inserts.receipts.kept = messages

    def suspects(self) -> set[bytes]:
        """Hashes of the inputs that were being inferred, alone, when the box last went down."""
        return {row[0] for row in self._db.execute("SELECT hash FROM suspects")}

    def sessions(self) -> list[bytes]:
        return [row[0] for row in self._db.execute("SELECT body FROM sessions")]

    def open_readings(self) -> Iterable[tuple[int, NewReading]]:
        """Readings that no cursor has passed, in order: the open windows of every stream."""
        rows = self._db.execute(
            """SELECT id, r.route, r.source, at, key, part, lot, recipe, flags, channels, samples, times
            FROM cursors c CROSS JOIN readings r ON r.route = c.route AND r.source = c.source AND r.id >= c.reading
            ORDER BY id"""
        )
        for number, route, source, at, key, part, lot, recipe, flags, channels, samples, times in rows:
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
                    times=times,
                ),
            )

    def erase(self, wanted: Erasure) -> Future[Erased]:
        """Erase what a source gave in a stretch of time; the future ends with what it was, or StoreUnavailable."""
        future = self.upkeep.ask(erase(self._db, self.frames, wanted, self._clocks().wall))
        self.submit(Write(must=True))
        return future

    def _begin_run(self) -> int:
        run = self._db.execute("INSERT INTO runs (started_at) VALUES (?)", (self._clocks().wall,)).lastrowid
        assert run is not None
        return run

    def _counter(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def _write_for_ever(self) -> None:
        if self._state != "ok":
            self._probe(0)
        while True:
            batch = self._take()
            if batch is None:
                return
            if batch:
                self._commit_until_done(batch)
            self.upkeep.turn()

    def _take(self) -> list[Write] | None:
        """All that waits, up to a bound; an empty list now and then, for the heartbeat; None to stop."""
        with self._changed:
            if not self._waiting and not self._stopping:
                self._changed.wait(0.0 if self.upkeep.busy else 1.0)
            self.beat = time.monotonic()
            if not self._waiting:
                return None if self._stopping else []
            self._linger()
            batch: list[Write] = []
            rows = weight = 0
            while self._waiting and rows < _BATCH_ROWS_MAX and weight < _BATCH_BYTES_MAX:
                write, its_weight = self._waiting.popleft()
                self._awaited -= write.awaited
                rows += _rows(write)
                weight += its_weight
                batch.append(write)
            self._waiting_rows -= rows
            self._waiting_bytes -= weight
            return batch

    def _linger(self) -> None:
        """Let a group gather: as long as the configuration says, and a moment longer while nobody waits for it."""
        linger_s = self._config.linger_ms / 1000
        self._changed.wait_for(lambda: self._awaited > 0 or self._urgent(), max(linger_s, _UNAWAITED_LINGER_S))
        if linger_s and self._awaited:
            self._changed.wait_for(self._in_company, linger_s)

    def _in_company(self) -> bool:
        return self._waiting_rows >= _COMPANY_ROWS or self._urgent()

    def _urgent(self) -> bool:
        return self._stopping or self._waiting_rows >= _BATCH_ROWS_MAX or self._waiting_bytes >= _BATCH_BYTES_MAX

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
        """With nothing to keep, try a small commit until the disk takes writes again, so that the state recovers."""
        while not self._stopping:
            self._pause(attempt)
            attempt += 1
            if any(write.must for write, _ in list(self._waiting)):
                return
            try:
                self._commit([Write(also=(_PROBE,))])
            except (StoreFull, StoreUnavailable) as error:
                self._set_state("full" if isinstance(error, StoreFull) else "failing", str(error))
                continue
            self._set_state("ok", None)
            return

    def _pause(self, attempt: int) -> None:
        """Between two attempts. Retention goes on: it may be what makes room."""
        self.upkeep.turn()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _RETRY_S[min(attempt, len(_RETRY_S) - 1)])
        self.beat = time.monotonic()

    def _set_state(self, state: Literal["ok", "full", "failing"], reason: str | None) -> None:
        if state != self._state:
            log.log(20 if state == "ok" else 40, f"store_{state}", reason=reason)
            self.upkeep.look_soon()
        self._state, self._reason = state, reason

    def _refusal(self) -> StoreError:
        kind = StoreFull if self._state == "full" else StoreUnavailable
        return kind(self._reason or "the store cannot write")

    def _check_space(self) -> None:
        now = time.monotonic()
        if now - self._space_checked_at < _SPACE_CHECK_S and self._state == "ok":
            return
        self._space_checked_at = now
        free = disk.free_bytes(self._data_dir)
        if free < self._config.free_bytes_min:
            raise StoreFull(
                f"{free >> 20} MiB free on the disk of {self._data_dir}, {self._config.free_bytes_min >> 20} MiB must "
                "stay free; delete files or shorten the retention"
            )

    def _commit(self, batch: list[Write]) -> list[Written]:
        """One transaction for the whole batch. Raises StoreFull or StoreUnavailable, leaving nothing behind."""
        db = self._db
        reserved = self._id_reserved
        try:
            self._check_space()
            frames = [self._append_frames(write) for write in batch]
            self.frames.sync()
            db.execute("BEGIN IMMEDIATE")
            written = self._inserts.insert(batch, frames)
            self._reserve_ids()
            db.execute("COMMIT")
            self.frames.settle()
        except (sqlite3.Error, OSError, StoreFull) as error:
            self._id_reserved = reserved
            self._undo()
            self.upkeep.note(error)
            raise _translate(error, self._data_dir) from error
        self._inserts.settle()
        return written

    def _undo(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._inserts.undo()
            self.frames.forget_unsettled()
        except (sqlite3.Error, OSError) as error:
            log.error("rollback_failed", error=str(error))

    def _append_frames(self, write: Write) -> Location | None:
        if not self.upkeep.keeps_images:
            return None
        if write.result is not None and write.result.frame is not None:
            return self.frames.append(write.result.frame)
        if write.dead_letter is not None and write.dead_letter.payload:
            return self.frames.append(write.dead_letter.payload)
        return None

    def _reserve_ids(self) -> None:
        """Reserve result ids ahead, so that an id told to a caller is never given again after a crash."""
        if self._next_id + _ID_BLOCK // 2 > self._id_reserved:
            self._id_reserved = self._next_id + _ID_BLOCK
            self._db.execute(
                "INSERT INTO counters VALUES ('result_id', ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                (self._id_reserved,),
            )


def _rows(write: Write) -> int:
    return 1 + len(write.readings) + len(write.more)


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
    if recovery.is_damage(error):
        return StoreUnavailable(
            f"the database in {data_dir} is damaged ({text}); restart the appliance: it puts the file aside and goes on"
        )
    full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "full" in text
    if full:
        return StoreFull(f"the disk of {data_dir} or its quota is full ({text}); delete files or shorten the retention")
    return StoreUnavailable(f"the store in {data_dir} cannot write ({text}); check the disk")
