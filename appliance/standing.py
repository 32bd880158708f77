"""What `state.db` says about versions: which one of a model serves, and what it can go back to.

The server alone writes `slots`, in one transaction with the state of the rollout that a change belongs to. A model
without a row serves its newest version that did not come by an update: what came by an update is promoted first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.errors import OrderRefused, StoreUnavailable
from appliance.repository import ModelVersion
from appliance.state import State

BY_HAND = "import"
"""The origin of what somebody brought to this box; anything else that is trusted came by an update."""

Statement = tuple[str, Sequence[object]]

_ROLLOUT_ENDS = {"loading": "rejected", "running": "rejected", "probation": "rolled_back", "done": "rolled_back"}


class Standing(msgspec.Struct, frozen=True):
    """What serves of a model, and what served before. rollout: that brought it, None once it went back or by hand."""

    name: str
    current: str
    previous: str | None
    rollout: int | None


class Undecided(msgspec.Struct, frozen=True):
    """A rollout without an end. state: loading, running or probation. before: None for a model that was new."""

    id: int
    state: str
    models: dict[str, str]
    before: dict[str, str | None]


class Brought(msgspec.Struct, frozen=True):
    """The configuration of a release, as it serves with its models. content: as in its JSON."""

    ring: str
    number: int
    content: dict[str, Any]


class WayBack(msgspec.Struct, frozen=True):
    """What goes back together. versions: name -> version to serve again, None: the model was new and goes.

    rollout: whose they are; its configuration goes with them.
    """

    versions: dict[str, str | None]
    rollout: int | None


def standings(state: State) -> dict[str, Standing]:
    rows = state.rows("SELECT name, current, previous, rollout FROM slots ORDER BY name")
    return {row["name"]: Standing(*row) for row in rows}


def undecided(state: State) -> list[Undecided]:
    """Oldest first."""
    rows = state.rows(
        "SELECT id, state, models, before FROM rollouts WHERE state IN ('loading', 'running', 'probation') ORDER BY id"
    )
    return [_undecided(row) for row in rows]


def configuration(state: State) -> Brought | None:
    """What serves beside the box's own file: that of the newest rollout that was promoted and has not gone back."""
    found = _configurations(state)
    return found[0][1] if found else None


def brought_by(state: State) -> int | None:
    """The rollout that has changed the configuration last, if no newer one serves; it may have brought no model."""
    found = _configurations(state)
    if not found:
        return None
    now, before = found[0][1], found[1][1] if len(found) > 1 else None
    return None if is_same(now, before) else found[0][0]


def is_same(one: Brought | None, other: Brought | None) -> bool:
    """Whether two releases bring the same configuration."""
    return (one and one.content) == (other and other.content)


def came_by_update(state: State) -> frozenset[str]:
    """Digests of manifests."""
    return frozenset(row[0] for row in state.rows("SELECT manifest FROM trusted WHERE origin != ?", (BY_HAND,)))


def installed_root(state: State) -> Path:
    """Where updates put models."""
    return state.path.parents[1] / "models"


def serving(
    versions: Iterable[ModelVersion], standing: Standing | None, by_update: Collection[str], installed: Path
) -> ModelVersion | None:
    """The version of a model that serves after a start.

    versions: those of one model that can be used, of a later root after those of an earlier one; two roots may have the
    same. by_update: digests of what came by an update, if it is in the folder `installed`.
    A version that the row names and that is gone leaves the one before it, or what was there before any update.
    """
    known = list(versions)
    if standing is not None:
        for wanted in (standing.current, standing.previous):
            for each in reversed(known):
                if each.manifest.version == wanted:
                    return each
    free = [each for each in known if each.digest not in by_update or installed not in each.folder.parents]
    return max(free, key=lambda each: int(each.manifest.version), default=None)


def way_back(state: State, model: str | None) -> WayBack:
    """What rolling back a model means, or None: the last rollout. What was promoted together goes back together.

    Raises OrderRefused when there is nothing to go back to.
    """
    rows = standings(state)
    if model is None:
        found = (brought_by(state), *(each.rollout for each in rows.values()))
        rollouts = [each for each in found if each is not None]
        if not rollouts:
            raise OrderRefused("no update has been promoted on this box that could be taken back")
        rollout: int | None = max(rollouts)
    else:
        row = rows.get(model)
        if row is None or (row.rollout is None and row.previous is None):
            raise OrderRefused(
                f"model {model} has no version to go back to; `appliance models list` shows what there is"
            )
        rollout = row.rollout
        if rollout is None:
            return WayBack({model: row.previous}, None)
    return WayBack({each.name: each.previous for each in rows.values() if each.rollout == rollout}, rollout)


def served_now(name: str, version: str, previous: str | None, rollout: int | None, now: float) -> Statement:
    """now: wall clock, for people."""
    return (
        """INSERT INTO slots (name, current, previous, rollout, at) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (name) DO UPDATE SET current = excluded.current, previous = excluded.previous,
            rollout = excluded.rollout, at = excluded.at""",
        (name, version, previous, rollout, now),
    )


def went_back(name: str, version: str | None, now: float) -> Statement:
    """version: None for a model that was new."""
    if version is None:
        return "DELETE FROM slots WHERE name = ?", (name,)
    return served_now(name, version, None, None, now)


def given_up(
    state: State, rollout: int, reason: str, now: float, names: Collection[str] | None = None
) -> list[Statement]:
    """The end of a rollout, and its versions blocked on this box, so that they do not come again.

    names: the models that are to blame, None: all of them.
    """
    rows = state.rows("SELECT id, state, models, before FROM rollouts WHERE id = ?", (rollout,))
    if not rows or rows[0]["state"] not in _ROLLOUT_ENDS:
        return []
    given = _undecided(rows[0])
    statements: list[Statement] = [
        (
            "UPDATE rollouts SET state = ?, reason = ?, ruled_at = ? WHERE id = ?",
            (_ROLLOUT_ENDS[given.state], reason, now, rollout),
        )
    ]
    for name, version in given.models.items():
        if names is not None and name not in names:
            continue
        statements.append(
            (
                """INSERT OR REPLACE INTO blocked (name, version, manifest, at, reason) VALUES (?, ?,
                coalesce((SELECT manifest FROM trusted WHERE name = ? AND version = ?), ''), ?, ?)""",
                (name, version, name, version, now, reason),
            )
        )
    return statements


def commit(state: State, statements: Iterable[Statement]) -> None:
    """All or none, on the disk when it returns. Raises StoreUnavailable."""
    try:
        with state.transaction() as db:
            for sql, values in statements:
                db.execute(sql, values)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{state.path}: {error}; free the disk, or let this user write there") from error


def _configurations(state: State) -> list[tuple[int, Brought | None]]:
    """Of the last two rollouts that serve, the newest first."""
    rows = state.rows(
        "SELECT id, configuration FROM rollouts WHERE state IN ('probation', 'done') ORDER BY id DESC LIMIT 2"
    )
    return [(row["id"], read_brought(row["configuration"])) for row in rows]


def read_brought(content: bytes | None) -> Brought | None:
    """Of a row of `rollouts`."""
    return None if content is None else msgspec.json.decode(content, type=Brought)


def _undecided(row: sqlite3.Row) -> Undecided:
    return Undecided(
        row["id"],
        row["state"],
        msgspec.json.decode(row["models"], type=dict[str, str]),
        msgspec.json.decode(row["before"], type=dict[str, str | None]),
    )
