"""The cells of the table: for each work and number of callers, everybody who does it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks import contenders, inputs, networks
from benchmarks.contenders import (
    APPLIANCE,
    FASTAPI,
    FASTAPI_BY_HAND,
    FASTAPI_ON_LOOP,
    MLSERVER_BY_HAND,
    PEERS,
    Cell,
    Entry,
    Runtime,
    Server,
    pictures,
)
from benchmarks.inputs import DEFAULT_OFF_MAX, PROBABILITY_OFF_MAX, Bodies, Expected, Message
from benchmarks.processes import Process

WORKS = ("jpeg", "default", "binary", "json", "tiny", "onecore", "start", "loading", "stream")

_ONE_CORE = "0"
_HINTS = ("LATENCY", "THROUGHPUT")


class Networks:
    """The model folders, and what is sent to them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.models = scratch / "models"
        networks.write(self.models)
        self.picture = (self.folder("mobilenet") / "1" / "golden" / "0.jpg").read_bytes()
        decoded = cv2.imdecode(np.frombuffer(self.picture, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert decoded is not None
        self.bodies = Bodies(scratch, self.picture, networks.prepare(np.asarray(decoded, np.uint8)))
        self.tiny_expected = Expected(
            np.array(networks.compiled(self.graph("tiny"))(np.array([networks.TINY_INPUT], np.float32))[0][0])
        )

    def frame(self) -> Path:
        """A picture of 640x480, as a camera sends it."""
        path = self.scratch / "frame.jpg"
        decoded = cv2.imdecode(np.frombuffer(self.picture, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        done, encoded = cv2.imencode(".jpg", cv2.resize(decoded, (640, 480)))
        assert done
        path.write_bytes(encoded.tobytes())
        return path

    def folder(self, name: str) -> Path:
        return self.models / name / name

    def graph(self, name: str) -> Path:
        return self.folder(name) / "1" / "openvino" / "model.xml"


class Lineup:
    """Starts who is needed for the works, and ends them all. Everybody is paused until measured, but the appliance."""

    def __init__(self, made: Networks, works: Sequence[str], peers: Sequence[str]) -> None:
        self.cells: list[Cell] = []
        self.idle: dict[str, Process] = {}
        self.threads: dict[str, int] = {}
        self._stores: list[Path] = []
        self._made = made
        self._works = works
        self._peers = peers
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Lineup:
        try:
            if {"jpeg", "binary", "json", "tiny", "start", "loading"} & set(self._works):
                self._add_f32()
            if "default" in self._works:
                self._add_default()
            if "onecore" in self._works:
                self._add_one_core()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.close()

    def recorded(self) -> int:
        """Results that the appliances have committed since they were started."""
        total = 0
        for path in self._stores:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                total += int(connection.execute("SELECT count(*) FROM results").fetchone()[0])
        return total

    def tuned(self) -> dict[str, str]:
        """What each appliance chose for its models when it measured them on this machine: its own log lines."""
        chosen = {}
        for name, process in self.idle.items():
            for line in process.log.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    event = json.loads(line)
                    if event.get("event") == "tuned":
                        choice = {"variant": event["variant"], "precision": event["precision"]} | event["tuning"]
                        words = ", ".join(f"{key} {json.dumps(value)}" for key, value in choice.items())
                        chosen[f"{name}, {event['model']}"] = words
        return chosen

    def _add_f32(self) -> None:
        made, bodies = self._made, self._made.bodies
        bare = self._runtime("f32")
        self.expected = expected = bare.expected()
        if "jpeg" in self._works:
            bare.find_threads(1.0)
            self.threads["f32"] = bare.threads
        if not {"jpeg", "binary", "json", "tiny"} & set(self._works):
            return
        ours = self._appliance("box", ["mobilenet", "tiny"])
        own = pictures(ours, bodies, expected, PROBABILITY_OFF_MAX, "mobilenet")
        self._ready(ours, [*own.values(), _tensor(ours, "tiny", bodies, made.tiny_expected)])
        servers = []
        for peer in self._peers:
            for hint in _HINTS if peer == "fastapi" else ("THROUGHPUT",):
                server = self._peer(peer, hint, bare.threads)
                self._ready(server, pictures(server, bodies, expected, PROBABILITY_OFF_MAX).values())
                servers.append((f"{peer} {hint.lower()}" if peer == "fastapi" else peer, server))
        if "jpeg" in self._works:
            for callers in (1, 8, 32):
                gear, threads = ("latency", 1) if callers == 1 else ("throughput", None)
                entries = [bare.entry("jpeg", gear, threads), ours.entry(APPLIANCE, APPLIANCE, own["raw"], callers)]
                for name, server in servers:
                    for way, message in pictures(server, bodies, expected, PROBABILITY_OFF_MAX).items():
                        family = MLSERVER_BY_HAND if (server.name, way) == ("mlserver", "raw") else PEERS[server.name]
                        entries.append(server.entry(family, f"{name} {way}", message, callers))
                self.cells.append(Cell(f"jpeg/{callers}", entries))
        if "binary" in self._works:
            message = Message(
                "/v2/models/mobilenet/infer", bodies.tensor_binary, bodies.binary_headers(), inputs.binary, expected
            )
            for callers in (1, 8):
                limit = bare.entry("tensor", "latency", 1) if callers == 1 else bare.entry("queue")
                self.cells.append(
                    Cell(f"binary/{callers}", [limit, ours.entry(APPLIANCE, APPLIANCE, message, callers)])
                )
        if "json" in self._works:
            entries = [ours.entry(APPLIANCE, APPLIANCE, _tensor(ours, "mobilenet", bodies, expected), 8)]
            for name, server in servers:
                message = _tensor(server, "mobilenet", bodies, expected)
                entries.append(server.entry(PEERS[server.name], name, message, 8))
                if server.name == "fastapi":
                    by_hand = message._replace(path="/infer-orjson")
                    entries.append(server.entry(FASTAPI_BY_HAND, f"{name} orjson", by_hand, 8))
            self.cells.append(Cell("json/8", entries))
        if "tiny" in self._works:
            # The hint says nothing to a network that runs on one thread: one FastAPI is enough.
            some = [(name, server) for name, server in servers if name != "fastapi latency"]
            self._add_tiny("tiny", ours, some, (1, 32))

    def _add_default(self) -> None:
        bodies = self._made.bodies
        bare = self._runtime("default")
        bare.find_threads(1.0)
        self.threads["default precision"] = bare.threads
        expected = bare.expected()
        ours = self._appliance("box-default", ["mobilenet-auto"])
        own = pictures(ours, bodies, expected, DEFAULT_OFF_MAX, "mobilenet-auto")
        self._ready(ours, own.values())
        ways = []
        for hint in _HINTS if "fastapi" in self._peers else ():
            server = self._peer("fastapi", hint, bare.threads, "default")
            messages = pictures(server, bodies, expected, DEFAULT_OFF_MAX)
            self._ready(server, messages.values())
            ways += [(server, f"fastapi {hint.lower()} {way}", message) for way, message in messages.items()]
        for callers in (8, 32):
            entries = [bare.entry("jpeg", "throughput"), ours.entry(APPLIANCE, APPLIANCE, own["raw"], callers)]
            entries += [server.entry(FASTAPI, name, message, callers) for server, name, message in ways]
            self.cells.append(Cell(f"default/{callers}", entries))

    def _add_one_core(self) -> None:
        """Server and generator on the same core."""
        bodies = self._made.bodies
        bare = self._runtime("f32", _ONE_CORE)
        expected = bare.expected()
        ours = self._appliance("box-one-core", ["mobilenet", "tiny"], _ONE_CORE)
        own = pictures(ours, bodies, expected, PROBABILITY_OFF_MAX, "mobilenet")
        self._ready(ours, own.values())
        entries = [bare.entry("jpeg", "throughput", 1), ours.entry(APPLIANCE, APPLIANCE, own["raw"], 8)]
        servers: list[tuple[str, Server]] = []
        if "fastapi" in self._peers:
            server = self._peer("fastapi", "THROUGHPUT", 2, cores=_ONE_CORE)
            servers.append(("fastapi throughput", server))
            ways = pictures(server, bodies, expected, PROBABILITY_OFF_MAX)
            self._ready(server, ways.values())
            entries += [server.entry(FASTAPI, f"fastapi throughput {way}", message, 8) for way, message in ways.items()]
        self.cells.append(Cell("onecore-jpeg/8", entries))
        self._add_tiny("onecore-tiny", ours, servers, (32,))

    def _add_tiny(self, name: str, ours: Server, servers: Sequence[tuple[str, Server]], counts: Sequence[int]) -> None:
        bodies, expected = self._made.bodies, self._made.tiny_expected
        for callers in counts:
            entries = [ours.entry(APPLIANCE, APPLIANCE, _tensor(ours, "tiny", bodies, expected), callers)]
            for called, server in servers:
                message = _tensor(server, "tiny", bodies, expected)
                family = PEERS[server.name]
                entries.append(server.entry(family, called, message, callers))
                if server.name == "fastapi":
                    for way, counts_for in (("orjson", family), ("loop", FASTAPI_ON_LOOP)):
                        other = message._replace(path=f"/tiny-{way}")
                        entries.append(server.entry(counts_for, f"{called} {way}", other, callers))
            self.cells.append(Cell(f"{name}/{callers}", entries))

    def _runtime(self, precision: str, cores: str | None = None) -> Runtime:
        made = self._made
        runtime = Runtime(made.models, made.bodies.jpeg, made.scratch, precision, cores)
        self._ends.callback(runtime.process.end)
        return runtime

    def _appliance(self, name: str, models: Sequence[str], cores: str | None = None) -> Server:
        server, _, data = contenders.appliance(name, map(self._made.folder, models), self._made.scratch, cores)
        self._ends.callback(server.process.end)
        self.idle[name] = server.process
        self._stores.append(data / "results.db")
        return server

    def _peer(self, name: str, hint: str, threads: int, precision: str = "f32", cores: str | None = None) -> Server:
        image, tiny = self._made.graph("mobilenet"), self._made.graph("tiny")
        server = contenders.peer(
            name, image, tiny, self._made.scratch, hint=hint, precision=precision, threads=threads, cores=cores
        )
        self._ends.callback(server.process.end)
        return server

    def _ready(self, server: Server, messages: Iterable[Message]) -> None:
        """Wait for a right answer to each, alone on the machine but for appliances that do nothing."""
        server.process.go_on()
        for message in messages:
            server.until_right(message)
        print(f"{server.name} answers rightly", file=sys.stderr, flush=True)
        if server.process not in self.idle.values():
            contenders.settle(server.process)
            server.process.pause()


def keep_best(cell: Cell, seconds: int, kept_share: float = 0.95, kept_max: int = 2) -> Cell:
    """Of each family only the ways that come near its best in one short measurement, two at most."""
    families: dict[str, list[Entry]] = {}
    for entry in cell.entries:
        families.setdefault(entry.family, []).append(entry)
    kept: list[Entry] = []
    for entries in families.values():
        if len(entries) > 1:
            rates = {entry.name: run_entry(entry, seconds)["per_s"] for entry in entries}
            entries.sort(key=lambda entry: -rates[entry.name])
            best = rates[entries[0].name]
            entries = [entry for entry in entries if rates[entry.name] >= best * kept_share][:kept_max]
        kept += entries
    return Cell(cell.name, kept)


def run_entry(entry: Entry, seconds: int) -> dict[str, float]:
    """Measure one, everybody else being paused; the appliance is never paused, as a box never is."""
    entry.process.go_on()
    try:
        return entry.measure(seconds)
    finally:
        contenders.settle(entry.process)
        if entry.family != APPLIANCE:
            entry.process.pause()


def _tensor(server: Server, network: str, bodies: Bodies, expected: Expected) -> Message:
    """A tensor as JSON of the Open Inference Protocol, which the peers are given as well."""
    body = bodies.tiny if network == "tiny" else bodies.tensor_json
    match server.name, network:
        case (("fastapi" | "litserve"), "tiny"):
            path = "/tiny"
        case (("fastapi" | "litserve"), _):
            path = "/infer"
        case "mlserver", "mobilenet":
            path = "/v2/models/picture/infer"
        case _:
            path = f"/v2/models/{network}/infer"
    return Message(path, body, inputs.JSON, inputs.numbers, expected)
