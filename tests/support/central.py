"""Central as a box meets it: an HTTPS server, a broker that acknowledges as it is told, and one that speaks nonsense.

`python -m tests.support.central FOLDER UPSTREAM` is a box's outbox in a process of its own, which records a handful of
results and lives until it is killed. UPSTREAM: its configuration as JSON.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import mqtt5
import msgspec

from appliance.config import AnyUpstream, Config, StoreConfig
from appliance.core.protocol import RESULT_SCHEMA, Result
from appliance.outbox.mqtt import upstream_connection
from appliance.outbox.outbox import Outbox
from appliance.store import Store
from appliance.writes import NewResult, Outgoing, Write
from tests.support.box import ROOT
from tests.support.certificates import Authority
from tests.support.records import query
from tests.support.wait import until

WAIT_S = 20.0
CHILD_RESULTS = 20


class Answer(NamedTuple):
    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Central:
    """An HTTPS server. answer: what it says to a batch, by its rows; `picture`: to a picture.

    token: what it wants as bearer token. asks: for a certificate of its own authority.
    """

    def __init__(self, folder: Path, *, asks: bool = False) -> None:
        self.authority = Authority(folder)
        self.ca = self.authority.ca_file
        self.batches: list[tuple[str, Any]] = []
        self.taken: list[Any] = []
        self.pictures: dict[str, bytes] = {}
        self.token: str | None = None
        self.answer: Callable[[list[Any]], Answer] = lambda _: Answer()
        self.picture = Answer(201)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.authority.issue("central"))
        if asks:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        self._server = _Server(context, self)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/in"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def numbers(self) -> list[int]:
        """Ids of the results that it took, as often as it took them."""
        return [row["payload"]["id"] for row in self.taken if "id" in row["payload"]]

    def events(self, kind: str) -> list[Any]:
        return [row["payload"] for row in self.taken if row["payload"].get("event") == kind]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, central: Central) -> None:
        self.central = central
        self._context = context
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        inner, address = self.socket.accept()
        # The handshake belongs to the thread of the connection: a client that fails it holds up nobody.
        return self._context.wrap_socket(inner, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: object) -> None:
        """A box that was killed, or showed no certificate, is what some tests want."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        central = self.server.central
        body = json.loads(gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))))
        if central.token is not None and self.headers["Authorization"] != f"Bearer {central.token}":
            self._reply(Answer(401, {}, b"who are you?"))
            return
        central.batches.append((self.headers["Idempotency-Key"], body))
        answer = central.answer(body["rows"])
        if 200 <= answer.status < 300 and not answer.body:
            central.taken += [{**row, "late": body["late"]} for row in body["rows"]]
        self._reply(answer)

    def do_PUT(self) -> None:
        central = self.server.central
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if central.picture.status < 300:
            central.pictures[self.path] = content
        self._reply(central.picture)

    def _reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None: ...


class ScriptedBroker:
    """Knows CONNECT and PUBLISH of MQTT 5, one client at a time. on_publish: told each message; True: acknowledge it.

    messages: what came, with the key that it had and whether it was marked late.
    """

    def __init__(self, on_publish: Callable[[mqtt5.PublishPacket], bool]) -> None:
        self.messages: list[tuple[str, bytes, str]] = []
        self._on_publish = on_publish
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="scripted-broker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Closing alone would not wake the thread that waits in `accept`.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(WAIT_S)

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                try:
                    self._talk(client)
                except OSError:
                    continue

    def _talk(self, client: socket.socket) -> None:
        received = b""
        while piece := client.recv(65_536):
            received += piece
            while True:
                try:
                    packet, size = mqtt5.read(memoryview(received))
                except (IndexError, ValueError):
                    break
                received = received[size:]
                if isinstance(packet, mqtt5.ConnectPacket):
                    client.sendall(mqtt5.ConnAckPacket().write())
                elif isinstance(packet, mqtt5.PublishPacket) and packet.packet_id is not None:
                    self._take(client, packet)

    def _take(self, client: socket.socket, packet: mqtt5.PublishPacket) -> None:
        key = dict(packet.user_properties).get("key")
        if key is not None:
            self.messages.append((packet.topic, bytes(packet.payload or b""), key))
        if key is None or self._on_publish(packet):
            client.sendall(mqtt5.PubAckPacket(packet.packet_id or 0).write())


@contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """The URL of a server that answers every request with these bytes and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(WAIT_S)
                    client.recv(65_536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/in"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)


class Site:
    """A store and its outbox, as a box has them. age: of the box, seconds."""

    def __init__(self, folder: Path, upstream: AnyUpstream, *, age: Callable[[], float] = lambda: 0.0) -> None:
        config = Config(device="box", upstreams={"central": upstream})
        self.folder = folder
        self.store = Store(folder, StoreConfig(free_bytes_min=0))
        self.alarms: dict[str | None, str | None] = {}
        self.outbox = Outbox(
            config,
            self.store,
            None,
            lambda name, each: upstream_connection(config.device, name, each),
            lambda _kind, text, source: self.alarms.__setitem__(source, text),
            age,
        )
        self.store.start()

    def judge(self, verdict: Any = "ok", *, picture: bytes | None = None) -> int:
        """Record a result, with its rows for central; returns its id."""
        number = self.store.next_id()
        result = make_result(number, verdict, picture is not None)
        body = json.dumps({"id": number}).encode()
        rows = self.outbox.desk.result(result, body, len(picture or b""))
        committed = threading.Event()
        new = NewResult(result=result, kind="image", body=body, frame=picture)
        self.store.submit(Write(result=new, outbox=rows, done=lambda _: committed.set()))
        assert committed.wait(WAIT_S)
        self.outbox.wake()
        return number

    def fill(self, count: int, *, queue: str = "central", size: int = 40) -> None:
        """Rows that waited before this start."""
        body = json.dumps({"old": "x" * size}).encode()
        before = self.waiting()
        for at in range(0, count, 1000):
            rows = tuple(
                Outgoing(queue, "t", "application/json", body, len(body)) for _ in range(min(1000, count - at))
            )
            self.store.submit(Write(outbox=rows, must=True))
        until(lambda: self.waiting() >= before + count, WAIT_S, "the rows being there")

    def waiting(self) -> int:
        return int(query(self.folder, "SELECT count(*) FROM outbox")[0][0])

    def waiting_bytes(self) -> int:
        return int(query(self.folder, "SELECT coalesce(sum(size), 0) FROM outbox")[0][0])

    def count(self, what: str, queue: str = "central") -> int:
        found = query(self.folder, "SELECT count FROM outbox_counts WHERE queue = ? AND what = ?", queue, what)
        return int(found[0][0]) if found else 0

    def until_empty(self) -> None:
        until(lambda: self.waiting() == 0, WAIT_S, "the outbox being empty")

    def until_state(self, state: str) -> str:
        """Wait for this state of the destination; returns the reason it gives."""

        def found() -> bool:
            return [each.state for each in self.outbox.report()] == [state]

        until(found, WAIT_S, f"the state {state}")
        return self.outbox.report()[0].reason or ""

    def stop(self) -> None:
        self.outbox.stop()
        self.outbox.settle()
        self.store.stop()


@contextmanager
def site(folder: Path, upstream: AnyUpstream, *, start: bool = True, age: float = 0.0) -> Iterator[Site]:
    """A site in `folder`, stopped on leaving; `start`: its outbox sends."""
    one = Site(folder, upstream, age=lambda: age)
    if start:
        one.outbox.start()
    try:
        yield one
    finally:
        one.stop()


def make_result(number: int, verdict: Any, has_image: bool) -> Result:
    return Result(
        schema=RESULT_SCHEMA,
        id=number,
        at=0.0,
        device="box",
        door="http",
        source="camera",
        verdict=verdict,
        model="tiny",
        version="1",
        variant="v",
        digest="",
        signed=False,
        has_image=has_image,
    )


def child(folder: Path, upstream: AnyUpstream) -> subprocess.Popen[bytes]:
    """A site in a process of its own; it is to be killed."""
    configured = msgspec.json.encode(upstream).decode()
    return subprocess.Popen([sys.executable, "-m", "tests.support.central", str(folder), configured], cwd=ROOT)


if __name__ == "__main__":
    lives = Site(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=AnyUpstream))
    lives.outbox.start()
    for _ in range(CHILD_RESULTS):
        lives.judge()
    threading.Event().wait()
