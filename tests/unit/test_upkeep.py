"""What the store says of its wear and its log, and the ballast that a full disk is started with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from appliance import ballast, marks, upkeep
from appliance.schema import open_reader
from tests.support.clocks import HandClocks
from tests.support.disk import small_disk
from tests.support.wait import until
from tests.unit.test_store import Clerk, make_reading, opened

MIB = 1 << 20


def test_bytes_written_in_a_day_are_told_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = tmp_path / "io"
    monkeypatch.setattr(marks, "_PROCESS_IO", counted)
    clocks = HandClocks()

    def wrote(count: int) -> None:
        counted.write_text(f"rchar: 7\nwrite_bytes: {count + 50}\ncancelled_write_bytes: 50\n")

    def per_day(clerk: Clerk) -> int:
        return clerk.store.upkeep.status.bytes_written_per_day or 0

    for begun in (500, 7):
        # Each start is a process that counts from its own beginning.
        wrote(begun)
        with opened(tmp_path / "data", clocks=clocks) as clerk:
            if begun == 500:
                assert clerk.store.upkeep.status.bytes_written_per_day is None
            clocks.run(3600)
            wrote(begun + 10 * MIB)
            until(lambda clerk=clerk: abs(per_day(clerk) - 240 * MIB) <= 1, 20, "240 MiB a day")  # type: ignore[misc]


def test_log_that_a_long_reader_keeps_is_told_and_shrinks_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_WAL_LARGE", 24 * MIB)
    reading = msgspec.structs.replace(make_reading(), samples=bytes(200_000))
    with opened(tmp_path) as clerk:
        log = tmp_path / "results.db-wal"

        def concern() -> str | None:
            return clerk.store.upkeep.concerns()["log_growing"]

        with closing(open_reader(clerk.store.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM results").fetchone()
            for _ in range(160):
                clerk.commit(readings=(reading,))
            assert log.stat().st_size > 24 * MIB
            until(concern, 20, "the concern")
            assert reader.execute("SELECT count(*) FROM readings").fetchone() == (0,)

        def shrinks() -> bool:
            clerk.commit(readings=(make_reading(),))
            return log.stat().st_size <= 16 * MIB

        until(shrinks, 20, "the log being taken in")
        until(lambda: concern() is None, 20, "the concern being over")
        assert clerk.count("readings") >= 161


@pytest.mark.parametrize(
    ("disk_bytes", "held"),
    [(1 << 40, 8 * MIB), (256 * MIB, 8 * MIB), (64 * MIB, 2 * MIB), (8 * MIB, MIB // 4), (4 * MIB, 0), (0, 0)],
)
def test_ballast_is_a_small_part_of_the_disk(disk_bytes: int, held: int) -> None:
    assert ballast.size(disk_bytes) == held


def test_ballast_is_laid_where_there_is_room_and_given_back_when_there_is_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16 * MIB) as disk:
        file = disk.path / "ballast"
        ballast.lay(disk.path, 15 * MIB)
        assert not file.exists(), "what must stay free is not its room"
        ballast.lay(disk.path, MIB)
        assert file.stat().st_size == MIB // 2
        assert not ballast.drop_when_full(disk.path), "there is plenty of room"
        disk.fill()
        assert ballast.drop_when_full(disk.path)
        assert not ballast.drop_when_full(disk.path), "it is given once"
        ballast.lay(disk.path, 0)
        assert not file.exists(), "a full disk gives none"


def test_quotas_are_parts_of_the_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * MIB) as disk, opened(disk.path / "data") as clerk:
        status = clerk.store.upkeep.status
        assert (status.database_bytes_max, status.images_bytes_max) == (32 * MIB, 16 * MIB)
