"""Central behind a broker of its own: rows with their keys, pictures, and a broker that refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from appliance.config import BrokerConfig, MqttUpstream
from tests.support.central import WAIT_S, Site, site
from tests.support.mqtt import Mosquitto, device, mosquitto
from tests.support.records import query
from tests.support.wait import until

PICTURE = b"\xff\xd8\xff\xe0" + bytes(100)
RESULTS = "appliance/box/results/tiny/camera"


def to(broker: Mosquitto, login: dict[str, Any] | None = None, **changes: Any) -> MqttUpstream:
    one = BrokerConfig(host="127.0.0.1", port=broker.port, reconnect_s_max=1.0, **(login or {}))
    return MqttUpstream(broker=one, **{"retry_s_max": 1.0, **changes})


def said(one: Site) -> str:
    return next((each.reason or "" for each in one.outbox.report()), "")


def test_rows_come_with_their_keys_and_late_ones_marked(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as broker, device(broker.port, "central") as client:
        client.subscribe("appliance/#")
        with site(tmp_path / "box", to(broker), start=False) as one:
            old = [one.judge() for _ in range(30)]
        with site(tmp_path / "box", to(broker)) as one:
            client.received(RESULTS, 30)
            new = one.judge()
            messages = client.received(RESULTS, 31)
            one.until_empty()
    assert [json.loads(each.payload)["id"] for each in messages] == [*old, new]
    properties = [dict(each.properties.UserProperty) for each in messages]  # type: ignore[union-attr]
    assert [each.get("late") for each in properties] == ["true"] * 30 + [None]
    assert len({each["key"] for each in properties}) == 31


def test_pictures_of_findings_go_to_a_topic_of_their_own(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as broker, device(broker.port, "central") as client:
        client.subscribe("appliance/#")
        with site(tmp_path / "box", to(broker, images=True)) as one:
            one.judge("ok", picture=PICTURE)
            one.judge("ng", picture=PICTURE)
            (picture,) = client.received("appliance/box/images/tiny/camera")
            one.until_empty()
            until(lambda: one.count("sent", "central/images") == 1, WAIT_S, "the count")
    assert picture.payload == PICTURE
    assert picture.properties is not None
    assert picture.properties.ContentType == "image/jpeg"  # type: ignore[attr-defined]
    assert dict(picture.properties.UserProperty)["key"].startswith("box-")  # type: ignore[attr-defined]


def test_topic_that_central_does_not_allow_keeps_its_rows_until_it_does(tmp_path: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic write appliance/+/status\ntopic read #\n")
    with mosquitto(tmp_path / "broker", f"acl_file {rights}") as broker:
        with site(tmp_path / "box", to(broker)) as one:
            sent = [one.judge() for _ in range(5)]
            assert "give its user the right to" in one.until_state("refuses")
            assert (one.waiting(), one.count("dead_lettered"), one.count("sent")) == (5, 0, 0)
        rights.write_text("topic readwrite #\n")
        broker.stop()
        broker.start()
        with device(broker.port, "central") as client:
            client.subscribe("appliance/#")
            with site(tmp_path / "box", to(broker)) as one:
                messages = client.received(RESULTS, 5)
                one.until_empty()
    assert [json.loads(each.payload)["id"] for each in messages] == sent


def test_broker_that_refuses_the_login_is_told_and_rows_wait(tmp_path: Path) -> None:
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "line-1", "right"], check=True, capture_output=True)
    passwords.chmod(0o644)
    secret.write_text("wrong")
    login = {"username": "line-1", "password_file": str(secret)}
    with mosquitto(tmp_path / "broker", "allow_anonymous false", f"password_file {passwords}") as broker:
        with site(tmp_path / "box", to(broker, login)) as one:
            one.judge()
            until(lambda: "uthori" in said(one), WAIT_S, "the reason")
            assert one.outbox.report()[0].state == "away"
            assert one.waiting() == 1
        secret.write_text("right")
        with site(tmp_path / "box", to(broker, login)) as one:
            one.until_empty()
            one.until_state("ok")


def test_broker_that_comes_back_gets_what_it_missed(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as broker, site(tmp_path / "box", to(broker)) as one:
        one.judge()
        one.until_empty()
        broker.kill()
        missed = [one.judge() for _ in range(200)]
        one.until_state("away")
        broker.start()
        with device(broker.port, "central") as client:
            client.subscribe("appliance/#")
            more = one.judge()
            one.until_empty()
            until(lambda: one.count("sent") == 202, WAIT_S, "the count")

            def came() -> list[int]:
                return [json.loads(each.payload)["id"] for each in client.received(RESULTS)]

            until(lambda: more in came(), WAIT_S, "the last row")
            # Some may have gone out before central was listening; none comes after a later one.
            numbers = came()
    assert numbers[-1] == more
    assert numbers == sorted(numbers)
    assert set(numbers) <= {*missed, more}
    assert query(one.folder, "SELECT 1 FROM dead_letters") == []
