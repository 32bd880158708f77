"""The rows of `state.db` that a rollout is made of. The server writes `rollouts`, `told`, and how `orders` ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.core.release import Release, Rollout, parse_release
from appliance.errors import ReleaseInvalid
from appliance.rollouts.evidence import ModelEvidence
from appliance.standing import Brought, Statement, read_brought
from appliance.state import State

UNDECIDED = ("loading", "running", "probation")


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """One that is ready. at: when it became so. release: None when its row holds none that this box understands."""

    id: int
    at: float
    ring: str
    number: int
    models: dict[str, str]
    release: Release | None

    @property
    def policy(self) -> Rollout:
        return Rollout() if self.release is None else self.release.rollout


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `rollouts`."""

    id: int
    install: int
    at: float
    state: str
    mode: str
    models: dict[str, str]
    before: dict[str, str | None]
    configuration: Brought | None
    ruled_at: float | None
    reason: str | None
    evidence: tuple[ModelEvidence, ...]


class Order(msgspec.Struct, frozen=True):
    id: int
    kind: str
    model: str | None
    by: str


class Hold(msgspec.Struct, frozen=True):
    """Somebody keeps updates back. until: seconds since 1970, null: until it is released."""

    id: int
    at: float
    by: str
    reason: str
    until: float | None


def newest_ready(state: State) -> Install | None:
    """The newest install, if it is ready and has no rollout yet. An older one that is ready waits for nothing."""
    rows = state.rows(
        """SELECT * FROM installs WHERE status = 'ready' AND id > (SELECT coalesce(max(install), 0) FROM rollouts)
        ORDER BY id DESC LIMIT 1"""
    )
    return _install(rows[0]) if rows else None


def install(state: State, number: int) -> Install | None:
    rows = state.rows("SELECT * FROM installs WHERE id = ?", (number,))
    return _install(rows[0]) if rows else None


def is_at_once(state: State, install: int) -> bool:
    """Whether somebody wants it outside of its windows (`appliance update --now`)."""
    return bool(state.rows("SELECT 1 FROM installs WHERE id = ? AND at_once", (install,)))


def rollouts(state: State, limit: int) -> list[Record]:
    """The newest first."""
    return [_record(row) for row in state.rows("SELECT * FROM rollouts ORDER BY id DESC LIMIT ?", (limit,))]


def rollout(state: State, number: int) -> Record | None:
    rows = state.rows("SELECT * FROM rollouts WHERE id = ?", (number,))
    return _record(rows[0]) if rows else None


def undecided(state: State) -> Record | None:
    """The newest one without an end."""
    rows = state.rows(
        "SELECT * FROM rollouts WHERE state IN ('loading', 'running', 'probation') ORDER BY id DESC LIMIT 1"
    )
    return _record(rows[0]) if rows else None


