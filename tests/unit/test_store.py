"""The store: what it says is committed is on disk, whatever happens."""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import StoreConfig
from appliance.core.protocol import RESULT_SCHEMA, Part, Result
from appliance.errors import DataDirError, StoreError, StoreFull
from appliance.store import Store
from appliance.writes import Cursor, DeadLetter, NewReading, NewResult, Receipt, Write, Written
from tests.support.disk import small_disk
from tests.support.wait import until

DAY_S = 86_400.0


class Clerk:
    """A store, and its answers in the order they come."""

    def __init__(self, folder: Path, *, now: float | None = None, **config: Any) -> None:
        self.folder = folder
        self.store = Store(
            folder, StoreConfig(**{"free_bytes_min": 0, **config}), now=time.time if now is None else lambda: now
        )
        self.answers: queue.SimpleQueue[Written | StoreError] = queue.SimpleQueue()

    def write(self, **parts: Any) -> None:
        self.store.submit(Write(**parts, done=self.answers.put))

    def commit(self, **parts: Any) -> Written | StoreError:
        self.write(**parts)
        return self.answers.get(timeout=30)

    def result(self, **fields: Any) -> NewResult:
        return make_result(self.store.next_id(), **fields)

    def count(self, table: str) -> int:
        (number,) = rows(self.folder, f"SELECT count(*) FROM {table}")[0]
        return int(number)


@contextlib.contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Clerk]:
    clerk = Clerk(folder, **options)
    clerk.store.start()
    try:
        yield clerk
    finally:
        clerk.store.stop()


@pytest.fixture
def clerk(tmp_path: Path) -> Iterator[Clerk]:
    with opened(tmp_path / "data") as clerk:
        yield clerk


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """As another process would read it."""
    connection = sqlite3.connect(folder / "results.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def make_result(
    number: int,
    *,
    source: str = "camera-1",
    route: str | None = None,
    at: float = 0.0,
    frame: bytes | None = None,
    key: str | None = None,
    window: tuple[int, int] | None = None,
) -> NewResult:
    result = Result(
        schema=RESULT_SCHEMA,
        id=number,
        at=at,
        device="box",
        door="http",
        source=source,
        route=route,
        verdict="ok",
        model="tiny",
        version="1",
        variant="v",
        digest="",
        signed=False,
        has_image=frame is not None,
    )
    return NewResult(result=result, kind="image", body=msgspec.json.encode(result), frame=frame, key=key, window=window)


def make_reading(*, source: str = "plc", at: float = 0.0, key: str | None = None) -> NewReading:
    return NewReading(route="r", source=source, at=at, key=key, part=Part("P-1"), channels=1, samples=bytes(8))


def test_committed_means_that_another_process_can_read_it(clerk: Clerk) -> None:
    assert clerk.commit(result=clerk.result(frame=b"picture")) == Written()
    segment, offset, length = rows(clerk.folder, "SELECT segment, offset, length FROM results")[0]
    content = (clerk.folder / "frames" / f"{segment:08d}.seg").read_bytes()
    assert content[offset : offset + length] == b"picture"


def test_answers_come_in_the_order_of_the_writes(clerk: Clerk) -> None:
    for _ in range(500):
        clerk.write(reading=make_reading())
    numbers = []
    for _ in range(500):
        written = clerk.answers.get(timeout=30)
        assert isinstance(written, Written)
        numbers.append(written.reading_id)
    assert numbers == list(range(1, 501))
    assert clerk.count("readings") == 500


def test_what_waits_is_committed_as_one_group(tmp_path: Path) -> None:
    """The writes were there before the thread was: it takes them all at once."""
    clerk = Clerk(tmp_path / "data")
    seen: list[int] = []
    for _ in range(10):
        clerk.store.submit(
            Write(result=clerk.result(), done=lambda _: seen.append(clerk.count("results"))),
        )
    clerk.store.start()
    until(lambda: len(seen) == 10, 30, "ten answers")
    assert seen == [10] * 10
    clerk.store.stop()


