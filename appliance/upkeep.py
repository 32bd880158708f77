"""What the store's thread does between two commits so that the box lasts for years.

It follows the clocks, sets marks, drops what is old or does not fit, gives pages back to the disk, and does the long
jobs that others ask for, such as erasing: always a bounded step, so that no commit waits for long.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from appliance import ballast, disk, marks, recovery, retention
from appliance.clock import Clocks
from appliance.config import DATABASE_BYTES_LEAST, StoreConfig
from appliance.core.clock import Clock, advance
from appliance.core.quota import CRITICAL, LOW, Level, Room, level, of_disk
from appliance.errors import StoreUnavailable
from appliance.frames import Frames
from appliance.opening import Checked, Opened, copies, note_damage

log = structlog.get_logger("store")

LOOK_EVERY_S = 0.5
RETAIN_EVERY_S = 60.0

T = TypeVar("T")
Job = Generator[None, None, T]

_DISK_PARTS_DATABASE = 2
_DISK_PARTS_IMAGES = 4
_EARLY_HOLDS_S = 3600.0
"""A quota that was full is full again before long: what went early for it is spoken of for so long."""

_DISK_EASED = 0.85
"""What went early because others filled the disk is over as soon as less than this share of it is taken."""

_DISK_HOLDS_S = 10.0
"""But it is told for so long, or nobody would see it."""

_COPY_DAYS = 30
_SEGMENT_PARTS = 8
_WAL_LARGE = 256 << 20
_SURE_AFTER_S = 60.0


class UpkeepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """share: of the room taken, the fullest of database, pictures and disk; limits in bytes.

    bytes_written_per_day: by this process, over the last day that the box was on; None in its first minute.
    wal_bytes: of the log that has not been taken into the database. clock_ok: whether the wall clock can be believed.
    checked: the quick check at the start.
    """

    level: Level = "ok"
    share: float = 0.0
    database_bytes: int = 0
    database_bytes_max: int = 0
    images_bytes: int = 0
    images_bytes_max: int = 0
    wal_bytes: int = 0
    keeps_images: bool = True
    dropped_early: tuple[str, ...] = ()
    bytes_written_per_day: int | None = None
    clock_ok: bool = True
    boot: str = ""
    age_days: float = 0.0
    checked: Checked = "not needed"
    put_aside: tuple[str, ...] = ()


class Upkeep:
    """For the store's thread, except for `ask` and `status`. images_days: of sources that keep pictures for less long.

    Raises sqlite3.Error when the database cannot be written.
    """

    def __init__(
        self,
        opened: Opened,
        frames: Frames,
        data_dir: Path,
        config: StoreConfig,
        images_days: Mapping[str, float],
        clocks: Clocks,
    ) -> None:
        self._db = opened.db
        self._frames = frames
        self._data_dir = data_dir
        self._config = config
        self._images_days = images_days
        self._clocks = clocks
        self._checked: Checked = opened.checked
        self._saved = opened.saved
        self._database_max, self._images_max = quotas(config, data_dir)
        (self._page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
        # A file that is larger already keeps its size, and gets smaller by what is dropped.
        self._db.execute(f"PRAGMA max_page_count = {self._database_max // self._page_bytes}")
        self.clock: Clock = advance(marks.known_clock(self._db), clocks())
        before = marks.last(self._db)
        self._written_before = (before.written if before else 0) - marks.written_bytes()
        self._next_look = self._next_retention = self._next_mark = 0.0
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Job[Any], Future[Any]]] = deque()
        self._dropped: dict[str, tuple[float, bool]] = {}
        self._trouble: str | None = None
        self.keeps_images = True
        self.damaged = False
        self.status = UpkeepStatus()
        ballast.lay(data_dir, config.free_bytes_min)
        self._mark()
        self._look()

    @property
    def busy(self) -> bool:
        """Whether there is more to do at once."""
        return bool(self._jobs) or self._next_retention <= time.monotonic()

    def ask(self, job: Job[T]) -> Future[T]:
        """Have a job done in steps; the future ends with its result, or with StoreUnavailable. From any thread."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._jobs.append((job, future))
        return future

    def turn(self) -> None:
        """Whatever is due, one step of each. Raises nothing."""
        now = time.monotonic()
        try:
            if now >= self._next_look:
                self._next_look = now + LOOK_EVERY_S
                self._look()
                now = time.monotonic()
            if now >= self._next_retention:
                self._next_retention = now + RETAIN_EVERY_S
                if self.retain():
                    self._next_retention = now
                self._trouble = None
            if now >= self._next_mark:
                self._next_mark = now + marks.EVERY_S
                self._mark()
        except (sqlite3.Error, OSError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("upkeep_failed", error=self._trouble)
            self.note(error)
            # Not at once: on a disk that takes nothing this thread would do nothing else than fail.
            self._next_look = self._next_retention = now + LOOK_EVERY_S
        self._work()

    def look_soon(self) -> None:
        """At the next turn: the store writes again, or no more."""
        self._next_look = 0.0

    def note(self, error: Exception) -> None:
        """A write has failed: look for room at once, or have the next start put a damaged database aside."""
        self.look_soon()
        self._next_retention = 0.0
        if recovery.is_damage(error) and not self.damaged:
            self.damaged = True
            log.error("database_damaged", error=str(error))
            try:
                note_damage(self._data_dir)
            except OSError as refused:
                log.error("damage_not_noted", error=str(refused))

    def retain(self) -> bool:
        """Drop what is past its age, or does not fit, one step of it; returns whether more is left.

        Raises sqlite3.Error, OSError.
        """
        ballast.lay(self._data_dir, self._config.free_bytes_min)
        more = retention.by_age(self._db, self._frames, self._config, self._images_days, self.clock.age)
        before = self._rooms()
        for_the_disk = max(before.database.share, before.images.share) < LOW
        dropped = retention.early(self._db, self._frames, self._rooms)
        for what in dropped:
            if what not in self._dropped:
                log.warning("dropped_early", what=what)
            self._dropped[what] = time.monotonic(), for_the_disk
        tight = self._rooms().disk.share >= LOW
        if tight:
            self._drop_copies(always=True)
        return retention.vacuum(self._db, tight=tight) or more or bool(dropped)

    def close(self) -> None:
        """Remember the age, before a stop. Raises sqlite3.Error."""
        self.clock = advance(self.clock, self._clocks())
        self._mark()
        self.abandon()

    def abandon(self) -> None:
        """No job is done any more."""
        with self._lock:
            jobs, self._jobs = list(self._jobs), deque()
        for _, future in jobs:
            future.set_exception(StoreUnavailable("the appliance is stopping; ask again when it has started"))

    def concerns(self) -> dict[str, str | None]:
        """What somebody should be told, by kind of alarm; None where all is well. From any thread."""
        status = self.status
        low = aside = clock = reader = None
        if status.level != "ok" or status.dropped_early:
            gone = ", ".join(status.dropped_early)
            kept = "" if status.keeps_images else " New pictures are not kept."
            early = f" The oldest {gone} go before their time." if gone else ""
            low = f"Storage is nearly full.{early}{kept} Make room, raise the quotas in [store], or keep less"
        if status.put_aside:
            aside = (
                f"The database was damaged and is now {status.put_aside[-1]}; a new one holds what could be saved. "
                "Take the file away when its results are not needed"
            )
        if not status.clock_ok:
            clock = "The clock of the box cannot be believed; set it, or let a time server do it"
        if status.wal_bytes >= _WAL_LARGE:
            reader = "Another program has been reading results.db for long, so that its log grows; end that program"
        return {
            "store_nearly_full": low,
            "database_saved": aside,
            "clock_wrong": clock,
            "log_growing": reader,
        }

    def _rooms(self) -> retention.Rooms:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        images = self._frames.size
        return retention.Rooms(
            Room((pages - free) * self._page_bytes, self._database_max),
            Room(images, self._images_max),
            of_disk(pages * self._page_bytes + images, disk.free_bytes(self._data_dir), self._config.free_bytes_min),
        )

    def _look(self) -> None:
        clock = advance(self.clock, self._clocks())
        turned = clock.ok != self.clock.ok
        self.clock = clock
        if turned:
            log.log(20 if clock.ok else 40, "clock_believed" if clock.ok else "clock_doubted", wall=clock.last.wall)
        if ballast.drop_when_full(self._data_dir):
            log.warning("ballast_dropped", data_dir=str(self._data_dir))
        rooms = self._rooms()
        now_level = level(rooms.share)
        if now_level != self.status.level:
            log.log(20 if now_level == "ok" else 30, f"room_{now_level}", share=round(rooms.share, 3))
        if now_level != "ok":
            self._next_retention = 0.0
        self.keeps_images = max(rooms.images.share, rooms.disk.share) < CRITICAL
        now = time.monotonic()
        tight = rooms.disk.share >= _DISK_EASED
        self._dropped = {
            what: (at, for_the_disk)
            for what, (at, for_the_disk) in self._dropped.items()
            if (tight and for_the_disk) or now - at < (_DISK_HOLDS_S if for_the_disk else _EARLY_HOLDS_S)
        }
        self.status = UpkeepStatus(
            level=now_level,
            share=round(rooms.share, 3),
            database_bytes=rooms.database.used,
            database_bytes_max=self._database_max,
            images_bytes=rooms.images.used,
            images_bytes_max=self._images_max,
            wal_bytes=_size(self._data_dir / "results.db-wal"),
            keeps_images=self.keeps_images,
            dropped_early=tuple(self._dropped),
            bytes_written_per_day=self._written_per_day(),
            clock_ok=clock.ok,
            boot=clock.last.boot,
            age_days=round(clock.age / marks.DAY_S, 3),
            checked=self._checked,
            put_aside=tuple(recovery.put_aside_files(self._data_dir)),
        )
        if turned:
            marks.keep_clock(self._db, clock)

    def _written_per_day(self) -> int | None:
        since = marks.after_age(self._db, self.clock.age - marks.DAY_S)
        if since is None or self.clock.age - since.age < _SURE_AFTER_S:
            return None
        written = self._written_before + marks.written_bytes() - since.written
        return int(written / (self.clock.age - since.age) * marks.DAY_S)

    def _mark(self) -> None:
        self._roll_when_old()
        written = self._written_before + marks.written_bytes()
        marks.keep_clock(self._db, self.clock)
        marks.note(self._db, self.clock.age, self._frames.number, written)
        self._drop_copies(always=False)

    def _roll_when_old(self) -> None:
        """A segment goes when its last picture may go: with few pictures it would hold the first for too long."""
        days = min([self._config.images_days, *self._images_days.values()])
        began = self._db.execute(
            "SELECT age FROM marks WHERE segment >= ? ORDER BY id LIMIT 1", (self._frames.number - 1,)
        ).fetchone()
        if began is not None and self.clock.age - began[0] >= days * marks.DAY_S / _SEGMENT_PARTS:
            self._frames.roll()

    def _drop_copies(self, *, always: bool) -> None:
        """Of the database before its tables changed: after a month, or when the room is needed."""
        known = self._db.execute("SELECT value FROM counters WHERE name = 'copied_at'").fetchone()
        there = copies(self._data_dir)
        if not there:
            return
        if known is None and not always:
            self._db.execute("INSERT INTO counters VALUES ('copied_at', ?)", (int(self.clock.age),))
        elif always or self.clock.age - known[0] > _COPY_DAYS * marks.DAY_S:
            for copy in there:
                copy.unlink(missing_ok=True)
            self._db.execute("DELETE FROM counters WHERE name = 'copied_at'")

    def _work(self) -> None:
        with self._lock:
            if not self._jobs:
                return
            job, future = self._jobs[0]
        try:
            next(job)
            return
        except StopIteration as end:
            future.set_result(end.value)
        except (sqlite3.Error, OSError) as error:
            self.note(error)
            future.set_exception(StoreUnavailable(f"the store cannot do it now ({error}); ask again"))
        except Exception as error:
            # The store's thread must live on.
            log.exception("job_failed")
            future.set_exception(error)
        with self._lock:
            if self._jobs and self._jobs[0][0] is job:
                self._jobs.popleft()


def quotas(config: StoreConfig, data_dir: Path) -> tuple[int, int]:
    """Bytes that the database and the pictures may take: as configured, or a part of the disk. Raises OSError."""
    total = disk.total_bytes(data_dir)
    return (
        config.database_bytes_max or max(DATABASE_BYTES_LEAST, total // _DISK_PARTS_DATABASE),
        config.images_bytes_max or total // _DISK_PARTS_IMAGES,
    )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
