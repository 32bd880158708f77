"""A database that was damaged: put aside, its outbox saved, and the box goes on."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from appliance.errors import DataDirError, StoreError
from appliance.writes import Cursor, Outgoing, Receipt, Written
from tests.support.faults import times
from tests.unit.test_store import Clerk, make_reading, opened, rows

FLIPS = times(8, 200)
WAITING = 50


def filled(folder: Path, *, killed: bool = False) -> None:
    """A database with some of everything; `killed`: by a process that then ends without a word."""
    if not killed:
        fill(folder).store.stop()
        return
    code = f"from tests.faults.test_database import fill, Path; import os; fill(Path({str(folder)!r})); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


def fill(folder: Path) -> Clerk:
    clerk = Clerk(folder)
    clerk.store.start()
    for number in range(WAITING):
        payload = b"waiting %d" % number
        outgoing = Outgoing("broker", "t", "application/json", payload, len(payload))
        clerk.commit(result=clerk.result(frame=b"picture" * 100), outbox=(outgoing,))
    for _ in range(3):
        clerk.commit(readings=(make_reading(),))
    clerk.commit(cursor=Cursor("r", "plc", 2, 0), receipt=Receipt("plc", "r", 7, b"hash", 1), session=("plc", b"{}"))
    return clerk


def aside(folder: Path) -> list[Path]:
    return [path for path in folder.glob("results.db.corrupt.*") if not path.name.endswith(("-wal", "-shm"))]


def test_file_that_is_no_database_is_put_aside_and_the_box_goes_on(tmp_path: Path) -> None:
    (tmp_path / "results.db").write_bytes(b"not a database, " * 100)
    with opened(tmp_path) as clerk:
        assert clerk.commit(result=clerk.result()) == Written()
        (old,) = aside(tmp_path)
        assert old.read_bytes() == b"not a database, " * 100
        assert old.name in str(clerk.store.upkeep.concerns()["database_saved"])
        assert clerk.store.unclean_stops == 1


def test_what_others_wait_for_is_saved_from_a_damaged_database(tmp_path: Path) -> None:
    filled(tmp_path)
    told = rows(tmp_path, "SELECT value FROM counters WHERE name = 'result_id'")[0][0]
    spoil_table(tmp_path / "results.db", "results")
    (tmp_path / "results.db.damaged").touch()
    with opened(tmp_path) as clerk:
        assert clerk.count("outbox") == WAITING
        assert clerk.store.cursors()[0].reading == 2
        assert [number for number, _ in clerk.store.open_readings()] == [2, 3]
        assert clerk.store.sessions() == [b"{}"]
        assert len(clerk.store.receipts()) == 1
        assert clerk.store.next_id() > told
        assert clerk.commit(result=clerk.result()) == Written()
        assert not list((tmp_path / "frames").glob("00000001.seg")), "pictures without a row are swept"
    with opened(tmp_path) as clerk:
        assert len(aside(tmp_path)) == 1
        assert clerk.store.unclean_stops == 0


def test_damage_is_found_after_an_unclean_stop(tmp_path: Path) -> None:
    filled(tmp_path, killed=True)
    with closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil_table(tmp_path / "results.db", "results")
    with opened(tmp_path) as clerk:
        assert len(aside(tmp_path)) == 1
        assert clerk.count("outbox") == WAITING
        assert clerk.commit(result=clerk.result()) == Written()


def test_check_has_a_time_limit(tmp_path: Path) -> None:
    filled(tmp_path, killed=True)
    with opened(tmp_path, check_s_max=1e-9) as clerk:
        assert clerk.store.upkeep.status.checked in ("partly", "whole")
        assert clerk.commit(result=clerk.result()) == Written()
    assert aside(tmp_path) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_database_is_replaced(tmp_path: Path, share: float) -> None:
    filled(tmp_path, killed=True)
    path = tmp_path / "results.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(path, int(path.stat().st_size * share))
    with opened(tmp_path) as clerk:
        assert clerk.commit(result=clerk.result()) == Written()
        assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]


def test_wal_that_is_gone_leaves_a_database_that_works(tmp_path: Path) -> None:
    filled(tmp_path, killed=True)
    for ending in ("-wal", "-shm"):
        (tmp_path / f"results.db{ending}").unlink(missing_ok=True)
    with opened(tmp_path) as clerk:
        assert clerk.commit(result=clerk.result()) == Written()
        assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("seed", range(FLIPS))
def test_flipped_bytes_end_in_a_box_that_records(tmp_path: Path, seed: int) -> None:
    """At once, or at the next start when the writer was the first to meet the damage."""
    chance = random.Random(seed)
    filled(tmp_path, killed=True)
    path = tmp_path / "results.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        for _ in range(chance.choice((1, 20, 400))):
            file.seek(chance.randrange(path.stat().st_size))
            file.write(bytes([chance.randrange(256)]))
    for _ in range(2):
        with opened(tmp_path) as clerk:
            try:
                answer: Written | StoreError = clerk.commit(result=clerk.result())
            except StoreError as error:
                answer = error
        if answer == Written():
            return
    pytest.fail(f"the box does not record: {answer}")


def test_newer_database_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as database:
        database.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('results', 'new', '')"
        )
    with pytest.raises(DataDirError, match="written by a newer appliance") as raised:
        Clerk(tmp_path)
    assert "\n" not in str(raised.value)
    assert rows(tmp_path, "SELECT count(*) FROM results") == [(WAITING,)]
    assert aside(tmp_path) == []


def spoil_table(path: Path, table: str) -> None:
    """Overwrite the page at the root of a table, which nothing can read any more."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        ((size,),) = database.execute("PRAGMA page_size").fetchall()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
