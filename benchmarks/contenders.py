"""Who is measured, and at what: the appliance, the runtime alone, and the peers, each with the same two networks."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import inputs, load
from benchmarks.inputs import Bodies, Expected, Message, NotAnswered
from benchmarks.processes import Process, free_ports
from benchmarks.ratios import Measured

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".venv" / "peers"
PEERS = {"fastapi": "FastAPI", "litserve": "LitServe", "mlserver": "MLServer"}

APPLIANCE, BARE, FASTAPI = "appliance", "bare", "FastAPI"
# What goes around the framework's own way in is shown beside it, as a family of its own.
FASTAPI_BY_HAND, MLSERVER_BY_HAND = "FastAPI, orjson by hand", "MLServer, custom handler"
# No request per thread: fast for a tiny network, but one slow inference holds up everybody.
FASTAPI_ON_LOOP = "FastAPI, on its loop"

_START_S = 120.0
_QUIET_S = 0.03
_QUIET_S_MAX = 2.0
_THREADS_TRIED = (2, 3, 4, 6)


class Entry(NamedTuple):
    """One way to do the work of a cell. family: who it counts for; of several entries of a family the best counts."""

    family: str
    name: str
    process: Process
    measure: Callable[[int], Measured]
    """Seconds -> what was measured. Raises ValueError for a wrong answer."""


class Cell(NamedTuple):
    """A work with a number of callers."""

    name: str
    entries: list[Entry]

    def key(self, entry: Entry) -> str:
        return f"{self.name}/{entry.name}"


class Runtime:
    """The runtime alone, in its process."""

    def __init__(self, models: Path, bodies: Path, scratch: Path, precision: str, cores: str | None = None) -> None:
        graph = models / "mobilenet" / "mobilenet" / "1" / "openvino" / "model.xml"
        command = [sys.executable, "-m", "benchmarks.bare", str(graph), str(bodies), precision]
        self.process = Process(command, scratch / f"bare-{precision}-{cores}.log", cores=cores, talks=True)
        self.threads = 2

    def ask(self, **what: object) -> Any:
        talk = self.process.popen
        assert talk.stdin is not None
        assert talk.stdout is not None
        try:
            talk.stdin.write(json.dumps(what) + "\n")
            talk.stdin.flush()
            return json.loads(talk.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.popen.wait(5)
            self.process.check_alive()
            raise

    def expected(self) -> Expected:
        return Expected(np.array(self.ask(work="answer")["row"], np.float32))

    def find_threads(self, seconds: float) -> None:
        """The number of threads that decodes and infers most in the throughput gear."""
        rates = {
            count: self.ask(work="jpeg", gear="throughput", threads=count, seconds=seconds)["per_s"]
            for count in _THREADS_TRIED
        }
        self.threads = max(rates, key=rates.__getitem__)

    def entry(self, work: str, gear: str | None = None, threads: int | None = None) -> Entry:
        def measure(seconds: int) -> Measured:
            asked = {"work": work, "seconds": seconds}
            if gear is not None:
                asked |= {"gear": gear, "threads": threads or self.threads}
            found: Measured = self.ask(**asked)
            return found

        return Entry(BARE, "bare", self.process, measure)


class Server:
    """A server on a free port. cores: as `taskset` takes them, for it and for the generator."""

    def __init__(self, name: str, port: int, process: Process, cores: str | None = None) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.cores = cores

    def entry(self, family: str, name: str, message: Message, callers: int) -> Entry:
        def measure(seconds: int) -> Measured:
            try:
                return load.measure(self.process, self.port, message, callers, seconds, self.cores)
            except (OSError, RuntimeError) as error:
                if family == APPLIANCE:
                    raise
                # A peer that ends in the middle of a long run is started again: the run is worth more than it.
                tail = self.process.log.read_text(errors="replace")[-1000:]
                print(f"{self.name} is started again after {error!r}; its log ends: {tail}", file=sys.stderr)
                self.process.start_again()
                self.until_right(message)
                settle(self.process)
                return load.measure(self.process, self.port, message, callers, seconds, self.cores)

        return Entry(family, name, self.process, measure)

    def until_right(self, message: Message) -> None:
        """Wait for the first right answer. Raises ValueError for a wrong one, RuntimeError when none comes."""
        deadline = time.monotonic() + _START_S
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_START_S)
            try:
                message.send(connection)
            except (OSError, http.client.HTTPException, NotAnswered) as error:
                self.process.check_alive()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name}: no answer within {_START_S:g} s: {error}") from error
                time.sleep(0.005)
            else:
                return
            finally:
                connection.close()


def appliance(
    name: str,
    models: Iterable[Path],
    scratch: Path,
    cores: str | None = None,
    broker: int | None = None,
    more: str = "",
) -> tuple[Server, int, Path]:
    """Start the appliance as a user does; its data folder is kept. Returns it, the port of its listener, the data.

    models: folders `<name>`, gathered into one repository. more: further lines of its configuration.
    """
    port, mqtt_port = free_ports(2)
    folder = scratch / name
    repository = folder / "repository"
    for model in models:
        if not (repository / model.name).exists():
            shutil.copytree(model, repository / model.name)
    config = folder / "appliance.toml"
    text = (HERE / "appliance.toml").read_text().replace("18080", str(port)).replace("11883", str(mqtt_port))
    if broker is not None:
        text += f'\n[broker]\nhost = "127.0.0.1"\nport = {broker}\n'
    config.write_text(text + more)
    command = [sys.executable, "-m", "appliance", "serve", "--config", str(config)]
    command += ["--data-dir", str(folder / "data"), "--models", str(repository)]
    process = Process(command, folder / "log", cores=cores)
    return Server(name, port, process, cores), mqtt_port, folder / "data"


def peer(
    name: str,
    image: Path,
    tiny: Path | None,
    scratch: Path,
    *,
    hint: str = "THROUGHPUT",
    precision: str = "f32",
    threads: int = 4,
    cores: str | None = None,
) -> Server:
    """Start a peer from its own environment."""
    port, grpc_port = free_ports(2)
    folder = HERE / "peers" / name
    settings = {
        "PYTHONPATH": os.pathsep.join((str(folder.parent), str(folder))),
        "PORT": str(port),
        "GRPC_PORT": str(grpc_port),
        "IMAGE_MODEL": str(image),
        "TINY_MODEL": str(tiny or ""),
        "HINT": hint,
        "PRECISION": precision,
        "THREADS": str(threads),
        "SCRATCH": str(scratch),
        "CACHE": str(scratch / f"cache-{name}"),
    }
    log = scratch / f"{name}-{hint}-{precision}-{cores}.log"
    process = Process([str(environment(name)), str(folder / "server.py")], log, settings, cores)
    return Server(name, port, process, cores)


def environment(name: str) -> Path:
    """The interpreter of a peer's own environment, made anew when its requirements have changed."""
    folder = ENVIRONMENTS / name
    requirements = HERE / "peers" / name / "requirements.txt"
    python, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {PEERS[name]} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "-r", str(requirements)], check=True)
        stamp.write_text(wanted)
    return python


def settle(process: Process) -> None:
    """Wait until what the last callers left behind is done."""
    deadline = time.monotonic() + _QUIET_S_MAX
    before = process.cpu_s()
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        now = process.cpu_s()
        if now == before:
            return
        before = now


def pictures(server: Server, bodies: Bodies, expected: Expected, off_max: float, model: str = "") -> dict[str, Message]:
    """Ways to send the picture to a server: name of the way -> message."""

    def message(path: str, body: Path, headers: dict[str, str], check: inputs.Check = inputs.classes) -> Message:
        return Message(path, body, headers, check, expected, off_max)

    form, raw = bodies.form_headers(), inputs.JPEG
    match server.name:
        case "fastapi":
            return {"form": message("/upload", bodies.form, form), "raw": message("/raw", bodies.jpeg, raw)}
        case "litserve":
            return {"form": message("/upload", bodies.form, form)}
        case "mlserver":
            path = "/v2/models/picture/infer"
            return {
                "raw": message("/raw", bodies.jpeg, raw),
                "base64": message(path, bodies.base64, inputs.JSON, inputs.numbers),
            }
        case _:
            # The peers answer with the five surest classes.
            return {"raw": message(f"/v1/predict/{model}?top_k=5", bodies.jpeg, raw)}
