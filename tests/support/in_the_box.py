"""What looks around inside the booted box: `python -m tests.support.in_the_box updater|probe|look`.

`updater` runs in the updater's unit, `probe` in the self-test's; `look` is root, starts both, and reports.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

DATA = Path("/var/lib/appliance")
REPORT = "report.json"
STAGED = DATA / "models" / ".staging" / "surface" / "1"
UPDATER = DATA / "tuf" / "updater"


def updater() -> None:
    """Stage a model, have it tested, damage it, have it tested again; then try what an updater may and may not."""
    if UPDATER.exists():
        # Somebody asked for another poll.
        UPDATER.with_name("again").touch()
        return
    from appliance.clock import adjtimex
    from appliance.config import load
    from appliance.state import State
    from appliance.updater.selftest import run

    config = load(Path("/etc/appliance/appliance.toml"), data_dir=str(DATA))
    shutil.copytree("/opt/source/models/surface/1", STAGED, copy_function=shutil.copyfile)
    good = run(STAGED, config)
    probe = ask("/run/probe.sock")
    os.truncate(STAGED / "openvino" / "model.bin", 5)
    damaged = run(STAGED, config)
    state = State(DATA)
    found = {
        "good": good,
        "damaged": damaged,
        "probe": probe,
        "user": os.getuid(),
        "state": attempt(lambda: insert(state)),
        "tuf.time": attempt(lambda: (DATA / "tuf.time").write_text("")),
        "results": attempt(lambda: os.truncate(DATA / "results.db", 0)),
        "take results away": attempt(lambda: (DATA / "results.db").rename(DATA / "models" / "results.db")),
        "configuration": attempt(lambda: os.truncate("/etc/appliance/appliance.toml", 0)),
        "read who leads the clock": adjtimex() >= 0,
        "set the clock": attempt(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())),
    }
    UPDATER.write_bytes(msgspec.json.encode(found))


def probe() -> None:
    """On standard input and output is the updater."""
    memory = bytearray(1)
    found = {
        "user": os.getuid(),
        "staged": attempt(lambda: (STAGED / "manifest.toml").read_bytes()),
        "change staged": attempt(lambda: os.truncate(STAGED / "manifest.toml", 0)),
        "beside models": sorted(path.name for path in DATA.iterdir()),
        "configuration": attempt(lambda: Path("/etc/appliance/appliance.toml").read_bytes()),
        "write": attempt(lambda: Path("/opt/new").write_bytes(memory)),
        "call the box": attempt(lambda: socket.create_connection(("127.0.0.1", 8080), 2)),
        "socket of the network": attempt(lambda: socket.socket(socket.AF_INET)),
        "interfaces": re.findall(r"^ *(\S+):", Path("/proc/self/net/dev").read_text(), re.MULTILINE),
    }
    sys.stdout.buffer.write(msgspec.json.encode(found))


def look() -> None:
    """Report and power off, whatever happens."""
    found: dict[str, Any] = {}
    try:
        wait(lambda: run("systemctl", "is-active", "appliance") == "active")
        found["started"] = run("systemctl", "start", "appliance-update.service")
        found["updater"] = msgspec.json.decode(UPDATER.read_bytes())
        server = run("systemctl", "show", "appliance", "--property=MainPID", "--value")
        as_server = (
            "nsenter",
            f"--target={server}",
            "--mount",
            "--",
            "setpriv",
            "--reuid=appliance",
            "--regid=appliance",
        )
        for what, path in (("models", DATA / "models" / "new"), ("tuf", DATA / "tuf" / "new"), ("data", DATA / "new")):
            found[f"server writes {what}"] = run(*as_server, "--clear-groups", "touch", str(path))
        found["server reads"] = run(*as_server, "--clear-groups", "cat", str(STAGED / "manifest.toml"))[:6]
        found["state"] = run(*as_server, "--clear-groups", "touch", str(DATA / "state" / "poll-now"))
        wait(UPDATER.with_name("again").exists)
        found["polled"] = True
    finally:
        found["journal"] = run("journalctl", "--no-pager", "--output=cat", "--unit=appliance*", "--unit=probe*")[-8000:]
        Path("/", REPORT).write_bytes(msgspec.json.encode(found))
        os.sync()
        run("systemctl", "poweroff")


def ask(path: str) -> Any:
    with socket.socket(socket.AF_UNIX) as unit:
        unit.settimeout(30)
        unit.connect(path)
        return msgspec.json.decode(b"".join(iter(lambda: unit.recv(65536), b"")))


def insert(state: Any) -> None:
    with state.transaction() as db:
        db.execute("INSERT INTO holds (at, by, reason) VALUES (0, 'a test', 'to write')")


def attempt(do: Callable[[], object]) -> str:
    """`done`, or the name of the error."""
    try:
        do()
    except OSError as error:
        return type(error).__name__ if error.strerror is None else error.strerror
    return "done"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    ends_at = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends_at:
        time.sleep(0.1)


if __name__ == "__main__":
    {"updater": updater, "probe": probe, "look": look}[sys.argv[1]]()
