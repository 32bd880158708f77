"""What is dropped from the store, and when: everything past its age, a bounded number of rows at a time."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog

from appliance import ballast
from appliance.config import StoreConfig
from appliance.frames import Frames

log = structlog.get_logger("store")

_ROWS = 5000
_NEEDED = "AND id < coalesce((SELECT reading FROM cursors c WHERE c.route = t.route AND c.source = t.source), 0)"


def retain(db: sqlite3.Connection, frames: Frames, data_dir: Path, config: StoreConfig, now: float) -> bool:
    """Take one step; returns whether more is left to drop. now: wall clock. In the writer's thread only.

    Readings that an open window needs stay. Raises sqlite3.Error, OSError.
    """
    more = False
    ballast.lay(data_dir, config.free_bytes_min)
    frames.drop_older(now - config.images_days * 86_400)
    for table, keep_s, needed in (
        ("results", config.results_days * 86_400, ""),
        ("dead_letters", config.dead_letters_days * 86_400, ""),
        ("readings", config.readings_hours * 3600, _NEEDED),
    ):
        dropped = db.execute(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} t WHERE at < ? {needed} "
            f"ORDER BY at LIMIT {_ROWS})",
            (now - keep_s,),
        ).rowcount
        more = more or dropped == _ROWS
    left_behind = db.execute(
        "DELETE FROM outbox WHERE id <= (SELECT max(id) FROM outbox) - ?", (config.outbox_rows_max,)
    ).rowcount
    if left_behind:
        log.warning("outbox_dropped", rows=left_behind)
    # `execute` would take one step of it, and give back one page.
    db.executescript("PRAGMA incremental_vacuum(1000)")
    return more
