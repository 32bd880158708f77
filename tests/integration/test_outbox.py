"""The outbox to a real HTTPS server: everything arrives, in order, within its bounds, and is deleted when it has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config import BrokerConfig, HttpsUpstream, MqttUpstream
from tests.support.box import free_port
from tests.support.central import WAIT_S, Answer, Central, Site, site
from tests.support.clocks import DAY_S
from tests.support.records import query
from tests.support.wait import until


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Central]:
    server = Central(tmp_path / "central")
    yield server
    server.close()


def to(central: Central, **changes: Any) -> HttpsUpstream:
    return HttpsUpstream(url=central.url, ca_file=str(central.ca), **{"retry_s_max": 1.0, **changes})


def test_results_arrive_in_order_and_are_deleted_when_taken(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", to(central)) as one:
        sent = [one.judge() for _ in range(20)]
        one.until_empty()
        assert central.numbers() == sent
        assert not any(row["late"] for row in central.taken)
        until(lambda: one.count("sent") == 20, WAIT_S, "the count")


def test_only_what_is_wanted_is_queued(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", to(central, verdicts=("ng",), events=("alarm",))) as one:
        one.judge("ok")
        wanted = one.judge("ng")
        assert one.outbox.desk.event("trigger", 0.0, {}) == ()
        assert len(one.outbox.desk.event("alarm", 0.0, {"text": "dark"})) == 1
        one.until_empty()
        assert central.numbers() == [wanted]


def test_what_waited_is_late_and_lets_live_rows_pass(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", to(central), start=False) as one:
        one.fill(300)
    # So slow that nothing a busy machine does lets the backlog end first, or the live row grow late.
    with site(tmp_path / "box", to(central, backlog_per_s=2.0, late_after_s=600.0)) as one:
        number = one.judge()
        until(lambda: central.numbers() == [number], WAIT_S, "the live row")
        late = [row for row in central.taken if row["late"]]
        assert len(late) < 300
        assert all("old" in row["payload"] for row in late)
        assert [row["late"] for row in central.taken if "id" in row["payload"]] == [False]


def test_rows_refused_for_ever_are_dead_letters_and_the_others_arrive(tmp_path: Path, central: Central) -> None:
    central.answer = lambda rows: Answer(422 if any(row["payload"].get("id") == 7 for row in rows) else 200)
    with site(tmp_path / "box", to(central), start=False) as one:
        sent = [one.judge() for _ in range(20)]
    with site(tmp_path / "box", to(central)) as one:
        one.until_empty()
        assert central.numbers() == [number for number in sent if number != 7]
        letters = query(one.folder, "SELECT code, client FROM dead_letters")
        assert letters == [("upstream_refused", "upstream central")]
        assert one.count("dead_lettered") == 1


def test_server_that_refuses_everything_costs_few_rows(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: Answer(400)
    with site(tmp_path / "box", to(central), start=False) as one:
        one.fill(200)
    with site(tmp_path / "box", to(central, retry_s_max=3600.0)) as one:
        until(lambda: one.count("dead_lettered") >= 10, WAIT_S, "some dead letters")
        assert one.waiting() >= 180
        one.until_state("refuses")


@pytest.mark.parametrize(
    ("status", "headers"),
    [(500, {}), (503, {"Retry-After": "0"}), (429, {"Retry-After": "0"}), (302, {"Location": "/x"}), (401, {})],
)
def test_what_is_not_taken_now_is_sent_again_as_the_same_batch(
    tmp_path: Path, central: Central, status: int, headers: dict[str, str]
) -> None:
    central.answer = lambda _: Answer() if len(central.batches) > 2 else Answer(status, headers)
    with site(tmp_path / "box", to(central)) as one:
        number = one.judge()
        one.until_empty()
        assert central.numbers() == [number]
        assert len({key for key, _ in central.batches}) == 1
        assert query(one.folder, "SELECT 1 FROM dead_letters") == []


def test_next_start_sends_with_the_same_keys(tmp_path: Path, central: Central) -> None:
    """The server took it and its answer was lost."""
    central.answer = lambda _: Answer(500)
    with site(tmp_path / "box", to(central)) as one:
        one.judge()
        until(lambda: central.batches, WAIT_S, "a batch")
    central.answer = lambda _: Answer()
    with site(tmp_path / "box", to(central)) as one:
        one.until_empty()
    assert len({key for key, _ in central.batches}) == 1
    assert len({body["rows"][0]["key"] for _, body in central.batches}) == 1


def away(**changes: Any) -> MqttUpstream:
    """A broker that is not there: no lane has a row in its hands."""
    broker = BrokerConfig(host="127.0.0.1", port=free_port(), reconnect_s_max=3600.0)
    return MqttUpstream(broker=broker, **changes)


def test_oldest_rows_go_when_too_much_waits(tmp_path: Path) -> None:
    with site(tmp_path / "box", away(), start=False) as one:
        one.fill(3000)
        row = one.waiting_bytes() // 3000
    with site(tmp_path / "box", away(bytes_max=1 << 16)) as one:
        until(lambda: one.waiting_bytes() <= 1 << 16, WAIT_S, "the bound")
        until(lambda: one.count("dropped") == 3000 - one.waiting(), WAIT_S, "the count")
        assert one.waiting() == (1 << 16) // row
        assert query(one.folder, "SELECT max(id) FROM outbox") == [(3000,)]


def test_full_queue_refuses_what_is_new_and_says_so(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: Answer(500)
    with site(tmp_path / "box", to(central, bytes_max=1 << 16, policy="reject_new", retry_s_max=3600.0)) as one:
        one.fill(2000)
        assert "what is new is not queued" in one.until_state("full")
        one.judge()
        until(lambda: one.count("refused") == 1, WAIT_S, "the count")
        assert one.waiting() == 2000
        assert query(one.folder, "SELECT count(*) FROM results") == [(1,)]


@pytest.mark.parametrize(("age", "left"), [(0.0, 1500), (29 * DAY_S, 1500), (31 * DAY_S, 0)])
def test_what_is_too_old_is_given_up_by_the_age_of_the_box(tmp_path: Path, age: float, left: int) -> None:
    with site(tmp_path / "box", away()) as one:
        one.fill(1500)
        until(lambda: one.outbox.report(), WAIT_S, "a look")
    with site(tmp_path / "box", away()) as one:
        # What came is marked at the next look.
        until(lambda: query(one.folder, "SELECT max(row) FROM outbox_marks") == [(1500,)], WAIT_S, "the mark")
    with site(tmp_path / "box", away(age_days_max=30.0), age=age) as one:
        until(lambda: one.waiting() <= left and one.outbox.report(), WAIT_S, f"{left} rows")
        assert one.waiting() == left
        until(lambda: one.count("dropped") == 1500 - left, WAIT_S, "the count")


def test_lane_keeps_the_rows_that_it_has_in_its_hands(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: Answer(500)
    with site(tmp_path / "box", to(central), start=False) as one:
        one.fill(200)
    with site(tmp_path / "box", to(central, retry_s_max=3600.0, batch_rows=2)) as one:
        until(lambda: central.batches, WAIT_S, "a batch")
    with site(tmp_path / "box", to(central, age_days_max=1.0, batch_rows=2), age=40 * DAY_S) as one:
        until(lambda: one.waiting() <= 2, WAIT_S, "the rest being given up")
        central.answer = lambda _: Answer()
        one.until_empty()
        assert one.count("dropped") + one.count("sent") == 200
        assert one.count("dropped") >= 198


def test_central_that_was_away_for_a_month_gets_everything(tmp_path: Path, central: Central) -> None:
    """20,000 rows of some 500 bytes, and a box that is a month older when central is back."""
    first = Site(tmp_path / "box", away())
    first.outbox.start()
    first.fill(20_000, size=500)
    until(lambda: first.outbox.report() and first.outbox.report()[0].waiting.rows == 20_000, WAIT_S, "the report")
    assert first.outbox.report()[0].waiting.bytes == first.waiting_bytes() > 20_000 * 500
    first.stop()
    with site(tmp_path / "box", to(central, backlog_per_s=100_000.0, batch_rows=2000), age=30 * DAY_S) as one:
        one.until_empty()
        assert one.waiting_bytes() == 0
        assert one.count("dropped") == 0
    keys = [row["key"] for row in central.taken]
    assert len(keys) == len(set(keys)) == 20_000
    assert all(row["late"] for row in central.taken)


def test_rows_of_an_upstream_that_was_taken_out_wait_and_are_reported(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", to(central), start=False) as one:
        one.fill(5, queue="old")
    with site(tmp_path / "box", to(central)) as one:
        until(lambda: "unknown" in [each.state for each in one.outbox.report()], WAIT_S, "the report")
        assert one.waiting() == 5


def test_stop_while_central_does_not_answer_is_quick(tmp_path: Path, central: Central) -> None:
    released = threading.Event()

    def hangs(_: list[Any]) -> Answer:
        released.wait(WAIT_S)
        return Answer(500)

    central.answer = hangs
    with site(tmp_path / "box", to(central, timeout_s=1.0)) as one:
        one.judge()
        until(lambda: central.batches, WAIT_S, "a batch")
    released.set()
    assert query(tmp_path / "box", "SELECT count(*) FROM outbox") == [(1,)]
