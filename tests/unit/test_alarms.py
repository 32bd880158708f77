"""The register of alarms: raised once, cleared once, with its history on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.config import StoreConfig
from appliance.plant.alarms import KEPT, Alarms
from appliance.store import Store
from appliance.writes import Write
from tests.support.wait import until


class Register:
    """Alarms of a real store, a clock that a test moves, and a count of changes."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.changes = 0
        self.store = Store(folder, StoreConfig(free_bytes_min=0))
        self.store.start()
        self.alarms = Alarms(self.store, now=lambda: self.now)
        self.alarms.on_change = self._changed
        self.alarms.start()

    def _changed(self) -> None:
        self.changes += 1

    def settle(self) -> None:
        """Wait until everything submitted so far is committed."""
        done: list[object] = []
        self.store.submit(Write(done=done.append))
        until(lambda: bool(done), 20, "the commit")


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    opened = Register(tmp_path)
    yield opened
    opened.store.stop()


def test_alarm_is_raised_once_and_cleared_once(register: Register) -> None:
    alarms = register.alarms
    alarms.hold("source_silent", "check the cable", "camera-1")
    register.now += 5
    alarms.hold("source_silent", "check the cable", "camera-1")
    (alarm,) = alarms.active()
    assert (alarm.kind, alarm.source, alarm.text, alarm.since) == ("source_silent", "camera-1", "check the cable", 1000)
    alarms.clear("source_silent", "camera-1")
    alarms.clear("source_silent", "camera-1")
    assert alarms.active() == ()
    assert register.changes == 2
    register.settle()
    (past,) = alarms.history(10)
    assert (past.since, past.until) == (1000, 1005)


def test_each_source_has_its_own_and_the_box_as_well(register: Register) -> None:
    for source in (None, "a", "b"):
        register.alarms.hold("picture_dark", "look at the light", source)
    register.alarms.clear("picture_dark")
    assert [alarm.source for alarm in register.alarms.active()] == ["a", "b"]
    register.settle()
    assert [(past.source, past.until is None) for past in register.alarms.history(10)] == [
        ("b", True),
        ("a", True),
        (None, False),
    ]


def test_other_words_are_told_and_are_no_other_alarm(register: Register) -> None:
    register.alarms.hold("store_full", "1 MiB free")
    register.now += 60
    register.alarms.hold("store_full", "2 MiB free")
    (alarm,) = register.alarms.active()
    assert (alarm.text, alarm.since, register.changes) == ("2 MiB free", 1000, 2)
    register.settle()
    assert len(register.alarms.history(10)) == 1


def test_what_was_active_at_a_stop_is_over_at_the_next_start(tmp_path: Path) -> None:
    first = Register(tmp_path)
    first.alarms.hold("broker_away", "check the network")
    first.store.stop()
    second = Register(tmp_path)
    second.settle()
    assert second.alarms.active() == ()
    assert [past.until for past in second.alarms.history(10)] == [1000.0]
    second.store.stop()


def test_history_is_bounded(register: Register, tmp_path: Path) -> None:
    register.settle()
    with closing(sqlite3.connect(tmp_path / "results.db")) as database, database:
        database.executemany(
            "INSERT INTO alarms (kind, text, since, until) VALUES ('x', 'y', 1, 2)", [()] * (KEPT + 50)
        )
    register.alarms.hold("z", "text")
    register.settle()
    with closing(sqlite3.connect(tmp_path / "results.db")) as database:
        assert database.execute("SELECT count(*) FROM alarms").fetchone() == (KEPT,)
    assert register.alarms.history(1)[0].kind == "z"
