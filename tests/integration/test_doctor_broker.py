"""What the doctor says of a real broker: whether it lets the box in, and on which terms."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.config import BrokerConfig, Config, HttpConfig, ListenerConfig, RouteConfig
from appliance.doctor import Check, examine
from appliance.mqtt.probe import in_words
from appliance.mqtt.terms import Terms
from tests.support.mqtt import Mosquitto, RawClient, device, mosquitto

TERMS = "terms of the site broker"
GOOD = ("max_inflight_messages 200",)


def examined(folder: Path, broker: Mosquitto, *routes: RouteConfig, **login: str) -> dict[str, Check]:
    config = Config(
        device="box",
        data_dir=str(folder),
        models_dir=str(folder / "models"),
        http=HttpConfig(port=0),
        listener=ListenerConfig(enabled=False),
        broker=BrokerConfig(host="127.0.0.1", port=broker.port, **login),  # type: ignore[arg-type]
        routes=routes,
    )
    return {check.name: check for check in examine(config).checks if "site broker" in check.name}


def test_good_terms_are_told_in_words(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", *GOOD) as broker:
        found = examined(tmp_path, broker)
    assert found["site broker"].found == f"127.0.0.1:{broker.port} lets the box in"
    assert found[TERMS].ok
    assert found[TERMS].found == (
        "MQTT 5, QoS 2, 200 messages in flight, packets of any size, retained messages, shared subscriptions,"
        " sessions kept for as long as asked"
    )


def test_terms_that_fall_short_are_told_with_what_to_do(tmp_path: Path) -> None:
    limits = ("max_inflight_messages 20", "max_packet_size 5000", "max_qos 0", "retain_available false")
    with mosquitto(tmp_path / "broker", *limits) as broker:
        terms = examined(tmp_path, broker)[TERMS]
    assert (terms.ok, terms.needed) == (False, False)
    assert "QoS 0, 20 messages in flight, packets of at most 5000 bytes, no retained messages" in terms.found
    for todo in ("allow QoS 1", "allow 1048576 for pictures", "allow retained messages", "systemd/mosquitto.conf"):
        assert todo in terms.todo


def test_login_that_is_refused_is_told(tmp_path: Path) -> None:
    passwords, mine = tmp_path / "passwords", tmp_path / "mine"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "box", "right"], check=True, timeout=10)
    passwords.chmod(0o644)
    mine.write_text("wrong\n")
    login = {"username": "box", "password_file": str(mine)}
    with mosquitto(tmp_path / "broker", f"password_file {passwords}", "allow_anonymous false", *GOOD) as broker:
        refused = examined(tmp_path, broker, **login)
        mine.write_text("right\n")
        taken = examined(tmp_path, broker, **login)
    assert "does not let the box in: Not authorized" in refused["site broker"].found
    assert TERMS not in refused
    assert taken["site broker"].ok


def test_visit_throws_nobody_out_and_leaves_no_session(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", *GOOD) as broker, device(broker.port, "box") as running:
        assert examined(tmp_path, broker)["site broker"].ok
        running.subscribe("ours").send("ours", b"still here")
        assert running.connections == 1
        later = RawClient(broker.port, "box-doctor")
        later.vanish()
    assert not later.session_present


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (Terms(version=4), "MQTT 3.1.1, which names no limits"),
        (Terms(sharing=False, session_expiry_s=60), "no shared subscriptions, sessions kept for 60 s"),
    ],
)
def test_other_terms_in_words(terms: Terms, said: str) -> None:
    assert in_words(terms).endswith(said)
