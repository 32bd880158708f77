"""From writes to rows of `results.db`: a whole group at once, inside a transaction that the store opens and ends.

After each statement this thread has to wait for its turn to run Python again, so many rows go into one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache

import msgspec

from appliance.frames import Location
from appliance.receipt_rows import ReceiptRows
from appliance.writes import NewReading, NewResult, Receipt, Write, Written

_READING_COLUMNS = 12
_RESULT_COLUMNS = 16
_ROWS_AT_ONCE = (500, 50, 5, 1)
"""One statement each, which SQLite keeps prepared."""

_INSERT_OUTGOING = "INSERT INTO outbox (queue, topic, media, payload, size, result) VALUES (?, ?, ?, ?, ?, ?)"

_NOTHING_TOLD = Written()


class Inserts:
    """In the writer's thread. `settle` is due after each commit, `undo` after each rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.receipts = ReceiptRows(db)
        self._db = db
        self._reading_id = self._settled_id = _last_reading_id(db)
        self._streams: set[tuple[str, str]] = set(db.execute("SELECT route, source FROM cursors"))
        self._new_streams: dict[tuple[str, str], int] = {}
        self._receipts_changed = False

    def insert(self, batch: Sequence[Write], frames: Sequence[Location | None]) -> list[Written]:
        """frames: where the picture or payload of each write lies. Raises sqlite3.Error."""
        db = self._db
        written: list[Written] = []
        readings: list[object] = []
        results: list[object] = []
        receipts: list[Receipt] = []
        sources: dict[str, list[object]] = {}
        for write, frame in zip(batch, frames, strict=True):
            outcome = _NOTHING_TOLD
            if write.readings:
                outcome = Written(reading_ids=self._add_readings(write.readings, readings))
            if write.result is not None:
                row = _result_row(write.result, frame)
                if write.result.key is None and write.result.window is None:
                    # Nothing but its id, which is new, could make it a duplicate.
                    results += row
                elif not db.execute(_insert_results(1), row).rowcount:
                    outcome = Written(duplicate=True)
                if not outcome.duplicate:
                    for each in (write.result, *write.more):
                        _note_source(each, sources)
                    for each in write.more:
                        results += _result_row(each, None)
            if write.receipt is not None:
                receipts.append(write.receipt)
            receipts += write.receipts
            self._insert_rest(write, frame, outcome)
            written.append(outcome)
        if readings:
            self._insert_readings(readings, written)
        _insert_rows(db, _insert_results, _RESULT_COLUMNS, results)
        if receipts:
            self._receipts_changed = True
            self.receipts.insert(receipts)
        if sources:
            db.executemany(_UPSERT_SOURCE, list(sources.values()))
        return written

    def settle(self) -> None:
        self._settled_id = self._reading_id
        self._streams.update(self._new_streams)
        self._new_streams = {}
        self._receipts_changed = False

    def undo(self) -> None:
        """Raises sqlite3.Error."""
        self._reading_id = self._settled_id
        self._new_streams = {}
        if self._receipts_changed:
            self.receipts.read_again()
            self._receipts_changed = False

    def _add_readings(self, new: Sequence[NewReading], values: list[object]) -> tuple[int | None, ...]:
        """Their values, row after row; returns their ids."""
        first = number = self._reading_id + 1
        stream: tuple[str, str] | None = None
        for each in new:
            if stream is None or each.source != stream[1] or each.route != stream[0]:
                stream = each.route, each.source
                if stream not in self._streams:
                    self._new_streams.setdefault(stream, number)
            part = each.part
            values += (
                number,
                each.at,
                each.route,
                each.source,
                each.key,
                part.part,
                part.lot,
                part.recipe,
                " ".join(each.flags) if each.flags else None,
                each.channels,
                each.samples,
                each.times,
            )
            number += 1
        self._reading_id = number - 1
        return tuple(range(first, number))

    def _insert_readings(self, values: list[object], written: list[Written]) -> None:
        count = len(values) // _READING_COLUMNS
        if _insert_rows(self._db, _insert_readings, _READING_COLUMNS, values) < count:
            new = {number for (number,) in self._db.execute("SELECT id FROM readings WHERE id >= ?", values[:1])}
            for index, outcome in enumerate(written):
                if outcome.reading_ids:
                    ids = tuple(number if number in new else None for number in outcome.reading_ids)
                    written[index] = Written(reading_ids=ids)
        if self._new_streams:
            # A new stream's cursor stands before its first reading, so that a start looks at open windows only.
            self._db.executemany(
                "INSERT INTO cursors VALUES (?, ?, ?, 0, NULL) ON CONFLICT DO NOTHING",
                [(*stream, number) for stream, number in self._new_streams.items()],
            )

    def _insert_rest(self, write: Write, frame: Location | None, outcome: Written) -> None:
        """What few writes have."""
        db = self._db
        if write.dead_letter is not None and not outcome.duplicate:
            letter = write.dead_letter
            place = _place(None if write.result is not None and write.result.frame is not None else frame)
            db.execute(
                "INSERT INTO dead_letters (at, topic, client, code, reason, segment, offset, length) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (letter.at, letter.topic, letter.client, letter.code, letter.reason, *place),
            )
        if write.cursor is not None:
            cursor = write.cursor
            db.execute(
                "INSERT INTO cursors VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET reading = excluded.reading, "
                "offset = excluded.offset, next_ns = excluded.next_ns",
                (cursor.route, cursor.source, cursor.reading, cursor.offset, cursor.next_ns),
            )
        if write.suspect is not None:
            db.execute("INSERT OR IGNORE INTO suspects VALUES (?)", (write.suspect,))
        if write.cleared is not None:
            db.execute("DELETE FROM suspects WHERE hash = ?", (write.cleared,))
        if write.session is not None:
            self._save_session(*write.session)
        if write.outbox and not outcome.duplicate:
            db.executemany(_INSERT_OUTGOING, [msgspec.structs.astuple(each) for each in write.outbox])
        if write.also and not outcome.duplicate:
            for statement, values in write.also:
                db.execute(statement, values)
        if write.sent:
            db.executemany("DELETE FROM outbox WHERE id = ?", [(number,) for number in write.sent])

    def _save_session(self, client: str, body: bytes | None) -> None:
        if body is None:
            self._db.execute("DELETE FROM sessions WHERE client = ?", (client,))
            self._receipts_changed = True
            self.receipts.forget(client)
        else:
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?)", (client, body))


