"""One call of a remote model has one time limit, whatever the server does with it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from appliance import timed
from appliance.config import EndpointConfig
from appliance.core import oip
from appliance.core.manifest import ModelManifest, RemoteModel, TensorPreprocess, Variant
from appliance.core.tensors import Array, TensorSpec
from appliance.errors import RemoteUnavailable
from appliance.runtimes.remote import RemoteLoaded, load_remote

TIMEOUT_S = 0.2
PLENTY_S = 60.0
ROW = {"x": np.ones((1, 2), np.float32)}
Serve = Callable[[socket.socket, threading.Event], None]


@contextmanager
def serving(serve: Serve) -> Iterator[int]:
    """A server that does `serve` with each connection, on a thread of its own; its port. The event says it is over."""
    over = threading.Event()
    taken: list[tuple[threading.Thread, socket.socket]] = []

    def take(connection: socket.socket) -> None:
        # The caller may have given up.
        with suppress(OSError):
            serve(connection, over)
        connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            thread = threading.Thread(target=take, args=(connection,))
            taken.append((thread, connection))
            thread.start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread, connection in taken:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                thread.join()


def silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def trickling(start: bytes, more: bytes) -> Serve:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(1 << 16)
        connection.sendall(start)
        while not over.wait(0.1):
            connection.sendall(more)

    return serve


def deaf(connection: socket.socket, over: threading.Event) -> None:
    """Reads nothing of a large request."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    over.wait()


def make_model(port: int, *, rows: int = -1, timeout_s: float = TIMEOUT_S, greeted: bool = True) -> RemoteLoaded:
    """rows: the first axis of the output. greeted: what the server is was found out before."""
    variant = Variant(
        name="remote-f32", format="remote", precision="f32", remote=RemoteModel(endpoint="odd", model="m")
    )
    manifest = ModelManifest(
        schema=1,
        name="far",
        version="1",
        title="",
        licence="",
        provenance="",
        inputs=(TensorSpec("x", "float32", (-1, 2)),),
        outputs=(TensorSpec("y", "float32", (rows, 2)),),
        preprocess=TensorPreprocess(),
        variants=(variant,),
    )
    model = load_remote(manifest, variant, {"odd": EndpointConfig(url=f"http://127.0.0.1:{port}", timeout_s=timeout_s)})
    model._compared = greeted
    model._endpoint.away = None
    return model


class Watched:
    """The clock, which knows how often it was asked for the time left and what the last answer was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: list[float] = []
        real = timed.CallTime.left_s

        def left_s(of_call: Any) -> float:
            left = real(of_call)
            self.left.append(left)
            return left

        monkeypatch.setattr(timed.CallTime, "left_s", left_s)


@pytest.mark.parametrize(
    "serve",
    [
        silent,
        trickling(b"", b"H"),
        trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Slow: ", b"a"),
        trickling(b"HTTP/1.1 200 OK\r\n", b"X-Slow: a\r\n"),
        trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
        trickling(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        deaf,
    ],
    ids=["silent", "status", "header", "headers", "body", "chunks", "deaf"],
)
def test_call_ends_with_its_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(serve) as port:
        model = make_model(port)
        watched = Watched(monkeypatch)
        given = {"x": np.ones((1 << 20, 2), np.float32)} if serve is deaf else ROW
        with pytest.raises(RemoteUnavailable) as caught:
            model.session("throughput")(given)
    assert str(caught.value) == (
        f"endpoint odd (http://127.0.0.1:{port}) did not answer within 0.2 s; check the network and the server, or "
        "correct [endpoints.odd]"
    )
    # Every step had what the steps before it left.
    assert len(watched.left) > 1
    assert watched.left == sorted(watched.left, reverse=True)


def test_server_that_is_away_is_told_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(RemoteUnavailable, match=r"endpoint odd .* does not answer: .*refused; check the network"):
            make_model(nobody.getsockname()[1], timeout_s=PLENTY_S).session("throughput")(ROW)


def test_greeting_and_second_attempt_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing of itself and refuses binary tensors: the last of five requests is not answered."""
    requests: list[str] = []

    def serve(connection: socket.socket, over: threading.Event) -> None:
        for place in iter(lambda: _request(connection), ""):
            requests.append(place)
            if len(requests) == 3 + 5:
                over.wait()
            status = "404 Not Found" if place.endswith("/v2") else "200 OK"
            if place.endswith("/infer"):
                status = "400 Bad Request"
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    with serving(serve) as port:
        model = make_model(port, timeout_s=1.0, greeted=False)
        before = len(requests)
        watched = Watched(monkeypatch)
        with pytest.raises(RemoteUnavailable, match=r"did not answer within 1 s"):
            model.session("throughput")(ROW)
    assert before == 3
    assert [place.rpartition("/")[2] for place in requests[before:]] == ["v2", "ready", "m", "infer", "infer"]
    assert watched.left == sorted(watched.left, reverse=True)


def test_next_call_has_the_whole_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering) as port:
        model = make_model(port, timeout_s=PLENTY_S)
        session = model.session("throughput")
        watched = Watched(monkeypatch)
        session(ROW)
        first = watched.left[-1]
        time.sleep(0.01)
        watched.left.clear()
        session(ROW)
    assert watched.left[0] > first


def test_name_that_is_never_found_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*args: Any, **more: Any) -> list[Any]:
        over.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(RemoteUnavailable, match=r"did not answer within 0\.2 s"):
            make_model(1).session("throughput")(ROW)
    finally:
        over.set()


def test_second_address_is_tried_when_the_first_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering) as port, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (nobody.getsockname(), ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: both)
        assert np.array_equal(make_model(port, timeout_s=PLENTY_S).session("throughput")(ROW)["y"], ROW["x"])


@pytest.mark.parametrize("rows", [-1, 1])
def test_rows_share_a_call_where_the_output_has_them_too(rows: int) -> None:
    """An output of one row, whatever is sent, would be taken apart as if it had as many."""
    calls: list[int] = []
    with serving(lambda connection, over: answering(connection, over, calls)) as port:
        model = make_model(port, rows=rows, timeout_s=PLENTY_S)
        given = np.arange(6, dtype=np.float32).reshape(3, 2)
        assert np.array_equal(model.session("throughput")({"x": given})["y"], given)
    assert model.batches == (rows == -1)
    assert calls == ([3] if rows == -1 else [1, 1, 1])


def answering(connection: socket.socket, over: threading.Event, calls: list[int] | None = None) -> None:
    """y = x. calls: the rows of each."""
    while head := _head(connection):
        headers = _headers(head)
        body = b""
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(1 << 16)
        content, more = b"{}", ""
        if b"/infer " in head:
            array: Array = oip.parse_request(body, int(headers[oip.HEADER_LENGTH])).inputs[0].array
            if calls is not None:
                calls.append(len(array))
            content, length = oip.encode_response("m", "1", [("y", array, True)])
            more = f"{oip.HEADER_LENGTH}: {length}\r\n"
        connection.sendall(f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(content)}\r\n\r\n".encode() + content)


def _request(connection: socket.socket) -> str:
    """The path of the next request, read to its end; empty at the end of the connection."""
    head = _head(connection)
    left = int(_headers(head).get("content-length", 0))
    while left:
        left -= len(connection.recv(left))
    return head.split(b" ")[1].decode() if head else ""


def _head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _headers(head: bytes) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in head.decode().split("\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in pairs}
