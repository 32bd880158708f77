"""`make bench`: every figure that the README names, in interleaved rounds, as a table and as JSON.

Each round measures everything once, bare model and box in turn, so that a drift of the machine meets both. A figure
is the median over the rounds; a ratio is the median of the rounds' ratios. Needs wrk and mosquitto (apt).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from provisioning.textures import frame

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS_EACH", "4"))
MESSAGES = int(os.environ.get("MESSAGES", "60000"))
MESSAGE_BYTES = 200
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

Figures = dict[str, float]


def main() -> None:
    rounds: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="appliance-bench-") as scratch:
        picture = Path(scratch) / "part.jpg"
        image, _ = frame(np.random.default_rng(1), "brick", "scratch", "test", (480, 640))
        cv2.imwrite(str(picture), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            rounds.append(one_round(picture, Path(scratch) / f"round-{number}"))
    report(rounds)


def one_round(picture: Path, folder: Path) -> Figures:
    figures: Figures = {}
    folder.mkdir()
    with box(folder / "http", picture) as running:
        figures |= {"start_s": running["start_s"], "pss_mib": _pss_mib(running["pid"])}
        for callers in (1, 8):
            bare = _json([sys.executable, "-m", "benchmarks.bare", str(picture), str(callers), str(SECONDS)])
            served = _wrk(running["url"], picture, callers)
            figures |= {f"bare_{callers}_{name}": value for name, value in bare.items()}
            figures |= {f"http_{callers}_{name}": value for name, value in served.items()}
    with box(folder / "listener", picture) as running:
        figures["listener_per_s"] = _stream(running["mqtt_port"], running["database"])
    with mosquitto(folder) as port, box(folder / "broker", picture, broker=port) as running:
        _until_connected(running["url"])
        figures["broker_per_s"] = _stream(port, running["database"])
    return figures


@contextlib.contextmanager
def box(data_dir: Path, picture: Path, broker: int | None = None) -> Iterator[dict[str, Any]]:
    """A box as a user runs it, from the start of its process to its first right answer."""
    data_dir.mkdir()
    http_port, mqtt_port = _free_ports(2)
    config = data_dir / "appliance.toml"
    config.write_text(
        f'device = "bench"\ndata_dir = "{data_dir}"\n[http]\nport = {http_port}\n[listener]\nport = {mqtt_port}\n'
        + (f'[broker]\nhost = "127.0.0.1"\nport = {broker}\n' if broker else "")
        + '[[routes]]\nname = "vibration"\ntopic = "in/bearing/+"\nmodel = "bearing"\n'
    )
    log = (data_dir / "log").open("wb")
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "serve", "--config", str(config)], stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{http_port}"
    try:
        start_s = _first_answer(url, picture.read_bytes(), began)
        _until_ready(url)
        yield {
            "url": url,
            "pid": process.pid,
            "start_s": start_s,
            "mqtt_port": mqtt_port,
            "database": data_dir / "results.db",
        }
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A broker as a site has it, with room for the stream."""
    (port,) = _free_ports(1)
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\n"
        "max_queued_messages 0\nset_tcp_nodelay true\nlog_type none\nuser root\n"
    )
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    process = subprocess.Popen([program, "-c", str(config)])
    try:
        _until_listening(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _stream(port: int, database: Path) -> float:
    """Messages per second from the first publish until the last row is committed."""
    before = _rows(database)
    began = time.monotonic()
    arguments = ["127.0.0.1", str(port), "in/bearing/bench", str(MESSAGES), str(MESSAGE_BYTES), "1000"]
    _json([sys.executable, "-m", "benchmarks.publisher", *arguments])
    deadline = time.monotonic() + 120
    while _rows(database) - before < MESSAGES:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{_rows(database) - before} of {MESSAGES} messages were committed")
        time.sleep(0.01)
    return MESSAGES / (time.monotonic() - began)


def report(rounds: list[Figures]) -> None:
    """A table for people on standard output, JSON for machines beside this file."""

    def median(name: str) -> float:
        return statistics.median(each[name] for each in rounds)

    def ratio(over: str, under: str) -> float:
        return statistics.median(each[over] / each[under] for each in rounds)

    lines = [
        "| figure | box | bare model | box / bare |",
        "|---|---|---|---|",
        f"| start to first answer | {median('start_s'):.2f} s | | |",
        f"| memory at rest (PSS) | {median('pss_mib'):.0f} MiB | | |",
    ]
    for callers in (1, 8):
        what = f"upload 640x480 JPEG, {callers} caller{'s' if callers > 1 else ''}"
        for name, unit in (("per_s", "/s"), ("p50_ms", " ms"), ("p99_ms", " ms")):
            ours, bare = f"http_{callers}_{name}", f"bare_{callers}_{name}"
            digits = 0 if name == "per_s" else 2
            lines.append(
                f"| {what}, {name.split('_')[0].replace('per', 'rate')} | {median(ours):.{digits}f}{unit} "
                f"| {median(bare):.{digits}f}{unit} | {ratio(ours, bare):.2f} |"
            )
    lines += [
        f"| {MESSAGE_BYTES}-byte readings, built-in listener, committed | {median('listener_per_s'):,.0f}/s | | |",
        f"| the same through Mosquitto and paho | {median('broker_per_s'):,.0f}/s | | |",
    ]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("%Y-%m-%dT%H%M%SZ.json", time.gmtime())
    summary = {"rounds": rounds, "medians": {key: median(key) for key in rounds[0]}, "cores": os.cpu_count()}
    (RESULTS / name).write_text(json.dumps(summary, indent=1) + "\n")


def _first_answer(url: str, body: bytes, began: float) -> float:
    deadline = began + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            reply = httpx.post(f"{url}/v1/predict/surface", content=body, headers={"Content-Type": "image/jpeg"})
            if reply.status_code == 200:
                return time.monotonic() - began
        time.sleep(0.01)
    raise RuntimeError("the box gave no answer within 60 s")


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/v2/health/ready").status_code != 200:
        if time.monotonic() > deadline:
            raise RuntimeError("the box is not ready after 60 s")
        time.sleep(0.05)


def _until_connected(url: str) -> None:
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/v1/status").json()["mqtt"]["broker"]["state"] != "connected":
        if time.monotonic() > deadline:
            raise RuntimeError("the box did not connect to the broker")
        time.sleep(0.05)


def _wrk(url: str, picture: Path, callers: int) -> Figures:
    figures = _json(
        ["wrk", "-t1", f"-c{callers}", f"-d{SECONDS:g}s", "-s", str(HERE / "upload.lua"), f"{url}/v1/predict/surface"],
        PICTURE=str(picture),
    )
    if figures.pop("failed"):
        raise RuntimeError("requests failed while measuring")
    return figures


def _json(command: list[str], **environment: str) -> Figures:
    """Run a command whose last line is JSON."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no Pss in smaps_rollup")


def _rows(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT coalesce(max(id), 0) FROM readings").fetchone()[0])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in taken]


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on {port}")


if __name__ == "__main__":
    main()
