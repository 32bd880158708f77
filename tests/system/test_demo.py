"""`appliance demo`, as `make run` starts it: the page, the devices, and each command that it prints."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.box import ROOT
from tests.support.wait import until


class Demo:
    """A running demo and what it printed."""

    def __init__(self, process: subprocess.Popen[str], printed: str) -> None:
        self.process = process
        self.printed = printed
        page = re.search(r"http://127\.0\.0\.1:\d+", printed)
        assert page is not None
        self.page = page[0]

    def commands(self) -> list[str]:
        return re.findall(r"^  (curl .*)$", self.printed, re.MULTILINE)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


def start(*options: str) -> Demo:
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "demo", *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = ""
    with process.stdout as output:
        while "Ctrl-C" not in printed:
            line = output.readline()
            assert line, f"the demo ended with {process.wait(30)} after printing {printed!r}"
            printed += line
    return Demo(process, printed)


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    running = start("--port", "18080", "--mqtt-port", "18830")
    yield running
    if running.process.poll() is None:
        running.stop()


def sources(page: str) -> dict[str, dict[str, object]]:
    return {each["source"]: each for each in httpx.get(f"{page}/v1/sources").json()["sources"]}


def test_two_cameras_and_a_plc_are_judged(demo: Demo) -> None:
    until(lambda: {"camera-1", "belt-1", "motor-1"} <= set(sources(demo.page)), 60, "results of all devices")

    found = sources(demo.page)
    assert found["camera-1"]["model"] == "surface"
    assert found["belt-1"]["model"] == "parts"
    assert found["motor-1"]["model"] == "bearing"


def test_good_parts_and_faults_come_in_turn_and_parts_count_up(demo: Demo) -> None:
    def judged() -> list[dict[str, object]]:
        results: list[dict[str, object]] = httpx.get(f"{demo.page}/v1/results?source=camera-1&limit=9").json()[
            "results"
        ]
        return results if len(results) >= 4 else []

    newest_first = until(judged, 60, "four pictures judged")

    # What waited for the model to load is judged in two lanes: the order within is no promise.
    parts = sorted(str(each["part"]) for each in newest_first)
    first = int(parts[0].removeprefix("P-"))
    assert parts == [f"P-{first + offset:06d}" for offset in range(len(parts))]
    assert {"ok", "ng"} <= {str(each["verdict"]) for each in newest_first}


def test_each_printed_command_works(demo: Demo, tmp_path: Path) -> None:
    until(lambda: "camera-1" in sources(demo.page), 60, "a picture judged")
    upload, latest, drawn = demo.commands()

    def run(command: str) -> bytes:
        arguments = shlex.split(command.replace("part.jpg", str(tmp_path / "part.jpg")))
        return subprocess.run([*arguments, "-sf"], cwd=ROOT, check=True, capture_output=True).stdout

    assert json.loads(run(upload))["verdict"] == "ng"
    assert json.loads(run(latest))["source"] == "camera-1"
    run(drawn)
    assert (tmp_path / "part.jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_a_demo_takes_the_next_free_ports_when_its_own_are_taken() -> None:
    with socket.create_server(("127.0.0.1", 18180)), socket.create_server(("127.0.0.1", 18930)):
        second = start("--port", "18180", "--mqtt-port", "18930")

    try:
        assert second.page == "http://127.0.0.1:18181"
        assert httpx.get(second.page).status_code == 200
    finally:
        assert second.stop() == 0


def test_the_devices_end_with_the_demo_even_when_it_is_killed() -> None:
    running = start("--port", "18280", "--mqtt-port", "18730")
    devices = children(running.process.pid)
    assert len(devices) == 3

    running.process.kill()
    running.process.wait(10)

    until(lambda: not any(alive(device) for device in devices), 15, "the devices ending")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in found.split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
