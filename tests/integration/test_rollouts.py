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
from tests.support.models import write_model
from tests.support.odd_candidates import MIDDLING
from tests.support.trial_plant import WAIT_S, Plant
from tests.support.wait import until


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    try:
        plant.box.start()
        yield plant
    finally:
        plant.box.kill()


# A good candidate.


def test_a_good_version_is_promoted_after_its_canary_and_no_request_fails(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"share": 0.5, "inputs_min": 20})
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
    total = sum(plant.statuses.values())
    until(lambda: plant.box.status()["store"]["results"] == total, WAIT_S, f"{total} results")
    plant.box.restart()
    assert plant.ask()["version"] == "2"


def test_the_share_of_a_canary_is_even(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"share": 0.25, "inputs_min": 1000})
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
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "shadow", "probation_s": 1000})
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
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green"})
    assert plant.ends("done", "rejected")["state"] == "done"
    assert plant.ask()["version"] == "2"


def test_a_model_that_is_new_to_the_box_serves_once_it_is_proven(plant: Plant) -> None:
    plant.install("1", "other")
    make_ready(plant.data_dir, {"other": "1"})
    assert plant.ends("done", "rejected")["state"] == "done"
    assert plant.ask(model="other")["version"] == "1"


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
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": mode, "latency_ratio_max": 2.0})
    with plant.asked(MIDDLING, 230):
        ended = plant.ends("done", "rejected")
    assert ended["state"] == "rejected"
    assert word in ended["reason"]
    assert set(plant.statuses) == {200}, plant.unlike
    assert plant.ask()["version"] == "1"
    assert plant.blocked() == [("tiny", "2")]
    (seen,) = ended["evidence"]
    assert (seen["ruling"], seen["before"]) == ("reject", "1")
    until(lambda: "update_rejected" in plant.alarms(), WAIT_S, "the alarm")


def test_a_version_that_hangs_on_trial_is_dropped_and_its_request_answered_by_the_other(plant: Plant) -> None:
    plant.install(title="hangs")
    make_ready(plant.data_dir, {"tiny": "2"})
    plant.ends("running")
    assert plant.ask(MIDDLING)["version"] == "1"
    ended = plant.ends("done", "rejected")
    assert (ended["state"], ended["reason"]) == ("rejected", "model tiny version 2 hung")
    assert set(plant.statuses) == {200}


def test_differences_name_the_results_that_show_them(plant: Plant) -> None:
    plant.install(title="wrong")
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"share": 0.5})
    with plant.asked(MIDDLING):
        (seen,) = plant.ends("rejected")["evidence"]
    difference = seen["differences"][0]
    assert (difference["before"], difference["now"]) == ("review", "ng")
    result = plant.box.http.get(f"/v1/results/{difference['result']}").json()
    assert (result["version"], result["verdict"]) == ("2", "ng")


def test_a_version_that_does_not_load_is_rejected(plant: Plant) -> None:
    plant.install()
    for file in (plant.data_dir / "models" / "tiny" / "2").rglob("*.xml"):
        file.write_bytes(b"no network")
    make_ready(plant.data_dir, {"tiny": "2"})
    assert plant.ends("rejected", "done")["state"] == "rejected"
    assert plant.ask()["version"] == "1"


def test_a_version_with_other_inputs_is_not_compared(plant: Plant) -> None:
    plant.install(kind="window")
    make_ready(plant.data_dir, {"tiny": "2"})
    ended = plant.ends("rejected", "done")
    assert ended["state"] == "rejected"
    assert "release it with mode blue_green" in ended["reason"]
    assert plant.blocked() == []


# Several together.


def test_several_models_switch_together_or_not_at_all(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    write_model(plant.models, "other", "1")
    try:
        plant.box.start()
        plant.install()
        plant.install("2", "other", title="wrong")
        make_ready(plant.data_dir, {"tiny": "2", "other": "2"})
        with plant.asked(230), plant.asked(MIDDLING, model="other"):
            ended = plant.ends("done", "rejected")
        assert ended["state"] == "rejected"
        assert (plant.serves("tiny"), plant.serves("other")) == ("1", "1")
        # Only what is to blame is kept away.
        assert plant.blocked() == [("other", "2")]
        plant.install("3", "other")
        make_ready(plant.data_dir, {"tiny": "2", "other": "3"})
        with plant.asked(230), plant.asked(230, model="other"):
            assert plant.ends("done", "rejected", number=2)["state"] == "done"
        assert (plant.serves("tiny"), plant.serves("other")) == ("2", "3")
        assert set(plant.statuses) == {200}
    finally:
        plant.box.kill()


# The deadline.


def test_undecided_at_the_deadline_means_no(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"deadline_s": 0.5})
    ended = plant.ends("rejected", "done")
    assert ended["state"] == "rejected"
    assert "undecided at the deadline" in ended["reason"]


@pytest.mark.parametrize(("changes", "state"), [({}, "done"), ({"title": "wrong"}, "rejected")])
def test_recent_pictures_decide_at_the_deadline(plant: Plant, changes: dict[str, Any], state: str) -> None:
    for turn in range(25):
        plant.ask(230 if turn % 2 else MIDDLING)
    plant.install(**changes)
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"deadline_s": 0.5})
    ended = plant.ends("rejected", "done")
    assert ended["state"] == state, ended["reason"]
    (seen,) = ended["evidence"]
    assert 0 < seen["replayed"] <= seen["inputs"]
    assert plant.box.status()["store"]["results"] == 25


# Afterwards.


