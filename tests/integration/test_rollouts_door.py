"""`/v1/updates` and `/v1/rollouts`: what is shown of a trial, and what people may order; and the same over MQTT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.installs import ORIGIN, SIGNED_BY
from tests.support.mqtt import device
from tests.support.odd_candidates import MIDDLING
from tests.support.records import query
from tests.support.trial_plant import WAIT_S, Plant, running_plant
from tests.support.wait import until

UPSTREAMS = {"central": {"kind": "https", "url": "https://127.0.0.1:9/", "events": ["update"]}}
"""Nobody answers there: what is told waits."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with running_plant(tmp_path_factory.mktemp("plant"), upstreams=UPSTREAMS) as plant:
        yield plant


@pytest.fixture
def plant(shared: Plant) -> Iterator[Plant]:
    with shared.turn():
        yield shared


def on_trial(plant: Plant, title: str = "better", **policy: Any) -> None:
    """Version 2 of the model, every input of which it sees; nothing is ruled before a thousand."""
    plant.install(title=title)
    plant.ready(rollout={"inputs_min": 1000, "agreement_min": 0.0, **policy})
    plant.ends("running")
    until(lambda: plant.ask()["version"] == "2", WAIT_S, "the canary's first turn")


def order(plant: Plant, what: str, number: int = 1, body: Any = None) -> Any:
    content = {} if body is None else {"json": body}
    return plant.box.http.post(f"/v1/rollouts/{plant.number(number)}/{what}", **content)


def shown(plant: Plant) -> Any:
    return plant.box.http.get(f"/v1/rollouts/{plant.number()}").json()


def refusal(reply: Any) -> tuple[int, str]:
    problem = reply.json()
    assert "\n" not in problem["detail"]
    return reply.status_code, problem["code"]


def test_a_box_that_was_never_updated_says_so(shared: Plant) -> None:
    report = shared.updates()
    assert report.pop("bucket") < 100
    assert report == {
        "provisioned": False,
        "ring": "stable",
        "poll": None,
        "hold": None,
        "waits": None,
        "rollout": None,
        "installs": [],
        "blocked": [],
    }
    assert shared.box.http.get("/v1/rollouts").json() == {"rollouts": []}


def test_the_last_look_of_the_updater_is_shown(plant: Plant) -> None:
    warning = json.dumps([{"code": "metadata_stale", "reason": "nothing new for 4 days"}])
    plant.execute(
        """INSERT INTO polls (id, at, origin, answered_at, failures, code, reason, warnings)
        VALUES (1, 5, ?, 4, 2, ?, ?, ?)""",
        ORIGIN,
        "registry_unavailable",
        "it does not answer",
        warning,
    )
    poll = plant.updates()["poll"]
    assert (poll["origin"], poll["answered_at"], poll["failures"], poll["code"]) == (
        ORIGIN,
        4,
        2,
        "registry_unavailable",
    )
    assert poll["warnings"] == json.loads(warning)
    until(lambda: "nothing new for 4 days" in plant.alarms().get("update_stale", ""), WAIT_S, "the alarm")


def test_an_install_that_failed_raises_an_alarm_until_the_next_one(plant: Plant) -> None:
    plant.execute(
        """INSERT INTO installs (at, ring, number, status, models, release, origin, code, reason)
        VALUES (5, 'stable', 3, 'failed', '{"tiny": {"version": "9"}}', '{}', 'x', 'self_test_failed', 'it is wrong')"""
    )
    until(lambda: "it is wrong" in plant.alarms().get("update_failed", ""), WAIT_S, "the alarm")
    install = plant.updates()["installs"][0]
    assert (install["status"], install["models"], install["rollout"]) == ("failed", {"tiny": "9"}, None)
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    plant.ends("done")
    until(lambda: "update_failed" not in plant.alarms(), WAIT_S, "the alarm being over")


