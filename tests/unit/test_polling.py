"""When a box asks for updates: spread over the hours, patient with trouble, in its windows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from appliance.config import Config, UpdatesConfig
from appliance.core.polling import (
    BACK_OFF_S,
    BACK_OFF_S_MAX,
    RETRY_AFTER_S_MAX,
    back_off,
    next_poll_s,
    parse_retry_after,
    phase,
    until_windows_s,
)
from appliance.core.release import Window
from appliance.errors import ApplianceError, RegistryUnavailable
from appliance.updater.stay import SPACE_S, stay

NOON = 1_790_000_000 // 86_400 * 86_400 + 43_200.0
NIGHT = Window(begins="22:00", ends="05:00")
MORNING = Window(begins="04:00", ends="08:00")


def test_a_thousand_boxes_that_are_switched_on_together_spread_over_half_an_hour() -> None:
    minutes = [0] * 30
    for number in range(1_000):
        minutes[int(phase(f"box-{number}", 1_800) // 60)] += 1
    assert min(minutes) > 0
    assert max(minutes) <= 60


def test_ten_thousand_boxes_never_poll_more_than_a_twentieth_of_themselves_in_a_minute() -> None:
    minutes = [0] * 30
    for number in range(10_000):
        minutes[int(phase(f"box-{number}", 1_800) // 60)] += 1
    assert max(minutes) / 10_000 <= 0.05


def test_a_box_has_the_same_moment_at_every_start() -> None:
    assert phase("box-1", 1_800) == phase("box-1", 1_800)
    assert phase("box-1", 0) == 0


@pytest.mark.parametrize(("failures", "limit"), [(1, 30), (2, 60), (3, 120), (8, 3_600), (10_000, 3_600)])
def test_the_wait_after_failures_doubles_up_to_a_limit(failures: int, limit: float) -> None:
    assert back_off(failures, 1.0) == limit
    assert back_off(failures, 0.0) == 0
    assert back_off(failures, 0.5) == limit / 2


@pytest.mark.parametrize(
    ("failures", "again", "retry_after_s", "wait_s"),
    [
        (0, True, None, 3_600),
        (1, True, None, BACK_OFF_S),
        (99, True, None, BACK_OFF_S_MAX),
        (1, False, None, 3_600),
        (1, True, 900, 900),
        (0, True, 7_200, 7_200),
        (1, True, 1e9, RETRY_AFTER_S_MAX),
    ],
)
def test_the_next_look_comes_when_it_may_help(
    failures: int, again: bool, retry_after_s: float | None, wait_s: float
) -> None:
    assert next_poll_s(3_600, failures, again, retry_after_s, 1.0) == wait_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("9" * 40, RETRY_AFTER_S_MAX),
        ("-5", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:10:00 GMT", 540),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0),
        ("Fri, 01 Jan 2999 00:00:00 GMT", RETRY_AFTER_S_MAX),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=60.0) == seconds


@pytest.mark.parametrize(
    ("windows", "hour", "wait_h"),
    [
        ((), 12, 0),
        ((None, None), 12, 0),
        ((NIGHT,), 12, 10),
        ((NIGHT,), 22, 0),
        ((NIGHT,), 4.99, 0),
        ((NIGHT,), 5, 17),
        ((NIGHT, MORNING), 23, 5),
        ((NIGHT, MORNING), 4.5, 0),
        ((NIGHT, MORNING), 6, 22),
        ((Window(begins="01:00", ends="02:00"), Window(begins="03:00", ends="04:00")), 12, 24),
        ((Window(begins="07:00", ends="07:00"),), 12, 0),
    ],
)
def test_the_windows_of_the_release_and_of_the_box_are_open_together(
    windows: tuple[Window | None, ...], hour: float, wait_h: float
) -> None:
    now = NOON - 43_200 + hour * 3_600
    assert until_windows_s(windows, now) == pytest.approx(wait_h * 3_600, abs=61 if hour == 4.99 else 0)


class Hours:
    """A clock that moves as somebody sleeps. errors: of the looks, in turn."""

    def __init__(self, errors: list[ApplianceError | None]) -> None:
        self.now = 0.0
        self.looks: list[float] = []
        self.asks: set[int] = set()
        self._errors = errors

    def look(self) -> None:
        if len(self.looks) == len(self._errors):
            raise KeyboardInterrupt
        self.looks.append(self.now)
        error = self._errors[len(self.looks) - 1]
        if error is not None:
            raise error

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def asked(self) -> bool:
        return int(self.now) in self.asks

    def stay(self, **updates: float) -> list[float]:
        config = Config(device="box-1", updates=UpdatesConfig(**updates))  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            stay(
                config,
                self.look,
                lambda error: None,
                asked=self.asked,
                sleep=self.sleep,
                now=lambda: self.now,
                draw=lambda: 1.0,
            )
        return self.looks


def test_one_that_stays_looks_first_at_its_own_moment_and_then_every_hour() -> None:
    first, second, third = Hours([None, None, None]).stay()
    assert first == pytest.approx(phase("box-1", 1_800), abs=1)
    assert second - first == pytest.approx(3_600, abs=1)
    assert third - second == pytest.approx(3_600, abs=1)


def test_trouble_is_waited_out_and_a_refusal_is_not_asked_again_soon() -> None:
    away, refused = RegistryUnavailable("away"), RegistryUnavailable("404", answered=True, again=False)
    busy = RegistryUnavailable("busy", answered=True, retry_after_s=500.0)
    looks = Hours([away, away, busy, refused, None]).stay(spread_s=0)
    waits = [after - before for before, after in pairwise(looks)]
    assert waits == pytest.approx([30, 60, 500, 3_600], abs=1)


def test_somebody_who_asks_all_the_time_is_heard_with_space_between() -> None:
    hours = Hours([None] * 4)
    hours.asks = set(range(1_000_000))
    looks = hours.stay(spread_s=0)
    assert [after - before for before, after in pairwise(looks)] == pytest.approx([SPACE_S] * 3, abs=0.5)
