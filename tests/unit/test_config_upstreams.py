"""`[upstreams.<name>]`: what it may say, and the reason that is given for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import HttpsUpstream, MqttUpstream, load
from appliance.errors import ConfigError
from appliance.outbox.destinations import SITE, destinations

HTTPS = '[upstreams.central]\nkind = "https"\nurl = "https://central.example/in"\n'
MQTT = '[upstreams.central]\nkind = "mqtt"\n[upstreams.central.broker]\nhost = "central.example"\n'
SHARED = '[upstreams.central]\nkind = "mqtt"\n'
BROKER = '[broker]\nhost = "broker.example"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "appliance.toml"
    path.write_text(text)
    return path


def test_both_kinds_with_every_key(tmp_path: Path) -> None:
    text = (
        HTTPS
        + """verdicts = ["ng", "review"]
models = ["surface"]
events = ["alarm", "dead_letter", "recipe", "trigger"]
images = true
late_after_s = 60
backlog_per_s = 500
bytes_max = 1000000
age_days_max = 30
policy = "reject_new"
retry_s_max = 120
image_bytes_max = 100000
images_bytes_max = 1000000
images_bytes_per_s = 100000
token_file = "/run/secrets/token"
ca_file = "/etc/ca.pem"
cert_file = "/etc/box.pem"
key_file = "/etc/box.key"
timeout_s = 30
batch_rows = 100
batch_bytes = 100000
[upstreams.second]
kind = "mqtt"
verdicts = ["ng"]
[upstreams.second.broker]
host = "central.example"
port = 8883
tls = true
"""
    )
    named = load(write(tmp_path, text)).upstreams
    assert isinstance(named["central"], HttpsUpstream)
    assert isinstance(named["second"], MqttUpstream)
    assert (named["central"].timeout_s, named["central"].policy) == (30, "reject_new")
    assert named["second"].verdicts == ("ng",)


def test_site_broker_gets_results_unless_an_upstream_stands_for_it(tmp_path: Path) -> None:
    alone = destinations(load(write(tmp_path, BROKER)))
    assert list(alone) == [SITE]
    assert alone[SITE].events == ()
    assert list(destinations(load(write(tmp_path, SHARED + BROKER)))) == ["central"]
    assert list(destinations(load(write(tmp_path, MQTT + BROKER)))) == ["central", SITE]
    assert destinations(load(write(tmp_path, ""))) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[upstreams.central]\nurl = 'https://c/in'", "missing required field `kind`"),
        ("[upstreams.central]\nkind = 'amqp'", "Invalid value 'amqp'"),
        ("[upstreams.central]\nkind = 'https'", "missing required field `url`"),
        ("[upstreams.'hall 4']\nkind = 'mqtt'", "$.upstreams"),
        (SHARED, "upstream central has no broker, and there is no [broker] to share; add one of them"),
        (
            f"{SHARED}[upstreams.second]\nkind = 'mqtt'\n{BROKER}",
            "upstreams central and second share the site broker; give all but one a broker of its own",
        ),
        (SHARED + "url = 'https://c/in'", "unknown field `url`"),
        (MQTT + "prot = 1", "unknown field `prot` - at `$.upstreams[...].broker`"),
        (HTTPS + "port = 1", "unknown field `port` - at `$.upstreams[...]`"),
        (HTTPS.replace("https://central", "http://central"), "would send results and token in the clear; use https"),
        (HTTPS.replace("https://", "https://user:secret@"), "$.upstreams[...].url"),
        (HTTPS.replace("https://", "ftp://"), "$.upstreams[...].url"),
        (HTTPS.replace("https://central.example/in", ""), "$.upstreams[...].url"),
        (HTTPS + "key_file = 'box.key'", "key_file without cert_file; give both"),
        (HTTPS + "verdicts = ['good']", "Invalid enum value 'good'"),
        (HTTPS + "models = ['Surface']", "$.upstreams[...].models[0]"),
        (HTTPS + "events = ['alarms']", "Invalid enum value 'alarms'"),
        (HTTPS + "policy = 'drop_newest'", "Invalid enum value 'drop_newest'"),
        (HTTPS + "images = 'findings'", "$.upstreams[...].images"),
        *(
            (f"{HTTPS}{key} = {value}", f"$.upstreams[...].{key}")
            for key, value in (
                ("late_after_s", 0),
                ("late_after_s", 100_000),
                ("late_after_s", "nan"),
                ("backlog_per_s", 0),
                ("backlog_per_s", 1_000_000),
                ("bytes_max", 1000),
                ("age_days_max", 0),
                ("age_days_max", 5000),
                ("retry_s_max", 0),
                ("retry_s_max", 7200),
                ("image_bytes_max", 10),
                ("image_bytes_max", 1 << 30),
                ("images_bytes_max", 1000),
                ("images_bytes_per_s", 1),
                ("timeout_s", 0),
                ("timeout_s", 301),
                ("batch_rows", 0),
                ("batch_rows", 100_000),
                ("batch_bytes", 10),
                ("batch_bytes", 1 << 30),
            )
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_file_key_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_plain_http_is_for_this_machine_only(tmp_path: Path) -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        text = HTTPS.replace("https://central.example", f"http://{host}")
        assert load(write(tmp_path, text)).upstreams["central"].url == f"http://{host}/in"  # type: ignore[union-attr]