def begin(
    state: State,
    install: Install,
    mode: str,
    models: Mapping[str, str],
    before: Mapping[str, str | None],
    configuration: Brought | None,
    now: float,
    to: str,
    reason: str | None,
) -> Record:
    """A rollout in the state `to`, which is its end unless it loads; now: wall clock."""
    brought = None if configuration is None else msgspec.json.encode(configuration)
    with state.transaction() as db:
        number = db.execute(
            """INSERT INTO rollouts (install, at, state, mode, models, before, configuration, ruled_at, reason)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                install.id,
                now,
                to,
                mode,
                msgspec.json.encode(models),
                msgspec.json.encode(before),
                brought,
                None if to == "loading" else now,
                reason,
            ),
        ).lastrowid
    assert number is not None
    found = rollout(state, number)
    assert found is not None
    return found


def moved(number: int, to: str, reason: str | None = None) -> Statement:
    """On its way: no ruling yet."""
    return "UPDATE rollouts SET state = ?, reason = ? WHERE id = ?", (to, reason, number)


def ruled(number: int, to: str, reason: str, now: float) -> Statement:
    return "UPDATE rollouts SET state = ?, reason = ?, ruled_at = ? WHERE id = ?", (to, reason, now, number)


def kept(number: int, evidence: tuple[ModelEvidence, ...]) -> Statement:
    return "UPDATE rollouts SET evidence = ? WHERE id = ?", (msgspec.json.encode(evidence), number)


def open_orders(state: State) -> list[Order]:
    """Oldest first."""
    return [
        Order(*row) for row in state.rows('SELECT id, kind, model, "by" FROM orders WHERE done_at IS NULL ORDER BY id')
    ]


def order_done(number: int, outcome: str, now: float) -> Statement:
    return "UPDATE orders SET done_at = ?, outcome = ? WHERE id = ?", (now, outcome, number)


def holds(state: State, now: float) -> list[Hold]:
    """Those that last, oldest first."""
    query = 'SELECT id, at, "by", reason, until FROM holds WHERE until IS NULL OR until > ? ORDER BY id'
    return [Hold(*row) for row in state.rows(query, (now,))]


def hold(state: State, by: str, reason: str, for_s: float | None, now: float) -> Hold:
    """Keep updates back. for_s: None: until they are released."""
    until = None if for_s is None else now + for_s
    with state.transaction() as db:
        number = db.execute(
            'INSERT INTO holds (at, "by", reason, until) VALUES (?, ?, ?, ?)', (now, by, reason, until)
        ).lastrowid
    assert number is not None
    return Hold(number, now, by, reason, until)


def release_holds(state: State, now: float) -> int:
    """End all of them; how many there were."""
    with state.transaction() as db:
        return db.execute("UPDATE holds SET until = ? WHERE until IS NULL OR until > ?", (now, now)).rowcount


def blocked(state: State, models: Mapping[str, str]) -> dict[str, str]:
    """Name -> why its version is not to serve on this box."""
    rows = state.rows("SELECT name, version, reason FROM blocked")
    return {row["name"]: row["reason"] for row in rows if models.get(row["name"]) == row["version"]}


def untold(state: State, kept: int = 20) -> tuple[list[Record], list[sqlite3.Row]]:
    """Rollouts and installs whose state nobody was told of yet, oldest first; of long ago nobody asks."""
    found = state.rows(
        """SELECT rollouts.* FROM rollouts LEFT JOIN told ON told.kind = 'rollout' AND told.id = rollouts.id
        WHERE told.step IS NOT rollouts.state AND rollouts.id > (SELECT max(id) FROM rollouts) - ?
        ORDER BY rollouts.id""",
        (kept,),
    )
    installs = state.rows(
        """SELECT installs.* FROM installs LEFT JOIN told ON told.kind = 'install' AND told.id = installs.id
        WHERE installs.status IN ('ready', 'failed') AND told.step IS NOT installs.status
        AND installs.id > (SELECT max(id) FROM installs) - ? ORDER BY installs.id""",
        (kept,),
    )
    return [_record(row) for row in found], installs


def told(kind: str, number: int, step: str) -> Statement:
    return "INSERT OR REPLACE INTO told (kind, id, step) VALUES (?, ?, ?)", (kind, number, step)


def versions_of(models: bytes | str) -> dict[str, str]:
    """Of a row of `installs`."""
    asked: dict[str, Any] = msgspec.json.decode(models)
    return {name: each["version"] if isinstance(each, dict) else str(each) for name, each in asked.items()}


def _install(row: sqlite3.Row) -> Install:
    try:
        release = parse_release(
            bytes(row["release"], "utf-8") if isinstance(row["release"], str) else row["release"], ""
        )
    except ReleaseInvalid:
        release = None
    return Install(
        id=row["id"],
        at=row["at"],
        ring=row["ring"],
        number=row["number"],
        models=versions_of(row["models"]),
        release=release,
    )


def _record(row: sqlite3.Row) -> Record:
    try:
        evidence = msgspec.json.decode(row["evidence"] or b"[]", type=tuple[ModelEvidence, ...])
    except msgspec.ValidationError:
        evidence = ()
    return Record(
        id=row["id"],
        install=row["install"],
        at=row["at"],
        state=row["state"],
        mode=row["mode"],
        models=msgspec.json.decode(row["models"], type=dict[str, str]),
        before=msgspec.json.decode(row["before"], type=dict[str, str | None]),
        configuration=read_brought(row["configuration"]),
        ruled_at=row["ruled_at"],
        reason=row["reason"],
        evidence=evidence,
    )
