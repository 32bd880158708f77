"""A TCP proxy that a test can cut, stall, and make deaf: what networks do to long connections."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Gate = Callable[[bytes], bytes | None]
"""Looks at the first bytes of a client; what it returns is the answer, after which the connection ends. None: pass."""

_PIECE = 65_536
_TURN_S = 0.05


class Proxy:
    """Passes connections on to a port of the loopback. One thread for each connection."""

    def __init__(self, target: int, gate: Gate | None = None) -> None:
        self._target = target
        self._gate = gate
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._closing = False
        self.connections = 0
        """So far."""
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> int:
        """Reset every connection, as a switch that reboots does; returns how many there were."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.reset()
        return len(links)

    def half_open(self) -> None:
        """Nothing goes through the present connections any more, and neither end is told."""
        with self._lock:
            for link in self._links:
                link.deaf = True

    def close(self) -> None:
        self._closing = True
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="proxy-link", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        first = b""
        try:
            if self._gate is not None:
                first = client.recv(_PIECE)
                answer = self._gate(first)
                if answer is not None:
                    client.sendall(answer)
                    client.close()
                    return
            server = socket.create_connection(("127.0.0.1", self._target))
            server.sendall(first)
        except OSError:
            # Nobody behind: the client learns it by the end of its connection.
            client.close()
            return
        link = _Link(client, server)
        with self._lock:
            self._links.append(link)
            self.connections += 1
        link.pass_on()
        with self._lock, contextlib.suppress(ValueError):
            self._links.remove(link)


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._ended = False
        self._by_force = False
        self.deaf = False

    def reset(self) -> None:
        self._by_force = True
        self._ended = True

    def pass_on(self) -> None:
        """Until one end hangs up."""
        ends = (self._client, self._server)
        try:
            while not self._ended:
                if self.deaf:
                    # Whoever hangs up is not heard either.
                    threading.Event().wait(_TURN_S)
                    continue
                readable, _, _ = select.select(ends, [], [], _TURN_S)
                for end in () if self.deaf else readable:
                    piece = end.recv(_PIECE)
                    if not piece:
                        return
                    (self._server if end is self._client else self._client).sendall(piece)
        except OSError:
            return
        finally:
            for end in ends:
                if self._by_force:
                    # With this option `close` sends RST, and what was on its way is gone.
                    with contextlib.suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.close()


@contextmanager
def proxy(target: int, gate: Gate | None = None) -> Iterator[Proxy]:
    """A proxy to a port of the loopback, closed on leaving."""
    one = Proxy(target, gate)
    try:
        yield one
    finally:
        one.close()
