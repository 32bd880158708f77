"""The statistics of the benchmark: what is printed beside a figure must be what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from benchmarks.chart import Bar, Panel, draw
from benchmarks.figures import FIGURES, WITHOUT_TARGET, find
from benchmarks.ratios import Interval, best_of, interval, lost, measured, paired, reached
from benchmarks.report import losses, summarise, table

MACHINE = {"processor": "a processor", "cores": "2"}


def make_rounds(ours: list[float], theirs: list[float], cell: str = "tiny/32") -> list[dict[str, dict[str, float]]]:
    """Rounds of one cell, with FastAPI in one way."""

    def one(rate: float) -> dict[str, float]:
        return {"per_s": rate, "p50_ms": 10.0, "p99_ms": 20.0, "cpu_ms": 1.0, "requests": 100.0}

    return [
        {f"{cell}/appliance": one(mine), f"{cell}/fastapi": one(other)}
        for mine, other in zip(ours, theirs, strict=True)
    ]


FAMILIES = {"tiny/32": {"appliance": ["tiny/32/appliance"], "FastAPI": ["tiny/32/fastapi"]}}


def test_interval_of_fifteen_rounds_runs_from_the_fourth_to_the_twelfth_value() -> None:
    assert interval([float(value) for value in range(15, 0, -1)]) == Interval(8.0, 4.0, 12.0)


def test_interval_of_six_rounds_is_their_range() -> None:
    assert interval([1, 2, 3, 4, 5, 6]) == Interval(3.5, 1, 6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_rounds_for_an_interval_give_their_ends(count: int) -> None:
    assert interval([float(value) for value in range(count)]) == Interval((count - 1) / 2, 0.0, count - 1.0)


def test_interval_holds_the_true_median_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    held = [
        found.low <= 1.0 <= found.high
        for found in (interval(np.exp(rng.normal(0, 1, 15)).tolist()) for _ in range(4000))
    ]
    assert 0.95 <= np.mean(held) <= 0.98


def test_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_ratios_are_taken_round_by_round_so_that_a_drift_cancels() -> None:
    rounds = make_rounds([300, 150, 600], [100, 50, 200])
    assert paired(rounds, ("tiny/32/appliance", "per_s"), ("tiny/32/fastapi", "per_s")) == [3.0, 3.0, 3.0]


def test_a_round_without_one_side_is_left_out() -> None:
    rounds = make_rounds([300, 150], [100, 50])
    del rounds[1]["tiny/32/fastapi"]
    assert paired(rounds, ("tiny/32/appliance", "per_s"), ("tiny/32/fastapi", "per_s")) == [3.0]


def test_difference_keeps_its_unit() -> None:
    rounds = make_rounds([300], [100])
    assert paired(rounds, ("tiny/32/appliance", "per_s"), ("tiny/32/fastapi", "per_s"), "difference") == [200.0]


@pytest.mark.parametrize(
    ("found", "at_least", "at_most", "expected"),
    [
        (Interval(0.88, 0.85, 0.91), 0.9, None, True),
        (Interval(0.88, 0.85, 0.89), 0.9, None, False),
        (Interval(1.4, 1.3, 1.5), None, 1.5, True),
        (Interval(1.4, 1.3, 1.6), None, 1.5, False),
        (Interval(1.4, 1.3, 1.6), None, None, None),
    ],
)
def test_figure_is_reached_when_the_upper_end_meets_it(
    found: Interval, at_least: float | None, at_most: float | None, expected: bool | None
) -> None:
    assert reached(found, at_least, at_most) is expected


@pytest.mark.parametrize(
    ("found", "more_is_better", "expected"),
    [
        (Interval(0.9, 0.88, 0.94), True, True),
        (Interval(0.9, 0.88, 0.96), True, False),
        (Interval(1.2, 1.1, 1.3), True, False),
        (Interval(1.2, 1.1, 1.3), False, True),
        (Interval(1.2, 1.0, 1.3), False, False),
    ],
)
def test_only_a_whole_interval_beyond_five_percent_is_a_loss(
    found: Interval, more_is_better: bool, expected: bool
) -> None:
    assert lost(found, 1.0, more_is_better) is expected


def test_best_of_a_family_is_the_way_with_the_highest_median() -> None:
    rounds = [{"a": {"per_s": a}, "b": {"per_s": b}} for a, b in ((10.0, 11.0), (10.0, 11.0), (100.0, 11.0))]
    assert best_of(rounds, ["a", "b"]) == "b"
    assert best_of(rounds, ["c"]) is None


def test_a_measurement_gives_rate_percentiles_and_cpu_time() -> None:
    found = measured([index / 1000 for index in range(100)], 100, 2.0, 0.5)
    assert found == {"per_s": 50.0, "cpu_ms": 5.0, "requests": 100.0, "p50_ms": 50.0, "p99_ms": 99.0}


def test_a_measurement_without_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was answered"):
        measured([], 0, 2.0, 0.5)


def test_names_of_figures_differ_so_that_runs_can_be_compared() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


def test_table_says_what_is_reached_and_what_is_not() -> None:
    rounds = make_rounds([300] * 6, [100] * 6)
    found = find(rounds, FAMILIES)
    text = table(found, rounds, MACHINE, {}, None)
    assert (
        "| tiny model, JSON, 32 callers | FastAPI | 300 | 100 | 3.00 (3.00 to 3.00) | at least 2.5 | reached |" in text
    )
    assert (
        "| tiny model, 32 callers, p99 / p50 |  | 20.00 | 10.00 | 2.00 (2.00 to 2.00) | at most 2.5 | reached |" in text
    )
    assert "no earlier run" in text
    slow = make_rounds([240] * 6, [100] * 6)
    assert "at least 2.5 | **not reached** |" in table(find(slow, FAMILIES), slow, MACHINE, {}, None)


def test_table_says_what_ways_without_a_target_are() -> None:
    rounds = make_rounds([300] * 6, [400] * 6)
    families = {"tiny/32": {"FastAPI, on its loop": ["tiny/32/fastapi"]}}
    text = table(find(rounds, families), rounds, MACHINE, {}, None)
    assert "- FastAPI, on its loop runs the tiny network on its event loop" in text
    assert "orjson" not in text
    for family in WITHOUT_TARGET:
        assert {figure.at_least for figure in FIGURES if figure.against == family} == {None}


def test_table_says_which_figures_are_of_fewer_rounds() -> None:
    rounds = make_rounds([300] * 6, [100] * 6)
    for each in rounds[:4]:
        each["loading/appliance"] = {"loading_p99_ms": 2.0, "failing_p99_ms": 2.0, "quiet_p99_ms": 1.0}
    text = table(find(rounds, FAMILIES), rounds, MACHINE, {}, None)
    assert "- the same while a load fails: of 4 rounds." in text
    assert text.count("rounds.\n") == 2


def test_loss_against_the_run_before_shows() -> None:
    good, bad = (find(make_rounds([rate] * 6, [100] * 6), FAMILIES) for rate in (300, 270))
    before = summarise(good, MACHINE, "2026-01-01T000000Z")
    assert losses(good, before) == []
    assert [(each.figure.cell, old) for each, old in losses(bad, before)] == [("tiny/32", 3.0)]
    text = table(bad, make_rounds([270] * 6, [100] * 6), MACHINE, {"box, tiny": "on_loop true"}, before)
    assert "by more than 5%" in text
    assert "- box, tiny: on_loop true" in text


def test_picture_is_xml_with_a_bar_for_everybody() -> None:
    panels = [Panel("work & more", [Bar("bare", 200, 190, 210), Bar("appliance", 180, 170, 190)])]
    picture = ElementTree.fromstring(draw(panels, "heading", "note <1>", "appliance", "bare"))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"work & more", "bare", "appliance", "note <1>", "200", "180"} <= set(texts)