def test_errors_on_probation_take_the_version_back_and_no_request_fails(plant: Plant) -> None:
    plant.install(title="fails")
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"probation_s": 1000})
    with plant.asked(230):
        plant.ends("probation")
    plant.ask(MIDDLING)
    ended = plant.ends("rolled_back")
    assert "on probation" in ended["reason"]
    assert (ended["evidence"][0]["probation_errors"], plant.serves()) == (1, "1")
    assert set(plant.statuses) == {200}
    assert plant.blocked() == [("tiny", "2")]
    until(lambda: "update_rolled_back" in plant.alarms(), WAIT_S, "the alarm")
    plant.box.restart()
    assert plant.ask()["version"] == "1"


def test_probation_ends_and_the_version_before_gives_its_memory_back(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green", "probation_s": 1.0})
    plant.ends("probation")
    plant.ends("done")
    (model,) = plant.box.status()["models"]
    assert (model["version"], model["previous"]["state"]) == ("2", "unloaded")


# Restarts, orders, holds, windows.


def test_a_trial_goes_on_after_a_restart(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"})
    plant.ends("running")
    plant.box.kill()
    plant.box.start()
    with plant.asked(230):
        assert plant.ends("done", "rejected")["state"] == "done"
    assert plant.serves() == "2"


def test_probation_goes_on_after_a_restart(plant: Plant) -> None:
    plant.install(title="fails")
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green", "probation_s": 1000})
    plant.ends("probation")
    plant.box.kill()
    plant.box.start()
    # The version before is not loaded any more, so nobody can stand in.
    with plant.asked(MIDDLING):
        assert plant.ends("rolled_back")["evidence"][0]["probation_errors"] >= 1
    assert plant.serves() == "1"


def test_a_version_that_ends_the_process_is_given_up_after_three_starts(plant: Plant) -> None:
    plant.install(title="aborts")
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green", "probation_s": 1000})
    plant.ends("probation")
    for _ in range(3):
        if plant.box.running:
            with pytest.raises(httpx.TransportError):
                plant.ask(MIDDLING)
            plant.box.ended()
        plant.box.start()
    plant.ends("rolled_back")
    assert plant.ask(MIDDLING)["version"] == "1"
    until(lambda: "update_rolled_back" in plant.alarms(), WAIT_S, "the alarm")


def test_a_newer_release_ends_a_trial_without_blame(plant: Plant) -> None:
    plant.install()
    plant.install("3")
    make_ready(plant.data_dir, {"tiny": "2"})
    plant.ends("running")
    make_ready(plant.data_dir, {"tiny": "3"}, rollout={"mode": "blue_green"})
    assert plant.ends("done", number=2)["state"] == "done"
    assert "release 2" in plant.rollout(1)["reason"]
    assert plant.blocked() == []
    assert plant.serves() == "3"


def test_a_withdrawn_version_goes_back_at_once(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green"})
    plant.ends("done")
    blocked = [{"name": "tiny", "version": "2", "manifest": "0" * 64}]
    make_ready(plant.data_dir, {}, blocked=blocked, rollout={"mode": "canary"})
    ended = plant.ends("rolled_back")
    assert "withdrawn by release 2" in ended["reason"]
    assert plant.ask()["version"] == "1"


def test_a_hold_keeps_an_update_back_until_it_is_released(plant: Plant) -> None:
    plant.execute("INSERT INTO holds (at, by, reason) VALUES (?, 'Anna', 'audit')", time.time())
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green"})
    until(lambda: plant.updates()["waits"], WAIT_S, "the reason to wait")
    assert "on hold by Anna: audit" in plant.updates()["waits"]
    assert plant.rollout()["state"] is None
    plant.execute("UPDATE holds SET until = at")
    assert plant.ends("done")["state"] == "done"


def test_a_closed_window_keeps_the_switch_back_and_the_trial_goes_on(plant: Plant) -> None:
    installed_at = time.time() - 12 * 3600
    begins, ends = (time.strftime("%H:%M", time.gmtime(installed_at + hours * 3600)) for hours in (-1, 1))
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, at=installed_at, window={"begins": begins, "ends": ends})
    with plant.asked(230):
        until(lambda: plant.updates()["waits"], WAIT_S, "the reason to wait")
    assert "its window opens at" in plant.updates()["waits"]
    assert (plant.rollout()["state"], plant.serves()) == ("running", "1")
    plant.execute("UPDATE installs SET at_once = 1")
    assert plant.ends("done")["state"] == "done"
    assert plant.serves() == "2"


def test_a_restart_tells_what_the_last_run_could_not(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green"})
    plant.ends("done")
    plant.box.stop()
    plant.execute("DELETE FROM told")
    plant.box.start()
    expected = [("install", "ready"), ("rollout", "done")]
    until(lambda: plant.told() == expected, WAIT_S, "the steps being told")


def test_a_version_that_hangs_on_probation_goes_back_and_its_request_is_answered(plant: Plant) -> None:
    plant.install(title="hangs")
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green", "probation_s": 1000})
    plant.ends("probation")
    assert plant.ask(MIDDLING)["version"] == "1"
    assert "hung" in plant.ends("rolled_back")["reason"]
    assert plant.serves() == "1"
    until(lambda: plant.told()[-1] == ("rollout", "rolled_back"), WAIT_S, "the step being told")


def test_the_command_takes_an_update_back_while_the_box_serves(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green"})
    plant.ends("done")
    done = run_appliance("models", "roll-back", "tiny", "--config", plant.box.config)
    assert done.returncode == 0, done.stderr
    assert "tiny is back at version 1" in done.stdout
    assert plant.ask()["version"] == "1"
    assert plant.rollout()["state"] == "rolled_back"
