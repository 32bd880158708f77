"""`appliance-registry serve` in a process of its own over TLS, behind a relay that counts what is on the wire."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.wait import until

_PIECE = 65_536


class Wire:
    """url: of the relay, which passes everything on. bytes: that went either way, TLS and headers included."""

    def __init__(self, target: int) -> None:
        self.bytes = 0
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                self.bytes += len(piece)
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Served:
    """ca: what its certificate is checked with. url: of the server itself. wire: the way through the relay."""

    def __init__(self, url: str, ca: Path, wire: Wire) -> None:
        self.url = url
        self.ca = ca
        self.wire = wire


@contextmanager
def serving(registry: Path, folder: Path) -> Iterator[Served]:
    """folder: for its certificates."""
    authority = Authority(folder)
    certificate, key = authority.issue("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--registry", registry, "--port", port, "--certificate", certificate, "--key", key]
    process = subprocess.Popen(
        [sys.executable, "-m", "provisioning.registry.cli", *map(str, words)],
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    wire = Wire(port)
    try:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        until(lambda: _answers(port, context), 20, "the registry's server answers")
        yield Served(f"https://127.0.0.1:{port}/", authority.ca_file, wire)
    finally:
        wire.close()
        process.terminate()
        process.wait(10)


def _answers(port: int, context: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 1) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            return True
    except OSError:
        return False
