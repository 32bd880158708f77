"""How far the store had come at what age of the box: what retention goes by, instead of the time in each row.

Rows are ordered by id. A mark says which ids, and which segment, were the last at an age; so "older than seven days"
is a number, found in one step, whatever the wall clock showed when the rows were written.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from appliance.core.clock import Clock

EVERY_S = 600.0
"""Between two marks; nothing is kept longer than its time by more than that."""

DAY_S = 86_400.0
_PROCESS_IO = Path("/proc/self/io")


class Mark(msgspec.Struct, frozen=True):
    """age: of the box, seconds. The last id of each table, the segment before the current one; bytes written so far."""

    age: float
    result: int
    reading: int
    dead_letter: int
    segment: int
    written: int


_COLUMNS = "age, result, reading, dead_letter, segment, written"


def note(db: sqlite3.Connection, age: float, segment: int, written: int) -> Mark:
    """Add a mark. segment: the one that is appended to. Raises sqlite3.Error."""
    before = last(db)
    mark = Mark(
        age,
        _highest(db, "results", before.result if before else 0),
        _highest(db, "readings", before.reading if before else 0),
        _highest(db, "dead_letters", before.dead_letter if before else 0),
        segment - 1,
        written,
    )
    db.execute(f"INSERT INTO marks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(mark))
    return mark


def last(db: sqlite3.Connection) -> Mark | None:
    return _one(db, f"SELECT {_COLUMNS} FROM marks ORDER BY id DESC LIMIT 1")


def at_age(db: sqlite3.Connection, age: float) -> Mark | None:
    """The newest mark that was made at this age or before; None when the box was not there yet."""
    return _one(db, f"SELECT {_COLUMNS} FROM marks WHERE age <= ? ORDER BY age DESC, id DESC LIMIT 1", (age,))


def after_age(db: sqlite3.Connection, age: float) -> Mark | None:
    """The oldest mark that was made after this age."""
    return _one(db, f"SELECT {_COLUMNS} FROM marks WHERE age > ? ORDER BY age, id LIMIT 1", (age,))


def forget_before(db: sqlite3.Connection, age: float) -> None:
    """Drop marks that nothing asks for any more."""
    db.execute("DELETE FROM marks WHERE age < ? AND id < (SELECT max(id) FROM marks)", (age,))


def known_clock(db: sqlite3.Connection) -> Clock | None:
    """What the last run knew of time; None at the first start, or when it cannot be read."""
    row = db.execute("SELECT body FROM clock").fetchone()
    try:
        return msgspec.json.decode(row[0], type=Clock) if row else None
    except (msgspec.DecodeError, TypeError):
        return None


def keep_clock(db: sqlite3.Connection, clock: Clock) -> None:
    db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (msgspec.json.encode(clock),))


def written_bytes() -> int:
    """What this process has caused to be written to disks since it began (`proc_pid_io(5)`, write_bytes)."""
    try:
        lines = _PROCESS_IO.read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts.get("write_bytes", 0)) - int(counts.get("cancelled_write_bytes", 0))


def _highest(db: sqlite3.Connection, table: str, known: int) -> int:
    """The last id of the table; of an empty one what it was."""
    (number,) = db.execute(f"SELECT coalesce(max(id), ?) FROM {table}", (known,)).fetchone()
    return int(number)


def _one(db: sqlite3.Connection, query: str, values: tuple[object, ...] = ()) -> Mark | None:
    row = db.execute(query, values).fetchone()
    return None if row is None else Mark(*row)
