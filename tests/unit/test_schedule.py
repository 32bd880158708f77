"""What runs next, in which gear, how many together: the decisions as tables."""

from __future__ import annotations

import pytest

from appliance.core.schedule import ALONE_BEFORE_LATENCY, Gear, choose_gear, share


@pytest.mark.parametrize(
    ("alone_in_a_row", "others", "gear"),
    [
        (ALONE_BEFORE_LATENCY, 0, "latency"),
        (100, 0, "latency"),
        (ALONE_BEFORE_LATENCY, 1, "throughput"),
        (100, 7, "throughput"),
        (0, 0, "throughput"),
        (ALONE_BEFORE_LATENCY - 1, 0, "throughput"),
        (0, 3, "throughput"),
    ],
)
def test_gear_suits_what_waits(alone_in_a_row: int, others: int, gear: Gear) -> None:
    assert choose_gear(alone_in_a_row, others) == gear


@pytest.mark.parametrize("company_every", [2, 3, ALONE_BEFORE_LATENCY])
def test_gear_does_not_flap_when_callers_overlap_now_and_then(company_every: int) -> None:
    gears: list[Gear] = []
    alone = 0
    for request in range(1, 200):
        others = 1 if request % company_every == 0 else 0
        gears.append(choose_gear(alone, others))
        alone = 0 if others else alone + 1
    assert set(gears[company_every:]) == {"throughput"}


@pytest.mark.parametrize(
    ("waiting", "free_lanes", "batch_max", "taken"),
    [
        (1, 1, 8, 1),
        (8, 1, 8, 8),
        (8, 1, 4, 4),
        (8, 2, 8, 4),
        (3, 2, 8, 2),
        (2, 2, 8, 1),
        (2, 4, 8, 1),
        (20, 2, 8, 8),
        (20, 2, 1, 1),
    ],
)
def test_lane_takes_its_share_of_what_waits_and_no_more(
    waiting: int, free_lanes: int, batch_max: int, taken: int
) -> None:
    assert share(waiting, free_lanes, batch_max) == taken
