"""A moment as people and machines write it."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_moment(text: str) -> float:
    """Seconds since 1970 from a number of them, or from ISO 8601 (`2026-07-01`, `2026-07-01T06:00:00+02:00`).

    Without an offset it is UTC, as everything that the box writes. Raises ValueError.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no time; write 2026-07-01, 2026-07-01T06:00:00+02:00, or seconds since 1970"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def iso(at: float) -> str:
    """The same moment in ISO 8601, UTC, with milliseconds; empty for what no calendar has."""
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
