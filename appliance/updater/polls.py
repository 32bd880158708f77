"""How the last looks for updates went: one row in `state.db`, for the next look and for whoever watches the box."""

from __future__ import annotations

import msgspec

from appliance.errors import RegistryUnavailable, UpdateError
from appliance.state import State

STALE_S = 3 * 86_400.0
"""A registry that answers and has signed nothing new for so long is held back, or forgotten by its owners."""


class Warn(msgspec.Struct, frozen=True):
    """Something that somebody should see, and that stops nothing. code: metadata_stale, clock_untrusted."""

    code: str
    reason: str


class Last(msgspec.Struct, frozen=True, kw_only=True):
    """See table `polls`. at: wall clock, None before the first look."""

    at: float | None = None
    failures: int = 0
    fresh_at: float | None = None
    next_at: float | None = None
    warnings: tuple[Warn, ...] = ()


def last(state: State) -> Last:
    rows = state.rows("SELECT at, failures, fresh_at, next_at, warnings FROM polls WHERE id = 1")
    if not rows:
        return Last()
    row = rows[0]
    return Last(
        at=row["at"],
        failures=row["failures"],
        fresh_at=row["fresh_at"],
        next_at=row["next_at"],
        warnings=msgspec.json.decode(row["warnings"], type=tuple[Warn, ...]),
    )


def stale(fresh_at: float | None, now: float) -> tuple[Warn, ...]:
    if fresh_at is None or now - fresh_at <= STALE_S:
        return ()
    return (
        Warn(
            "metadata_stale",
            f"the registry answers, but has signed nothing new for {(now - fresh_at) / 86_400:.0f} days; ask central "
            "ops to refresh it, and whether something on the way holds it back",
        ),
    )


def succeeded(
    state: State, *, at: float, now: float, origin: str, fresh: bool, expires_at: float, clock: tuple[Warn, ...]
) -> tuple[Warn, ...]:
    """at: wall clock, for people. now: trusted time. Returns the warnings that it wrote."""
    before = last(state)
    fresh_at = now if fresh or before.fresh_at is None else before.fresh_at
    warnings = (*clock, *stale(fresh_at, now))
    with state.transaction() as db:
        db.execute(
            """INSERT OR REPLACE INTO polls (id, at, origin, answered_at, fresh_at, failures, expires_at, warnings)
            VALUES (1, ?, ?, ?, ?, 0, ?, ?)""",
            (at, origin, at, fresh_at, expires_at, msgspec.json.encode(warnings)),
        )
    return warnings


def failed(state: State, error: UpdateError, *, at: float, now: float, clock: tuple[Warn, ...]) -> None:
    """Keeps what is known of better days."""
    before = last(state)
    away = isinstance(error, RegistryUnavailable) and not error.answered
    wait_s = error.retry_after_s if isinstance(error, RegistryUnavailable) else None
    warnings = clock if away else (*clock, *stale(before.fresh_at, now))
    values = (
        at,
        None if away else at,
        before.failures + 1,
        None if wait_s is None else at + wait_s,
        error.code,
        str(error),
        msgspec.json.encode(warnings),
    )
    with state.transaction() as db:
        db.execute(
            """INSERT INTO polls (id, at, answered_at, failures, next_at, code, reason, warnings)
            VALUES (1, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET at = excluded.at, failures = excluded.failures, next_at = excluded.next_at,
                answered_at = ifnull(excluded.answered_at, answered_at), code = excluded.code, reason = excluded.reason,
                warnings = excluded.warnings""",
            values,
        )
