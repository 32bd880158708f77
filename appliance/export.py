"""Recorded results as a stream, while the box runs: a page of rows at a time, so that memory stays flat.

Every page is a query of its own: a reader that stayed open would keep the database's log from being taken in.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from appliance.core.moments import iso
from appliance.core.protocol import Result
from appliance.schema import open_reader

_PAGE = 500

COLUMNS = (
    "id", "at", "time", "source", "model", "version", "variant", "verdict", "part", "lot", "recipe", "label",
    "label_score", "score", "regions", "has_image", "signed", "door", "route", "flags", "error", "digest",
)  # fmt: skip


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which results. since, until: seconds since 1970, until not included."""

    model: str | None = None
    source: str | None = None
    verdict: str | None = None
    part: str | None = None
    lot: str | None = None
    recipe: str | None = None
    since: float | None = None
    until: float | None = None


def bodies(database: Path, wanted: Wanted, *, newest_first: bool = False) -> Iterator[bytes]:
    """The results as JSON, in order of their ids. Raises sqlite3.Error."""
    clauses, values = [], []
    for name in ("model", "source", "verdict", "part", "lot", "recipe"):
        if (value := getattr(wanted, name)) is not None:
            clauses.append(f"{name} = ?")
            values.append(value)
    for clause, moment in (("at >= ?", wanted.since), ("at < ?", wanted.until)):
        if moment is not None:
            clauses.append(clause)
            values.append(moment)
    compare, order = ("<", "DESC") if newest_first else (">", "ASC")
    query = " AND ".join([f"id {compare} ?", *clauses])
    last = (1 << 63) - 1 if newest_first else -1
    with closing(open_reader(database)) as reader:
        while True:
            # The id first: whatever the filters are, a page goes on where the last one ended.
            rows = reader.execute(
                f"SELECT id, body FROM results WHERE {query} ORDER BY id {order} LIMIT {_PAGE}", (last, *values)
            ).fetchall()
            for _, body in rows:
                yield body
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]


def as_ndjson(found: Iterator[bytes]) -> Iterator[bytes]:
    """A result a line, as HTTP and MQTT give it."""
    for body in found:
        yield body + b"\n"


def as_csv(found: Iterator[bytes]) -> Iterator[bytes]:
    """A line of names, then a result a line (RFC 4180, UTF-8), with the best label and the score."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for body in found:
        writer.writerow(_cells(msgspec.json.decode(body, type=Result)))
        if text.tell() > 1 << 16:
            yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    content = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return content


def _cells(result: Result) -> tuple[object, ...]:
    found = result.prediction
    best = found.classes[0] if found is not None and found.classes else None
    return (
        result.id,
        result.at,
        iso(result.at),
        result.source,
        result.model,
        result.version,
        result.variant,
        result.verdict,
        result.part,
        result.lot,
        result.recipe,
        best.label if best is not None else None,
        best.score if best is not None else None,
        found.score if found is not None else None,
        len(found.regions or ()) if found is not None else 0,
        int(result.has_image),
        int(result.signed),
        result.door,
        result.route,
        " ".join(result.flags),
        result.error["code"] if result.error is not None else None,
        result.digest,
    )
