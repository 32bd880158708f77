"""A caller that begins a request and sends no body, or a part of one, is answered in time at every wire door."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.box import Box, running_box
from tests.support.models import write_model

BODY_S_MAX = 0.3


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    write_model(folder / "models", "tiny")
    with running_box(folder, folder / "models", http={"body_s_max": BODY_S_MAX}) as box:
        yield box


@pytest.mark.parametrize("begun", [b"", b"{"], ids=["nothing", "a byte"])
@pytest.mark.parametrize(
    "path", ["/v1/predict/tiny", "/v1/models/tiny:predict", "/v1/vision/detection", "/v2/models/tiny/infer"]
)
def test_caller_whose_body_does_not_come_is_refused(box: Box, path: str, begun: bytes) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{box.port}\r\nContent-Length: 100\r\n"
        f"Content-Type: multipart/form-data; boundary=xyz\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", box.port), timeout=20) as caller:
        caller.sendall(head.encode() + begun)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
    assert b"did not arrive within 0.3 s" in answer
