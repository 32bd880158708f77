"""A caller that begins a request and sends no body, or a part of one, is answered in time at every wire door.

And all that callers sent and that is not answered yet is bounded.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.support.box import Box, running_box
from tests.support.models import picture, write_model
from tests.support.wait import until

BODY_S_MAX = 0.3
BODY_BYTES_MAX = 64 << 10
ARRIVED_S = 0.05
FORM = "multipart/form-data; boundary=xyz"
PATHS = ("/v1/predict/tiny", "/v1/models/tiny:predict", "/v1/vision/detection", "/v2/models/tiny/infer")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    write_model(folder / "models", "tiny")
    with running_box(folder, folder / "models", http={"body_s_max": BODY_S_MAX}) as box:
        yield box


@pytest.mark.parametrize("begun", [b"", b"{"], ids=["nothing", "a byte"])
@pytest.mark.parametrize("path", PATHS)
def test_caller_whose_body_does_not_come_is_refused(box: Box, path: str, begun: bytes) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{box.port}\r\nContent-Length: 100\r\n"
        f"Content-Type: {FORM}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", box.port), timeout=20) as caller:
        caller.sendall(head.encode() + begun)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
    assert b"did not arrive within 0.3 s" in answer


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Takes two uploads of the largest size, and no third."""
    folder = tmp_path_factory.mktemp("narrow")
    write_model(folder / "models", "tiny")
    limits = {"body_bytes_max": BODY_BYTES_MAX, "bodies_bytes_max": 2 * BODY_BYTES_MAX}
    with running_box(folder, folder / "models", http=limits) as box:
        yield box


@pytest.mark.parametrize("path", PATHS)
def test_uploads_that_are_under_way_are_bounded_together(narrow: Box, path: str) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{narrow.port}\r\nContent-Length: {BODY_BYTES_MAX}\r\n"
        f"Content-Type: {FORM}\r\n\r\n"
    )

    def refusal() -> httpx.Response | None:
        """Of a small upload, while two large ones are under way; None when it came before them."""
        with ExitStack() as under_way:
            for _ in range(2):
                caller = under_way.enter_context(socket.create_connection(("127.0.0.1", narrow.port), timeout=20))
                caller.sendall(head.encode() + bytes(BODY_BYTES_MAX - 10))
            time.sleep(ARRIVED_S)
            reply = narrow.http.post(path, content=bytes(100), headers={"Content-Type": FORM})
        return reply if reply.status_code == 503 else None

    reply = until(refusal, 20, "an upload being refused")
    assert reply is not None
    assert "not answered yet, http.bodies_bytes_max is" in reply.text
    # The callers hung up: their room is free again.
    image = {"Content-Type": "image/png"}
    until(lambda: narrow.http.post(PATHS[0], content=picture(), headers=image).status_code == 200, 10, "room for one")
