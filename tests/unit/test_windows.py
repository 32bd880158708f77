"""Windows do not depend on how the samples came, nor on a restart in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.windows import Samples, Window, WindowBuffer

SIZES = st.integers(1, 12)
HOPS = st.integers(1, 30)
SPLITS = st.lists(st.integers(0, 9), max_size=30)


def readings(lengths: list[int]) -> list[tuple[int, Samples]]:
    """(id, samples): the samples count up through all readings, in two channels."""
    found = []
    start = 0
    for number, length in enumerate(lengths, 1):
        values = np.arange(start, start + length, dtype=np.float32)
        found.append((number, np.stack([values, -values], axis=1)))
        start += length
    return found


def drain(buffer: WindowBuffer) -> list[Window]:
    found = []
    while (window := buffer.next()) is not None:
        found.append(window)
    return found


def firsts(windows: list[Window]) -> list[list[float]]:
    return [window.samples[:, 0].tolist() for window in windows]


def expected(total: int, size: int, hop: int) -> list[list[float]]:
    """Straight from the definition: window k is samples k * hop to k * hop + size."""
    return [list(map(float, range(at, at + size))) for at in range(0, total - size + 1, hop)]


@given(SIZES, HOPS, SPLITS)
def test_any_split_into_readings_gives_the_same_windows(size: int, hop: int, lengths: list[int]) -> None:
    buffer = WindowBuffer(size, hop)
    windows = []
    for number, samples in readings(lengths):
        buffer.add(number, samples)
        windows += drain(buffer)
    assert firsts(windows) == expected(sum(lengths), size, hop)


@given(SIZES, HOPS, SPLITS)
def test_windows_are_the_same_when_all_readings_come_first(size: int, hop: int, lengths: list[int]) -> None:
    buffer = WindowBuffer(size, hop)
    for number, samples in readings(lengths):
        buffer.add(number, samples)
    assert firsts(drain(buffer)) == expected(sum(lengths), size, hop)


@given(SIZES, HOPS, SPLITS, st.data())
def test_buffer_rebuilt_at_a_cursor_goes_on_where_the_other_stopped(
    size: int, hop: int, lengths: list[int], data: st.DataObject
) -> None:
    first = WindowBuffer(size, hop)
    known = readings(lengths)
    seen = data.draw(st.integers(0, len(known)), "readings before the restart")
    windows = []
    for number, samples in known[:seen]:
        first.add(number, samples)
        windows += drain(first)
    done = data.draw(st.integers(0, len(windows)), "windows committed before the restart")
    cursor = windows[done - 1].next if done else None
    again = WindowBuffer(size, hop, cursor)
    after = []
    for number, samples in known:
        # Retention keeps what the cursor has not passed.
        if cursor is None or number >= cursor[0]:
            again.add(number, samples)
            after += drain(again)
    assert firsts(windows[:done]) + firsts(after) == expected(sum(lengths), size, hop)


@given(SIZES, HOPS, SPLITS)
def test_window_knows_the_reading_that_ends_it(size: int, hop: int, lengths: list[int]) -> None:
    known = dict(readings(lengths))
    buffer = WindowBuffer(size, hop)
    for number, samples in known.items():
        buffer.add(number, samples)
    for window in drain(buffer):
        assert 0 < window.end <= len(known[window.last_reading])
        assert known[window.last_reading][window.end - 1].tolist() == window.samples[-1].tolist()


@pytest.mark.parametrize(
    ("hop", "next_positions"), [(2, [(1, 2), (2, 1), (2, 3)]), (4, [(2, 1)]), (5, [(2, 2)]), (7, [(2, 4)])]
)
def test_cursor_says_where_the_next_window_begins(hop: int, next_positions: list[tuple[int, int]]) -> None:
    buffer = WindowBuffer(4, hop)
    for number, samples in readings([3, 5]):
        buffer.add(number, samples)
    assert [window.next for window in drain(buffer)][: len(next_positions)] == next_positions


def test_all_channels_travel_together() -> None:
    buffer = WindowBuffer(2, 2)
    buffer.add(1, np.array([[1, 2], [3, 4]], np.float32))
    window = buffer.next()
    assert window is not None
    assert window.samples.tolist() == [[1, 2], [3, 4]]
