"""The marks of suspected inputs, over several runs of a real store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from appliance.config import StoreConfig
from appliance.mqtt.poison import Suspects, Suspicion
from appliance.store import Store
from appliance.writes import Write
from tests.support.records import query
from tests.support.wait import until

PICTURE = b"p" * 16


@contextmanager
def run(folder: Path) -> Iterator[Store]:
    """One run of a store that ends cleanly."""
    store = Store(folder, StoreConfig())
    store.start()
    try:
        yield store
    finally:
        store.stop()


def crash(folder: Path, mark: bytes | None = None, replaces: bytes | None = None) -> None:
    """One run that ends without a stop being noted, with `mark` committed in it."""
    with run(folder) as store:
        if mark is not None:
            store.submit(Write(suspect=mark, cleared=replaces, must=True))
    change(folder, "UPDATE runs SET stopped_at = NULL WHERE id = (SELECT max(id) FROM runs)")


def change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "results.db")) as database, database:
        database.execute(statement)


def judge(folder: Path, *, repeated: bool = False) -> Suspicion | None:
    """What the next run would say of the picture; that run leaves no trace."""
    store = Store(folder, StoreConfig())
    answer = Suspects(store).judge(PICTURE, repeated=repeated)
    store.start()
    store.stop()
    change(folder, "DELETE FROM runs WHERE id = (SELECT max(id) FROM runs)")
    return answer


def test_nothing_is_suspected_after_a_clean_stop(tmp_path: Path) -> None:
    with run(tmp_path):
        pass
    assert judge(tmp_path, repeated=True) is None


def test_new_input_is_not_suspected_after_one_unclean_stop(tmp_path: Path) -> None:
    crash(tmp_path)
    assert judge(tmp_path) is None


def test_input_that_was_on_its_way_at_two_unclean_stops_is_poisonous(tmp_path: Path) -> None:
    crash(tmp_path)
    first = judge(tmp_path, repeated=True)
    assert first is not None
    assert not first.poisonous
    crash(tmp_path, first.mark)
    second = judge(tmp_path, repeated=True)
    assert second is not None
    assert second.poisonous


def test_every_input_is_watched_after_two_unclean_stops_and_given_up_after_two_more(tmp_path: Path) -> None:
    crash(tmp_path)
    crash(tmp_path)
    first = judge(tmp_path)
    assert first is not None
    assert not first.poisonous
    crash(tmp_path, first.mark)
    second = judge(tmp_path)
    assert second is not None
    assert not second.poisonous
    assert second.replaces == first.mark
    crash(tmp_path, second.mark, second.replaces)
    third = judge(tmp_path)
    assert third is not None
    assert third.poisonous


def test_marks_go_when_a_run_follows_a_clean_stop(tmp_path: Path) -> None:
    crash(tmp_path)
    mark = judge(tmp_path, repeated=True)
    assert mark is not None
    with run(tmp_path) as store:
        store.submit(Write(suspect=mark.mark, must=True))
    with run(tmp_path) as store:
        Suspects(store)
        until(lambda: query(tmp_path, "SELECT count(*) FROM suspects") == [(0,)], 10, "no marks")
