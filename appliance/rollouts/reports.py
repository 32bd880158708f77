"""What is told of updates: each step once at least, over restarts, and the alarms that follow from how things stand.

Both are read from `state.db`, so what a command, the updater or the last run did there is told as well.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from appliance import standing
from appliance.errors import StoreUnavailable
from appliance.rollouts import records
from appliance.rollouts.records import Record
from appliance.state import State

log = structlog.get_logger("rollouts")

_STEP = {"probation": "promoted"}
"""What a state of a rollout is called as a step; any other is called the same."""

Announce = Callable[[float, Mapping[str, object]], None]
"""Wall clock, and what happened."""

Commit = Callable[[float, Mapping[str, object], Callable[[], None]], None]
"""The same, and what to call once it is committed; from any thread."""


class Reports:
    """announce: to whoever listens now. commit: for central. alarm: kind, and text or None.

    For the thread of the rollouts alone.
    """

    def __init__(
        self, state: State, announce: Announce, commit: Commit, alarm: Callable[[str, str | None], None]
    ) -> None:
        self._state = state
        self._announce = announce
        self._commit = commit
        self._alarm = alarm
        self._has_announced = False
        self._telling: set[tuple[str, int, str]] = set()
        self._told: deque[tuple[str, int, str]] = deque()
        self.on_told: Callable[[], None] = lambda: None

    def tell(self, wall: float) -> None:
        """What nobody was told of yet, and the alarms."""
        self._note_told()
        rollouts, installs = records.untold(self._state)
        for row in installs:
            self._say(("install", row["id"], row["status"]), wall, _of_install(row))
        for record in rollouts:
            self._say(("rollout", record.id, record.state), wall, self._of_rollout(record))
        for kind, text in self._alarms().items():
            self._alarm(kind, text)
        if not self._has_announced:
            # After a start: what the last run said is forgotten where retained messages are in memory.
            for record in records.rollouts(self._state, 1):
                self._announce(record.ruled_at or record.at, self._of_rollout(record))
            self._has_announced = True

    def _say(self, what: tuple[str, int, str], wall: float, content: Mapping[str, object]) -> None:
        if what in self._telling:
            return
        self._telling.add(what)
        self._announce(round(wall, 3), content)
        self._has_announced = True
        self._commit(round(wall, 3), content, partial(self._committed, what))

    def _committed(self, what: tuple[str, int, str]) -> None:
        """In the store's thread."""
        self._told.append(what)
        self.on_told()

    def _note_told(self) -> None:
        done = [self._told.popleft() for _ in range(len(self._told))]
        if not done:
            return
        try:
            standing.commit(self._state, [records.told(*what) for what in done])
        except StoreUnavailable as error:
            log.warning("told_not_noted", reason=str(error))
            self._told.extend(done)
        else:
            self._telling -= set(done)

    def _of_rollout(self, record: Record) -> dict[str, object]:
        install = records.install(self._state, record.install)
        return {
            "step": _STEP.get(record.state, record.state),
            "install": record.install,
            "rollout": record.id,
            "ring": None if install is None else install.ring,
            "number": None if install is None else install.number,
            "models": record.models,
            "before": record.before,
            "mode": record.mode,
            "reason": record.reason,
            "evidence": record.evidence or None,
        }

    def _alarms(self) -> dict[str, str | None]:
        """Kind -> text, None: all is well."""
        last = next(iter(records.rollouts(self._state, 1)), None)
        ended = None if last is None else last.state
        which = (
            "" if last is None else ", ".join(f"{name} version {each}" for name, each in sorted(last.models.items()))
        ) or "A configuration"
        reason = "" if last is None else f"{last.reason}; the evidence is on the page, under Updates"
        return {
            "update_rejected": f"{which} was not taken: {reason}" if ended == "rejected" else None,
            "update_rolled_back": f"{which} was taken back: {reason}" if ended == "rolled_back" else None,
            "update_failed": self._failed_install(),
            "update_stale": self._stale(),
            "version_blocked": self._blocked(),
        }

    def _failed_install(self) -> str | None:
        rows = self._state.rows("SELECT number, ring, status, reason FROM installs ORDER BY id DESC LIMIT 1")
        if not rows or rows[0]["status"] != "failed":
            return None
        row = rows[0]
        return f"Release {row['number']} of ring {row['ring']} could not be installed: {row['reason']}"

    def _stale(self) -> str | None:
        rows = self._state.rows("SELECT warnings FROM polls")
        warnings: list[dict[str, str]] = msgspec.json.decode(rows[0]["warnings"]) if rows else []
        return next((f"Updates: {each['reason']}" for each in warnings if each["code"] == "metadata_stale"), None)

    def _blocked(self) -> str | None:
        """A version that serves and is not to: nothing else is there."""
        newest = self._state.rows("SELECT max(id) AS id FROM installs WHERE status = 'ready'")[0]["id"]
        install = None if newest is None else records.install(self._state, newest)
        if install is None or install.release is None:
            return None
        release, rows = install.release, standing.standings(self._state).values()
        found = [f"{row.name} version {row.current}" for row in rows if release.blocks(row.name, row.current)]
        if not found:
            return None
        return (
            f"{', '.join(found)} serves, but release {install.number} withdraws it and this box has nothing to go "
            "back to; ask central ops for another version"
        )


def _of_install(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "step": row["status"],
        "install": row["id"],
        "rollout": None,
        "ring": row["ring"],
        "number": row["number"],
        "models": records.versions_of(row["models"]),
        "before": {},
        "mode": None,
        "reason": row["reason"],
        "evidence": None,
    }
