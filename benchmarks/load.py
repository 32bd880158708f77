"""The load generator: wrk with one thread, the same for every server, its own CPU time counted in by the machine."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from pathlib import Path

from benchmarks.inputs import Message
from benchmarks.processes import Process, pinned
from benchmarks.ratios import Measured

_SCRIPT = Path(__file__).resolve().with_name("request.lua")
_CHECKED = 3
_ANSWER_S = 10


def check(port: int, message: Message) -> None:
    """Send a few and look at the answers, which also wakes a server that was paused. Raises ValueError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        for _ in range(_CHECKED):
            message.send(connection)
    finally:
        connection.close()


def measure(server: Process, port: int, message: Message, callers: int, seconds: int, cores: str | None) -> Measured:
    """Callers that each wait for their answer. Raises ValueError for a wrong answer, RuntimeError for a failed one."""
    check(port, message)
    environment = {
        "BODY": str(message.body),
        "HEADERS": "\n".join(f"{name}: {value}" for name, value in message.headers.items()),
    }
    generator = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", f"--timeout={_ANSWER_S}s", "-s", str(_SCRIPT)]
    cpu = server.cpu_s()
    done = subprocess.run(
        [*pinned(cores), *generator, f"http://127.0.0.1:{port}{message.path}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    cpu = server.cpu_s() - cpu
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise RuntimeError(f"{message.path} with {callers} callers: {found} (log: {server.log})")
    return {
        "per_s": found["requests"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "cpu_ms": cpu / found["requests"] * 1000,
        "requests": found["requests"],
    }
