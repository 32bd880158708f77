"""Routes, verdict rules and recipes of a release serve with its models, and go back with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import run_appliance
from tests.support.installs import make_ready
from tests.support.models import WINDOW_SIZE, picture, write_model
from tests.support.mqtt import Mosquitto, device, mosquitto
from tests.support.odd_candidates import MIDDLING
from tests.support.records import letters, results
from tests.support.trial_plant import WAIT_S, Plant, running_plant
from tests.support.wait import until

LOCAL = {"name": "line", "topic": "line/+", "model": "tiny"}
CAME = {"name": "press", "topic": "press/+", "model": "tiny", "verdict": {"score_review_min": 0.05}}
STRICT = {"models": {"tiny": {"verdict": {"score_ng_min": 0.4}}}}
"""A middling picture is for review by the manifest, and NG by this."""


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with running_plant(tmp_path, routes=[LOCAL]) as plant:
        yield plant


def release(plant: Plant, configuration: Any, models: Any = None, **policy: Any) -> None:
    """One that is switched without a trial."""
    make_ready(
        plant.data_dir,
        {"tiny": "2"} if models is None else models,
        configuration=configuration,
        rollout={"mode": "blue_green", **policy},
    )


def serving(plant: Plant) -> tuple[str, int | None]:
    """The version, and the number of the release whose configuration serves."""
    found = plant.box.status()["configuration"]
    return plant.serves(), None if found is None else found["number"]


def routes(plant: Plant) -> list[str]:
    return [each["name"] for each in plant.box.status()["mqtt"]["routes"]]


def recipes(plant: Plant) -> list[str]:
    return [each["name"] for each in plant.box.status()["recipe"]["known"]]


def judged(plant: Plant, topic: str, brightness: float) -> Any:
    """The result of a picture that a camera publishes."""
    source = topic.rpartition("/")[2]
    before = len(results(plant.data_dir, source))
    with device(plant.box.mqtt_port) as camera:
        camera.send(topic, picture(brightness))
    return results(plant.data_dir, source)[before]


def test_a_configuration_serves_with_its_models_over_restarts_and_goes_back_with_them(plant: Plant) -> None:
    assert serving(plant) == ("1", None)
    plant.install()
    mine = {"routes": [{**CAME, "name": "mine", "topic": "mine/+"}]}
    release(
        plant,
        {**STRICT, "routes": [CAME], "recipes": {"loose": {"tiny": {"score_ng_min": 0.9}}}, "devices": {"box": mine}},
        probation_s=1000,
    )
    plant.ends("probation")
    until(lambda: serving(plant) == ("2", 1), WAIT_S, "the configuration")
    for _ in range(2):
        assert routes(plant) == ["line", "press", "mine"]
        assert recipes(plant) == ["loose"]
        assert [plant.ask(MIDDLING)["verdict"], plant.ask(230)["verdict"]] == ["ng", "ok"]
        for topic in ("press/left", "mine/left"):
            result = judged(plant, topic, 230)
            assert (result["version"], result["verdict"], result["score_review_min"]) == ("2", "review", 0.05)
        plant.box.kill()
        plant.box.start()
        assert serving(plant) == ("2", 1)
    done = run_appliance("models", "roll-back", "tiny", "--config", plant.box.config)
    assert done.returncode == 0, done.stderr
    until(lambda: serving(plant) == ("1", None), WAIT_S, "the configuration before")
    for _ in range(2):
        assert (routes(plant), recipes(plant)) == (["line"], [])
        assert plant.ask(MIDDLING)["verdict"] == "review"
        with device(plant.box.mqtt_port) as camera:
            camera.send("press/right", picture(230))
        assert letters(plant.data_dir, "press/right")[-1][0] == "route_not_found"
        assert judged(plant, "line/left", 230)["verdict"] == "ok"
        plant.box.restart()
    assert plant.box.http.get("/v1/rollouts/1").json()["serves"] is False


def test_a_version_on_trial_is_judged_by_the_limits_that_came_with_it(plant: Plant) -> None:
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, configuration=STRICT, rollout={"inputs_min": 1000, "agreement_min": 0.0})
    plant.ends("running")
    until(lambda: plant.ask(MIDDLING)["version"] == "2", WAIT_S, "the canary's first turn")
    assert plant.ask(MIDDLING, version="2")["verdict"] == "ng"
    assert plant.ask(MIDDLING, version="1")["verdict"] == "review"
    assert serving(plant) == ("1", None)
    until(lambda: plant.box.http.get("/v1/rollouts/1").json()["evidence"][0]["differences"], WAIT_S, "a difference")
    (seen,) = plant.box.http.get("/v1/rollouts/1").json()["evidence"]
    assert (seen["differences"][0]["before"], seen["differences"][0]["now"]) == ("review", "ng")
    plant.box.http.post("/v1/rollouts/1/reject")
    assert plant.ask(MIDDLING)["verdict"] == "review"


def test_a_bad_one_rejects_the_release_with_its_key_and_nothing_changes(plant: Plant) -> None:
    plant.install()
    for number, (content, word) in enumerate(
        [
            ({"http": {"port": 1}}, "configuration http: a release may bring only"),
            ({"routes": [{**CAME, "hop": 0}]}, "configuration routes[0].hop: Expected `int` >= 1"),
            ({"devices": {"box": {"models": {"tiny": {"weight": 2}}}}}, "configuration devices.box.models.tiny.weight"),
        ],
        start=1,
    ):
        release(plant, content)
        ended = plant.ends("rejected", "done", number=number)
        assert ended["state"] == "rejected"
        assert word in ended["reason"]
        assert serving(plant) == ("1", None)
    assert plant.blocked() == []
    # Nothing is wrong with the version.
    release(plant, STRICT)
    plant.ends("done", number=4)
    until(lambda: serving(plant) == ("2", 4), WAIT_S, "the configuration")


def test_a_configuration_alone_is_switched_and_taken_back(plant: Plant) -> None:
    plant.install()
    release(plant, STRICT)
    plant.ends("done")
    release(plant, {"models": {"tiny": {"verdict": {"class_score_min": 0, "score_review_min": 0.6}}}})
    assert plant.ends("done", "rejected", number=2)["reason"] == "it brings a configuration alone"
    until(lambda: plant.ask(MIDDLING)["verdict"] == "ok", WAIT_S, "the limits")
    assert serving(plant) == ("2", 2)
    reply = plant.box.http.post("/v1/rollouts/2/roll-back").json()
    assert reply["outcome"] == "the configuration is the one before it"
    assert (plant.ask(MIDDLING)["verdict"], serving(plant)) == ("ng", ("2", 1))
    # A release without one leaves what the file says.
    release(plant, None)
    plant.ends("done", number=3)
    until(lambda: plant.ask(MIDDLING)["verdict"] == "review", WAIT_S, "the limits of the manifest")
    # The first rollout's models still serve; nothing of the second one does.
    assert [plant.box.http.get(f"/v1/rollouts/{each}").json()["serves"] for each in (1, 2, 3)] == [True, False, True]
    assert plant.box.http.post("/v1/rollouts/2/roll-back").json()["code"] == "order_refused"


def test_a_trial_under_a_configuration_that_goes_back_ends_without_blame(plant: Plant) -> None:
    release(plant, STRICT, {})
    plant.ends("done")
    plant.install()
    make_ready(plant.data_dir, {"tiny": "2"}, configuration=STRICT, rollout={"inputs_min": 1000})
    plant.ends("running", number=2)
    assert plant.box.http.post("/v1/rollouts/1/roll-back").status_code == 200
    assert "has gone back" in plant.ends("rejected", number=2)["reason"]
    assert plant.blocked() == []
    assert (plant.ask(MIDDLING)["verdict"], serving(plant)) == ("review", ("1", None))


def test_a_box_that_the_release_is_not_for_yet_keeps_what_it_has(plant: Plant) -> None:
    plant.install()
    release(plant, STRICT)
    plant.ends("done")
    make_ready(plant.data_dir, {"tiny": "2"}, configuration={}, percent=0)
    assert plant.ends("done", "rejected", number=2)["reason"] == "all of it serves already"
    assert (plant.ask(MIDDLING)["verdict"], serving(plant)) == ("ng", ("2", 1))


def test_one_that_the_file_contradicts_after_a_restart_is_left_out_with_an_alarm(plant: Plant) -> None:
    plant.install()
    release(plant, {**STRICT, "routes": [CAME]})
    plant.ends("done")
    plant.box.stop()
    clash = '\n[cameras.front]\nkind = "mqtt"\ntopic = "front"\n\n[[triggers]]\n'
    plant.box.config.write_text(
        plant.box.config.read_text() + clash + 'name = "press"\ncameras = ["front"]\nmodel = "tiny"\n'
    )
    plant.box.start()
    assert "trigger 'press'" in plant.alarms()["configuration_left_out"]
    assert "trigger 'press'" in plant.box.status()["configuration"]["problem"]
    assert (plant.ask(MIDDLING)["version"], plant.ask(MIDDLING)["verdict"]) == ("2", "review")


def test_a_site_broker_is_asked_for_the_topics_that_serve(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as broker:
        plant = Plant(tmp_path, routes=[LOCAL], broker={"host": "127.0.0.1", "port": broker.port})
        try:
            plant.box.start()
            until(lambda: plant.box.status()["mqtt"]["broker"]["state"] == "connected", WAIT_S, "the connection")
            plant.install()
            release(plant, {"routes": [CAME, {**LOCAL, "topic": "hall/+"}]}, probation_s=1000)
            plant.ends("probation")
            until(lambda: heard(plant, broker, "press/left"), WAIT_S, "a picture of the new route")
            until(lambda: heard(plant, broker, "hall/front"), WAIT_S, "a picture of the route that moved")
            plant.box.http.post("/v1/rollouts/1/roll-back")
            until(lambda: heard(plant, broker, "line/back"), WAIT_S, "a picture of the route that is back")
            before = plant.box.status()["mqtt"]["broker"]["received"]
            assert not heard(plant, broker, "press/gone")
            assert heard(plant, broker, "line/back")
            assert plant.box.status()["mqtt"]["broker"]["received"] == before + 1
        finally:
            plant.box.kill()


def heard(plant: Plant, broker: Mosquitto, topic: str) -> bool:
    """Whether a picture that is published at the broker is judged."""
    source = topic.rpartition("/")[2]
    before = len(results(plant.data_dir, source))
    with device(broker.port) as camera:
        camera.send(topic, picture(230))
        try:
            until(lambda: len(results(plant.data_dir, source)) > before, 0.5, "a result")
        except AssertionError:
            return False
    return True


def test_open_windows_of_a_route_that_changes_go_on_with_every_reading(tmp_path: Path) -> None:
    wave = {"name": "wave", "topic": "plc/+", "model": "wave"}
    plant = Plant(tmp_path, routes=[wave])
    write_model(plant.models, "wave", "1", kind="window")
    half = WINDOW_SIZE // 2
    try:
        plant.box.start()
        with device(plant.box.mqtt_port) as plc:
            plc.send("plc/motor", [[0.1] * 3] * (WINDOW_SIZE + half))
            until(lambda: len(results(plant.data_dir, "motor")) == 1, WAIT_S, "the first window")
            strict = {"class_score_min": 0, "score_review_min": 0.01, "score_ng_min": 0.02}
            release(plant, {"routes": [{**wave, "hop": half, "verdict": strict}]}, {"wave": "1"})
            plant.ends("done")
            until(lambda: plant.box.status()["configuration"], WAIT_S, "the configuration")
            plc.send("plc/motor", [[0.1] * 3] * WINDOW_SIZE)
            until(lambda: len(results(plant.data_dir, "motor")) == 3, WAIT_S, "two windows that overlap")
        assert [each["verdict"] for each in results(plant.data_dir, "motor")] == ["ok", "ng", "ng"]
        assert plant.box.status()["mqtt"]["routes"][0]["windows"] == f"{WINDOW_SIZE} samples every {half}"
        plant.box.restart()
        with device(plant.box.mqtt_port) as plc:
            plc.send("plc/motor", [[0.1] * 3] * half)
        until(lambda: len(results(plant.data_dir, "motor")) == 4, WAIT_S, "one window more")
    finally:
        plant.box.kill()
