"""Recent pictures of a model, given to both versions: for a model that sees too few inputs until the deadline.

Only pictures are kept on a box, so only picture models are ruled this way.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import msgspec

from appliance.codecs import sniff
from appliance.core.protocol import InferenceRequest, Part, Result
from appliance.errors import InputError
from appliance.frames import Frames, Location
from appliance.rollouts.trial import Asked, Trial
from appliance.rules import SiteRules
from appliance.schema import open_reader

_AT_ONCE = 2
_ROWS_AT_ONCE = 20_000
"""Of all models: those of this one are looked for among them, and the thread must show that it lives in between."""


class Pictures:
    """The newest pictures of a model, as they were kept: with their masks."""

    def __init__(self, database: Path, frames: Frames, rules: SiteRules) -> None:
        self._database = database
        self._frames = frames
        self._rules = rules

    def recent(self, model: str) -> Iterator[Asked | None]:
        """The newest first; None where it had to look further. Reads the database."""
        with closing(open_reader(self._database)) as reader:
            (newest,) = reader.execute("SELECT coalesce(max(id), 0) FROM results").fetchone()
            (oldest,) = reader.execute("SELECT coalesce(min(id), 0) FROM results").fetchone()
            while newest >= oldest and newest > 0:
                yield None
                rows = reader.execute(
                    """SELECT body, segment, offset, length FROM results WHERE id <= ? AND id > ? AND model = ?
                    AND segment IS NOT NULL ORDER BY id DESC""",
                    (newest, newest - _ROWS_AT_ONCE, model),
                ).fetchall()
                newest -= _ROWS_AT_ONCE
                for row in rows:
                    asked = self._asked(row)
                    if asked is not None:
                        yield asked

    def _asked(self, row: sqlite3.Row) -> Asked | None:
        body, segment, offset, length = row
        picture = self._frames.read(Location(segment, offset, length))
        if not picture:
            return None
        result = msgspec.json.decode(body, type=Result)
        try:
            media_type = sniff(picture)
        except InputError:
            # Erased: only zeros are left.
            return None
        request = InferenceRequest(
            model=result.model,
            body=picture,
            media_type=media_type,
            source=result.source,
            door=result.door,
            part=Part(part=result.part, lot=result.lot, recipe=result.recipe),
            at=result.at,
            priority="backlog",
        )
        return Asked(request, result.route, self._rules.view(request, result.route))


class Replay:
    """Of one model. enough: whether no more are needed."""

    def __init__(self, trial: Trial, pictures: Iterator[Asked | None], enough: Callable[[], bool]) -> None:
        self._trial = trial
        self._pictures = pictures
        self._enough = enough
        self._waiting: deque[Future[None]] = deque()
        self._is_over = False

    def go_on(self) -> bool:
        """Give the next ones; whether there is more to come."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        while not self._is_over and len(self._waiting) < _AT_ONCE and self._trial.has_room():
            if self._enough():
                self._is_over = True
                break
            try:
                asked = next(self._pictures)
            except StopIteration:
                self._is_over = True
                break
            if asked is None:
                break
            self._waiting.append(self._trial.replay(asked))
        return bool(self._waiting) or not self._is_over
