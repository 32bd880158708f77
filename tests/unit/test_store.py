"""The store: what it says is committed is on disk, whatever happens."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.clock import Clocks, read_clocks
from appliance.config import StoreConfig
from appliance.core.protocol import RESULT_SCHEMA, Part, Result
from appliance.errors import DataDirError, StoreError, StoreFull
from appliance.store import Store
from appliance.writes import Cursor, DeadLetter, NewReading, NewResult, Outgoing, Receipt, Write, Written
from tests.support.disk import small_disk
from tests.support.wait import until


class Clerk:
    """A store, and its answers in the order they come."""

    def __init__(
        self,
        folder: Path,
        *,
        clocks: Clocks = read_clocks,
        source_days: Mapping[str, float] | None = None,
        **config: Any,
    ) -> None:
        self.folder = folder
        self.store = Store(
            folder, StoreConfig(**{"free_bytes_min": 0, **config}), clocks=clocks, images_days=source_days
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
        clerk.write(readings=(make_reading(),))
    numbers: list[int | None] = []
    for _ in range(500):
        written = clerk.answers.get(timeout=30)
        assert isinstance(written, Written)
        numbers += written.reading_ids
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
    assert clerk.commit(readings=(make_reading(key="7"),)) == Written(reading_ids=(1,))
    assert clerk.commit(readings=(make_reading(key="7"),)) == Written(reading_ids=(None,))
    assert clerk.count("readings") == 1


def test_duplicates_within_one_group_are_found(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "data")
    for _ in range(3):
        clerk.write(readings=(make_reading(key="7"),))
    clerk.store.start()
    answers = [clerk.answers.get(timeout=30) for _ in range(3)]
    assert answers == [Written(reading_ids=(1,)), Written(reading_ids=(None,)), Written(reading_ids=(None,))]
    clerk.store.stop()


def test_window_is_judged_once(clerk: Clerk) -> None:
    assert clerk.commit(result=clerk.result(route="r", window=(5, 3))) == Written()
    assert clerk.commit(result=clerk.result(route="r", window=(5, 3))) == Written(duplicate=True)
    assert clerk.commit(result=clerk.result(route="r", window=(5, 4))) == Written()


def test_duplicate_result_is_not_sent_out_again(clerk: Clerk) -> None:
    for _ in range(2):
        row = Outgoing("broker", "topic", "application/json", b"{}", 2)
        clerk.commit(result=clerk.result(key="7", route="a"), outbox=(row,))
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
            clerk.commit(readings=(make_reading(source=source),))
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
        told += [int(number) for number in output.splitlines()[-1].split()]
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
            clerk.write(readings=(make_reading(),), must=True)
        # A second look, so that the store has tried and failed with the readings in hand.
        before = clerk.store.beat
        until(lambda: clerk.store.beat > before, 30, "another attempt")
        assert clerk.answers.empty()
        disk.free()
        numbers: list[int | None] = []
        for _ in range(5):
            written = clerk.answers.get(timeout=30)
            assert isinstance(written, Written)
            numbers += written.reading_ids
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
