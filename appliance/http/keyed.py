"""Uploads with a key: one that is sent again returns what it gave the first time, across restarts.

The key is committed with the result, so whoever was answered once gets the same answer again. A key belongs to its
source; results of uploads are the ones without a route. The column holds the caller's key, the place of the input in
its call, and the digest of all that came with it, on a line each: a key that comes with something else is told apart.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.core.protocol import Result
from appliance.errors import FieldError, KeyReused, ResultNotFound
from appliance.history import History
from appliance.schema import open_reader

KEY_MAX = 255


class KeyedUploads:
    """For one event loop. results: the database that the store writes."""

    def __init__(self, results: Path, history: History) -> None:
        self._results = results
        self._history = history
        self._local = threading.local()
        self._running: dict[tuple[str, str], tuple[str, asyncio.Event]] = {}

    @asynccontextmanager
    async def claim(self, source: str, key: str, digest: str) -> AsyncIterator[dict[int, list[Result]]]:
        """The results that this key gave before, by the place of their input; nobody else has the key meanwhile.

        Raises FieldError for what is no key, KeyReused when it came with another digest.
        """
        if not 0 < len(key) <= KEY_MAX or not key.isprintable():
            raise FieldError(f"Idempotency-Key {key[:40]!r}: expected 1 to {KEY_MAX} printable characters")
        while (running := self._running.get((source, key))) is not None:
            _check(key, digest, running[0])
            await running[1].wait()
        done = asyncio.Event()
        self._running[source, key] = digest, done
        try:
            yield await asyncio.to_thread(self._find, source, key, digest)
        finally:
            del self._running[source, key]
            done.set()

    def _find(self, source: str, key: str, digest: str) -> dict[int, list[Result]]:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._results)
        # "\v" follows "\n", and neither can be in a key.
        rows = connection.execute(
            "SELECT id, key FROM results WHERE route IS NULL AND source = ? AND key > ? AND key < ? ORDER BY id",
            (source, f"{key}\n", f"{key}\v"),
        ).fetchall()
        found: dict[int, list[Result]] = {}
        for number, line in rows:
            _, place, known = line.split("\n")
            _check(key, digest, known)
            try:
                found.setdefault(int(place), []).append(self._history.result(number))
            except ResultNotFound:
                continue  # it went past its retention just now
        return found


def stored_key(key: str, place: int, digest: str) -> str:
    """What is committed with the result of the input at `place`, from 0."""
    return f"{key}\n{place}\n{digest}"


def _check(key: str, digest: str, known: str) -> None:
    if digest != known:
        raise KeyReused(f"Idempotency-Key {key[:40]!r} came before with another input; use a new key for a new input")
