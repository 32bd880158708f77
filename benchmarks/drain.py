"""A backlog on its way to central, while live results flow.

    python -m benchmarks.drain [--rows 1000000] [--backlog-per-s 100000] [--live-per-s 200]

Prints one line of JSON: rows_per_s of the backlog, p50_ratio and p99_ratio of live results from acceptance to central
against those without a backlog, and pss_mb_more, what the box took beside what it took before.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders import Server, appliance
from benchmarks.lineup import Networks
from benchmarks.networks import TINY_INPUT
from benchmarks.processes import Process
from benchmarks.publisher import steadily
from benchmarks.ratios import Measured
from benchmarks.run import SCRATCH

ROWS = 1_000_000
BACKLOG_PER_S = 100_000
LIVE_PER_S = 200
SECONDS = 8
_STEP = 50_000
_LOOK_S = 1.0
_READY_S = 60.0
_DRAINED_S = 3600.0
_QUEUE = "central"


def drain(scratch: Path, tiny: Path, rows: int, backlog_per_s: int, live_per_s: int) -> Measured:
    """tiny: the folder of the model that judges the live results. Raises RuntimeError when the backlog does not end."""
    body = scratch / "tiny-mqtt.json"
    body.write_text(json.dumps({"inputs": {"features": [list(map(float, TINY_INPUT))]}}))
    with _central(scratch) as port:
        more = (
            f'\n[upstreams.{_QUEUE}]\nkind = "https"\nurl = "http://127.0.0.1:{port}/in"\nbytes_max = {1 << 34}\n'
            f"backlog_per_s = {backlog_per_s}\nbatch_rows = 1000\n"
        )
        shutil.rmtree(scratch / "drain", ignore_errors=True)
        server, mqtt_port, data = appliance("drain", [tiny], scratch, more=more)
        try:
            _until_ready(server)
            with steadily(mqtt_port, "in/tiny/bench", body, live_per_s):
                time.sleep(2)
                _taken(port)
                time.sleep(SECONDS)
                before, pss_mb = _taken(port), server.process.pss_mb()
            server.process.end()
            _fill(data / "results.db", rows)
            server.process.start_again()
            _until_ready(server)
            with steadily(mqtt_port, "in/tiny/bench", body, live_per_s):
                return _watch(server, port, rows, before, pss_mb)
        finally:
            server.process.end()


def _watch(server: Server, port: int, rows: int, before: Measured, pss_mb: float) -> Measured:
    """Until the backlog is there; what came before the first look is no part of the rate."""
    began = time.monotonic()
    there = first = int(_taken(port)["late"])
    most_mb = pss_mb
    live: list[Measured] = []
    while there < rows:
        time.sleep(_LOOK_S)
        found = _taken(port)
        there += int(found["late"])
        if "p99_ms" in found:
            live.append(found)
        most_mb = max(most_mb, server.process.pss_mb())
        if time.monotonic() - began > _DRAINED_S:
            raise RuntimeError(f"{there} of {rows} rows came in {_DRAINED_S:g} s (log: {server.process.log})")
    seconds = time.monotonic() - began
    if not live:
        raise RuntimeError(f"{rows} rows were drained before a live result came; take more")
    count = sum(each["live"] for each in live)
    p50_ms = sum(each["p50_ms"] * each["live"] for each in live) / count
    p99_ms = sum(each["p99_ms"] * each["live"] for each in live) / count
    return {
        "rows": float(rows),
        "rows_per_s": (there - first) / seconds,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "idle_p50_ms": before["p50_ms"],
        "idle_p99_ms": before["p99_ms"],
        "p50_ratio": p50_ms / before["p50_ms"],
        "p99_ratio": p99_ms / before["p99_ms"],
        "pss_mb_more": most_mb - pss_mb,
    }


def _fill(database: Path, rows: int) -> None:
    """Rows as the box makes them, from a result that it has recorded."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        (body,) = connection.execute("SELECT body FROM results ORDER BY id DESC LIMIT 1").fetchone()
        row = (_QUEUE, "appliance/bench/results/tiny/bench", "application/json", body, len(body))
        insert = "INSERT INTO outbox (queue, topic, media, payload, size) VALUES (?, ?, ?, ?, ?)"
        for at in range(0, rows, _STEP):
            connection.execute("BEGIN")
            connection.executemany(insert, [row] * min(_STEP, rows - at))
            connection.execute("COMMIT")


def _taken(port: int) -> Measured:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READY_S)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        found: Measured = json.loads(connection.getresponse().read())
        return found


def _until_ready(server: Server) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_READY_S)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the box is not ready after {_READY_S:g} s (log: {server.process.log})")


@contextlib.contextmanager
def _central(scratch: Path) -> Iterator[int]:
    process = Process([sys.executable, "-m", "benchmarks.central"], scratch / "central.log", talks=True)
    try:
        assert process.popen.stdout is not None
        yield int(process.popen.stdout.readline())
    finally:
        process.end()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--backlog-per-s", type=int, default=BACKLOG_PER_S)
    parser.add_argument("--live-per-s", type=int, default=LIVE_PER_S)
    asked = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drain-", dir=SCRATCH) as folder:
        made = Networks(Path(folder))
        found = drain(made.scratch, made.folder("tiny"), asked.rows, asked.backlog_per_s, asked.live_per_s)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
