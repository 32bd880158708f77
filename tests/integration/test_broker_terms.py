"""Brokers of every kind: encrypted, old, sharing, sending copies, and one that does not keep to the rules."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config import BrokerConfig
from appliance.mqtt.terms import Terms, advice, shortcomings
from appliance.mqtt.topics import overlap
from tests.support.box import ROOT, Box, run_appliance, running_box, write_config
from tests.support.mqtt import Mosquitto, device, mosquitto
from tests.support.proxy import proxy
from tests.support.records import letters, query, readings
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
CONF = ROOT / "systemd" / "mosquitto.conf"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def at(port: int, /, routes: list[dict[str, Any]] = ROUTES, device: str = "box", **changes: Any) -> dict[str, Any]:
    return {
        "device": device,
        "broker": {"host": "127.0.0.1", "port": port, "reconnect_s_max": 0.5, **changes},
        "listener": {"enabled": False},
        "routes": routes,
    }


def subscribed(box: Box) -> None:
    name = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
    until(lambda: query(box.data_dir, name), WAIT_S, "the subscriptions")


def numbers(box: Box, source: str, route: str | None = None) -> list[float]:
    return [float(each[0, 0]) for each in readings(box.data_dir, source, route)]


def reason(box: Box, word: str) -> Callable[[], str | None]:
    def said() -> str | None:
        text = box.status()["mqtt"]["broker"]["reason"] or ""
        return text if word in text else None

    return said


# -- TLS


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a certificate for 127.0.0.1, one for the box, and one authority that nobody asked for."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ca", "other"):
        make_key(folder, "req", "-x509", "-days", "2", "-subj", f"/CN={name}", name=name)
    for name in ("server", "box"):
        make_key(folder, "req", "-subj", f"/CN={name}", name=name, out="csr")
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl(
            folder,
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "ext", "-out", f"{name}.crt"),
        )
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def make_key(folder: Path, *arguments: str, name: str, out: str = "crt") -> None:
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, *arguments, *kind, "-keyout", f"{name}.key", "-out", f"{name}.{out}")


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def tls_lines(keys: Path) -> tuple[str, ...]:
    return (
        f"cafile {keys}/ca.crt",
        f"certfile {keys}/server.crt",
        f"keyfile {keys}/server.key",
        "require_certificate true",
    )


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Mosquitto]:
    """The certificate lines belong to the listener, which is the first line."""
    with mosquitto(tmp_path_factory.mktemp("tls"), *tls_lines(keys)) as broker:
        yield broker


def test_tls_with_client_certificate_carries_readings_and_results(
    tmp_path: Path, models: Path, encrypted: Mosquitto, keys: Path
) -> None:
    files: dict[str, Any] = {
        "tls": True,
        "ca_file": f"{keys}/ca.crt",
        "cert_file": f"{keys}/box.crt",
        "key_file": f"{keys}/box.key",
    }
    with running_box(tmp_path, models, **at(encrypted.port, **files)) as box:
        subscribed(box)
        subprocess.run(
            [
                *("mosquitto_pub", "-h", "127.0.0.1", "-p", str(encrypted.port), "-q", "1", "-t", "plc/safe/wave"),
                *("-m", "[5, 0, 0]", "--cafile", f"{keys}/ca.crt"),
                *("--cert", f"{keys}/box.crt", "--key", f"{keys}/box.key"),
            ],
            check=True,
            timeout=WAIT_S,
        )
        until(lambda: numbers(box, "safe") == [5], WAIT_S, "the reading")


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"tls": True, "ca_file": "other.crt", "cert_file": "box.crt", "key_file": "box.key"}, "certificate is not"),
        ({"tls": True, "ca_file": "ca.crt"}, "check broker"),
        ({}, "check broker"),
    ],
    ids=["unknown authority", "no client certificate", "no TLS"],
)
def test_broker_that_cannot_be_trusted_or_does_not_trust_is_told_in_one_line(
    tmp_path: Path, models: Path, encrypted: Mosquitto, keys: Path, files: dict[str, Any], word: str
) -> None:
    named: dict[str, Any] = {
        key: f"{keys}/{value}" if isinstance(value, str) else value for key, value in files.items()
    }
    with running_box(tmp_path, models, **at(encrypted.port, **named)) as box:
        said = until(reason(box, word), WAIT_S, "the reason")
        assert said is not None
        assert "\n" not in said
        assert box.status()["mqtt"]["broker"]["state"] == "connecting"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls": True, "ca_file": "/nowhere/ca.crt"}, ["broker.ca_file", "/nowhere/ca.crt", "PEM"]),
        ({"tls": True, "cert_file": "/nowhere/box.crt"}, ["broker.cert_file", "/nowhere/box.crt", "PEM"]),
        ({"ca_file": "/nowhere/ca.crt"}, ["tls = true"]),
        ({"tls": True, "key_file": "/nowhere/box.key"}, ["cert_file"]),
        ({"password_file": "/nowhere/password"}, ["username"]),
        ({"port": 0}, ["port"]),
        ({"keep_alive_s": 1}, ["keep_alive_s"]),
        ({"session_expiry_s": 1 << 32}, ["session_expiry_s"]),
    ],
)
def test_setting_that_cannot_work_is_refused_at_the_start(
    tmp_path: Path, models: Path, changes: dict[str, Any], words: list[str]
) -> None:
    config = write_config(tmp_path, models, **at(1883, **changes))
    done = run_appliance("serve", "--config", config)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr


# -- MQTT 3.1.1


def only_older(first: bytes) -> bytes | None:
    """A broker that knows no MQTT 5 answers it with return code 1 (MQTT 3.1.1, section 3.2.2.3)."""
    version = first[first.index(b"\0\4MQTT") + 6]
    return b"\x20\2\0\1" if version == 5 else None


def test_broker_that_knows_no_mqtt_5_is_spoken_to_in_311(tmp_path: Path, models: Path) -> None:
    with (
        mosquitto(tmp_path / "broker") as broker,
        proxy(broker.port, only_older) as old,
        running_box(tmp_path / "box", models, **at(old.port)) as box,
        device(broker.port, "plc", version=4) as plc,
    ):
        subscribed(box)
        plc.subscribe("appliance/box/results/#")
        plc.send("plc/old/wave", [[1, 0, 0]] * 16)
        until(lambda: numbers(box, "old") == [1], WAIT_S, "the reading")
        assert plc.objects("appliance/box/results/wave/old")[0]["source"] == "old"
        box.kill()
        for number in range(2, 52):
            plc.send("plc/old/wave", [number, 0, 0])
        box.start()
        until(lambda: len(numbers(box, "old")) >= 51, WAIT_S, "what waited in the session")
        assert numbers(box, "old") == list(range(1, 52))
        for _ in range(3):
            old.cut()
            plc.send("plc/old/wave", [0, 0, 0])
        until(lambda: len(numbers(box, "old")) >= 54, WAIT_S, "what came while it was cut off")
        assert len(numbers(box, "old")) == 54


# -- subscriptions


def test_reading_that_two_routes_take_comes_once_to_each(tmp_path: Path, models: Path) -> None:
    """Mosquitto sends a copy for each filter that matches."""
    with (
        mosquitto(tmp_path / "broker") as broker,
        running_box(tmp_path / "box", models, **at(broker.port)) as box,
        device(broker.port, "plc") as plc,
    ):
        subscribed(box)
        for number in range(20):
            plc.send("both/twice", [number, 0, 0])
        plc.send("plc/last/wave", [0, 0, 0])
        until(lambda: numbers(box, "last"), WAIT_S, "the last reading")
        assert numbers(box, "twice", "both-one") == list(range(20))
        assert numbers(box, "twice", "both-two") == list(range(20))


def test_route_that_takes_everything_does_not_feed_on_what_the_box_says(tmp_path: Path, models: Path) -> None:
    routes = [{"name": "all", "topic": "#", "model": "wave", "source": "all"}]
    with (
        mosquitto(tmp_path / "broker") as broker,
        running_box(tmp_path / "box", models, **at(broker.port, routes)) as box,
        device(broker.port, "plc") as plc,
    ):
        subscribed(box)
        plc.subscribe("appliance/box/deadletter")
        plc.send("any/thing", b"junk")
        plc.received("appliance/box/deadletter")
        plc.send("any/thing", [1, 0, 0])
        until(lambda: numbers(box, "all") == [1], WAIT_S, "the reading")
        assert query(box.data_dir, "SELECT count(*) FROM dead_letters") == [(1,)]
        assert letters(box.data_dir, "any/thing")


def test_two_boxes_share_a_stream_and_one_that_is_killed_costs_nothing(tmp_path: Path, models: Path) -> None:
    routes = [{"name": "shared", "topic": "plc/+/wave", "model": "wave", "share_group": "line", "key_field": "seq"}]
    with (
        mosquitto(tmp_path / "broker") as broker,
        running_box(tmp_path / "one", models, **at(broker.port, routes, "one")) as one,
        running_box(tmp_path / "two", models, **at(broker.port, routes, "two")) as two,
        device(broker.port, "plc", in_flight=100) as plc,
    ):
        for box in (one, two):
            subscribed(box)

        def send(first: int, end: int) -> None:
            last = 0
            for number in range(first, end):
                last = plc.publish("plc/stream/wave", f'{{"seq": {number}, "values": [{number}, 0, 0]}}')
            until(lambda: last in plc.acknowledged, WAIT_S, "the broker taking them")

        def keys() -> list[int]:
            found = [query(box.data_dir, "SELECT key FROM readings") for box in (one, two)]
            return [int(key) for rows in found for (key,) in rows]

        send(0, 400)
        until(lambda: len(keys()) >= 400, WAIT_S, "the first part")
        assert min(len(numbers(box, "stream")) for box in (one, two)) > 100
        send(400, 800)
        one.kill()
        before = len(numbers(two, "stream"))
        send(800, 1600)
        until(lambda: len(numbers(two, "stream")) > before, WAIT_S, "the other going on")
        one.start()
        until(lambda: len(keys()) >= 1600, WAIT_S, "what was dealt to the one that was away")
        assert sorted(keys()) == list(range(1600))


# -- the configuration that is shipped for Mosquitto


def test_mosquitto_as_we_ship_it_keeps_more_than_its_default_for_a_box_that_is_away(
    tmp_path: Path, models: Path
) -> None:
    with Path(CONF).open() as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith(("#", "persistence true"))]
    # What the fixture itself sets is left out, so that the shipped lines decide.
    broker = Mosquitto(tmp_path / "broker", *lines, queue_max=None)
    broker.start()
    try:
        with (
            running_box(tmp_path / "box", models, **at(broker.port)) as box,
            device(broker.port, "plc", in_flight=100) as plc,
        ):
            subscribed(box)
            assert box.status()["mqtt"]["broker"]["shortcomings"] == []
            box.kill()
            mids = [plc.publish("plc/away/wave", f"[{number}, 0, 0]") for number in range(3000)]
            until(lambda: plc.acknowledged >= set(mids), WAIT_S, "the broker taking them")
            broker.stop()
            broker.start()
            box.start()
            until(lambda: len(numbers(box, "away")) >= 3000, WAIT_S, "all that waited")
            assert numbers(box, "away") == list(range(3000))
    finally:
        broker.kill()


# -- what a broker grants

CONFIG = BrokerConfig(host="broker")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(), []),
        (Terms(qos_max=0), ["QoS 0"]),
        (Terms(session_expiry_s=60), ["60 s", "session_expiry_s"]),
        (Terms(session_expiry_s=30 * 86_400), []),
        (Terms(packet_bytes_max=4096), ["4096"]),
        (Terms(wildcards=False), ["wildcards"]),
        (Terms(sharing=False), ["share_group"]),
        (Terms(identifiers=False), ["overlap"]),
        (Terms(version=4), ["share_group", "overlap"]),
    ],
)
def test_each_shortcoming_is_one_line(terms: Terms, words: list[str]) -> None:
    found = shortcomings(terms, CONFIG, sharing=True, overlapping=True)
    assert all(word in " ".join(found) for word in words)
    assert bool(found) == bool(words)


def test_advice_is_for_small_limits_and_old_brokers() -> None:
    assert advice(Terms(in_flight_max=1000)) is None
    assert "takes 20 of our messages" in (advice(Terms(in_flight_max=20)) or "")
    assert "3.1.1" in (advice(Terms(version=4)) or "")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/#", True),
        ("a/+/c", "a/b/+", True),
        ("a/#", "a", True),
        ("#", "x/y/z", True),
        ("a/b", "a/c", False),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/+/d", False),
        ("a/b", "a", False),
    ],
)
def test_filters_overlap_when_a_topic_matches_both(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected
