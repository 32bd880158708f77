"""How a start comes to its database: no disk of another machine, a copy before tables change, or one line why not."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from appliance import disk
from appliance.errors import DataDirError
from appliance.writes import Written
from tests.support.clocks import DAY_S, HandClocks
from tests.unit.test_store import Clerk, opened, rows

COPY = "results.db.before.unreleased"


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (0x6969, "NFS"),
        (0xFF534D42, "CIFS"),
        (0xFE534D42, "SMB"),
        (0x65735546, "FUSE"),
        # As a signed word of 64 or of 32 bits.
        (0xFFFFFFFF_FF534D42, "CIFS"),
        (0xFF534D42 - (1 << 32), "CIFS"),
        (0xEF53, None),  # ext4
        (0x58465342, None),  # xfs
        (0x9123683E, None),  # btrfs
        (0xF2F52010, None),  # f2fs
        (0x01021994, None),  # tmpfs
        (0x794C7630, None),  # overlay
    ],
)
def test_file_systems_of_other_machines_are_known_by_their_number(magic: int, name: str | None) -> None:
    assert disk.network_file_system(magic) == name


def test_number_is_the_one_that_the_system_tells(tmp_path: Path) -> None:
    for folder in (tmp_path, Path("/proc"), Path("/sys"), Path("/dev")):
        told = subprocess.run(["stat", "-f", "-c", "%t", str(folder)], capture_output=True, text=True, check=True)
        assert disk.magic_of(folder) == int(told.stdout, 16)


def test_folder_on_a_network_is_refused_in_one_line_unless_the_configuration_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(disk._NETWORK, disk.magic_of(tmp_path), "a disk far away")
    with pytest.raises(DataDirError, match="is on a disk far away") as raised:
        Clerk(tmp_path / "data")
    assert "\n" not in str(raised.value)
    assert "store.network_disk = true" in str(raised.value)
    assert list((tmp_path / "data").iterdir()) == []
    with opened(tmp_path / "data", network_disk=True) as clerk:
        assert clerk.commit(result=clerk.result()) == Written()


def leave_as_before(folder: Path) -> None:
    """A database as an appliance without the migration `unreleased` left it."""
    with opened(folder) as clerk:
        clerk.commit(result=clerk.result())
    with closing(sqlite3.connect(folder / "results.db", isolation_level=None)) as database:
        database.execute("DROP TABLE unreleased")
        database.execute("DELETE FROM _sqlite_migrations WHERE name = 'unreleased'")


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_tables_change_after_a_copy_was_made(tmp_path: Path) -> None:
    leave_as_before(tmp_path)
    with opened(tmp_path) as clerk:
        assert clerk.commit(result=clerk.result()) == Written()
        assert clerk.count("results") == 2
    assert "unreleased" in tables(tmp_path / "results.db")
    assert "unreleased" not in tables(tmp_path / COPY)
    with closing(sqlite3.connect(tmp_path / COPY)) as copy:
        assert copy.execute("SELECT count(*) FROM results").fetchone() == (1,)


def test_new_database_and_one_that_is_up_to_date_need_no_copy(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as clerk:
            clerk.commit(result=clerk.result())
    assert list(tmp_path.glob("results.db.before.*")) == []


def test_tables_stay_as_they_are_without_room_for_the_copy(tmp_path: Path) -> None:
    leave_as_before(tmp_path)
    with pytest.raises(DataDirError, match="a copy is made first") as raised:
        Clerk(tmp_path, free_bytes_min=1 << 50)
    assert "\n" not in str(raised.value)
    assert "unreleased" not in tables(tmp_path / "results.db")
    assert rows(tmp_path, "SELECT count(*) FROM results") == [(1,)]


def test_copy_goes_after_a_month(tmp_path: Path) -> None:
    leave_as_before(tmp_path)
    clocks = HandClocks()
    for days, there in ((0, True), (29, True), (2, False)):
        clocks.off(days * DAY_S)
        with opened(tmp_path, clocks=clocks):
            assert (tmp_path / COPY).exists() == there
