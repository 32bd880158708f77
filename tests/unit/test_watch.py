"""Alarms by looking: what is raised when, and cleared by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.config import SourceConfig
from appliance.core.picture_quality import PictureQuality
from appliance.plant.alarms import Alarms
from appliance.plant.watch import AWAY_S, BoxWatch, SourceWatch
from tests.support.by_hand import StoreByHand

GOOD, DARK, BLURRED = PictureQuality(0.5, 300.0), PictureQuality(0.01, 2.0), PictureQuality(0.5, 3.0)
SOURCES = {
    "camera": SourceConfig(expected_every_s=10, dark_below=0.1, blurred_below=20),
    "press": SourceConfig(expected_every_s=60),
    "other": SourceConfig(images="none"),
}


class Watched:
    """Sources and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alarms = Alarms(cast(Any, StoreByHand()))
        self.watch = SourceWatch(SOURCES, self.alarms, now=lambda: self.now)

    def after(self, seconds: float) -> list[tuple[str, str | None]]:
        """The alarms that are active then."""
        self.now += seconds
        self.watch.tick(self.now)
        return self.active()

    def active(self) -> list[tuple[str, str | None]]:
        return [(alarm.kind, alarm.source) for alarm in self.alarms.active()]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_source_that_was_never_heard_is_silent_after_its_time(watched: Watched) -> None:
    assert watched.after(10) == []
    assert watched.after(0.1) == [("source_silent", "camera")]
    assert watched.after(50) == [("source_silent", "camera"), ("source_silent", "press")]


def test_source_that_speaks_again_is_silent_no_more(watched: Watched) -> None:
    watched.after(11)
    watched.watch.heard("camera")
    assert watched.after(0) == []
    assert watched.after(10.1) == [("source_silent", "camera")]


def test_source_without_an_expectation_may_be_silent(watched: Watched) -> None:
    watched.after(1_000_000)
    assert ("source_silent", "other") not in watched.active()


def test_source_that_nobody_has_rules_for_is_not_followed(watched: Watched) -> None:
    for _ in range(5):
        watched.watch.heard("stranger", DARK)
    assert watched.active() == []
    assert {each.source for each in watched.watch.report()} == set(SOURCES)


def test_dark_pictures_raise_and_good_ones_clear(watched: Watched) -> None:
    for _ in range(3):
        assert watched.active() == []
        watched.watch.heard("camera", DARK)
    assert watched.active() == [("picture_dark", "camera")]
    for _ in range(3):
        watched.watch.heard("camera", GOOD)
    assert watched.active() == []


def test_blurred_takes_the_place_of_dark(watched: Watched) -> None:
    for quality in (DARK, BLURRED):
        for _ in range(3):
            watched.watch.heard("camera", quality)
    assert watched.active() == [("picture_blurred", "camera")]


def test_report_tells_what_thresholds_are_chosen_by(watched: Watched) -> None:
    watched.watch.heard("camera", GOOD)
    watched.now += 4
    report = {each.source: each for each in watched.watch.report()}
    assert (report["camera"].brightness, report["camera"].sharpness, report["camera"].silent_s) == (0.5, 300.0, 4.0)
    assert (report["other"].brightness, report["other"].images) == (None, "none")


def test_alarms_say_what_to_do(watched: Watched) -> None:
    watched.after(11)
    (alarm,) = watched.alarms.active()
    assert "camera" in alarm.text
    assert "check" in alarm.text
    assert "10 s" in alarm.text


class TestBox:
    """state, reason: of the store. broker: what is wrong with it."""

    def setup_method(self) -> None:
        self.state: Any = "ok"
        self.broker: str | None = None
        self.alarms = Alarms(cast(Any, StoreByHand()))
        self.watch = BoxWatch(self.alarms, self._store, lambda: self.broker)

    def _store(self) -> Any:
        reason = None if self.state == "ok" else "the disk of /data has no room; delete files"
        return SimpleNamespace(state=self.state, reason=reason)

    def kinds(self, now: float) -> list[str]:
        self.watch.tick(now)
        return [alarm.kind for alarm in self.alarms.active()]

    def test_store_that_cannot_write_is_an_alarm_until_it_can(self) -> None:
        assert self.kinds(0) == []
        self.state = "full"
        assert self.kinds(1) == ["store_full"]
        assert "delete files" in self.alarms.active()[0].text
        self.state = "failing"
        assert self.kinds(2) == ["store_failing"]
        self.state = "ok"
        assert self.kinds(3) == []

    def test_broker_may_be_away_for_a_moment(self) -> None:
        self.broker = "no connection"
        assert self.kinds(0) == []
        assert self.kinds(AWAY_S) == []
        assert self.kinds(AWAY_S + 0.2) == ["broker_away"]
        self.broker = None
        assert self.kinds(AWAY_S + 1) == []
        self.broker = "no connection"
        assert self.kinds(AWAY_S + 2) == []
        assert self.kinds(2 * AWAY_S + 0.9) == []
        assert self.kinds(2 * AWAY_S + 1.1) == ["broker_away"]
