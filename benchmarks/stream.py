"""MQTT: readings and pictures, from the publisher until they are committed, over the listener and over a broker."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from appliance.config import shipped_models_dir
from benchmarks import inputs, load
from benchmarks.contenders import Server, appliance
from benchmarks.inputs import Expected, Message
from benchmarks.paced import paced_p99_ms
from benchmarks.processes import free_ports, until_listening
from benchmarks.ratios import Measured

MESSAGES = 200_000
MESSAGE_BYTES = 200
OFFERED_PER_S = 20_000
RESULTS_PER_S = 1000
TRIGGERS_PER_S = 10
TRIGGERS_BESIDE_PER_S = 5000
TRIGGERS_S = 40
SECONDS = 8
PICTURES = 600
_PICTURES_OPEN = 32
_CALLERS = 8
_COMMITTED_S = 120.0
BEARING = shipped_models_dir() / "bearing"
_SURFACE = shipped_models_dir() / "surface"


def listener(scratch: Path) -> Measured:
    """Readings per second into the built-in listener, with an access list and the publisher's keys."""
    with running("stream", [BEARING], scratch) as box:
        return box.stream("in/keyed/bench")


def broker(scratch: Path) -> Measured:
    """Readings per second through Mosquitto and the connection to it."""
    with _mosquitto(scratch) as port, running("stream-broker", [BEARING], scratch, port) as box:
        _wait(box.server.port, "/v1/status", lambda content: _broker_state(content) == "connected")
        return box.stream("in/bearing/bench", port)


def acknowledgements(scratch: Path) -> Measured:
    """p50_ms, p99_ms: from when a reading was due to its PUBACK, at OFFERED_PER_S."""
    with running("stream-acks", [BEARING], scratch) as box:
        return box.publish("in/keyed/bench", "--rows", "1", "--rate", str(OFFERED_PER_S), "--seconds", str(SECONDS))


def windows(scratch: Path, tiny: Path, message: Message) -> Measured:
    """Small HTTP requests alone, and beside OFFERED_PER_S readings of one sample that become windows of `bearing`.

    over: the second p99 against what it may be: three times the first, or 2 ms, the larger. per_s: readings committed.
    """
    with running("stream-windows", [BEARING, tiny], scratch) as box:
        server = box.server
        server.until_right(message)
        idle = load.measure(server.process, server.port, message, 1, SECONDS, None)
        publisher = box.publishing(
            "in/bearing/bench", "--rows", "1", "--rate", str(OFFERED_PER_S), "--seconds", str(SECONDS + 2)
        )
        time.sleep(1)
        beside = load.measure(server.process, server.port, message, 1, SECONDS, None)
        found = told(publisher)
        return {
            "idle_p99_ms": idle["p99_ms"],
            "beside_p99_ms": beside["p99_ms"],
            "over": beside["p99_ms"] / max(3 * idle["p99_ms"], 2.0),
            "per_s": found["messages"] / found["seconds"],
        }


def frames(scratch: Path, picture: Path, message: Message) -> Measured:
    """Pictures per second over MQTT, committed, and over HTTP: share is the one against the other."""
    with running("stream-frames", [_SURFACE], scratch) as box:
        server = box.server
        server.until_right(message)
        http_per_s = load.measure(server.process, server.port, message, _CALLERS, SECONDS, None)["per_s"]
        before = box.rows("results")
        began = time.monotonic()
        options = ("--file", str(picture), "--messages", str(PICTURES), "--window", str(_PICTURES_OPEN))
        box.publish("in/surface/bench", *options)
        box.until("results", before + PICTURES)
        per_s = PICTURES / (time.monotonic() - began)
        return {"per_s": per_s, "http_per_s": http_per_s, "share": per_s / http_per_s}