def test_a_trial_is_shown_while_it_runs_and_kept_afterwards(plant: Plant) -> None:
    on_trial(plant, share=0.5)
    for _ in range(9):
        plant.ask()
    until(lambda: shown(plant)["evidence"][0]["compared"] >= 5, WAIT_S, "comparisons")
    live = shown(plant)
    (newest,) = plant.rows("SELECT max(number) AS number FROM installs")[0].values()
    assert (live["state"], live["mode"], live["ring"], live["number"]) == ("running", "canary", "stable", newest)
    assert live["models"] == [{"name": plant.model, "version": "2", "before": "1"}]
    assert (live["policy"]["inputs_min"], live["policy"]["errors_max"]) == (1000, 0.0)
    assert live["elapsed_s"] > 0
    assert live["evidence"][0]["ruling"] == "wait"
    assert not live["serves"]
    assert plant.updates()["rollout"] == plant.number()
    assert order(plant, "reject", body={"by": "Anna"}).json()["outcome"] == f"rejected: {plant.model} version 2"
    (kept,) = plant.box.http.get("/v1/rollouts?limit=1").json()["rollouts"]
    assert (kept["state"], kept["reason"]) == ("rejected", "rejected by Anna")
    assert kept["evidence"][0]["inputs"] >= live["evidence"][0]["inputs"]
    blocked = plant.updates()["blocked"][0]
    assert (blocked["name"], blocked["version"], blocked["reason"]) == (plant.model, "2", "rejected by Anna")
    assert plant.updates()["rollout"] is None


def test_people_may_promote_what_is_on_trial_and_take_it_back(plant: Plant) -> None:
    on_trial(plant, probation_s=1000)
    assert order(plant, "promote", body={"by": "Anna"}).json()["outcome"] == f"promoted: {plant.model} version 2"
    assert plant.serves() == "2"
    report = shown(plant)
    assert (report["state"], report["serves"]) == ("probation", True)
    assert order(plant, "roll-back").json()["outcome"] == f"{plant.model} is back at version 1"
    assert plant.ask()["version"] == "1"
    report = shown(plant)
    assert (report["state"], report["reason"], report["serves"]) == ("rolled_back", "rolled back by 127.0.0.1", False)


def versions(plant: Plant) -> list[Any]:
    found = plant.box.http.get("/v1/updates/versions").json()["versions"]
    return [each for each in found if each["name"] == plant.model]


def test_every_version_is_shown_with_its_slot_origin_signers_and_trial(plant: Plant) -> None:
    on_trial(plant)
    first, second = versions(plant)
    assert (first["name"], first["version"], first["slot"], first["origin"]) == (plant.model, "1", "current", "folder")
    assert (second["version"], second["slot"], second["origin"]) == ("2", "candidate", ORIGIN)
    assert (first["signed"], first["signed_by"], second["signed"]) == (False, None, True)
    assert second["signed_by"] == SIGNED_BY
    assert second["trial"]["state"] == "running"
    order(plant, "promote")
    assert [each["slot"] for each in versions(plant)] == ["previous", "current"]


def test_orders_that_make_no_sense_are_refused_in_words(plant: Plant) -> None:
    for what in ("promote", "reject", "roll-back"):
        assert refusal(order(plant, what)) == (404, "rollout_not_found")
    assert refusal(plant.box.http.get(f"/v1/rollouts/{1 << 70}")) == (404, "rollout_not_found")
    on_trial(plant)
    assert refusal(order(plant, "roll-back")) == (409, "order_refused")
    assert refusal(order(plant, "promote", body={"who": "Anna"})) == (400, "input_undecodable")
    assert refusal(order(plant, "promote", body={"by": "a\nb"})) == (400, "input_undecodable")
    assert plant.rollout()["state"] == "running"
    order(plant, "reject")
    for what in ("promote", "reject", "roll-back"):
        assert refusal(order(plant, what)) == (409, "order_refused")
    assert refusal(plant.box.http.get("/v1/rollouts?limit=0")) == (400, "field_invalid")


