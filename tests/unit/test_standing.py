"""What serves, what goes back together, and what starts that end too soon do to an undecided rollout."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from appliance import standing
from appliance.errors import OrderRefused
from appliance.repository import ModelVersion
from appliance.standing import Brought, Standing
from appliance.starts import SETTLED_AFTER_S, STARTS_MAX, Starts
from appliance.state import State
from tests.support.installs import add_rollout, rollout_state

SHIPPED, INSTALLED = Path("/usr/models"), Path("/data/models")
BOTH = {"aaa": "2", "bbb": "5"}


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def on_disk(root: Path, version: str) -> ModelVersion:
    manifest: Any = SimpleNamespace(name="m", version=version)
    return ModelVersion(root / "m" / version, manifest, f"{root.name}-{version}")


def serves(state: State, *rows: tuple[str, str, str | None, int | None]) -> None:
    standing.commit(state, [standing.served_now(*row, now=1.0) for row in rows])


@pytest.mark.parametrize(
    ("shipped", "installed", "row", "expected"),
    [
        ("1", "", None, "1"),
        ("1 2", "", None, "2"),
        ("9 10", "", None, "10"),
        ("1", "2", None, "1"),
        ("1", "2", ("2", "1"), "2"),
        ("3", "2", ("2", "3"), "2"),
        ("1", "2 3", ("2", "1"), "2"),
        ("1", "3", ("2", "1"), "1"),
        ("1", "3", ("2", None), "1"),
        ("", "3", ("2", "1"), None),
        ("", "2", None, None),
        ("2", "2", None, "2"),
    ],
)
def test_version_that_serves(
    shipped: str, installed: str, row: tuple[str, str | None] | None, expected: str | None
) -> None:
    versions = [on_disk(SHIPPED, each) for each in shipped.split()] + [
        on_disk(INSTALLED, each) for each in installed.split()
    ]
    by_update = {each.digest for each in versions} | {f"models-{each}" for each in installed.split()}
    given = None if row is None else Standing("m", *row, None)
    found = standing.serving(versions, given, by_update, INSTALLED)
    assert (None if found is None else found.manifest.version) == expected


def test_what_was_promoted_together_goes_back_together(state: State) -> None:
    serves(state, ("aaa", "2", "1", 7), ("bbb", "5", None, 7), ("ccc", "3", "2", 6), ("ddd", "4", "3", None))
    together = {"aaa": "1", "bbb": None}
    for model in ("aaa", "bbb", None):
        assert standing.way_back(state, model) == standing.WayBack(together, 7)
    assert standing.way_back(state, "ccc").versions == {"ccc": "2"}
    assert standing.way_back(state, "ddd") == standing.WayBack({"ddd": "3"}, None)


def brings(state: State, limit: float | None, is_now: str) -> int:
    """A rollout that brought a configuration, or none."""
    rollout = add_rollout(state, {}, {}, is_now)
    brought = None if limit is None else Brought("stable", rollout, {"limit": limit})
    content = None if brought is None else msgspec.json.encode(brought)
    standing.commit(state, [("UPDATE rollouts SET configuration = ? WHERE id = ?", (content, rollout))])
    return rollout


def limit(state: State) -> float | None:
    found = standing.configuration(state)
    return None if found is None else found.content["limit"]


def test_the_configuration_of_the_newest_rollout_that_stands_serves_and_goes_back_with_it(state: State) -> None:
    assert (limit(state), standing.brought_by(state)) == (None, None)
    first = brings(state, 0.5, "done")
    assert (limit(state), standing.brought_by(state)) == (0.5, first)
    for undecided in ("loading", "running", "rejected", "rolled_back"):
        brings(state, 0.9, undecided)
        assert (limit(state), standing.brought_by(state)) == (0.5, first)
    second = brings(state, 0.7, "probation")
    assert (limit(state), standing.brought_by(state)) == (0.7, second)
    assert standing.way_back(state, None) == standing.WayBack({}, second)
    standing.commit(state, standing.given_up(state, second, "why", 5.0))
    assert limit(state) == 0.5
    none = brings(state, None, "done")
    assert (limit(state), standing.brought_by(state)) == (None, none)


def test_a_rollout_that_left_the_configuration_as_it_was_has_not_brought_it(state: State) -> None:
    serves(state, ("aaa", "2", "1", brings(state, 0.5, "done")))
    brings(state, 0.5, "done")
    assert (limit(state), standing.brought_by(state)) == (0.5, None)
    assert standing.way_back(state, None).versions == {"aaa": "1"}


def test_nothing_to_go_back_to_is_said(state: State) -> None:
    with pytest.raises(OrderRefused, match="no update"):
        standing.way_back(state, None)
    serves(state, ("aaa", "1", None, None))
    for model in ("aaa", "nobody"):
        with pytest.raises(OrderRefused, match=f"model {model} has no version to go back to"):
            standing.way_back(state, model)


@pytest.mark.parametrize(
    ("before", "after"),
    [("loading", "rejected"), ("running", "rejected"), ("probation", "rolled_back"), ("done", "rolled_back")],
)
def test_rollout_that_is_given_up_blocks_its_versions(state: State, before: str, after: str) -> None:
    rollout = add_rollout(state, BOTH, {"aaa": "1", "bbb": None}, before)
    standing.commit(state, standing.given_up(state, rollout, "why", 5.0))
    assert rollout_state(state, rollout) == after
    blocked = state.rows("SELECT name, version, reason FROM blocked ORDER BY name")
    assert [tuple(row) for row in blocked] == [("aaa", "2", "why"), ("bbb", "5", "why")]


@pytest.mark.parametrize("ended", ["rejected", "rolled_back"])
def test_rollout_that_has_ended_does_not_end_again(state: State, ended: str) -> None:
    rollout = add_rollout(state, BOTH, {}, ended)
    assert standing.given_up(state, rollout, "why", 5.0) == []
    assert standing.given_up(state, rollout + 1, "why", 5.0) == []


# Starts.


def crash(state: State, times: int) -> None:
    for _ in range(times):
        assert Starts(state, 1.0).given_up == []


@pytest.mark.parametrize(("is_now", "after"), [("running", "rejected"), ("probation", "rolled_back")])
def test_three_starts_that_ended_too_soon_give_a_rollout_up(state: State, is_now: str, after: str) -> None:
    rollout = add_rollout(state, BOTH, {"aaa": "1", "bbb": None}, is_now)
    if is_now == "probation":
        serves(state, ("aaa", "2", "1", rollout), ("bbb", "5", None, rollout))
    crash(state, STARTS_MAX)
    assert rollout_state(state, rollout) == is_now
    assert Starts(state, 2.0).given_up == [rollout]
    assert rollout_state(state, rollout) == after
    expected = {"aaa": "1"} if is_now == "probation" else {}
    assert {name: row.current for name, row in standing.standings(state).items()} == expected


def test_count_begins_again_after_a_rollout_was_given_up(state: State) -> None:
    add_rollout(state, BOTH, {"aaa": "1", "bbb": None}, "running")
    crash(state, STARTS_MAX)
    assert Starts(state, 2.0).given_up != []
    second = add_rollout(state, {"aaa": "3"}, {"aaa": "1"}, "running")
    crash(state, STARTS_MAX - 1)
    assert Starts(state, 3.0).given_up == [second]


@pytest.mark.parametrize("how", ["stopped", "served"])
def test_start_that_was_settled_ends_the_row(state: State, how: str) -> None:
    rollout = add_rollout(state, BOTH, {"aaa": "1", "bbb": None}, "probation")
    crash(state, STARTS_MAX - 1)
    good = Starts(state, 2.0)
    if how == "stopped":
        good.settle(3.0)
    else:
        good.tick(0.0, False, 3.0)
        good.tick(1000.0, True, 3.0)
        good.tick(1000.0 + SETTLED_AFTER_S, True, 3.0)
    crash(state, STARTS_MAX)
    assert rollout_state(state, rollout) == "probation"
    assert Starts(state, 4.0).given_up == [rollout]


def test_service_that_ends_before_a_minute_settles_nothing(state: State) -> None:
    rollout = add_rollout(state, BOTH, {"aaa": "1", "bbb": None}, "probation")
    for _ in range(STARTS_MAX):
        start = Starts(state, 1.0)
        start.tick(1000.0, True, 1.0)
        start.tick(1000.0 + SETTLED_AFTER_S - 1, True, 1.0)
    assert Starts(state, 2.0).given_up == [rollout]


def test_crash_loop_without_a_rollout_changes_nothing(state: State) -> None:
    serves(state, ("aaa", "2", "1", 7))
    done = add_rollout(state, BOTH, {}, "done")
    crash(state, 3 * STARTS_MAX)
    assert (rollout_state(state, done), standing.standings(state)["aaa"].current) == ("done", "2")


def test_disk_that_takes_no_writes_does_not_keep_the_box_from_starting(tmp_path: Path, state: State) -> None:
    start = Starts(State(tmp_path, read_only=True), 1.0)
    start.settle(2.0)
    assert state.rows("SELECT * FROM starts") == []
