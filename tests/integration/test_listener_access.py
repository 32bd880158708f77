"""Who may connect to the listener and what they may do: users, TLS, client certificates, the access list."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from mqtt5 import PubAckPacket

from appliance.app import Box as Appliance
from appliance.config import AccessConfig, Config, ListenerConfig
from appliance.errors import AddressRefused, ConfigError
from appliance.mqtt.access import user_line
from appliance.mqtt.listener import Listener
from tests.support.certificates import Authority
from tests.support.listener import BOTH, Box, Raw, wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> dict[str, str]:
    certificate, key = authority.issue("server")
    return {"cert_file": str(certificate), "key_file": str(key)}


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("users") / "users"
    path.write_text(f"# site users\n\n{user_line('plc', 'secret')}\n{user_line('hmi', 'other')}\n")
    return str(path)


# -- users


@BOTH
def test_who_logs_in_rightly_is_let_in(make_box: Callable[..., Box], users_file: str, version: int) -> None:
    box = make_box(users_file=users_file)
    for _ in range(2):
        client = box.raw(version, "one", username="plc", password=b"secret")
        assert int(client.connack.reason_code) == 0
        client.publish("a", packet_id=1)
        client.expect(PubAckPacket)


@BOTH
@pytest.mark.parametrize(("name", "password"), [("plc", b"other"), ("plc", None), ("nobody", b"secret"), ("", b"")])
def test_who_logs_in_wrongly_is_told_so(
    make_box: Callable[..., Box], users_file: str, version: int, name: str, password: bytes | None
) -> None:
    client = Raw(make_box(users_file=users_file).port, version)
    assert int(client.connect(username=name, password=password).reason_code) == 0x86
    assert client.packet() is None


@BOTH
def test_who_does_not_log_in_is_not_authorised(make_box: Callable[..., Box], users_file: str, version: int) -> None:
    client = Raw(make_box(users_file=users_file).port, version)
    assert int(client.connect().reason_code) == 0x87
    assert client.packet() is None


def test_what_follows_connect_at_once_waits_for_the_password(make_box: Callable[..., Box], users_file: str) -> None:
    box = make_box(users_file=users_file)
    client = Raw(box.port)
    connect = mqtt5.ConnectPacket("one", username="plc", password=b"secret", clean_start=True).write()
    client.send(connect + mqtt5.PublishPacket("a", b"x", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1).write())
    client.expect(mqtt5.ConnAckPacket)
    client.expect(PubAckPacket)


def test_a_session_belongs_to_its_user(make_box: Callable[..., Box], users_file: str) -> None:
    box = make_box(users_file=users_file)
    box.raw(client_id="one", username="plc", password=b"secret", session_expiry_interval=100)
    other = Raw(box.port)
    assert int(other.connect("one", username="hmi", password=b"other").reason_code) == 0x87


@pytest.mark.parametrize("line", ["plc", "plc:secret", "plc:scrypt:3:8:1:AAAAAAAAAAAAAAAA:AAAA", ":scrypt:1:1:1:a:b"])
def test_a_broken_line_of_users_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"{user_line('hmi', 'x')}\n{line}\n")
    with pytest.raises(ConfigError, match="line 2: expected name:scrypt") as error:
        Listener(ListenerConfig(users_file=str(path)), lambda *_: None, on_fault=lambda _: None)
    assert "\n" not in str(error.value)


def test_a_missing_file_of_users_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="users_file"):
        Listener(ListenerConfig(users_file=str(tmp_path / "none")), lambda *_: None, on_fault=lambda _: None)


# -- the access list

ACCESS = (
    AccessConfig(publish=("in/%c/#",), subscribe=("out/%c/#", "public/#")),
    AccessConfig(user="hmi", publish=("hmi/%u",), subscribe=("#",)),
    AccessConfig(client="robot", publish=("robot",)),
)


@BOTH
def test_clients_publish_only_where_they_may(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(access=ACCESS)
    robot, plc = box.raw(version, "robot"), box.raw(version, "plc")
    for client, topic, allowed in (
        (robot, "robot", True),
        (robot, "in/robot/x", True),
        (robot, "in/plc/x", False),
        (plc, "in/plc/x", True),
        (plc, "robot", False),
        (plc, "hmi/None", False),
    ):
        client.publish(topic, packet_id=1)
        answer = client.expect(PubAckPacket)
        assert int(answer.reason_code) == (0 if allowed or version == 4 else 0x87), topic
        if allowed:
            assert box.next()[0].topic == topic
    assert box.inbound.empty()


@BOTH
def test_clients_subscribe_only_where_they_may(make_box: Callable[..., Box], version: int) -> None:
    client = make_box(access=ACCESS).raw(version, "plc")
    no = 0x87 if version == 5 else 0x80
    filters = ("out/plc/x", "out/plc/#", "public/+", "$share/g/public/x", "out/+/x", "#", "$share/g/#")
    assert client.subscribe(*filters) == [1, 1, 1, 1, no, no, no]


def test_a_client_id_cannot_widen_what_is_allowed(make_box: Callable[..., Box]) -> None:
    box = make_box(access=ACCESS)
    for name in ("+", "#", "plc/x"):
        client = box.raw(client_id=name)
        assert client.subscribe("out/plc/x") == [0x87]
        assert client.subscribe("public/x") == [1]


def test_a_will_is_a_publish_too(make_box: Callable[..., Box]) -> None:
    client = Raw(make_box(access=ACCESS).port)
    assert int(client.connect("plc", will=mqtt5.Will("in/robot/x", payload=b"x")).reason_code) == 0x87


def test_a_saved_subscription_that_is_no_longer_allowed_is_dropped(make_box: Callable[..., Box]) -> None:
    before = make_box()
    lasting: dict[str, Any] = {"client_id": "plc", "session_expiry_interval": 100, "clean_start": False}
    before.raw(**lasting).subscribe("public/x", "secret/x")
    before.listener.stop()
    after = make_box(access=ACCESS, sessions=before.saved.values())
    assert after.listener.stats().subscriptions == 1


# -- TLS


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_clients_speak_tls(
    make_box: Callable[..., Box], server: dict[str, str], authority: Authority, users_file: str, version: str
) -> None:
    box = make_box(**server, users_file=users_file)
    common = ["-h", "127.0.0.1", "-p", str(box.port), "-V", version, "--cafile", str(authority.ca_file)]
    logged_in = [*common, "-u", "plc", "-P", "secret", "-q", "2", "-t", "$share/group/line/1"]
    with subprocess.Popen(
        ["mosquitto_sub", *logged_in, "-C", "3", "-W", "10"], stdout=subprocess.PIPE, text=True
    ) as subscriber:
        wait_until(lambda: box.listener.stats().subscriptions == 1)
        subprocess.run(
            ["mosquitto_pub", *logged_in[:-1], "line/1", "-l"], input="1\n2\n3\n", text=True, check=True, timeout=10
        )
        assert subscriber.communicate(timeout=10)[0] == "1\n2\n3\n"
    wrong = [*common, "-u", "plc", "-P", "wrong", "-t", "a", "-m", "x"]
    assert subprocess.run(["mosquitto_pub", *wrong], capture_output=True, timeout=10, check=False).returncode != 0


def test_a_certificate_is_a_user(make_box: Callable[..., Box], server: dict[str, str], authority: Authority) -> None:
    access = (AccessConfig(user="robot", publish=("robot/%u",)),)
    box = make_box(**server, client_ca_file=str(authority.ca_file), access=access)
    certificate, key = authority.issue("robot")
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "--cafile", str(authority.ca_file), "-V", "5"]
    message = ["-q", "1", "-t", "robot/robot", "-m", "x"]
    subprocess.run([*command, "--cert", str(certificate), "--key", str(key), *message], check=True, timeout=10)
    assert box.next()[0].topic == "robot/robot"
    stranger = subprocess.run([*command, *message], capture_output=True, timeout=10, check=False)
    assert stranger.returncode != 0
    assert box.inbound.empty()


def test_a_client_that_misbehaves_over_tls_is_told_the_reason(
    make_box: Callable[..., Box], server: dict[str, str], authority: Authority
) -> None:
    import ssl

    box = make_box(**server)
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    with socket.create_connection(("127.0.0.1", box.port), timeout=10) as plain:
        client = context.wrap_socket(plain, server_hostname="127.0.0.1")
        client.sendall(mqtt5.ConnectPacket("bad", clean_start=True).write() + b"\0\0")
        answer = b""
        while data := client.recv(1000):
            answer += data
        client.close()
    assert answer.endswith(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.MALFORMED_PACKET).write())


def test_who_speaks_plainly_to_tls_disturbs_nobody(
    make_box: Callable[..., Box], server: dict[str, str], authority: Authority
) -> None:
    box = make_box(**server)
    stranger = Raw(box.port)
    stranger.send(mqtt5.ConnectPacket("plain").write())
    assert not isinstance(stranger.packet(), mqtt5.ConnAckPacket)
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "--cafile", str(authority.ca_file)]
    subprocess.run([*command, "-q", "1", "-t", "a", "-m", "x"], check=True, timeout=10)


@pytest.mark.parametrize("broken", ["cert_file", "key_file", "client_ca_file"])
def test_a_file_of_tls_that_cannot_be_used_is_named(tmp_path: Path, server: dict[str, str], broken: str) -> None:
    (tmp_path / "broken").write_text("no PEM")
    config = ListenerConfig(**{**server, broken: str(tmp_path / "broken")})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="broken") as error:
        Listener(config, lambda *_: None, on_fault=lambda _: None)
    assert "\n" not in str(error.value)


# -- other machines


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({}, "users_file"), ({"users_file": "users"}, "cert_file"), ({"plain": True}, "users_file")],
)
def test_other_machines_are_let_in_only_with_users_and_tls(
    tmp_path: Path, settings: dict[str, Any], missing: str
) -> None:
    config = Config(device="box", data_dir=str(tmp_path), listener=ListenerConfig(host="0.0.0.0", **settings))
    with pytest.raises(AddressRefused, match=missing) as error:
        Appliance(config)
    assert "\n" not in str(error.value)
