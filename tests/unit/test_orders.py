"""Orders to a box that runs, and what of its disk is not needed any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance import opening, standing
from appliance.config import Config, StoreConfig
from appliance.errors import OrderRefused
from appliance.orders import REFUSED, Outcome, roll_back
from appliance.state import State
from appliance.unused import find_unused, remove, remove_left_over
from tests.support.installs import add_rollout, install_tiny
from tests.support.models import write_model


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_dir=str(tmp_path / "data"), models_dir=str(tmp_path / "models"))


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "data")
    standing.commit(state, [standing.served_now("tiny", "2", "1", 4, 1.0)])
    return state


@contextmanager
def server(state: State, outcome: str) -> Iterator[list[tuple[str, str, str]]]:
    """Holds the folder as a box does, and ends the orders that come with `outcome`."""
    lock = opening.lock(state.path.parents[1], StoreConfig())
    orders: list[tuple[str, str, str]] = []
    ends = threading.Event()

    def take() -> None:
        while not ends.wait(0.01):
            for row in state.rows("SELECT * FROM orders WHERE done_at IS NULL"):
                orders.append((row["kind"], row["model"], row["by"]))
                end = "UPDATE orders SET done_at = ?, outcome = ? WHERE id = ?"
                standing.commit(state, [(end, (time.time(), outcome, row["id"]))])

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield orders
    finally:
        ends.set()
        thread.join()
        os.close(lock)


def test_order_is_waited_for_until_the_server_has_carried_it_out(config: Config, state: State) -> None:
    with server(state, "tiny is back at version 1") as orders:
        assert roll_back(config, "tiny", "command:anna", 30) == Outcome("tiny is back at version 1", running=True)
    assert orders == [("roll_back", "tiny", "command:anna")]
    assert standing.standings(state)["tiny"].current == "2"


def test_order_that_the_server_refuses_is_an_error(config: Config, state: State) -> None:
    with (
        server(state, f"{REFUSED}it is on its way back already"),
        pytest.raises(OrderRefused, match="it is on its way back already"),
    ):
        roll_back(config, None, "command:anna", 30)


def test_order_that_nobody_takes_stays_and_is_said_to(config: Config, state: State) -> None:
    lock = opening.lock(state.path.parents[1], StoreConfig())
    try:
        with pytest.raises(OrderRefused, match="has not answered within 0 s"):
            roll_back(config, "tiny", "command:anna", 0)
    finally:
        os.close(lock)
    assert len(state.rows("SELECT * FROM orders WHERE done_at IS NULL")) == 1


def test_box_without_updates_has_nothing_to_take_back(config: Config) -> None:
    with pytest.raises(OrderRefused, match="knows of no update"):
        roll_back(config, None, "command:anna", 0)
    assert not Path(config.data_dir).exists()


# What can go.


def test_what_serves_served_before_or_is_tried_stays_and_so_does_what_somebody_brought(state: State) -> None:
    data = state.path.parents[1]
    for version in "123456":
        install_tiny(data, "tiny", version)
    install_tiny(data, "tiny", "7", origin=standing.BY_HAND)
    write_model(data / "models", "tiny", "8")
    install_tiny(data, "other", "1")
    add_rollout(state, {"tiny": "5"}, {"tiny": "2"}, "running")
    with state.transaction() as db:
        db.execute(
            """INSERT INTO installs (at, ring, number, status, models, release, origin)
            VALUES (1, 'stable', 8, 'downloading', '{"tiny": {"version": "6"}}', '{}', '')"""
        )
    found = find_unused(state)
    assert [(each.name, each.version) for each in found] == [("other", "1"), ("tiny", "3"), ("tiny", "4")]
    assert all(each.bytes > 1000 for each in found)
    remove(found)
    left = sorted(path.name for path in (data / "models" / "tiny").iterdir())
    assert (left, find_unused(state)) == (list("125678"), [])


def test_what_a_power_cut_left_half_removed_is_removed_the_next_time(state: State) -> None:
    data = state.path.parents[1]
    folder = install_tiny(data, "tiny", "3")
    folder.rename(folder.with_name(".going-3"))
    assert find_unused(state) == []
    remove_left_over(state)
    assert list((data / "models" / "tiny").iterdir()) == []
