"""The outbox's decisions: what an answer means, how long to wait, what is late, and how much may go."""

from __future__ import annotations

import pytest

from appliance.core.lateness import Lateness
from appliance.core.pace import Pace
from appliance.core.upstream import RETRY_AFTER_S_MAX, fate_of_answer, fate_of_reason, pause_s, retry_after_s
from appliance.outbox.https import batch_key, encode
from appliance.outbox.link import Row


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, "taken"),
        (204, "taken"),
        (302, "wrong"),
        (400, "refused"),
        (401, "wrong"),
        (404, "wrong"),
        (408, "later"),
        (409, "later"),
        (413, "refused"),
        (422, "refused"),
        (429, "later"),
        (500, "later"),
        (503, "later"),
        (199, "wrong"),
    ],
)
def test_status_says_what_becomes_of_a_batch(status: int, fate: str) -> None:
    assert fate_of_answer(status, b"") == fate


@pytest.mark.parametrize(
    ("content", "fate"),
    [
        (b"<!DOCTYPE html><title>Please log in</title>", "wrong"),
        (b"\r\n <HTML><body>", "wrong"),
        (b"<?xml version='1.0'?>\n<html xmlns='...'>", "wrong"),
        (b"<ok/>", "taken"),
        (b"ok", "taken"),
        (b"{}", "taken"),
    ],
)
def test_web_page_with_status_200_is_no_acknowledgement(content: bytes, fate: str) -> None:
    assert fate_of_answer(200, content) == fate


@pytest.mark.parametrize(
    ("reason", "fate"), [(0, "taken"), (0x10, "taken"), (0x87, "wrong"), (0x95, "refused"), (0x97, "later")]
)
def test_reason_code_says_what_becomes_of_a_message(reason: int, fate: str) -> None:
    assert fate_of_reason(reason) == fate


def test_pause_grows_to_its_cap_with_full_jitter() -> None:
    assert [pause_s(attempt, 8.0, 1.0) for attempt in (0, 1, 2, 3, 4, 5, 10_000)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert pause_s(3, 8.0, 0.0) == 0.0
    assert pause_s(3, 8.0, 0.25) == 1.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("7", 7.0), (" 0 ", 0.0), ("soon", None), ("-5", None), ("9" * 40, RETRY_AFTER_S_MAX),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0), ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_S_MAX),
    ],
)  # fmt: skip
def test_retry_after_is_believed_within_bounds(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, 100.0) == seconds


def test_rows_become_late_by_the_time_that_passes() -> None:
    lateness = Lateness(8.0, 5, 0.0)
    assert lateness.is_late(5)
    assert not lateness.is_late(6)
    for second in range(1, 9):
        lateness.note(5 + second, float(second))
    assert not lateness.is_late(6)
    for second in range(9, 13):
        lateness.note(20, float(second))
    assert lateness.is_late(6)
    assert not lateness.is_late(20)


def test_pace_lets_a_tenth_go_at_once_and_the_rate_in_the_long_run() -> None:
    pace = Pace(100.0, 0.0)
    assert pace.left(0.0) == 10
    gone = 0
    for tick in range(1000):
        left = pace.left(tick / 100)
        pace.spend(left)
        gone += left
    assert 990 <= gone <= 1015


def test_pace_makes_good_what_was_too_much() -> None:
    pace = Pace(100.0, 0.0)
    pace.spend(110)
    assert pace.left(0.5) == 0
    assert pace.left(1.0) == 0
    assert pace.left(1.0 + pace.wait_s()) >= 5


def test_same_rows_are_the_same_batch_late_or_not() -> None:
    rows = [Row("q", number, "t", "application/json", b"{}", 2, None, f"box-1-{number}") for number in (1, 2)]
    assert encode("box", rows, late=False) == encode("box", rows, late=False)
    assert encode("box", rows, late=False) != encode("box", rows, late=True)
    assert batch_key(rows) != batch_key(rows[:1])
