"""What is dropped, and when: by the age of the box, never by what its wall clock shows."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import StoreFull
from appliance.writes import Cursor, DeadLetter, Outgoing, Write, Written
from tests.support.clocks import DAY_S, HandClocks
from tests.support.disk import small_disk
from tests.support.wait import until
from tests.unit.test_store import Clerk, is_refused, make_reading, opened, rows

HOUR_S = 3600.0


@contextmanager
def kept(folder: Path, clocks: HandClocks, **options: Any) -> Iterator[Clerk]:
    """A store for a short while; it marks how far it had come when it opens and when it closes."""
    with opened(folder, clocks=clocks, **options) as clerk:
        yield clerk


def retained(folder: Path, clocks: HandClocks, **options: Any) -> int:
    """Open, drop all that is due, and close; returns the steps it took."""
    clerk = Clerk(folder, clocks=clocks, **options)
    steps = 1
    while clerk.store.upkeep.retain():
        steps += 1
    clerk.store.stop()
    return steps


def waiting(size: int, topic: str = "t") -> Outgoing:
    return Outgoing("broker", topic, "application/json", bytes(size), size)


def is_full(clerk: Clerk) -> bool:
    return clerk.store.status().state == "full"


def sources(folder: Path, table: str = "results") -> list[str]:
    return [source for (source,) in rows(folder, f"SELECT source FROM {table} ORDER BY id")]


def test_results_go_when_they_are_older_than_their_days(tmp_path: Path) -> None:
    clocks = HandClocks()
    for day in range(4):
        with kept(tmp_path, clocks) as clerk:
            clerk.commit(result=clerk.result(source=f"day-{day}"))
        clocks.run(DAY_S)
    retained(tmp_path, clocks, results_days=2.5)
    assert sources(tmp_path) == ["day-2", "day-3"]


def test_time_that_the_box_was_off_counts(tmp_path: Path) -> None:
    clocks = HandClocks()
    with kept(tmp_path, clocks) as clerk:
        clerk.commit(result=clerk.result())
    clocks.off(20 * DAY_S)
    retained(tmp_path, clocks, results_days=19)
    assert sources(tmp_path) == []


@pytest.mark.parametrize("wrong", [0.0, 4_070_908_800.0])
def test_clock_in_1970_or_2099_drops_nothing_and_keeps_nothing_for_ever(tmp_path: Path, wrong: float) -> None:
    clocks = HandClocks()
    right = clocks.wall
    with kept(tmp_path, clocks) as clerk:
        clerk.commit(result=clerk.result(source="before", at=clocks.wall))
    clocks.off(60)
    clocks.wall = wrong
    with kept(tmp_path, clocks, results_days=10) as clerk:
        clerk.commit(result=clerk.result(source="wrong", at=clocks.wall))
        assert not clerk.store.upkeep.clock.ok
    retained(tmp_path, clocks, results_days=10)
    assert sources(tmp_path) == ["before", "wrong"]
    clocks.run(5 * DAY_S)
    clocks.wall = right + 5 * DAY_S
    with kept(tmp_path, clocks, results_days=10) as clerk:
        assert clerk.store.upkeep.clock.ok
        clerk.commit(result=clerk.result(source="right again", at=clocks.wall))
    clocks.run(6 * DAY_S)
    retained(tmp_path, clocks, results_days=10)
    assert sources(tmp_path) == ["right again"]


def test_clock_that_jumps_while_the_box_runs_makes_nothing_older(tmp_path: Path) -> None:
    clocks = HandClocks()
    clerk = Clerk(tmp_path, clocks=clocks, results_days=10)
    clerk.store.start()
    clerk.commit(result=clerk.result())
    for jump in (30 * DAY_S, -DAY_S, 40 * 365 * DAY_S):
        clocks.wall += jump
        clocks.run(60)
        clerk.commit(result=clerk.result())
    clerk.store.stop()
    retained(tmp_path, clocks, results_days=10)
    assert len(sources(tmp_path)) == 4


def test_reading_that_an_open_window_needs_is_kept(tmp_path: Path) -> None:
    clocks = HandClocks()
    with kept(tmp_path, clocks) as clerk:
        for _ in range(4):
            clerk.commit(readings=(make_reading(source="passed"),))
            clerk.commit(readings=(make_reading(source="open"),))
        # Readings 1, 3, 5, 7 are of `passed`, whose next window begins in 5; `open` has filled no window yet.
        clerk.commit(cursor=Cursor("r", "passed", 5, 0))
    clocks.run(2 * DAY_S)
    retained(tmp_path, clocks, readings_hours=24)
    assert rows(tmp_path, "SELECT id FROM readings ORDER BY id") == [(2,), (4,), (5,), (6,), (7,), (8,)]


def test_dead_letters_go_when_they_are_old(tmp_path: Path) -> None:
    clocks = HandClocks()
    with kept(tmp_path, clocks) as clerk:
        clerk.commit(dead_letter=DeadLetter(at=0, topic="t", client="c", code="x", reason="y", payload=b"p"))
    clocks.run(2 * DAY_S)
    retained(tmp_path, clocks, dead_letters_days=3)
    assert clerk.count("dead_letters") == 1
    retained(tmp_path, clocks, dead_letters_days=1)
    assert clerk.count("dead_letters") == 0


def test_much_goes_in_several_steps(tmp_path: Path) -> None:
    clocks = HandClocks()
    with kept(tmp_path, clocks) as clerk:
        first, *more = (clerk.result() for _ in range(2500))
        clerk.commit(result=first, more=tuple(more))
    clocks.run(100 * DAY_S)
    assert retained(tmp_path, clocks) == 3
    assert clerk.count("results") == 0


def test_space_goes_back_to_the_disk_in_bounded_steps(tmp_path: Path) -> None:
    clocks = HandClocks()
    with kept(tmp_path, clocks) as clerk:
        for number in range(1000):
            clerk.write(readings=(make_reading(key="x" * 2000 + str(number)),))
        clerk.commit(cursor=Cursor("r", "plc", 10_000, 0))
    clocks.run(2 * DAY_S)
    ((before,),) = rows(tmp_path, "PRAGMA page_count")
    clerk = Clerk(tmp_path, clocks=clocks)
    sizes = [before]
    while clerk.store.upkeep.retain():
        sizes += [rows(tmp_path, "PRAGMA page_count")[0][0]]
    clerk.store.stop()
    assert clerk.count("readings") == 0
    assert max(np.diff(sizes) * -1) <= 260
    ((after,),) = rows(tmp_path, "PRAGMA page_count")
    assert after < before / 4


def test_pictures_go_by_whole_segments_and_a_slow_camera_s_too(tmp_path: Path) -> None:
    clocks = HandClocks()
    for hour in range(0, 15 * 24, 6):
        clocks.run(6 * HOUR_S)
        with kept(tmp_path, clocks, images_days=4) as clerk:
            clerk.commit(result=clerk.result(source=str(hour), frame=b"picture"))
    retained(tmp_path, clocks, images_days=4)
    pictures = {
        int(source): (tmp_path / "frames" / f"{segment:08d}.seg").exists()
        for source, segment in rows(tmp_path, "SELECT source, segment FROM results")
    }
    last = max(pictures)
    assert all(pictures[hour] for hour in pictures if hour > last - 4 * 24)
    assert not any(pictures[hour] for hour in pictures if hour < last - 5 * 24)


def test_pictures_of_one_source_go_sooner(tmp_path: Path) -> None:
    clocks = HandClocks()
    with kept(tmp_path, clocks) as clerk:
        for source in ("door", "press", "door"):
            clerk.commit(result=clerk.result(source=source, frame=source.encode() * 20))
    clocks.run(2 * DAY_S)
    with kept(tmp_path, clocks) as clerk:
        clerk.commit(result=clerk.result(source="door", frame=b"new door"))
    clocks.run(HOUR_S)
    retained(tmp_path, clocks, images_days=7)
    clerk = Clerk(tmp_path, clocks=clocks, source_days={"door": 1.0})
    while clerk.store.upkeep.retain():
        pass
    clerk.store.stop()
    assert rows(tmp_path, "SELECT source, segment IS NULL FROM results ORDER BY id") == [
        ("door", 1),
        ("press", 0),
        ("door", 1),
        ("door", 0),
    ]
    content = b"".join(path.read_bytes() for path in (tmp_path / "frames").glob("*.seg"))
    assert content.count(b"door") == 1
    assert content.count(b"press") == 20


def test_database_at_its_quota_goes_on_and_loses_its_oldest_readings(tmp_path: Path) -> None:
    with opened(tmp_path, database_bytes_max=2 << 20) as clerk:
        clerk.commit(result=clerk.result(source="kept"))
        clerk.commit(cursor=Cursor("r", "plc", 1 << 40, 0))
        for number in range(60):
            keys = (f"{number}-{each}-{'x' * 400}" for each in range(100))
            answer = clerk.commit(readings=tuple(make_reading(key=key) for key in keys), must=True)
            assert isinstance(answer, Written)
        ((highest, count),) = rows(tmp_path, "SELECT max(id), count(*) FROM readings")
        assert highest == 6000
        assert 100 < count < 6000
        assert (tmp_path / "results.db").stat().st_size <= 2 << 20
        assert sources(tmp_path) == ["kept"]
        status = clerk.store.upkeep.status
        assert status.dropped_early == ("readings",)
        assert "oldest readings go before their time" in str(clerk.store.upkeep.concerns()["store_nearly_full"])


def test_database_full_of_results_loses_the_oldest(tmp_path: Path) -> None:
    with opened(tmp_path, database_bytes_max=2 << 20) as clerk:
        for _ in range(150):
            first, *more = (clerk.result() for _ in range(100))
            assert clerk.commit(result=first, more=tuple(more), must=True) == Written()
        until(lambda: clerk.store.upkeep.status.dropped_early == ("results",), 30, "results going early")
        ((lowest,),) = rows(tmp_path, "SELECT min(id) FROM results")
        assert lowest > 1
        assert clerk.store.status().state == "ok"


def test_pictures_at_their_quota_lose_the_oldest(tmp_path: Path) -> None:
    with opened(tmp_path, images_bytes_max=1 << 20) as clerk:
        for _ in range(60):
            clerk.commit(result=clerk.result(frame=bytes(60_000)))
        until(lambda: clerk.store.upkeep.status.dropped_early == ("pictures",), 30, "pictures going early")
        until(lambda: clerk.store.upkeep.status.level == "ok", 30, "enough pictures being gone")
        assert clerk.count("results") == 60


def test_outbox_that_fills_the_quota_stops_what_is_acknowledged(tmp_path: Path) -> None:
    """Nothing that waits for others is dropped to make room."""
    with opened(tmp_path, database_bytes_max=1 << 20) as clerk:
        for number in range(40):
            clerk.write(result=clerk.result(), outbox=(waiting(30_000),), must=True)
            until(lambda n=number: clerk.answers.qsize() > n or is_full(clerk), 30, "an answer")  # type: ignore[misc]
            if is_full(clerk):
                break
        until(lambda: clerk.count("results") <= 1, 30, "every old result being gone")
        assert "quota" in str(clerk.store.status().reason)
        acknowledged = clerk.answers.qsize()
        assert acknowledged > 20
        assert clerk.count("outbox") == acknowledged
        sent = tuple(number for (number,) in rows(tmp_path, "SELECT id FROM outbox ORDER BY id LIMIT 15"))
        with contextlib.closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as other:
            other.execute(f"DELETE FROM outbox WHERE id <= {max(sent)}")
        until(lambda: clerk.answers.qsize() == acknowledged + 1, 30, "the last one being acknowledged")


def test_disk_that_is_nearly_full_keeps_no_more_pictures_but_results(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 16 << 20) as disk,
        opened(disk.path / "data", free_bytes_min=4 << 20, images_bytes_max=1 << 30, segment_bytes=1 << 20) as clerk,
    ):
        for _ in range(4):
            clerk.commit(result=clerk.result(frame=bytes(1 << 19)))
        (disk.path / "filler").write_bytes(bytes(9 << 20))
        until(lambda: not clerk.store.upkeep.status.keeps_images, 30, "pictures not being kept")
        assert clerk.commit(result=clerk.result(frame=bytes(1000))) == Written()
        assert rows(clerk.folder, "SELECT segment FROM results ORDER BY id DESC LIMIT 1") == [(None,)]
        until(lambda: "pictures" in clerk.store.upkeep.status.dropped_early, 30, "pictures going early")
        disk.free()
        until(lambda: clerk.store.upkeep.status.keeps_images, 30, "pictures being kept again")


@pytest.mark.parametrize("must", [False, True])
def test_retention_makes_room_on_a_full_disk(tmp_path: Path, must: bool) -> None:
    with (
        small_disk(tmp_path / "disk", 16 << 20) as disk,
        opened(disk.path / "data", free_bytes_min=4 << 20, segment_bytes=1 << 20, images_bytes_max=1 << 30) as clerk,
    ):
        for _ in range(3):
            clerk.commit(result=clerk.result(frame=bytes(1 << 20)))
        room = disk.path / "filler"
        room.write_bytes(bytes(9 << 20))
        if must:
            clerk.write(readings=(make_reading(),), must=True)
            assert isinstance(clerk.answers.get(timeout=30), Written)
        until(lambda: len(clerk.store.frames.numbers) == 1, 30, "the older pictures going")
        until(lambda: clerk.store.status().state == "ok", 30, "the store recovering")


def test_refusal_of_a_full_disk_is_the_disk_s(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk, opened(disk.path / "data", free_bytes_min=4 << 20) as clerk:
        (disk.path / "filler").write_bytes(bytes(5 << 20))
        until(lambda: is_refused(clerk), 30, "a refusal")
        with pytest.raises(StoreFull, match="4 MiB must stay free"):
            clerk.store.submit(Write(result=clerk.result()))