def test_stop_commits_what_waits(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as clerk:
        for _ in range(200):
            clerk.write(result=clerk.result())
    assert clerk.count("results") == 200


def test_key_is_recorded_once_per_route_and_source(clerk: Clerk) -> None:
    assert clerk.commit(result=clerk.result(key="7", route="a")) == Written()
    assert clerk.commit(result=clerk.result(key="7", route="a")) == Written(duplicate=True)
    assert clerk.commit(result=clerk.result(key="7", route="b")) == Written()
    assert clerk.commit(result=clerk.result(key="7", route="a", source="camera-2")) == Written()
    assert clerk.count("results") == 3
    assert rows(clerk.folder, "SELECT sum(count) FROM sources") == [(3,)]


def test_reading_s_key_is_recorded_once(clerk: Clerk) -> None:
    assert clerk.commit(reading=make_reading(key="7")) == Written(reading_id=1)
    assert clerk.commit(reading=make_reading(key="7")) == Written(duplicate=True)
    assert clerk.count("readings") == 1


def test_duplicates_within_one_group_are_found(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "data")
    for _ in range(3):
        clerk.write(reading=make_reading(key="7"))
    clerk.store.start()
    answers = [clerk.answers.get(timeout=30) for _ in range(3)]
    assert [isinstance(answer, Written) and answer.duplicate for answer in answers] == [False, True, True]
    clerk.store.stop()


def test_window_is_judged_once(clerk: Clerk) -> None:
    assert clerk.commit(result=clerk.result(route="r", window=(5, 3))) == Written()
    assert clerk.commit(result=clerk.result(route="r", window=(5, 3))) == Written(duplicate=True)
    assert clerk.commit(result=clerk.result(route="r", window=(5, 4))) == Written()


def test_duplicate_result_is_not_sent_out_again(clerk: Clerk) -> None:
    for _ in range(2):
        clerk.commit(result=clerk.result(key="7", route="a"), outbox=(("topic", b"{}"),))
    assert clerk.count("outbox") == 1
    clerk.commit(sent=(1,))
    assert clerk.count("outbox") == 0


def test_next_start_finds_cursor_receipt_suspect_and_session(tmp_path: Path) -> None:
    receipt = Receipt("plc", "r", 7, b"hash", 1)
    with opened(tmp_path / "data") as clerk:
        for offset in (1, 2):
            clerk.commit(cursor=Cursor("r", "plc", 5, offset))
        clerk.commit(receipt=receipt, suspect=b"suspect", session=("plc", b"{}"))
        clerk.commit(suspect=b"innocent", session=("hmi", b"{}"))
        clerk.commit(cleared=b"innocent", session=("hmi", None))
    with opened(tmp_path / "data") as clerk:
        assert clerk.store.cursors() == [Cursor("r", "plc", 5, 2)]
        assert clerk.store.receipts() == [receipt]
        assert clerk.store.suspects() == {b"suspect"}
        assert clerk.store.sessions() == [b"{}"]


def test_readings_that_no_cursor_has_passed_are_open(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as clerk:
        for source in ("a", "a", "a", "b"):
            clerk.commit(reading=make_reading(source=source))
        clerk.commit(cursor=Cursor("r", "a", 2, 1))
    with opened(tmp_path / "data") as clerk:
        found = [(number, reading.source, reading.part) for number, reading in clerk.store.open_readings()]
        assert found == [(2, "a", Part("P-1")), (3, "a", Part("P-1")), (4, "b", Part("P-1"))]


def test_dead_letter_keeps_its_payload(clerk: Clerk) -> None:
    letter = DeadLetter(at=1.0, topic="t", client="c", code="route_not_found", reason="why", payload=b"payload")
    clerk.commit(dead_letter=letter)
    code, segment, offset, length = rows(clerk.folder, "SELECT code, segment, offset, length FROM dead_letters")[0]
    assert code == "route_not_found"
    content = (clerk.folder / "frames" / f"{segment:08d}.seg").read_bytes()
    assert content[offset : offset + length] == b"payload"


def test_announcement_that_fails_does_not_stop_the_store(clerk: Clerk) -> None:
    def fail(_outcome: Written | StoreError) -> None:
        raise ZeroDivisionError

    clerk.store.submit(Write(result=clerk.result(), done=fail))
    assert clerk.commit(result=clerk.result()) == Written()
    assert clerk.count("results") == 2


def test_retention_drops_by_age_and_keeps_what_an_open_window_needs(tmp_path: Path) -> None:
    now = 1000 * DAY_S
    clerk = Clerk(tmp_path / "data", now=now, results_days=10, readings_hours=24, dead_letters_days=1)
    clerk.store.start()
    for age_days in (11, 9):
        clerk.commit(result=clerk.result(at=now - age_days * DAY_S))
    for age_days in (5, 4, 3, 0):
        clerk.commit(reading=make_reading(source="passed", at=now - age_days * DAY_S))
        clerk.commit(reading=make_reading(source="open", at=now - age_days * DAY_S))
    letter = DeadLetter(at=now - 2 * DAY_S, topic="t", client="c", code="x", reason="y", payload=b"")
    clerk.commit(dead_letter=letter)
    # Readings 1, 3, 5, 7 are of `passed`, whose next window begins in 5; `open` has filled no window yet.
    clerk.commit(cursor=Cursor("r", "passed", 5, 0))
    clerk.store.stop()
    again = Clerk(tmp_path / "data", now=now, results_days=10, readings_hours=24, dead_letters_days=1)
    assert not again.store.retain()
    assert rows(again.folder, "SELECT at FROM results") == [(now - 9 * DAY_S,)]
    assert rows(again.folder, "SELECT id, source FROM readings ORDER BY id") == [
        (2, "open"),
        (4, "open"),
        (5, "passed"),
        (6, "open"),
        (7, "passed"),
        (8, "open"),
    ]
    assert again.count("dead_letters") == 0
    again.store.stop()


def test_retention_says_when_more_is_left(tmp_path: Path) -> None:
    now = 1000 * DAY_S
    clerk = Clerk(tmp_path / "data", now=now)
    for _ in range(6000):
        clerk.store.submit(Write(result=clerk.result(at=0.0)))
    clerk.store.start()
    clerk.store.stop()
    again = Clerk(tmp_path / "data", now=now)
    steps = 0
    while again.store.retain():
        steps += 1
    assert steps == 1
    assert again.count("results") == 0
    again.store.stop()


def test_retention_gives_the_space_back(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "data", now=1000 * DAY_S)
    clerk.store.start()
    for _ in range(300):
        clerk.write(reading=make_reading(key="x" * 2000 + str(time.monotonic_ns())))
    clerk.commit(cursor=Cursor("r", "plc", 1000, 0))
    clerk.store.stop()
    again = Clerk(tmp_path / "data", now=1000 * DAY_S)
    (before,) = rows(clerk.folder, "PRAGMA page_count")[0]
    again.store.retain()
    (after,) = rows(clerk.folder, "PRAGMA page_count")[0]
    assert again.count("readings") == 0
    assert after < before / 4
    again.store.stop()


def test_ids_are_never_used_again_even_after_a_kill(tmp_path: Path) -> None:
    """They were told to callers, whether or not their results came to disk."""
    told: list[int] = []
    for _ in range(3):
        code = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from appliance.config import StoreConfig\n"
            "from appliance.store import Store\n"
            f"store = Store(Path({str(tmp_path / 'data')!r}), StoreConfig())\n"
            "print(*[store.next_id() for _ in range(100)], flush=True)\n"
            "os._exit(9)\n"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
        told += [int(number) for number in output.split()]
    assert len(told) == 300
    assert len(set(told)) == 300
    assert told == sorted(told)


def test_stops_that_were_not_clean_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    killed = f"import os; from tests.unit.test_store import Clerk, Path; Clerk(Path({str(folder)!r})); os._exit(9)"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    counts = []
    for _ in range(2):
        clerk = Clerk(folder)
        counts.append(clerk.store.unclean_stops)
        clerk.store.stop()
    assert counts == [2, 0]


def test_folder_belongs_to_one_box_at_a_time(clerk: Clerk) -> None:
    with pytest.raises(DataDirError, match="in use by another appliance"):
        Store(clerk.folder, StoreConfig())


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="give --data-dir"):
        Store(tmp_path / "file" / "data", StoreConfig())


def test_file_that_is_no_database_is_refused_and_the_folder_let_go(tmp_path: Path) -> None:
    (tmp_path / "results.db").write_bytes(b"not a database, " * 100)
    for _ in range(2):
        with pytest.raises(DataDirError, match=r"results\.db: file is not a database"):
            Store(tmp_path, StoreConfig())


def test_full_disk_is_said_must_writes_are_kept_and_recovery_comes_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk, opened(disk.path / "data") as clerk:
        assert clerk.commit(result=clerk.result(frame=bytes(1000))) == Written()
        disk.fill()
        refused = clerk.commit(result=clerk.result(frame=bytes(100_000)))
        assert isinstance(refused, StoreFull)
        assert "delete files or shorten the retention" in str(refused)
        assert clerk.store.status().state == "full"
        with pytest.raises(StoreFull):
            clerk.store.submit(Write(result=clerk.result()))
        for _ in range(5):
            clerk.write(reading=make_reading(), must=True)
        # A second look, so that the store has tried and failed with the readings in hand.
        before = clerk.store.beat
        until(lambda: clerk.store.beat > before, 30, "another attempt")
        assert clerk.answers.empty()
        disk.free()
        numbers = []
        for _ in range(5):
            written = clerk.answers.get(timeout=30)
            assert isinstance(written, Written)
            numbers.append(written.reading_id)
        assert numbers == [1, 2, 3, 4, 5]
        assert clerk.store.status().state == "ok"
        assert clerk.commit(result=clerk.result(frame=bytes(100_000))) == Written()
        assert (clerk.count("results"), clerk.count("readings")) == (2, 5)


def test_full_disk_without_anything_to_keep_recovers_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk, opened(disk.path / "data") as clerk:
        disk.fill()
        assert isinstance(clerk.commit(result=clerk.result(frame=bytes(100_000))), StoreFull)
        disk.free()
        until(lambda: clerk.store.status().state == "ok", 30, "the store recovering")
        assert clerk.commit(result=clerk.result()) == Written()


def test_box_can_be_stopped_while_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        with opened(disk.path / "data") as clerk:
            assert clerk.commit(result=clerk.result()) == Written()
            disk.fill()
            clerk.write(result=clerk.result(frame=bytes(100_000)), must=True)
            until(lambda: clerk.store.status().state == "full", 30, "the store being full")
        disk.free()
        with opened(disk.path / "data") as clerk:
            assert clerk.count("results") == 1
            assert clerk.commit(result=clerk.result()) == Written()


def test_start_on_a_full_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        with opened(disk.path / "data") as clerk:
            clerk.commit(result=clerk.result())
        disk.fill()
        with pytest.raises(DataDirError) as raised:
            Store(disk.path / "data", StoreConfig())
        assert "\n" not in str(raised.value)
        disk.free()
        with opened(disk.path / "data") as clerk:
            assert clerk.count("results") == 1


def test_box_that_ran_with_room_starts_on_a_full_disk_and_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        with opened(disk.path / "data", free_bytes_min=1 << 20) as clerk:
            clerk.commit(result=clerk.result())
            assert (disk.path / "data" / "ballast").exists()
        disk.fill()
        with opened(disk.path / "data", free_bytes_min=16 << 20) as clerk:
            assert clerk.store.status().state == "full"
            assert "16 MiB must stay free" in str(clerk.store.status().reason)
            disk.free()
            until(lambda: clerk.store.status().state == "ok", 30, "the store taking writes again")
            assert clerk.commit(result=clerk.result()) == Written()
            assert clerk.count("results") == 2


def test_outbox_keeps_the_newest_when_the_broker_stays_away(tmp_path: Path) -> None:
    with opened(tmp_path / "data", outbox_rows_max=1000) as clerk:
        for number in range(3):
            rows_of_500 = tuple((f"t/{number}", b"x") for _ in range(500))
            clerk.commit(result=clerk.result(), outbox=rows_of_500)
    clerk = Clerk(tmp_path / "data", outbox_rows_max=1000)
    clerk.store.retain()
    clerk.store.stop()

    assert rows(tmp_path / "data", "SELECT topic, count(*) FROM outbox GROUP BY topic") == [("t/1", 500), ("t/2", 500)]


def test_disk_is_left_to_others_before_it_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk, opened(disk.path / "data", free_bytes_min=4 << 20) as clerk:
        assert clerk.commit(result=clerk.result()) == Written()
        (disk.path / "filler").write_bytes(bytes(5 << 20))
        until(lambda: is_refused(clerk), 30, "a refusal")
        assert "4 MiB must stay free" in str(clerk.store.status().reason)
        disk.free()
        until(lambda: not is_refused(clerk), 30, "the store taking writes again")


def is_refused(clerk: Clerk) -> bool:
    try:
        return isinstance(clerk.commit(result=clerk.result()), StoreFull)
    except StoreFull:
        return True


@pytest.mark.parametrize("must", [False, True])
def test_retention_makes_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, must: bool) -> None:
    monkeypatch.setattr("appliance.store._RETENTION_EVERY_S", 0.1)
    with (
        small_disk(tmp_path / "disk", 8 << 20) as disk,
        opened(disk.path / "data", free_bytes_min=4 << 20, segment_bytes=1 << 20) as clerk,
    ):
        for _ in range(3):
            clerk.commit(result=clerk.result(frame=bytes(1 << 20)))
        (disk.path / "filler").write_bytes(bytes(1 << 20))
        until(lambda: is_refused(clerk), 30, "a refusal")
        if must:
            clerk.write(reading=make_reading(), must=True)
            until(lambda: clerk.store.status().waiting == 0, 30, "the store having it in hand")
        for number in (1, 2):
            os.utime(clerk.folder / "frames" / f"{number:08d}.seg", (1000, 1000))
        until(lambda: clerk.store.status().state == "ok", 30, "the store recovering")
        if must:
            assert clerk.answers.get(timeout=30) == Written(reading_id=1)