_UPSERT_SOURCE = (
    "INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET route = excluded.route, "
    "kind = excluded.kind, model = excluded.model, count = count + excluded.count, last_id = excluded.last_id, "
    "last_at = excluded.last_at, verdict = excluded.verdict"
)


@cache
def _insert_readings(rows: int) -> str:
    return _insert("readings", _READING_COLUMNS, rows)


@cache
def _insert_results(rows: int) -> str:
    return _insert("results", _RESULT_COLUMNS, rows)


def _insert(table: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * rows)} ON CONFLICT DO NOTHING"


def _insert_rows(db: sqlite3.Connection, statement: Callable[[int], str], columns: int, values: list[object]) -> int:
    """values: of all rows, one after the other. Returns how many were new."""
    added = at = 0
    for rows in _ROWS_AT_ONCE:
        size = rows * columns
        while len(values) - at >= size:
            added += db.execute(statement(rows), values[at : at + size]).rowcount
            at += size
    return added


def _last_reading_id(db: sqlite3.Connection) -> int:
    row = db.execute(
        "SELECT max(coalesce((SELECT max(id) FROM readings), 0), coalesce((SELECT max(reading) FROM cursors), 0))"
    ).fetchone()
    return int(row[0])


def _result_row(new: NewResult, frame: Location | None) -> tuple[object, ...]:
    result = new.result
    last_reading, window_end = new.window or (None, None)
    return (
        result.id,
        result.at,
        result.model,
        result.source,
        result.route,
        result.verdict,
        result.part,
        result.lot,
        result.recipe,
        new.body,
        new.key,
        last_reading,
        window_end,
        *_place(frame if new.frame is not None else None),
    )


def _note_source(new: NewResult, sources: dict[str, list[object]]) -> None:
    """Count the result for its source, and make it the source's last."""
    result = new.result
    known = sources.get(result.source)
    count = 1 if known is None else known[4] + 1  # type: ignore[operator]
    sources[result.source] = [
        result.source,
        result.route,
        new.kind,
        result.model,
        count,
        result.id,
        result.at,
        result.verdict,
    ]


def _place(frame: Location | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if frame is None else (frame.segment, frame.offset, frame.length)
