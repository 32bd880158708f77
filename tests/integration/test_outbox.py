"""The outbox to a real HTTPS server: everything arrives, in order, whatever the server does."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.config import BrokerConfig, Config, HttpsUpstream, MqttUpstream, StoreConfig
from appliance.core.protocol import RESULT_SCHEMA, Result
from appliance.outbox.mqtt import upstream_connection
from appliance.outbox.outbox import Outbox
from appliance.store import Store
from appliance.writes import NewResult, Outgoing, Write
from tests.support.mqtt import device, mosquitto
from tests.support.records import query
from tests.support.wait import until

WAIT_S = 20.0
DAY_S = 86_400.0

Answer = tuple[int, dict[str, str]]


class Central:
    """An HTTPS server. answer: what it says to a batch, by its rows; a picture it takes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca = folder / "cert.pem"
        key = folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", "/CN=central", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        files = ["-keyout", str(key), "-out", str(self.ca)]
        subprocess.run([*command, *names, *files], check=True, capture_output=True)
        self.batches: list[tuple[str, Any]] = []
        self.taken: list[Any] = []
        self.pictures: dict[str, bytes] = {}
        self.answer: Callable[[list[Any]], Answer] = lambda _: (200, {})
        central = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))))
                central.batches.append((self.headers["Idempotency-Key"], body))
                status, headers = central.answer(body["rows"])
                if 200 <= status < 300:
                    central.taken += [{**row, "late": body["late"]} for row in body["rows"]]
                self._reply(status, headers)

            def do_PUT(self) -> None:
                central.pictures[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
                self._reply(201, {})

            def _reply(self, status: int, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/in"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def numbers(self) -> list[int]:
        return [row["payload"]["id"] for row in self.taken if "id" in row["payload"]]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Site:
    """A store and its outbox, as a box has them."""

    def __init__(self, folder: Path, config: Config, *, age: Callable[[], float] = lambda: 0.0) -> None:
        self.folder = folder
        self.store = Store(folder, StoreConfig(free_bytes_min=0))
        self.outbox = Outbox(
            config,
            self.store,
            None,
            lambda name, each: upstream_connection(config.device, name, each),
            lambda *_: None,
            age,
        )
        self.store.start()

    def judge(self, verdict: Any = "ok", *, picture: bytes | None = None) -> int:
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
        for at in range(0, count, 1000):
            rows = tuple(
                Outgoing(queue, "t", "application/json", body, len(body)) for _ in range(min(1000, count - at))
            )
            self.store.submit(Write(outbox=rows, must=True))
        until(lambda: self.waiting() >= count, WAIT_S, "the rows being there")

    def waiting(self) -> int:
        return int(query(self.folder, "SELECT count(*) FROM outbox")[0][0])

    def count(self, what: str, queue: str = "central") -> int:
        found = query(self.folder, "SELECT count FROM outbox_counts WHERE queue = ? AND what = ?", queue, what)
        return int(found[0][0]) if found else 0

    def stop(self) -> None:
        self.outbox.stop()
        self.outbox.settle()
        self.store.stop()


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


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Central]:
    server = Central(tmp_path / "central")
    yield server
    server.close()


@contextmanager
def site(folder: Path, central: Central, *, start: bool = True, age: float = 0.0, **changes: Any) -> Iterator[Site]:
    upstream = HttpsUpstream(url=central.url, ca_file=str(central.ca), **{"retry_s_max": 1.0, **changes})
    one = Site(folder, Config(device="box", upstreams={"central": upstream}), age=lambda: age)
    if start:
        one.outbox.start()
    try:
        yield one
    finally:
        one.stop()


def waiting_bytes(one: Site) -> int:
    return int(query(one.folder, "SELECT sum(size) FROM outbox")[0][0])


def empty(one: Site) -> None:
    until(lambda: one.waiting() == 0, WAIT_S, "the outbox being empty")


def test_results_arrive_in_order_and_are_deleted_when_taken(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", central) as one:
        sent = [one.judge() for _ in range(20)]
        empty(one)
        assert central.numbers() == sent
        assert not any(row["late"] for row in central.taken)
        until(lambda: one.count("sent") == 20, WAIT_S, "the count")


def test_only_what_is_wanted_is_queued(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", central, verdicts=("ng",), events=("alarm",)) as one:
        one.judge("ok")
        wanted = one.judge("ng")
        assert one.outbox.desk.event("trigger", 0.0, {}) == ()
        assert len(one.outbox.desk.event("alarm", 0.0, {"text": "dark"})) == 1
        empty(one)
        assert central.numbers() == [wanted]


def test_what_waited_is_late_and_lets_live_rows_pass(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", central, start=False) as one:
        one.fill(300)
    # So slow that nothing a busy machine does lets the backlog end first, or the live row grow late.
    with site(tmp_path / "box", central, backlog_per_s=2.0, late_after_s=600.0) as one:
        number = one.judge()
        until(lambda: central.numbers() == [number], WAIT_S, "the live row")
        late = [row for row in central.taken if row["late"]]
        assert len(late) < 300
        assert all("old" in row["payload"] for row in late)
        assert [row["late"] for row in central.taken if "id" in row["payload"]] == [False]


def test_rows_refused_for_ever_are_dead_letters_and_the_others_arrive(tmp_path: Path, central: Central) -> None:
    def refuses_seven(rows: list[Any]) -> Answer:
        return (422 if any(row["payload"].get("id") == 7 for row in rows) else 200), {}

    central.answer = refuses_seven
    with site(tmp_path / "box", central, start=False) as one:
        sent = [one.judge() for _ in range(20)]
    with site(tmp_path / "box", central) as one:
        empty(one)
        assert central.numbers() == [number for number in sent if number != 7]
        letters = query(one.folder, "SELECT code, client FROM dead_letters")
        assert letters == [("upstream_refused", "upstream central")]
        assert one.count("dead_lettered") == 1


def test_server_that_refuses_everything_costs_few_rows(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: (400, {})
    with site(tmp_path / "box", central, start=False) as one:
        one.fill(200)
    with site(tmp_path / "box", central, retry_s_max=3600.0) as one:
        until(lambda: one.count("dead_lettered") >= 10, WAIT_S, "some dead letters")
        assert one.waiting() >= 180
        until(lambda: [each.state for each in one.outbox.report()] == ["refuses"], WAIT_S, "the report")


@pytest.mark.parametrize(
    ("status", "headers"),
    [(500, {}), (503, {"Retry-After": "0"}), (429, {"Retry-After": "0"}), (302, {"Location": "/x"}), (401, {})],
)
def test_what_is_not_taken_now_is_sent_again_as_the_same_batch(
    tmp_path: Path, central: Central, status: int, headers: dict[str, str]
) -> None:
    central.answer = lambda _: (200 if len(central.batches) > 2 else status, headers)
    with site(tmp_path / "box", central) as one:
        number = one.judge()
        empty(one)
        assert central.numbers() == [number]
        assert len({key for key, _ in central.batches}) == 1
        assert query(one.folder, "SELECT 1 FROM dead_letters") == []


def test_next_start_sends_with_the_same_keys(tmp_path: Path, central: Central) -> None:
    """The server took it and its answer was lost."""
    central.answer = lambda _: (500, {})
    with site(tmp_path / "box", central) as one:
        one.judge()
        until(lambda: central.batches, WAIT_S, "a batch")
    central.answer = lambda _: (200, {})
    with site(tmp_path / "box", central) as one:
        empty(one)
    assert len({key for key, _ in central.batches}) == 1
    assert len({body["rows"][0]["key"] for _, body in central.batches}) == 1


def test_oldest_rows_go_when_too_much_waits(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: (500, {})
    with site(tmp_path / "box", central, start=False) as one:
        one.fill(3000)
    with site(tmp_path / "box", central, bytes_max=1 << 16, retry_s_max=3600.0) as one:
        until(lambda: waiting_bytes(one) <= 1 << 16, WAIT_S, "the bound")
        assert waiting_bytes(one) > 50_000
        assert one.count("dropped") == 3000 - one.waiting()


def test_full_queue_refuses_what_is_new_and_says_so(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: (500, {})
    with site(tmp_path / "box", central, bytes_max=1 << 16, policy="reject_new", retry_s_max=3600.0) as one:
        one.fill(2000)
        until(lambda: one.outbox.report()[0].state == "full", WAIT_S, "the report")
        one.judge()
        until(lambda: one.count("refused") == 1, WAIT_S, "the count")
        assert one.waiting() == 2000
        assert query(one.folder, "SELECT count(*) FROM results") == [(1,)]


def test_what_is_too_old_is_given_up_by_the_age_of_the_box(tmp_path: Path, central: Central) -> None:
    central.answer = lambda _: (500, {})
    with site(tmp_path / "box", central, start=False) as one:
        one.fill(1500)
    for age, left in ((0.0, 1500), (29 * DAY_S, 1500), (31 * DAY_S, 2)):
        with site(tmp_path / "box", central, age=age, age_days_max=30.0, retry_s_max=3600.0, batch_rows=1) as one:
            until(lambda one=one, left=left: one.waiting() <= left, WAIT_S, f"{left} rows")  # type: ignore[misc]
            until(lambda one=one: one.outbox.report(), WAIT_S, "a look")  # type: ignore[misc]
            assert one.waiting() == left or left == 2


def test_pictures_of_findings_follow_and_what_is_gone_is_counted(tmp_path: Path, central: Central) -> None:
    picture = b"\xff\xd8\xff\xe0" + bytes(100)
    with site(tmp_path / "box", central, start=False, images=True) as one:
        one.judge("ok", picture=picture)
        kept = one.judge("ng", picture=picture)
        one.judge("review", picture=picture)
        one.store.submit(Write(also=(("UPDATE results SET segment = NULL WHERE verdict = 'review'", ()),), must=True))
    with site(tmp_path / "box", central, images=True) as one:
        empty(one)
        assert central.pictures == {f"/in/images/box/{kept}": picture}
        assert one.count("gone", "central/images") == 1
        assert len(central.numbers()) == 3


def test_rows_of_an_upstream_that_was_taken_out_wait_and_are_reported(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", central, start=False) as one:
        one.fill(5, queue="old")
    with site(tmp_path / "box", central) as one:
        until(lambda: "unknown" in [each.state for each in one.outbox.report()], WAIT_S, "the report")
        assert one.waiting() == 5


def test_upstream_broker_gets_rows_with_their_keys_and_late_ones_marked(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as broker, device(broker.port, "central") as client:
        client.subscribe("appliance/#")
        upstream = MqttUpstream(broker=BrokerConfig(host="127.0.0.1", port=broker.port, reconnect_s_max=1.0))
        config = Config(device="box", upstreams={"central": upstream})
        first = Site(tmp_path / "box", config)
        old = [first.judge() for _ in range(30)]
        first.stop()
        second = Site(tmp_path / "box", config)
        second.outbox.start()
        try:
            messages = client.received("appliance/box/results/tiny/camera", 30)
            new = second.judge()
            messages = client.received("appliance/box/results/tiny/camera", 31)
            empty(second)
        finally:
            second.stop()
    assert [json.loads(each.payload)["id"] for each in messages] == [*old, new]
    properties = [dict(each.properties.UserProperty) for each in messages]  # type: ignore[union-attr]
    assert [each.get("late") for each in properties] == ["true"] * 30 + [None]
    assert len({each["key"] for each in properties}) == 31


def test_stop_while_central_does_not_answer_is_quick(tmp_path: Path, central: Central) -> None:
    released = threading.Event()

    def hangs(_: list[Any]) -> Answer:
        released.wait(WAIT_S)
        return 500, {}

    central.answer = hangs
    with site(tmp_path / "box", central, timeout_s=1.0) as one:
        one.judge()
        until(lambda: central.batches, WAIT_S, "a batch")
    released.set()
    assert query(tmp_path / "box", "SELECT count(*) FROM outbox") == [(1,)]
