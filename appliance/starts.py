"""Starts are counted before the first model is loaded, so that one that ends the process cannot do so for ever.

A start is settled when the box has served for a minute or was stopped cleanly. After three in a row that were not, a
rollout that is not decided yet is given up, before anything of it is loaded again.
"""

from __future__ import annotations

import sqlite3

import structlog

from appliance import standing
from appliance.errors import StoreError
from appliance.standing import Statement
from appliance.state import State

log = structlog.get_logger("starts")

STARTS_MAX = 3
SETTLED_AFTER_S = 60.0


class Starts:
    """This start. The folder of the data is locked by now: another box would count where it must not."""

    def __init__(self, state: State, now: float) -> None:
        """Count it, and give up what three starts did not survive. now: wall clock."""
        self._state = state
        self._id: int | None = None
        self._due: float | None = None
        self.given_up: list[int] = []
        """Ids of the rollouts that this start has given up."""
        try:
            self._give_up(now)
            with state.transaction() as db:
                self._id = db.execute("INSERT INTO starts (at) VALUES (?)", (now,)).lastrowid
        except (sqlite3.Error, StoreError) as error:
            # A disk that takes no writes must not keep the box from serving.
            log.error("start_not_counted", error=str(error))

    def tick(self, now: float, serving: bool, wall: float) -> None:
        """now: monotonic. serving: whether every model has been loaded, or has failed."""
        if self._id is None or not serving:
            return
        if self._due is None:
            self._due = now + SETTLED_AFTER_S
        elif now >= self._due:
            self._due = now + SETTLED_AFTER_S
            self.settle(wall)

    def settle(self, wall: float) -> None:
        """It has served for long enough, or ends cleanly."""
        if self._id is None:
            return
        try:
            with self._state.transaction() as db:
                db.execute("UPDATE starts SET settled_at = ? WHERE id = ?", (wall, self._id))
                db.execute("DELETE FROM starts WHERE id < ?", (self._id,))
        except sqlite3.Error as error:
            log.warning("start_not_settled", error=str(error))
            return
        self._id = None

    def _give_up(self, now: float) -> None:
        (row,) = self._state.rows(
            """SELECT count(*) AS count FROM starts
            WHERE id > (SELECT coalesce(max(id), 0) FROM starts WHERE settled_at IS NOT NULL)"""
        )
        if row["count"] < STARTS_MAX:
            return
        reason = f"the box was started {row['count']} times and never served for {SETTLED_AFTER_S:g} s"
        statements: list[Statement] = []
        for each in standing.undecided(self._state):
            statements += standing.given_up(self._state, each.id, reason, now)
            if each.state == "probation":
                statements += [standing.went_back(name, each.before.get(name), now) for name in each.models]
            self.given_up.append(each.id)
        if not statements:
            return
        # The next rollout begins with a count of its own.
        standing.commit(self._state, [*statements, ("DELETE FROM starts", ())])
        log.error("rolled_back", rollouts=self.given_up, reason=reason)
