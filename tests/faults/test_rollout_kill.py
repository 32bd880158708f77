"""kill -9 at every commit of a roll-out: old or new serves, models and configuration together, and each end is told.

Three ways that a roll-out goes: to its end, to a ruling against it, and back from probation by an order. The box dies
before or just after one of its commits in `state.db`; the next start goes on with what is there.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from appliance import standing
from appliance.state import State
from tests.support.box import Box, write_config
from tests.support.faults import tally, times
from tests.support.installs import install_tiny, make_ready
from tests.support.models import picture, write_model
from tests.support.odd_candidates import MIDDLING
from tests.support.records import change_state, query, state_rows
from tests.support.wait import until

WAIT_S = 30
POINTS = times(2, 1000)
STRICT = {"models": {"tiny": {"verdict": {"score_ng_min": 0.4}}}}
JUDGED = {"1": "review", "2": "ng"}
"""What each version, with the limits that belong to it, says of a middling picture."""

AFTER = {"loading": "1", "running": "1", "rejected": "1", "probation": "2", "done": "2", "rolled_back": "1"}
"""What serves, by the state of the roll-out."""

POLICIES: dict[str, dict[str, Any]] = {
    "done": {"mode": "blue_green", "probation_s": 0.2},
    "rejected": {"mode": "canary", "deadline_s": 0.2},
    "rolled_back": {"mode": "blue_green", "probation_s": 1000},
}


class Plant:
    """A box with version 1 of `tiny` and what makes its one roll-out end in a certain way; `reset` brings that back."""

    def __init__(self, folder: Path, end: str) -> None:
        self.end = end
        write_model(folder / "models", "tiny", "1")
        upstreams = {"central": {"kind": "https", "url": "https://127.0.0.1:9/", "events": ["update"]}}
        self.config = write_config(folder, folder / "models", upstreams=upstreams)
        self.commits = folder / "commits"
        self.data_dir = folder / "data"
        install_tiny(self.data_dir, "tiny", "2")
        make_ready(self.data_dir, {"tiny": "2"}, configuration=STRICT, rollout=POLICIES[end])
        if end == "rolled_back":
            box = self.box()
            box.start()
            until(lambda: self.state() == "probation", WAIT_S, "the probation")
            box.stop()
            self._order()
        self._before = folder / "before"
        shutil.copytree(self.data_dir, self._before)

    def box(self, dies_at: str = "0 never") -> Box:
        environment = {"DIES_AT": dies_at, "COMMITS": str(self.commits)}
        return Box(self.config, module="tests.support.dying_box", environment=environment)

    def reset(self) -> None:
        shutil.rmtree(self.data_dir)
        shutil.copytree(self._before, self.data_dir)

    def state(self) -> str | None:
        rows = self._rows("SELECT state FROM rollouts")
        return None if not rows else str(rows[0][0])

    def check_disk(self) -> None:
        """Slots and configuration are those of the roll-out's state."""
        database = State(self.data_dir, read_only=True)
        try:
            standings, configuration = standing.standings(database), standing.configuration(database)
        finally:
            database.close()
        state = self.state()
        version = "1" if "tiny" not in standings else standings["tiny"].current
        assert version == ("1" if state is None else AFTER[state]), state
        assert (configuration is not None) == (version == "2"), state

    def is_told(self) -> bool:
        """Whether it is over and noted as told."""
        found = {(kind, step) for kind, step in self._rows("SELECT kind, step FROM told")}
        return found == {("install", "ready"), ("rollout", self.end)}

    def reported(self) -> list[str]:
        """The steps that wait for central."""
        rows = query(self.data_dir, "SELECT payload FROM outbox WHERE topic LIKE '%/events/update' ORDER BY id")
        return [json.loads(payload)["step"] for (payload,) in rows]

    def _order(self) -> None:
        order = "INSERT INTO orders (at, kind, model, by) VALUES (?, ?, ?, ?)"
        change_state(self.data_dir, order, time.time(), "roll_back", "tiny", "Anna")

    def _rows(self, statement: str) -> list[Any]:
        return [tuple(row.values()) for row in state_rows(self.data_dir, statement)]


def answer(box: Box) -> tuple[str, str]:
    """Version and verdict of a middling picture."""
    reply = box.http.post("/v1/predict/tiny", content=picture(MIDDLING), headers={"Content-Type": "image/png"}).json()
    return reply["version"], reply["verdict"]


def run_until_it_dies(plant: Plant, dies_at: str) -> None:
    box = plant.box(dies_at)
    try:
        box.start()
        until(lambda: not box.running, WAIT_S, f"the box being killed {dies_at}")
    except AssertionError:
        # While it started.
        assert not box.running
    assert box.ended() == -9


@pytest.mark.parametrize("end", POLICIES)
def test_a_box_that_is_killed_at_a_commit_of_a_rollout_goes_on(tmp_path: Path, end: str) -> None:
    plant = Plant(tmp_path, end)
    plant.commits.unlink(missing_ok=True)
    plant.reset()
    box = plant.box()
    box.start()
    until(plant.is_told, WAIT_S, "an undisturbed end")
    box.kill()
    count = plant.commits.stat().st_size
    points = [f"{number} {when}" for number in range(1, count + 1) for when in ("before", "after")]
    fewer = min(POINTS, len(points))
    points = [points[(2 * turn + 1) * len(points) // (2 * fewer)] for turn in range(fewer)]
    line = tally(f"kill -9 in a roll-out: {end}", len(points))
    for point in points:
        plant.reset()
        run_until_it_dies(plant, point)
        plant.check_disk()
        box = plant.box()
        box.start()
        try:
            assert answer(box) in JUDGED.items(), point
            until(plant.is_told, WAIT_S, f"the end after a kill {point}")
            plant.check_disk()
            assert answer(box) == (AFTER[end], JUDGED[AFTER[end]]), point
            steps = plant.reported()
            assert {"ready", end} <= set(steps), (point, steps)
        finally:
            box.kill()
        line.step()
