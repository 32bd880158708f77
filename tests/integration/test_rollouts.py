"""A new version is tried beside the one that serves, and takes its place or goes; no request notices either way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.box import run_appliance
from tests.support.installs import make_ready
from tests.support.odd_candidates import MIDDLING
from tests.support.trial_plant import WAIT_S, Plant, running_plant
from tests.support.wait import until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with running_plant(tmp_path_factory.mktemp("plant")) as plant:
        yield plant


@pytest.fixture
def plant(shared: Plant) -> Iterator[Plant]:
    with shared.turn():
        yield shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Plant]:
    """A box of its own, for what leaves a thread that hangs, or starts that nobody should count with others."""
    with running_plant(tmp_path) as plant:
        yield plant


def newest_release(plant: Plant) -> int:
    return int(plant.rows("SELECT max(number) AS number FROM installs")[0]["number"])


# A good candidate.


def test_a_good_version_is_promoted_after_its_canary_and_no_request_fails(plant: Plant) -> None:
    before = plant.box.status()["store"]["results"]
    plant.install()
    plant.ready(rollout={"share": 0.5, "inputs_min": 20})
    with plant.asked(230, 20, 128):
        ended = plant.ends("done", "rejected")
    assert (ended["state"], ended["mode"]) == ("done", "canary"), ended["reason"]
    (seen,) = ended["evidence"]
    assert seen["inputs"] >= seen["compared"] >= 20
    assert (seen["errors"], seen["agreement"], seen["ruling"]) == (0, 1.0, "promote")
    assert seen["latency_ms_p95"] > 0 < seen["before_ms_p95"]
    assert set(plant.statuses) == {200}
    assert plant.serves() == "2"
    # Comparisons are no results: as many are recorded as were asked for.
    total = before + sum(plant.statuses.values())
    until(lambda: plant.box.status()["store"]["results"] == total, WAIT_S, f"{total} results")
    plant.box.restart()
    assert plant.ask()["version"] == "2"


def test_the_share_of_a_canary_is_even(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"share": 0.25, "inputs_min": 1000})
    plant.ends("running")
    until(lambda: plant.ask()["version"] == "2", WAIT_S, "the canary's first turn")
    plant.versions.clear()
    for _ in range(40):
        plant.ask()
    assert plant.versions == {"1": 30, "2": 10}
    assert {plant.ask(version="1")["version"] for _ in range(8)} == {"1"}
    assert {plant.ask(version="stable")["version"] for _ in range(8)} == {"1"}
    assert {plant.ask(version="canary")["version"] for _ in range(8)} == {"2"}


def test_a_shadow_answers_nobody_and_is_promoted_by_what_it_says(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "shadow", "probation_s": 1000})
    with plant.asked(230, 20):
        ended = plant.ends("probation", "rejected")
    assert ended["state"] == "probation", ended["reason"]
    (seen,) = ended["evidence"]
    # Until the switch version 1 has answered all of them, and each of its answers was compared at most once.
    assert plant.versions["1"] >= seen["inputs"] == seen["compared"] >= 20
    assert plant.ask()["version"] == "2"
    assert set(plant.statuses) == {200}


def test_blue_green_switches_without_a_trial(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    assert plant.ends("done", "rejected")["state"] == "done"
    assert plant.ask()["version"] == "2"


def test_a_model_that_is_new_to_the_box_serves_once_it_is_proven(plant: Plant) -> None:
    plant.model = f"{plant.model}-new"
    plant.install("1")
    plant.ready("1")
    assert plant.ends("done", "rejected")["state"] == "done"
    assert plant.ask()["version"] == "1"


# A bad one.


@pytest.mark.parametrize("mode", ["canary", "shadow"])
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"title": "wrong"}, "otherwise than the version before"),
        ({"title": "fails"}, "it failed on"),
        ({"title": "slow"}, "it takes"),
    ],
    ids=["wrong", "failing", "slow"],
)
def test_a_bad_version_is_rejected_and_no_request_fails(
    plant: Plant, mode: str, changes: dict[str, Any], word: str
) -> None:
    plant.install(**changes)
    plant.ready(rollout={"mode": mode, "latency_ratio_max": 2.0})
    with plant.asked(MIDDLING, 230):
        ended = plant.ends("done", "rejected")
    assert ended["state"] == "rejected"
    assert word in ended["reason"]
    assert set(plant.statuses) == {200}, plant.unlike
    assert plant.ask()["version"] == "1"
    assert plant.blocked() == [(plant.model, "2")]
    (seen,) = ended["evidence"]
    assert (seen["ruling"], seen["before"]) == ("reject", "1")
    until(lambda: "update_rejected" in plant.alarms(), WAIT_S, "the alarm")


def test_a_version_that_hangs_on_trial_is_dropped_and_its_request_answered_by_the_other(own: Plant) -> None:
    own.install(title="hangs")
    own.ready()
    own.ends("running")
    assert own.ask(MIDDLING)["version"] == "1"
    ended = own.ends("done", "rejected")
    assert (ended["state"], ended["reason"]) == ("rejected", "model tiny version 2 hung")
    assert set(own.statuses) == {200}


def test_differences_name_the_results_that_show_them(plant: Plant) -> None:
    plant.install(title="wrong")
    plant.ready(rollout={"share": 0.5})
    with plant.asked(MIDDLING):
        (seen,) = plant.ends("rejected")["evidence"]
    difference = seen["differences"][0]
    assert (difference["before"], difference["now"]) == ("review", "ng")
    at = f"/v1/results/{difference['result']}"
    # It was answered before it was committed.
    until(lambda: plant.box.http.get(at).status_code == 200, WAIT_S, "the result")
    result = plant.box.http.get(at).json()
    assert (result["version"], result["verdict"]) == ("2", "ng")


def test_a_version_that_does_not_load_is_rejected(plant: Plant) -> None:
    plant.install()
    for file in (plant.data_dir / "models" / plant.model / "2").rglob("*.xml"):
        file.write_bytes(b"no network")
    plant.ready()
    assert plant.ends("rejected", "done")["state"] == "rejected"
    assert plant.ask()["version"] == "1"


def test_a_version_that_was_rejected_is_not_tried_again(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"deadline_s": 0.1})
    plant.ends("rejected")
    plant.ready(rollout={"mode": "blue_green"})
    again = plant.ends("rejected", "done", number=2)
    assert again["state"] == "rejected"
    assert f"{plant.model} version 2 is blocked on this box: " in again["reason"]
    assert plant.serves() == "1"


def test_a_version_with_other_inputs_is_not_compared(plant: Plant) -> None:
    plant.install(kind="window")
    plant.ready()
    ended = plant.ends("rejected", "done")
    assert ended["state"] == "rejected"
    assert "release it with mode blue_green" in ended["reason"]
    assert plant.blocked() == []


# Several together.


def test_several_models_switch_together_or_not_at_all(plant: Plant) -> None:
    one, other = plant.model, f"{plant.model}-other"
    plant.add(other)
    plant.install()
    plant.install("2", other, title="wrong")
    make_ready(plant.data_dir, {one: "2", other: "2"})
    with plant.asked(230), plant.asked(MIDDLING, model=other):
        ended = plant.ends("done", "rejected")
    assert ended["state"] == "rejected"
    assert (plant.serves(one), plant.serves(other)) == ("1", "1")
    # Only what is to blame is kept away.
    assert plant.blocked() == [(other, "2")]
    plant.install("3", other)
    make_ready(plant.data_dir, {one: "2", other: "3"})
    with plant.asked(230), plant.asked(230, model=other):
        assert plant.ends("done", "rejected", number=2)["state"] == "done"
    assert (plant.serves(one), plant.serves(other)) == ("2", "3")
    assert set(plant.statuses) == {200}


# The deadline.


def test_undecided_at_the_deadline_means_no(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"deadline_s": 0.2})
    ended = plant.ends("rejected", "done")
    assert ended["state"] == "rejected"
    assert "undecided at the deadline" in ended["reason"]


@pytest.mark.parametrize(("changes", "state"), [({}, "done"), ({"title": "wrong"}, "rejected")])
def test_recent_pictures_decide_at_the_deadline(plant: Plant, changes: dict[str, Any], state: str) -> None:
    before = plant.box.status()["store"]["results"]
    for turn in range(25):
        plant.ask(230 if turn % 2 else MIDDLING)
    plant.install(**changes)
    plant.ready(rollout={"deadline_s": 0.2})
    ended = plant.ends("rejected", "done")
    assert ended["state"] == state, ended["reason"]
    (seen,) = ended["evidence"]
    assert 0 < seen["replayed"] <= seen["inputs"]
    assert plant.box.status()["store"]["results"] == before + 25


# Afterwards.


def test_errors_on_probation_take_the_version_back_and_no_request_fails(plant: Plant) -> None:
    plant.install(title="fails")
    plant.ready(rollout={"probation_s": 1000})
    with plant.asked(230):
        plant.ends("probation")
    plant.ask(MIDDLING)
    ended = plant.ends("rolled_back")
    assert "on probation" in ended["reason"]
    assert (ended["evidence"][0]["probation_errors"], plant.serves()) == (1, "1")
    assert set(plant.statuses) == {200}
    assert plant.blocked() == [(plant.model, "2")]
    until(lambda: "update_rolled_back" in plant.alarms(), WAIT_S, "the alarm")
    plant.box.restart()
    assert plant.ask()["version"] == "1"


def test_probation_ends_and_the_version_before_gives_its_memory_back(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "blue_green", "probation_s": 0.3})
    plant.ends("probation")
    plant.ends("done")
    model = plant.shown()
    assert (model["version"], model["previous"]["state"]) == ("2", "unloaded")


# Restarts, orders, holds, windows.


def test_a_trial_goes_on_after_a_restart(plant: Plant) -> None:
    plant.install()
    plant.ready()
    plant.ends("running")
    plant.box.kill()
    plant.box.start()
    with plant.asked(230):
        assert plant.ends("done", "rejected")["state"] == "done"
    assert plant.serves() == "2"


def test_probation_goes_on_after_a_restart(plant: Plant) -> None:
    plant.install(title="fails")
    plant.ready(rollout={"mode": "blue_green", "probation_s": 1000})
    plant.ends("probation")
    plant.box.kill()
    plant.box.start()
    # The version before is not loaded any more, so nobody can stand in.
    with plant.asked(MIDDLING):
        assert plant.ends("rolled_back")["evidence"][0]["probation_errors"] >= 1
    assert plant.serves() == "1"


def test_a_version_that_ends_the_process_is_given_up_after_three_starts(own: Plant) -> None:
    own.install(title="aborts")
    own.ready(rollout={"mode": "blue_green", "probation_s": 1000})
    own.ends("probation")
    for _ in range(3):
        if own.box.running:
            with pytest.raises(httpx.TransportError):
                own.ask(MIDDLING)
            own.box.ended()
        own.box.start()
    own.ends("rolled_back")
    assert own.ask(MIDDLING)["version"] == "1"
    until(lambda: "update_rolled_back" in own.alarms(), WAIT_S, "the alarm")


def test_a_newer_release_ends_a_trial_without_blame(plant: Plant) -> None:
    plant.install()
    plant.install("3")
    plant.ready()
    plant.ends("running")
    plant.ready("3", rollout={"mode": "blue_green"})
    assert plant.ends("done", number=2)["state"] == "done"
    assert f"release {newest_release(plant)} of ring stable came" in plant.rollout(1)["reason"]
    assert plant.blocked() == []
    assert plant.serves() == "3"


def test_a_withdrawn_version_goes_back_at_once(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    plant.ends("done")
    blocked = [{"name": plant.model, "version": "2", "manifest": "0" * 64}]
    make_ready(plant.data_dir, {}, blocked=blocked, rollout={"mode": "canary"})
    ended = plant.ends("rolled_back")
    assert f"withdrawn by release {newest_release(plant)}" in ended["reason"]
    assert plant.ask()["version"] == "1"


def test_a_hold_keeps_an_update_back_until_it_is_released(plant: Plant) -> None:
    plant.execute("INSERT INTO holds (at, by, reason) VALUES (?, 'Anna', 'audit')", time.time())
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    until(lambda: plant.updates()["waits"], WAIT_S, "the reason to wait")
    assert "on hold by Anna: audit" in plant.updates()["waits"]
    assert plant.rollout()["state"] is None
    plant.execute("UPDATE holds SET until = at")
    assert plant.ends("done")["state"] == "done"


def test_a_closed_window_keeps_the_switch_back_and_the_trial_goes_on(plant: Plant) -> None:
    installed_at = time.time() - 12 * 3600
    begins, ends = (time.strftime("%H:%M", time.gmtime(installed_at + hours * 3600)) for hours in (-1, 1))
    plant.install()
    plant.ready(at=installed_at, window={"begins": begins, "ends": ends})
    with plant.asked(230):
        until(lambda: plant.updates()["waits"], WAIT_S, "the reason to wait")
    assert "its window opens at" in plant.updates()["waits"]
    assert (plant.rollout()["state"], plant.serves()) == ("running", "1")
    plant.execute("UPDATE installs SET at_once = 1 WHERE status = 'ready'")
    assert plant.ends("done")["state"] == "done"
    assert plant.serves() == "2"


def test_a_restart_tells_what_the_last_run_could_not(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    plant.ends("done")
    plant.box.stop()
    plant.execute("DELETE FROM told")
    plant.box.start()
    expected = [("install", "ready"), ("rollout", "done")]
    until(lambda: plant.told() == expected, WAIT_S, "the steps being told")


def test_a_version_that_hangs_on_probation_goes_back_and_its_request_is_answered(own: Plant) -> None:
    own.install(title="hangs")
    own.ready(rollout={"mode": "blue_green", "probation_s": 1000})
    own.ends("probation")
    assert own.ask(MIDDLING)["version"] == "1"
    assert "hung" in own.ends("rolled_back")["reason"]
    assert own.serves() == "1"
    until(lambda: own.told()[-1] == ("rollout", "rolled_back"), WAIT_S, "the step being told")


def test_the_command_takes_an_update_back_while_the_box_serves(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    plant.ends("done")
    done = run_appliance("models", "roll-back", plant.model, "--config", plant.box.config)
    assert done.returncode == 0, done.stderr
    assert f"{plant.model} is back at version 1" in done.stdout
    assert plant.ask()["version"] == "1"
    assert plant.rollout()["state"] == "rolled_back"