def triggers(scratch: Path, picture: Path) -> Measured:
    """p99_ms: from a trigger over HTTP to its answer, TRIGGERS_PER_S of them, the frame at hand, `surface` judging it,
    beside TRIGGERS_BESIDE_PER_S readings."""
    more = (
        '\n[cameras.belt]\nkind = "mqtt"\ntopic = "in/belt"\n'
        '\n[[triggers]]\nname = "end"\nmodel = "surface"\ncameras = ["belt"]\nframe_age_ms_max = 60000\n'
    )
    with running("stream-triggers", [_SURFACE, BEARING], scratch, more=more) as box:
        box.publish("in/belt", "--file", str(picture), "--messages", "1")
        publisher = box.publishing(
            "in/bearing/bench", "--rows", "1", "--rate", str(TRIGGERS_BESIDE_PER_S), "--seconds", str(TRIGGERS_S + 2)
        )
        time.sleep(1)
        body = scratch / "trigger.json"
        body.write_text(json.dumps({"part": "P-1"}))
        message = Message("/v1/triggers/end", body, inputs.JSON, inputs.judged, Expected(np.empty(0, np.float32)))
        p99_ms = paced_p99_ms(box.server.port, message, TRIGGERS_PER_S, TRIGGERS_S, lambda: time.sleep(0.1))
        found = told(publisher)
        return {"p99_ms": p99_ms, "per_s": found["messages"] / found["seconds"]}


def written(scratch: Path, tiny: Path) -> Measured:
    """Bytes that go to the disk for a result, at RESULTS_PER_S (proc(5): write_bytes)."""
    body = scratch / "tiny-mqtt.json"
    body.write_text(json.dumps({"inputs": {"features": [[0.2, -1.3, 0.7, 2.1]]}}))
    with running("stream-written", [tiny], scratch) as box:
        before, rows = _write_bytes(box.server.process.pid), box.rows("results")
        options = ("--file", str(body), "--rate", str(RESULTS_PER_S), "--seconds", str(SECONDS))
        published = int(box.publish("in/tiny/bench", *options)["messages"])
        box.until("results", rows + published)
        return {"bytes": (_write_bytes(box.server.process.pid) - before) / published}


class Box:
    """An appliance of its own, and publishers for it."""

    def __init__(self, server: Server, mqtt_port: int, database: Path) -> None:
        self.server = server
        self._mqtt_port = mqtt_port
        self._database = database

    def stream(self, topic: str, port: int | None = None) -> Measured:
        """MESSAGES readings as fast as they are taken, from the first to the last one that is committed."""
        before = self.rows("readings")
        cpu = self.server.process.cpu_s()
        publisher = self.publishing(topic, "--rows", "1", "--messages", str(MESSAGES), port=port)
        self.until("readings", before + 1)
        began = time.monotonic()
        self.until("readings", before + MESSAGES)
        per_s = MESSAGES / (time.monotonic() - began)
        told(publisher)
        return {"per_s": per_s, "cpu_us": (self.server.process.cpu_s() - cpu) / MESSAGES * 1e6}

    def publish(self, topic: str, *options: str, port: int | None = None) -> Measured:
        return told(self.publishing(topic, *options, port=port))

    def publishing(self, topic: str, *options: str, port: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks.publisher", "127.0.0.1", str(port or self._mqtt_port), topic]
        return subprocess.Popen(
            [*command, "--bytes", str(MESSAGE_BYTES), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self, table: str) -> int:
        """How many rows the table has had."""
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as connection:
            if table == "results":
                return int(connection.execute("SELECT coalesce(sum(count), 0) FROM sources").fetchone()[0])
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM readings").fetchone()[0])

    def kept(self, table: str) -> int:
        """How many rows are there now."""
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def database_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._database.parent.glob(f"{self._database.name}*"))

    def until(self, table: str, count: int) -> None:
        deadline = time.monotonic() + _COMMITTED_S
        while (there := self.rows(table)) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{table}: {there} of {count} were committed")
            time.sleep(0.01)


@contextlib.contextmanager
def running(
    name: str, models: Iterable[Path], scratch: Path, broker_port: int | None = None, more: str = ""
) -> Iterator[Box]:
    """more: further lines of its configuration, whose last table is `[store]`."""
    shutil.rmtree(scratch / name, ignore_errors=True)
    server, mqtt_port, data = appliance(name, models, scratch, broker=broker_port, more=more)
    try:
        _wait(server.port, "/v2/health/ready", lambda content: True)
        yield Box(server, mqtt_port, data / "results.db")
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


def told(publisher: subprocess.Popen[str]) -> Measured:
    """What a publisher found. Raises RuntimeError when it failed."""
    output, errors = publisher.communicate(timeout=600)
    if publisher.returncode:
        raise RuntimeError(f"the publisher failed: {errors.strip()[-500:]}")
    found: Measured = json.loads(output)
    return found


def _broker_state(content: bytes) -> object:
    return json.loads(content)["mqtt"]["broker"]["state"]


def _write_bytes(pid: int) -> int:
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["write_bytes"])


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
