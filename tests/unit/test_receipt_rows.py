"""Receipts on disk: as many as a client can have in flight, of each client and route, and no more for ever."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.receipt_rows import ReceiptRows
from appliance.schema import connect, migrate
from appliance.writes import Receipt


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "results.db")) as connection:
        migrate(connection)
        yield connection


def receipts(first: int, count: int, client: str = "plc", route: str = "r") -> list[Receipt]:
    return [Receipt(client, route, number, b"%16d" % number, 0) for number in range(first, first + count)]


def ids(rows: ReceiptRows, client: str = "plc") -> list[int]:
    return [each.packet_id for each in rows.all() if each.client == client]


def test_one_commit_takes_one_row_for_each_client_and_route(db: sqlite3.Connection) -> None:
    rows = ReceiptRows(db)
    rows.insert([*receipts(1, 3), *receipts(1, 2, route="s"), *receipts(5, 1, "camera")])
    assert db.execute("SELECT client, route, count FROM receipt_rows ORDER BY id").fetchall() == [
        ("plc", "r", 3),
        ("plc", "s", 2),
        ("camera", "r", 1),
    ]
    assert [(each.route, each.packet_id, each.hash, each.seq) for each in rows.all()] == [
        ("r", 1, b"%16d" % 1, 1),
        ("r", 2, b"%16d" % 2, 2),
        ("r", 3, b"%16d" % 3, 3),
        ("s", 1, b"%16d" % 1, 4),
        ("s", 2, b"%16d" % 2, 5),
        ("r", 5, b"%16d" % 5, 6),
    ]


def test_oldest_rows_go_when_enough_newer_ones_are_there(db: sqlite3.Connection) -> None:
    rows = ReceiptRows(db)
    rows.kept = 4
    rows.insert(receipts(1, 1, "camera"))
    for first in (1, 4, 7):
        rows.insert(receipts(first, 3))
    assert ids(rows) == [4, 5, 6, 7, 8, 9]
    assert ids(rows, "camera") == [1]
    again = ReceiptRows(db)
    again.kept = 4
    again.insert(receipts(10, 3))
    assert ids(again) == [7, 8, 9, 10, 11, 12]


def test_large_commit_is_kept_whole(db: sqlite3.Connection) -> None:
    rows = ReceiptRows(db)
    rows.kept = 4
    rows.insert(receipts(1, 100))
    assert ids(rows) == list(range(1, 101))
    rows.insert(receipts(101, 4))
    assert ids(rows) == [101, 102, 103, 104]


def test_forgotten_client_leaves_nothing(db: sqlite3.Connection) -> None:
    rows = ReceiptRows(db)
    rows.insert([*receipts(1, 3), *receipts(1, 2, "camera")])
    rows.forget("plc")
    assert (ids(rows), ids(rows, "camera")) == ([], [1, 2])
    rows.insert(receipts(9, 1))
    assert ids(rows) == [9]


def test_rollback_is_followed(db: sqlite3.Connection) -> None:
    rows = ReceiptRows(db)
    rows.kept = 2
    rows.insert(receipts(1, 2))
    db.execute("BEGIN")
    rows.insert(receipts(3, 2))
    db.execute("ROLLBACK")
    rows.read_again()
    assert ids(rows) == [1, 2]
    rows.insert(receipts(3, 1))
    assert ids(rows) == [1, 2, 3]


def test_receipts_of_an_older_appliance_are_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as old:
        migrate(old)
        old.execute("DELETE FROM _sqlite_migrations WHERE name = 'receipt_rows'")
        old.execute("DROP TABLE receipt_rows")
        old.execute("CREATE TABLE receipts (client, route, packet_id, hash, seq)")
        old.executemany(
            "INSERT INTO receipts VALUES ('plc', 'r', ?, ?, ?)", [(2, b"%16d" % 2, 11), (9, b"%16d" % 9, 10)]
        )
        migrate(old)
        assert ids(ReceiptRows(old)) == [9, 2]
