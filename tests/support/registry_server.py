"""A registry over HTTPS with ranges, which can be told to answer like a bad server, and counts what it gives."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.certificates import Authority

_CHUNK = 64 << 10
_RANGE = re.compile(r"bytes=(\d+)-")


class Server:
    """files: path -> content. wire: bytes of bodies that were given, by path. asked: path and where it began.

    bends: how a path begins -> who answers instead. connections: how many were made. cut_after: bytes of blobs, in all,
    after which every connection is cut until it is set anew.
    """

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        authority = Authority(folder)
        self.ca = authority.ca_file
        self.files = files
        self.wire: dict[str, int] = {}
        self.asked: list[tuple[str, int]] = []
        self.bends: dict[str, Callable[[Handler], None]] = {}
        self.connections = 0
        self.cut_after: int | None = None
        self.ranges = True
        self.blob_bytes = 0
        certificate, key = authority.issue("registry")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._server = _Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"registry": self}))
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 20
    disable_nagle_algorithm = True
    registry: Server

    def setup(self) -> None:
        super().setup()
        self.registry.connections += 1

    def do_GET(self) -> None:
        path = self.path.removeprefix("/")
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        offset = int(found[1]) if found and self.registry.ranges else 0
        self.registry.asked.append((path, offset))
        bend = next((bend for start, bend in self.registry.bends.items() if path.startswith(start)), None)
        content = self.registry.files.get(path)
        if bend is not None:
            bend(self)
        elif content is None:
            self.answer(404, b"not here")
        elif offset:
            span = f"bytes {offset}-{len(content) - 1}/{len(content)}"
            self.answer(206, content[offset:], **{"Content-Range": span})
        else:
            self.answer(200, content)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.give(body)

    def give(self, body: bytes) -> None:
        path, registry = self.path.removeprefix("/"), self.registry
        for at in range(0, len(body), _CHUNK):
            chunk = body[at : at + _CHUNK]
            if path.startswith("blobs/"):
                if registry.cut_after is not None and registry.blob_bytes >= registry.cut_after:
                    self.close_connection = True
                    return
                registry.blob_bytes += len(chunk)
            self.wfile.write(chunk)
            registry.wire[path] = registry.wire.get(path, 0) + len(chunk)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads it."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A box that hangs up is what the tests are about."""


@contextmanager
def serving(folder: Path, files: dict[str, bytes]) -> Iterator[Server]:
    """folder: for its certificates."""
    server = Server(folder, files)
    try:
        yield server
    finally:
        with suppress(OSError):
            server.stop()
