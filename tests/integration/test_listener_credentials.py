"""The listener's users and certificates while it runs, and what knocks at its door before TLS."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mqtt5
import pytest

from appliance.config import ListenerConfig
from appliance.mqtt.access import user_line
from appliance.mqtt.credentials import CredentialFiles
from tests.support.certificates import Authority
from tests.support.listener import BOTH, Box, Raw, wait_until

PLC = user_line("plc", "secret")
HMI = user_line("hmi", "other")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def write(path: Path, *lines: str) -> None:
    """As an editor does it: a new file in the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines))
    os.replace(new, path)


def answer(box: Box, name: str, password: bytes, version: int = 5) -> int:
    client = Raw(box.port, version)
    code = int(client.connect(f"as-{name}", username=name, password=password).reason_code)
    client.drop()
    return code


def shake_hands(box: Box, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", box.port), timeout=10)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")
    except OSError:
        plain.close()
        raise


def shown_to(box: Box, context: ssl.SSLContext) -> str:
    with shake_hands(box, context) as client:
        certificate = client.getpeercert() or {}
    return str(certificate["subject"])


# -- users and certificates while it runs


@BOTH
def test_changed_users_are_those_who_are_let_in_next(
    make_box: Callable[..., Box], tmp_path: Path, version: int
) -> None:
    users = tmp_path / "users"
    write(users, PLC)
    box = make_box(users_file=str(users))
    assert answer(box, "hmi", b"other", version) == 0x86
    write(users, PLC, HMI)
    wait_until(lambda: answer(box, "hmi", b"other", version) == 0)
    assert answer(box, "plc", b"secret", version) == 0


def command(*arguments: str, given: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "appliance", "keys", "listener-user", *arguments]
    return subprocess.run(line, input=given, capture_output=True, text=True, timeout=30, check=False)


def test_line_of_the_keys_command_lets_mosquitto_pub_in(make_box: Callable[..., Box], tmp_path: Path) -> None:
    users = tmp_path / "users"
    write(users, PLC)
    box = make_box(users_file=str(users))
    made = command("line-4", "--password-stdin", given="pass word\n")
    assert (made.returncode, made.stderr) == (0, "")
    assert "pass word" not in made.stdout
    write(users, PLC, made.stdout.strip())

    def publish(password: str) -> int:
        line = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "-u", "line-4", "-P", password]
        return subprocess.run([*line, "-q", "1", "-t", "a", "-m", "x"], capture_output=True, timeout=10).returncode

    wait_until(lambda: publish("pass word") == 0)
    assert box.next()[0].payload == b"x"
    assert publish("password") != 0


@pytest.mark.parametrize(("name", "password"), [("a:b", "x"), ("#a", "x"), ("", "x"), ("plc", ""), ("plc", "x" * 1025)])
def test_keys_command_refuses_what_cannot_be_used(name: str, password: str) -> None:
    refused = command("--password-stdin", "--", name, given=f"{password}\n")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.strip().splitlines()) == 1


def test_who_is_taken_from_the_file_is_disconnected_and_nobody_else(
    make_box: Callable[..., Box], tmp_path: Path
) -> None:
    users = tmp_path / "users"
    write(users, PLC, HMI, user_line("robot", "old"))
    box = make_box(users_file=str(users))
    plc = box.raw(client_id="a", username="plc", password=b"secret")
    hmi = box.raw(client_id="b", username="hmi", password=b"other")
    robot = box.raw(client_id="c", username="robot", password=b"old")
    write(users, PLC, user_line("robot", "new"))
    hmi.expect_end(0x87)
    robot.expect_end(0x87)
    plc.in_step()
    assert answer(box, "robot", b"old") == 0x86
    assert answer(box, "robot", b"new") == 0


@pytest.mark.parametrize("bad", ["plc:secret", None])
def test_a_bad_new_file_of_users_keeps_the_old_one_and_says_so(
    make_box: Callable[..., Box], tmp_path: Path, bad: str | None
) -> None:
    users = tmp_path / "users"
    write(users, PLC)
    box = make_box(users_file=str(users))
    client = box.raw(username="plc", password=b"secret")
    if bad is None:
        users.unlink()
    else:
        write(users, HMI, bad)
    wait_until(lambda: box.listener.files_fault is not None)
    assert str(users) in (box.listener.files_fault or "")
    assert answer(box, "plc", b"secret") == 0
    assert answer(box, "hmi", b"other") == 0x86
    client.in_step()
    write(users, HMI)
    client.expect_end(0x87)
    assert box.listener.files_fault is None
    assert answer(box, "hmi", b"other") == 0


def test_a_renewed_certificate_is_shown_to_those_who_come_next(
    make_box: Callable[..., Box], tmp_path: Path, authority: Authority
) -> None:
    certificate, key = tmp_path / "box.pem", tmp_path / "box.key"

    def install(name: str) -> None:
        for made, place in zip(authority.issue(name), (certificate, key), strict=True):
            write(place, made.read_text())

    install("first")
    box = make_box(cert_file=str(certificate), key_file=str(key))
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    assert "first" in shown_to(box, context)
    write(certificate, "no PEM")
    wait_until(lambda: box.listener.files_fault is not None)
    assert "cert_file" in (box.listener.files_fault or "")
    assert "first" in shown_to(box, context)
    install("second")
    wait_until(lambda: "second" in shown_to(box, context))
    assert box.listener.files_fault is None


def test_a_file_is_read_again_when_it_has_come_to_rest(tmp_path: Path) -> None:
    users = tmp_path / "users"
    write(users, PLC)
    files = CredentialFiles(ListenerConfig(users_file=str(users)))
    looks = [files.changed()]
    write(users, PLC, HMI)
    looks.append(files.changed())
    write(users, PLC, HMI, "")
    looks += [files.changed() for _ in range(3)]
    assert looks == [False, False, False, True, False]


# -- before TLS


def test_connections_that_come_too_fast_are_hung_up_on_before_the_handshake(
    make_box: Callable[..., Box], authority: Authority
) -> None:
    certificate, key = authority.issue("server")
    box = make_box(
        clients_max=1,
        connections_per_s_max=0.001,
        connections_per_s_per_address_max=0.001,
        cert_file=str(certificate),
        key_file=str(key),
    )
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    early = shake_hands(box, context)
    for _ in range(101):
        shake_hands(box, context).close()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", box.port), timeout=10) as late:
            # A handshake begins with the client: what closes before a word of it has cost none.
            assert late.recv(1) == b""
    assert box.listener.stats().refused == 3
    early.sendall(mqtt5.ConnectPacket("early", clean_start=True).write())
    assert early.recv(1000)[:1] == b"\x20"
    early.close()


def test_handshakes_that_never_end_are_bounded_and_do_not_stop_the_listener(
    make_box: Callable[..., Box], authority: Authority
) -> None:
    certificate, key = authority.issue("server")
    box = make_box(clients_max=1, cert_file=str(certificate), key_file=str(key))
    silent = [socket.create_connection(("127.0.0.1", box.port), timeout=10) for _ in range(80)]
    wait_until(lambda: box.listener.stats().refused == 80 - 65)
    for each in silent:
        each.close()
    context = ssl.create_default_context(cafile=str(authority.ca_file))

    def let_in() -> bool:
        try:
            shake_hands(box, context).close()
        except OSError:
            return False
        return True

    wait_until(let_in)
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "--cafile", str(authority.ca_file)]
    subprocess.run([*command, "-q", "1", "-t", "a", "-m", "x"], check=True, timeout=10)
    assert box.next()[0].payload == b"x"
