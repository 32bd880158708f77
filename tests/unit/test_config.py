"""`appliance.toml`: what it may say, and how what it may not say is worded."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import load, valid_filter
from appliance.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "appliance.toml"
    path.write_text(text)
    return path


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    config = load(write(tmp_path, ""))
    assert (config.http.host, config.http.port) == ("127.0.0.1", 8080)
    assert (config.listener.enabled, config.listener.port) == (True, 1883)
    assert config.broker is None


def test_options_overrule_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'data_dir = "a"\nmodels_dir = "m"\n[http]\nport = 1\nhost = "::1"\nbody_bytes_max = 4096\n')
    config = load(path, data_dir="b", models_dir="n", host="127.0.0.1", port=2)
    assert (config.data_dir, config.models_dir, config.http.host, config.http.port) == ("b", "n", "127.0.0.1", 2)
    assert config.http.body_bytes_max == 4096


def test_without_a_file_the_device_is_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Halle 4, Linie 2")
    assert load().device == "Halle-4-Linie-2"


def test_systemd_says_where_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/appliance")
    assert load().data_dir == "/var/lib/appliance"
    assert load(write(tmp_path, 'data_dir = "mine"')).data_dir == "mine"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prot = 1", "unknown field `prot`"),
        ("[http]\nprot = 8080", "unknown field `prot` - at `$.http`"),
        ('[http]\nport = "8080"', "$.http.port"),
        ("[http]\nport = 70000", "$.http.port"),
        ("[http]\nport = -1", "$.http.port"),
        ("[http]\nbody_bytes_max = 0", "$.http.body_bytes_max"),
        ("[lanes]\ntimeout_s = 0", "$.lanes.timeout_s"),
        ("[lanes]\ntimeout_s = nan", "$.lanes.timeout_s"),
        ("[lanes]\nlanes = 1000", "$.lanes.lanes"),
        ("[store]\nresults_days = -1", "$.store.results_days"),
        ("[store]\nimages_days = nan", "$.store.images_days"),
        ("[store]\nlinger_ms = 5000", "$.store.linger_ms"),
        ('log_level = "loud"', "$.log_level"),
        ('device = "line 4"', "$.device"),
        ("[broker]\nport = 1883", "missing required field `host` - at `$.broker`"),
        ("[models.surface]\nvariants = 'x'", "unknown field `variants`"),
        ("[models.Surface]\nvariant = 'x'", "$.models"),
        ("[recipes.strict.surface]\nscore_ng_mn = 0.5", "unknown field `score_ng_mn`"),
        ("[recipes.strict.surface]\nclass_score_min = 2", "class_score_min"),
        ("[recipes.strict.surface]\nclasses = {good = 'fine'}", "$.recipes"),
        ('[[routes]]\nname = "a"\ntopic = "x"', "missing required field `model` - at `$.routes[0]`"),
        ('[[routes]]\nname = "a"\ntopic = "x/#/y"\nmodel = "m"', "topic 'x/#/y' is not an MQTT topic filter"),
        ('[[routes]]\nname = "a"\ntopic = ""\nmodel = "m"', "topic ''"),
        ('[[routes]]\nname = "a"\ntopic = "x"\nmodel = "m"\nhop = 0', "$.routes[0].hop"),
        (
            '[[routes]]\nname = "a"\ntopic = "x"\nmodel = "m"\nkey_field = "k"\nkey_property = "k"',
            "key_field or key_property, not both",
        ),
        (
            '[[routes]]\nname = "a"\ntopic = "x"\nmodel = "m"\n[[routes]]\nname = "a"\ntopic = "y"\nmodel = "m"',
            "two entries of `routes` have the name 'a'",
        ),
        ("this is not toml", "line 1"),
        ("[http\nport = 1", "line 1"),
    ],
)
def test_wrong_configuration_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert reason in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"appliance\.toml: "):
        load(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("topic", ["a", "a/b", "+", "#", "a/+/b", "a/#", "/", "a//b", "$SYS/#"])
def test_topic_filters_that_mqtt_knows(topic: str) -> None:
    assert valid_filter(topic)


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+", "+a/b", "a/b#", "#/a", "a\0b", "x" * 65_536])
def test_topic_filters_that_mqtt_does_not_know(topic: str) -> None:
    assert not valid_filter(topic)