def test_a_hold_is_shown_ends_by_itself_or_by_hand(plant: Plant) -> None:
    http = plant.box.http
    held = http.post("/v1/updates/hold", json={"by": "Anna", "reason": "audit", "for_s": 3600}).json()
    assert held["until"] - held["at"] == pytest.approx(3600)
    assert plant.updates()["hold"] == held
    on_hold = http.post("/v1/updates/hold", json={"by": "Ben", "reason": "shift"}).json()
    assert on_hold["until"] is None
    assert http.delete("/v1/updates/hold").json() == {"released": 2}
    assert plant.updates()["hold"] is None
    http.post("/v1/updates/hold", json={"by": "Anna", "reason": "a moment", "for_s": 0.2})
    until(lambda: plant.updates()["hold"] is None, WAIT_S, "its end")
    for body in ({"by": "Anna"}, {"by": "Anna", "reason": "x", "for_s": 0}, {"by": "", "reason": "x"}):
        assert refusal(http.post("/v1/updates/hold", json=body)) == (400, "input_undecodable")


def test_a_hold_keeps_a_ruling_from_being_carried_out(plant: Plant) -> None:
    on_trial(plant, inputs_min=5)
    plant.box.http.post("/v1/updates/hold", json={"by": "Anna", "reason": "audit"})
    with plant.asked(230):
        until(lambda: shown(plant)["waits"], WAIT_S, "the reason to wait")
    assert "on hold by Anna" in plant.updates()["waits"]
    plant.box.http.delete("/v1/updates/hold")
    assert plant.ends("done", "rejected")["state"] == "done"


def test_a_poll_is_asked_for_over_http_and_mqtt_and_carries_nothing(plant: Plant) -> None:
    asked = plant.data_dir / "state" / "poll-now"
    reply = plant.box.http.post("/v1/updates/poll")
    assert (reply.status_code, reply.json()) == (202, {"asked": True})
    assert asked.read_bytes() == b""
    asked.unlink()
    with device(plant.box.mqtt_port) as client:
        client.send("appliance/box/cmd/update", b'{"models": {"tiny": "9"}}')
        until(asked.exists, WAIT_S, "the file")
    assert asked.read_bytes() == b""


def test_every_step_is_told_over_mqtt_and_the_last_one_retained(plant: Plant) -> None:
    with device(plant.box.mqtt_port) as client:
        client.subscribe("appliance/box/updates")
        plant.install(title="fails")
        plant.ready(rollout={"probation_s": 1000, "inputs_min": 5})
        with plant.asked(230):
            plant.ends("probation")
        plant.ask(MIDDLING)
        plant.ends("rolled_back")
        until(lambda: steps(client, plant)[-1:] == ["rolled_back"], WAIT_S, "the last step")
        heard = told_over(client, plant)
    told = steps(client, plant)
    assert told[0] == "ready"
    assert [step for step in told if step in ("running", "promoted", "rolled_back")] == [
        "running",
        "promoted",
        "rolled_back",
    ]
    assert heard[-1]["models"] == {plant.model: "2"}
    assert heard[-1]["before"] == {plant.model: "1"}
    assert heard[-1]["evidence"][0]["probation_errors"] == 1
    plant.box.restart()
    with device(plant.box.mqtt_port) as client:
        client.subscribe("appliance/box/updates")
        until(lambda: steps(client, plant) == ["rolled_back"], WAIT_S, "the retained step")


def test_steps_wait_for_central_in_the_outbox(plant: Plant) -> None:
    plant.install()
    plant.ready(rollout={"mode": "blue_green"})
    plant.ends("done")
    until(lambda: plant.told() == [("install", "ready"), ("rollout", "done")], WAIT_S, "the steps")
    topic = "appliance/box/events/update"
    rows = query(plant.data_dir, "SELECT payload FROM outbox WHERE queue = 'central' AND topic = ? ORDER BY id", topic)
    events = [each for each in (json.loads(payload) for (payload,) in rows) if plant.model in each["models"]]
    # What is over at the next look is told once, by its end.
    assert [events[0]["step"], events[-1]["step"]] == ["ready", "done"]
    assert {(each["event"], each["device"]) for each in events} == {("update", "box")}
    assert len({each["number"] for each in events}) == 1


def told_over(client: Any, plant: Plant) -> list[Any]:
    """The steps of this test."""
    heard = [json.loads(message.payload) for message in list(client.messages)]
    return [each for each in heard if plant.model in each["models"]]


def steps(client: Any, plant: Plant) -> list[str]:
    return [each["step"] for each in told_over(client, plant)]
