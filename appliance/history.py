"""What has been recorded, for reading. Every thread has a read-only connection of its own."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Annotated, Any

import msgspec

from appliance.core.protocol import Result
from appliance.core.verdict import Verdict
from appliance.errors import ResultNotFound, SourceNotFound
from appliance.frames import Frames, Location
from appliance.schema import open_reader

ID_MAX = (1 << 63) - 1
"""The largest number that SQLite can hold."""

_FILTERS = ("model", "source", "verdict", "part", "lot", "recipe")


class ResultFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which results to list. since, until: seconds since 1970; before_id: for the next page."""

    model: str | None = None
    source: str | None = None
    verdict: Verdict | None = None
    part: str | None = None
    lot: str | None = None
    recipe: str | None = None
    since: float | None = None
    until: float | None = None
    before_id: Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


class Source(msgspec.Struct, frozen=True):
    """A source that has given at least one result. count: results since it was first seen."""

    source: str
    route: str | None
    kind: str
    model: str
    count: int
    last_id: int
    last_at: float
    verdict: Verdict


class LastDeadLetter(msgspec.Struct, frozen=True):
    at: float
    topic: str
    code: str
    reason: str


class History:
    """Reads `results.db` and the frames that its rows point to."""

    def __init__(self, path: Path, frames: Frames) -> None:
        self._path = path
        self._frames = frames
        self._local = threading.local()

    def results(self, wanted: ResultFilter) -> list[Result]:
        """Newest first."""
        clauses = [f"{name} = ?" for name in _FILTERS if getattr(wanted, name) is not None]
        values: list[object] = [getattr(wanted, name) for name in _FILTERS if getattr(wanted, name) is not None]
        for clause, value in (("at >= ?", wanted.since), ("at < ?", wanted.until), ("id < ?", wanted.before_id)):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self._query(
            f"SELECT body, segment FROM results {where} ORDER BY id DESC LIMIT ?", (*values, wanted.limit)
        )
        return [self._result(body, segment) for body, segment in rows]

    def result(self, number: int) -> Result:
        """Raises ResultNotFound."""
        for body, segment in self._query("SELECT body, segment FROM results WHERE id = ?", (number,)):
            return self._result(body, segment)
        raise ResultNotFound(f"no result {number}; it is not committed yet, or past its retention")

    def image(self, number: int) -> bytes:
        """The picture as it was sent. Raises ResultNotFound."""
        for segment, offset, length in self._query(
            "SELECT segment, offset, length FROM results WHERE id = ?", (number,)
        ):
            content = None if segment is None else self._frames.read(Location(segment, offset, length))
            if content is not None:
                return content
            raise ResultNotFound(f"result {number} has no picture, or it is past its retention")
        raise ResultNotFound(f"no result {number}; it is not committed yet, or past its retention")

    def sources(self) -> list[Source]:
        rows = self._query(
            "SELECT source, route, kind, model, count, last_id, last_at, verdict FROM sources ORDER BY source", ()
        )
        return [Source(*row) for row in rows]

    def last_of(self, source: str) -> Result:
        """The last result of a source. Raises SourceNotFound."""
        rows = self._query("SELECT body, segment FROM results WHERE source = ? ORDER BY id DESC LIMIT 1", (source,))
        for body, segment in rows:
            return self._result(body, segment)
        raise SourceNotFound(f"no source {source!r} has given a result; GET /v1/sources lists those that have")

    def last_image_of(self, source: str) -> Result:
        """The last result of a source that has a picture. Raises SourceNotFound."""
        rows = self._query(
            "SELECT body, segment FROM results WHERE source = ? AND segment IS NOT NULL ORDER BY id DESC LIMIT 1",
            (source,),
        )
        for body, segment in rows:
            return self._result(body, segment)
        raise SourceNotFound(f"source {source!r} has sent no picture that is still kept")

    def dead_letters(self) -> tuple[int, LastDeadLetter | None]:
        """How many are kept, and the last one."""
        total = self._query("SELECT count(*) FROM dead_letters", ())[0][0]
        rows = self._query("SELECT at, topic, code, reason FROM dead_letters ORDER BY id DESC LIMIT 1", ())
        return total, LastDeadLetter(*rows[0]) if rows else None

    def count(self) -> int:
        """Results recorded since the first start, those past their retention included."""
        return int(self._query("SELECT coalesce(sum(count), 0) FROM sources", ())[0][0])

    def _result(self, body: bytes, segment: int | None) -> Result:
        result = msgspec.json.decode(body, type=Result)
        if result.has_image and (segment is None or not self._frames.has(segment)):
            return msgspec.structs.replace(result, has_image=False)
        return result

    def _query(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if any(isinstance(value, int) and abs(value) > ID_MAX for value in values):
            return []
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._path)
        return connection.execute(sql, values).fetchall()
