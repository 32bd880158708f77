"""MQTT: readings from the first publish until the last row is committed, over the listener and over a broker."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.config import shipped_models_dir
from benchmarks.contenders import Server, appliance
from benchmarks.processes import free_ports, until_listening
from benchmarks.ratios import Measured

MESSAGES = 60_000
MESSAGE_BYTES = 200
_WINDOW = 1000
_COMMITTED_S = 120


def listener(scratch: Path) -> Measured:
    """Messages per second into the built-in listener."""
    with _box(scratch, None) as (_, mqtt_port, database):
        return {"per_s": _stream(mqtt_port, database)}


def broker(scratch: Path) -> Measured:
    """Messages per second through Mosquitto and the connection to it."""
    with _mosquitto(scratch) as port, _box(scratch, port) as (server, _, database):
        _wait(server.port, "/v1/status", lambda content: json.loads(content)["mqtt"]["broker"]["state"] == "connected")
        return {"per_s": _stream(port, database)}


@contextlib.contextmanager
def _box(scratch: Path, broker_port: int | None) -> Iterator[tuple[Server, int, Path]]:
    name = "stream" if broker_port is None else "stream-broker"
    shutil.rmtree(scratch / name, ignore_errors=True)
    server, mqtt_port, data = appliance(name, [shipped_models_dir() / "bearing"], scratch, broker=broker_port)
    try:
        _wait(server.port, "/v2/health/ready", lambda content: True)
        yield server, mqtt_port, data / "results.db"
    finally:
        server.process.end()


@contextlib.contextmanager
def _mosquitto(scratch: Path) -> Iterator[int]:
    """A broker as a site has it, with room for the stream."""
    (port,) = free_ports(1)
    config = scratch / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\n"
        "max_queued_messages 0\nset_tcp_nodelay true\nlog_type none\nuser root\n"
    )
    process = subprocess.Popen([shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(config)])
    try:
        until_listening(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _stream(port: int, database: Path) -> float:
    before = _rows(database)
    began = time.monotonic()
    arguments = ["127.0.0.1", str(port), "in/bearing/bench", str(MESSAGES), str(MESSAGE_BYTES), str(_WINDOW)]
    subprocess.run([sys.executable, "-m", "benchmarks.publisher", *arguments], check=True, capture_output=True)
    while _rows(database) - before < MESSAGES:
        if time.monotonic() > began + _COMMITTED_S:
            raise RuntimeError(f"{_rows(database) - before} of {MESSAGES} messages were committed")
        time.sleep(0.01)
    return MESSAGES / (time.monotonic() - began)


def _rows(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT coalesce(max(id), 0) FROM readings").fetchone()[0])


def _wait(port: int, path: str, satisfied: Callable[[bytes], bool], seconds: float = 60.0) -> None:
    """Until `path` answers 200 with a content that satisfies."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status == 200 and satisfied(response.read()):
                return
        time.sleep(0.05)
    raise RuntimeError(f"{path} is not as it should be after {seconds:g} s")
