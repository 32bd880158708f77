"""The updater's rows in `state.db`: `installs`, one for each release that was looked at, and `trusted`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.core.release import ModelRef, Release, encode_release, parse_release, parse_time
from appliance.state import State
from appliance.updater.selftest import SelfTest

_OPEN = "('checking', 'downloading', 'testing')"


class Install(msgspec.Struct, frozen=True):
    """A row. status: checking, downloading, testing, ready, failed, superseded."""

    id: int
    number: int
    status: str
    code: str | None
    reason: str | None


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest whose signatures were checked."""

    name: str
    version: str
    manifest: str
    role: str
    keys: tuple[str, ...]


def of_release(state: State, release: Release, models: Mapping[str, ModelRef]) -> Install | None:
    """The last attempt at it with these models."""
    rows = state.rows(
        """SELECT id, number, status, code, reason FROM installs WHERE ring = ? AND number = ? AND models = ?
        ORDER BY id DESC LIMIT 1""",
        (release.ring, release.number, _json(models)),
    )
    return Install(*rows[0]) if rows else None


def newest(state: State, ring: str) -> tuple[int, float] | None:
    """Number and `issued` of the newest release of the ring that was ever verified here."""
    rows = state.rows("SELECT release FROM installs WHERE ring = ? ORDER BY number DESC LIMIT 1", (ring,))
    if not rows:
        return None
    release = parse_release(rows[0]["release"], "state.db")
    return release.number, parse_time(release.issued)


def refused(state: State, name: str, ref: ModelRef) -> tuple[str, str] | None:
    """Code and reason for which this very manifest was refused on this box before."""
    for row in state.rows("SELECT reason FROM blocked WHERE manifest = ?", (ref.manifest,)):
        return "version_blocked", row["reason"]
    for row in state.rows("SELECT models, reason, evidence FROM installs WHERE code = 'self_test_failed' ORDER BY id"):
        models = msgspec.json.decode(row["models"], type=dict[str, dict[str, Any]])
        evidence = msgspec.json.decode(row["evidence"] or b"{}", type=dict[str, dict[str, Any]])
        asked = models.get(name, {}).get("manifest") == ref.manifest
        if asked and not evidence.get(name, {"passed": True}).get("passed"):
            return "self_test_failed", row["reason"]
    return None


def is_trusted(state: State, manifest: str) -> bool:
    return bool(state.rows("SELECT 1 FROM trusted WHERE manifest = ?", (manifest,)))


def begin(
    state: State, release: Release, models: Mapping[str, ModelRef], origin: str, at: float, *, at_once: bool = False
) -> int:
    """The row of this attempt: a new one, or the one that was interrupted. Older ones that are open are superseded.

    at_once: not only in its windows.
    """
    known = of_release(state, release, models)
    with state.transaction() as db:
        if known is not None and known.status in ("checking", "downloading", "testing"):
            db.execute(
                "UPDATE installs SET at = ?, origin = ?, at_once = max(at_once, ?) WHERE id = ?",
                (at, origin, at_once, known.id),
            )
            row = known.id
        else:
            values = (at, release.ring, release.number, _json(models), encode_release(release), origin, at_once)
            row = _id(
                db.execute(
                    "INSERT INTO installs (at, ring, number, status, models, release, origin, at_once) "
                    "VALUES (?, ?, ?, 'checking', ?, ?, ?, ?)",
                    values,
                ).lastrowid
            )
        db.execute(f"UPDATE installs SET status = 'superseded' WHERE id < ? AND status IN {_OPEN}", (row,))
    return row


def progress(state: State, row: int, status: str, done: int, total: int) -> None:
    """done, total: bytes of the download."""
    with state.transaction() as db:
        db.execute(
            "UPDATE installs SET status = ?, bytes_done = ?, bytes_total = ?, code = NULL, reason = NULL WHERE id = ?",
            (status, done, total, row),
        )


def note(state: State, row: int, code: str | None, reason: str) -> None:
    """Why it does not go on now; the next run tries again."""
    with state.transaction() as db:
        db.execute("UPDATE installs SET code = ?, reason = ? WHERE id = ?", (code, reason, row))


def fail(state: State, row: int, code: str, reason: str, tests: Mapping[str, SelfTest]) -> None:
    """It is not tried again."""
    with state.transaction() as db:
        db.execute(
            "UPDATE installs SET status = 'failed', code = ?, reason = ?, evidence = ? WHERE id = ?",
            (code, reason, _json(tests), row),
        )


def ready(
    state: State, row: int, proofs: Mapping[str, Proof], origin: str, at: float, tests: Mapping[str, SelfTest]
) -> None:
    """From here on the server may load them. What waited for it before is superseded."""
    with state.transaction() as db:
        _trust(db, proofs, origin, at)
        db.execute(
            """UPDATE installs SET status = 'ready', at = ?, code = NULL, reason = NULL, evidence = ifnull(?, evidence)
            WHERE id = ?""",
            (at, _json(tests) if tests else None, row),
        )
        db.execute(
            """UPDATE installs SET status = 'superseded' WHERE id < ? AND status = 'ready'
            AND id NOT IN (SELECT install FROM rollouts)""",
            (row,),
        )


def withdraw(state: State, release: Release, origin: str, at: float) -> None:
    """What the release withdraws the server leaves at once, whatever becomes of what it brings. Once for a release."""
    if of_release(state, release, {}) is None:
        with state.transaction() as db:
            db.execute(
                """INSERT INTO installs (at, ring, number, status, models, release, origin, reason)
                VALUES (?, ?, ?, 'ready', ?, ?, ?, 'withdraws what serves')""",
                (at, release.ring, release.number, _json({}), encode_release(release), origin),
            )


def want_at_once(state: State, row: int) -> None:
    """It waits for its window no longer."""
    with state.transaction() as db:
        db.execute("UPDATE installs SET at_once = 1 WHERE id = ?", (row,))


def nothing_new(state: State, row: int) -> None:
    """All that the release names serves here already."""
    with state.transaction() as db:
        db.execute(
            "UPDATE installs SET status = 'superseded', code = NULL, reason = 'all of it serves already' WHERE id = ?",
            (row,),
        )


def _trust(db: Any, proofs: Mapping[str, Proof], origin: str, at: float) -> None:
    for proof in proofs.values():
        db.execute(
            """INSERT INTO trusted (manifest, name, version, at, origin, signed_by) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (manifest) DO NOTHING""",
            (
                proof.manifest,
                proof.name,
                proof.version,
                at,
                origin,
                msgspec.json.encode({"role": proof.role, "keys": proof.keys}),
            ),
        )


def _json(value: Mapping[str, msgspec.Struct]) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _id(row: int | None) -> int:
    assert row is not None
    return row
