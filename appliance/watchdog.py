"""Heartbeats, and telling systemd that the box is alive only while they all beat.

Wire format: `sd_notify(3)`, datagrams of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger("watchdog")

TICK_S = 0.2
STALE_S = 20.0

Beat = Callable[[], float | None]
"""Monotonic time at which something last showed that it is alive; None while it need not be."""


def notify(state: str) -> None:
    """Tell systemd, e.g. `READY=1`; does nothing when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError as error:
            log.warning("notify_failed", error=str(error))


def stale(beats: Mapping[str, Beat], now: float) -> list[str]:
    """Names of the parts that have not beaten for STALE_S seconds."""
    return [name for name, beat in beats.items() if (at := beat()) is not None and now - at > STALE_S]


class Watchdog:
    """A thread that calls `ticks` five times a second and pings systemd while every beat is fresh."""

    def __init__(
        self, beats: Mapping[str, Beat], ticks: list[Callable[[float], None]], on_loop_lost: Callable[[str], None]
    ) -> None:
        self._beats = beats
        self._ticks = ticks
        self._on_loop_lost = on_loop_lost
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        next_ping = 0.0
        silent: list[str] = []
        while not self._stopping.wait(TICK_S):
            now = time.monotonic()
            for tick in self._ticks:
                try:
                    tick(now)
                except Exception:
                    log.exception("tick_failed")
            if now < next_ping:
                continue
            next_ping = now + 2.0
            found = stale(self._beats, now)
            if found and found != silent:
                log.error("no_heartbeat", parts=found)
            if "loop" in found and "loop" in silent:
                # Where nobody else watches, a box whose HTTP loop is gone would stay silent for ever.
                self._on_loop_lost("the HTTP loop does not beat")
            silent = found
            if not found:
                notify("WATCHDOG=1")
