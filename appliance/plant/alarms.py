"""What is wrong, in words that say what to do: one register of alarms, each raised once and cleared once.

What is active is in memory and told to whoever listens; the table `alarms` keeps when each came and went. Whoever
looks after something calls `hold` as often as it likes: only a change does anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing

import msgspec
import structlog

from appliance.schema import open_reader
from appliance.store import Store
from appliance.writes import Outgoing, Write

log = structlog.get_logger("alarms")

KEPT = 10_000
"""Rows of history; the oldest go first."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """kind: a stable word, one alarm of each kind per source. source: null when it is about the box.

    text: one line: what is wrong and what to do. since: seconds since 1970 by the clock of the box.
    """

    kind: str
    source: str | None
    text: str
    since: float


class PastAlarm(Alarm, frozen=True, kw_only=True):
    """until: null while it lasts."""

    until: float | None


class AlarmList(msgspec.Struct, frozen=True):
    """The active alarms, the oldest first. Published retained on every change."""

    at: float
    alarms: tuple[Alarm, ...]


class Alarms:
    """Any thread may call it. `on_change` is called after each change, without a lock, by the thread that made it."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._active: dict[tuple[str, str | None], Alarm] = {}
        self.on_change: Callable[[], None] = lambda: None
        self.outgoing: Callable[[float, Mapping[str, object]], tuple[Outgoing, ...]] = lambda _at, _content: ()
        """The rows for central that are committed with a change."""

    def start(self) -> None:
        """Those of the last run are over: what still is wrong is raised again."""
        self._write("UPDATE alarms SET until = ? WHERE until IS NULL", (self._now(),))

    def clear(self, kind: str, source: str | None = None) -> None:
        self.hold(kind, None, source)

    def hold(self, kind: str, text: str | None, source: str | None = None) -> None:
        """Raise the alarm, or put it in other words, while there is a text; clear it with None."""
        key = kind, source
        with self._lock:
            before = self._active.get(key)
            if (before is None and text is None) or (before is not None and before.text == text):
                return
            at = round(self._now(), 3)
            if text is None:
                del self._active[key]
                # Submitted under the lock, so that the rows come in the order of the changes.
                self._write(
                    "UPDATE alarms SET until = ? WHERE kind = ? AND source IS ? AND until IS NULL",
                    (at, *key),
                    self.outgoing(at, {"alarm": kind, "source": source, "state": "cleared"}),
                )
            elif before is None:
                self._active[key] = Alarm(kind=kind, source=source, text=text, since=at)
                self._write(
                    "INSERT INTO alarms (kind, source, text, since) VALUES (?, ?, ?, ?)",
                    (*key, text, at),
                    self.outgoing(at, {"alarm": kind, "source": source, "state": "raised", "text": text}),
                )
            else:
                self._active[key] = msgspec.structs.replace(before, text=text)
        if text is None:
            log.info("alarm_cleared", kind=kind, source=source)
        elif before is None:
            log.warning("alarm_raised", kind=kind, source=source, text=text)
        self.on_change()

    def active(self) -> tuple[Alarm, ...]:
        """The oldest first."""
        with self._lock:
            return tuple(self._active.values())

    def report(self) -> AlarmList:
        return AlarmList(round(self._now(), 3), self.active())

    def history(self, limit: int) -> list[PastAlarm]:
        """What was raised, the newest first. Reads the database; call it from a thread."""
        with closing(open_reader(self._store.path)) as reader:
            rows = reader.execute(
                "SELECT kind, source, text, since, until FROM alarms ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [
            PastAlarm(kind=kind, source=source, text=text, since=since, until=until)
            for kind, source, text, since, until in rows
        ]

    def _write(self, statement: str, values: tuple[object, ...], outbox: tuple[Outgoing, ...] = ()) -> None:
        """Kept and tried again while the disk refuses: that the store was full is worth knowing afterwards."""
        also = (statement, values), ("DELETE FROM alarms WHERE id <= (SELECT max(id) FROM alarms) - ?", (KEPT,))
        self._store.submit(Write(also=also, outbox=outbox, must=True, awaited=False))
