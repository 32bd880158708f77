"""Windows of time depend on the samples and their times, not on how they came nor on a restart in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.route_report import StreamCounts
from appliance.core.sample_times import NS
from appliance.core.time_windows import FILLED, SET_BACK_S, TimePolicy, TimeWindows
from appliance.core.windows import Window

STEP = 1_000_000
START = 1_000 * STEP * 1000
Sent = tuple[float, list[int]]
"""When a reading came, in seconds, and the times of its samples in steps after START."""


def make_policy(**changes: Any) -> TimePolicy:
    fields: dict[str, Any] = {"size": 4, "step": float(STEP), "hop": 4 * STEP, "gap_max": 2 * STEP, **changes}
    return TimePolicy(**fields)


def send(windows: TimeWindows, number: int, sent: Sent) -> None:
    at, steps = sent
    times = START + np.array(steps, np.int64) * STEP
    windows.add(number, at, np.array(steps, np.float32).reshape(-1, 1), times)


def drain(windows: TimeWindows) -> list[Window]:
    found = []
    while (window := windows.next()) is not None:
        found.append(window)
    return found


def values(found: list[Window]) -> list[list[float]]:
    return [window.samples[:, 0].tolist() for window in found]


def run(policy: TimePolicy, readings: list[Sent]) -> tuple[list[Window], StreamCounts]:
    counts = StreamCounts()
    windows = TimeWindows(policy, counts)
    found = []
    for number, sent in enumerate(readings, 1):
        send(windows, number, sent)
        found += drain(windows)
    return found, counts


def one_each(steps: list[int]) -> list[Sent]:
    return [(0.0, [step]) for step in steps]


@given(st.integers(1, 8), st.integers(1, 12), st.lists(st.integers(1, 5), max_size=12))
def test_even_samples_give_the_windows_of_the_definition(size: int, hop: int, lengths: list[int]) -> None:
    total, readings = 0, []
    for length in lengths:
        readings.append((0.0, list(range(total, total + length))))
        total += length
    found, counts = run(make_policy(size=size, hop=hop * STEP), readings)
    first = -(START // STEP) % hop
    assert values(found) == [list(map(float, range(at, at + size))) for at in range(first, total - size + 1, hop)]
    assert (counts.late, counts.duplicates, counts.gaps) == (0, 0, 0)


STREAMS = st.lists(st.tuples(st.floats(0, 30), st.lists(st.integers(0, 60), min_size=1, max_size=4)), max_size=25)
POLICIES = st.builds(
    make_policy,
    size=st.integers(2, 6),
    hop=st.integers(1, 9).map(lambda hop: hop * STEP),
    gap_max=st.integers(1, 4).map(lambda gap: gap * STEP),
    gaps=st.sampled_from(["break", "fill", "ignore"]),
    late_max=st.sampled_from([0, 3 * STEP, 10 * STEP]),
)


@settings(max_examples=300)
@given(POLICIES, STREAMS, st.data())
def test_restart_at_any_point_changes_no_window(policy: TimePolicy, readings: list[Sent], data: st.DataObject) -> None:
    seen = data.draw(st.integers(0, len(readings)), "readings before the restart")
    windows, before = TimeWindows(policy, StreamCounts()), []
    for number, sent in enumerate(readings[:seen], 1):
        send(windows, number, sent)
        before += drain(windows)
    check_restart(policy, readings, before[: data.draw(st.integers(0, len(before)), "windows committed before it")])


def test_restart_does_not_change_when_a_clock_was_set_back() -> None:
    """A sample that came again is known after a restart only while the windows need it, but for the newest."""
    policy = make_policy(size=2, hop=STEP, gap_max=STEP, gaps="fill")
    again_after_a_while = [(0.0, [0]), (0.0, [20]), (0.0, [21]), (0.0, [0]), (SET_BACK_S, [20]), (0.0, [22])]
    whole, counts = run(policy, again_after_a_while)
    assert counts.clock_steps == 1
    for committed in range(len(whole) + 1):
        check_restart(policy, again_after_a_while, whole[:committed])


def check_restart(policy: TimePolicy, readings: list[Sent], committed: list[Window]) -> None:
    """What a run gives that begins where these windows end is what a whole run gives behind them."""
    whole, _ = run(policy, readings)
    reading, start = (committed[-1].next[0], committed[-1].next_ns) if committed else (1, None)
    windows, after = TimeWindows(policy, StreamCounts(), start), []
    for number, sent in enumerate(readings, 1):
        if number >= reading:
            send(windows, number, sent)
            after += drain(windows)
    joined = committed + after
    assert [(each.end, each.flags) for each in joined] == [(each.end, each.flags) for each in whole]
    assert values(joined) == values(whole)


@settings(max_examples=200)
@given(POLICIES, st.lists(st.integers(0, 80), unique=True, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_order_within_the_limit_gives_the_same_windows(policy: TimePolicy, steps: list[int], random: Any) -> None:
    policy = make_policy(size=policy.size, hop=policy.hop, gap_max=policy.gap_max, gaps=policy.gaps, late_max=10 * STEP)
    in_order = sorted(steps)
    # Nobody is overtaken by what is more than four steps newer.
    shuffled = sorted(in_order, key=lambda step: step + random.uniform(0, 4))
    end = [200, 201, 300]
    expected, _ = run(policy, one_each(in_order + end))
    found, counts = run(policy, one_each(shuffled + end))
    assert values(found) == values(expected)
    assert [each.flags for each in found] == [each.flags for each in expected]
    assert counts.late == 0
    assert counts.reordered == sum(step < max(shuffled[:index], default=-1) for index, step in enumerate(shuffled))


def test_window_with_a_gap_is_left_out_bridged_with_a_flag_or_bridged() -> None:
    readings = one_each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    holed = [each for each in readings if each[1][0] not in (5, 6)]
    for gaps, expected, flags in (
        ("break", [[0, 1, 2, 3], [8, 9, 10, 11]], [(), ()]),
        ("fill", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], [(), (FILLED,), ()]),
        ("ignore", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], [(), (), ()]),
    ):
        found, counts = run(make_policy(gaps=gaps), holed)
        assert (values(found), [each.flags for each in found]) == (expected, flags)
        assert (counts.gaps, counts.skipped, counts.filled) == (1, gaps == "break", gaps == "fill")


def test_nothing_is_judged_where_nothing_was_measured() -> None:
    found, counts = run(make_policy(gaps="fill"), one_each([0, 1, 2, 3, 4000, 4001, 4002, 4003]))
    assert values(found) == [[0, 1, 2, 3], [4000, 4001, 4002, 4003]]
    assert counts.skipped == 999


def test_late_and_repeated_samples_are_dropped_and_counted() -> None:
    found, counts = run(make_policy(), one_each([0, 1, 1, 3, 2, 4, 5, 6, 7]))
    assert values(found) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (counts.late, counts.duplicates) == (1, 1)


@pytest.mark.parametrize(("which", "value"), [("first", 1.0), ("last", 9.0)])
def test_one_of_two_samples_with_one_time_counts(which: str, value: float) -> None:
    counts = StreamCounts()
    windows = TimeWindows(make_policy(late_max=STEP, duplicates=which), counts)
    for number, step in enumerate([0, 1, 1, 2, 3, 4, 5], 1):
        sample = 9.0 if number == 3 else float(step)
        windows.add(number, 0.0, np.array([[sample]], np.float32), np.array([START + step * STEP]))
    assert values(drain(windows)) == [[0.0, value, 2.0, 3.0]]
    assert counts.duplicates == 1


def test_slower_source_is_joined_by_lines_and_a_faster_one_averaged() -> None:
    slow, _ = run(make_policy(), one_each([0, 2, 4]))
    assert values(slow) == [[0, 1, 2, 3]]
    windows = TimeWindows(make_policy(), StreamCounts())
    times = START + np.arange(0, 5 * STEP, STEP // 10)
    windows.add(1, 0.0, (np.arange(50) % 2).astype(np.float32).reshape(-1, 1), times)
    (window,) = drain(windows)
    assert np.abs(window.samples - 0.5).max() < 0.06


def test_clock_that_was_set_back_begins_anew() -> None:
    back = [(1.0 + SET_BACK_S * late / 5, [step]) for late, step in enumerate([0, 1, 2, 3, 4, 8, 9, 10, 11])]
    found, counts = run(make_policy(), [(0.0, [1000 + each]) for each in range(4)] + back)
    assert counts.clock_steps == 1
    assert values(found) == [[1000, 1001, 1002, 1003], [8, 9, 10, 11]]


def test_single_false_time_costs_the_windows_until_the_clock_is_believed_again() -> None:
    live = [(each / 2, [each]) for each in range(60)]
    found, counts = run(make_policy(), [*live[:8], (4.0, [10**9]), *live[8:]])
    assert values(found)[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert counts.clock_steps == 1
    assert values(found)[-1] == [56, 57, 58, 59]
    assert max(window.end for window in found) < 10**9 * NS
