"""Telling systemd, over a real datagram socket, that the box is alive, or not telling."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.watchdog import STALE_S, Watchdog, notify, stale


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The receiving end of NOTIFY_SOCKET."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listening


def lost(reason: str) -> None:
    raise AssertionError(reason)


def test_state_is_sent_as_it_is(systemd: socket.socket) -> None:
    notify("READY=1")
    assert systemd.recv(100) == b"READY=1"


def test_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0appliance-test-notify")
        listening.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", "@appliance-test-notify")
        notify("STOPPING=1")
        assert listening.recv(100) == b"STOPPING=1"


def test_without_systemd_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


def test_watchdog_pings_while_everything_beats(systemd: socket.socket) -> None:
    watchdog = Watchdog({"loop": time.monotonic, "idle": lambda: None}, [], lost)
    watchdog.start()
    assert systemd.recv(100) == b"WATCHDOG=1"
    watchdog.stop()


def test_watchdog_is_silent_while_something_does_not_beat(systemd: socket.socket) -> None:
    beat = [time.monotonic() - STALE_S - 1]
    ticked = threading.Event()
    ticks = 0

    def tick(_now: float) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            ticked.set()

    watchdog = Watchdog({"loop": lambda: beat[0]}, [tick], lost)
    watchdog.start()
    assert ticked.wait(30)
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)
    systemd.settimeout(30)
    beat[0] = time.monotonic() + 1000
    assert systemd.recv(100) == b"WATCHDOG=1"
    watchdog.stop()


def test_tick_that_fails_does_not_stop_the_others(systemd: socket.socket) -> None:
    ticked = threading.Event()

    def fail(_now: float) -> None:
        raise ZeroDivisionError

    watchdog = Watchdog({}, [fail, lambda _: ticked.set()], lost)
    watchdog.start()
    assert ticked.wait(30)
    assert systemd.recv(100) == b"WATCHDOG=1"
    watchdog.stop()


def test_stale_names_the_parts_that_are_late() -> None:
    beats = {"loop": lambda: 100.0, "store": lambda: 100.0 - STALE_S - 1, "idle": lambda: None}
    assert stale(beats, 100.0) == ["store"]


def test_watchdog_that_never_started_can_be_stopped() -> None:
    Watchdog({}, [], lost).stop()
