"""What a box has on disk, read past the box."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.state import State


def query(data_dir: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows of `results.db`, whether the box runs or not."""
    database = sqlite3.connect(f"{(data_dir / 'results.db').as_uri()}?mode=ro", uri=True)
    try:
        return database.execute(statement, values).fetchall()
    finally:
        database.close()


def results(data_dir: Path, source: str) -> list[dict[str, Any]]:
    """The results of a source as JSON objects, oldest first."""
    rows = query(data_dir, "SELECT body FROM results WHERE source = ? ORDER BY id", source)
    return [json.loads(body) for (body,) in rows]


def letters(data_dir: Path, topic: str) -> list[tuple[str, str]]:
    """Code and reason of the dead letters of a topic, oldest first."""
    return query(data_dir, "SELECT code, reason FROM dead_letters WHERE topic = ? ORDER BY id", topic)


def readings(data_dir: Path, source: str, route: str | None = None) -> list[npt.NDArray[np.float32]]:
    """The samples, (n, channels), of each reading of a source, oldest first."""
    rows = query(
        data_dir,
        "SELECT channels, samples FROM readings WHERE source = ? AND coalesce(?, route) = route ORDER BY id",
        source,
        route,
    )
    return [np.frombuffer(samples, "<f4").reshape(-1, channels) for channels, samples in rows]


def window_ends(data_dir: Path, source: str, route: str | None = None) -> list[tuple[int, int]]:
    """(last reading, end in it) of each window that has a result, in order of the results."""
    return query(
        data_dir,
        "SELECT last_reading, window_end FROM results WHERE source = ? AND coalesce(?, route) = route"
        " AND last_reading IS NOT NULL ORDER BY id",
        source,
        route,
    )


def state_rows(data_dir: Path, statement: str, *values: object) -> list[dict[str, Any]]:
    """Rows of `state.db`, whether the box runs or not."""
    state = State(data_dir, read_only=True)
    try:
        return [dict(row) for row in state.rows(statement, values)]
    finally:
        state.close()


def change_state(data_dir: Path, statement: str, *values: object) -> None:
    """One transaction in `state.db`."""
    state = State(data_dir)
    try:
        with state.transaction() as db:
            db.execute(statement, values)
    finally:
        state.close()