def test_database_that_somebody_locked_is_tried_again_and_costs_no_space(clerk: Clerk) -> None:
    clerk.commit(result=clerk.result(frame=bytes(1000)))
    segment = clerk.folder / "frames" / "00000001.seg"
    with contextlib.closing(sqlite3.connect(clerk.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        clerk.write(result=clerk.result(frame=bytes(500)), must=True)
        until(lambda: clerk.store.status().state == "failing", 30, "the store giving up for now")
        assert "locked" in str(clerk.store.status().reason)
        assert clerk.answers.empty()
        other.execute("ROLLBACK")
    assert clerk.answers.get(timeout=30) == Written()
    assert clerk.store.status().state == "ok"
    assert segment.stat().st_size == 1500


def test_many_threads_may_write(clerk: Clerk) -> None:
    def write() -> None:
        for _ in range(100):
            clerk.write(result=clerk.result())

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(clerk.answers.get(timeout=30) == Written() for _ in range(800))
    assert clerk.count("results") == 800


def test_all_results_of_an_input_are_committed_together(clerk: Clerk) -> None:
    first, *more = (clerk.result() for _ in range(120))
    assert clerk.commit(result=first, more=tuple(more)) == Written()
    assert clerk.count("results") == 120
    assert rows(clerk.folder, "SELECT count FROM sources") == [(120,)]


def test_input_that_comes_again_adds_none_of_its_results(clerk: Clerk) -> None:
    def write() -> Written | StoreError:
        return clerk.commit(result=clerk.result(route="r", key="k"), more=(clerk.result(route="r"),))

    assert write() == Written()
    assert write() == Written(duplicate=True)
    assert clerk.count("results") == 2
    assert rows(clerk.folder, "SELECT count FROM sources") == [(2,)]
