"""A socket that is read in large pieces and written once a turn, and paho's client on top of one.

paho asks its socket for a byte or two at a time, and sends each acknowledgement by itself: most of what a message
costs. Here `fill` receives all that is there, paho reads from that, and what it sends gathers until `flush`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from paho.mqtt.client import Client

_READ_BYTES = 1 << 18
_WRITE_BYTES_MAX = 1 << 20
"""Unsent bytes from which on `send` refuses more."""

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BufferedSocket:
    """Around a socket that does not block, TLS or not. Belongs to one thread."""

    def __init__(self, inner: socket.socket | ssl.SSLSocket) -> None:
        self._inner = inner
        self._data = b""
        self._at = 0
        self._offered = 0
        self._further: list[bytes] = []
        self._further_bytes = 0
        self._out = bytearray()
        self._over: OSError | None = None

    @property
    def over(self) -> bool:
        """The connection has ended: `recv` tells how, once it has given what came before."""
        return self._over is not None

    @property
    def unsent(self) -> int:
        return len(self._out)

    @property
    def full(self) -> bool:
        """Whether `send` would refuse."""
        return len(self._out) > _WRITE_BYTES_MAX

    def fileno(self) -> int:
        return self._inner.fileno()

    def setblocking(self, flag: bool) -> None:
        self._inner.setblocking(flag)

    def pending(self) -> int:
        """Bytes that were received and not read yet."""
        return len(self._data) - self._at + self._further_bytes

    def unread(self) -> tuple[bytes, int]:
        """What was received, as one piece, and the position from which on it is unread."""
        if self._further:
            self._data = b"".join((self._data[self._at :], *self._further))
            self._at = self._offered = 0
            self._further, self._further_bytes = [], 0
        return self._data, self._at

    def read_to(self, position: int) -> None:
        """What `unread` gave is used up to there."""
        self._at = self._offered = position

    def offer(self, position: int) -> None:
        """`recv` gives what lies before this position, and no more."""
        self._offered = position

    def fill(self) -> None:
        """Receive what is there."""
        try:
            received = self._inner.recv(_READ_BYTES)
            self._keep(received)
            while received and isinstance(self._inner, ssl.SSLSocket) and self._inner.pending():
                # What TLS has decrypted already makes no socket readable.
                received = self._inner.recv(_READ_BYTES)
                self._keep(received)
        except _NOT_NOW:
            pass
        except OSError as error:
            self._over = error

    def recv(self, size: int) -> bytes:
        """Of what was offered. Raises BlockingIOError when that is used up, or what ended the connection."""
        if self._at < self._offered:
            begin, self._at = self._at, min(self._at + size, self._offered)
            return self._data[begin : self._at]
        if self._over is None:
            raise BlockingIOError
        raise self._over

    def send(self, content: bytes | bytearray) -> int:
        """Take all of it, for the next `flush`; raises BlockingIOError while too much waits."""
        if self.full:
            raise BlockingIOError
        self._out += content
        return len(content)

    def flush(self) -> None:
        """Send as much as the socket takes."""
        try:
            while self._out:
                sent = self._inner.send(self._out)
                del self._out[:sent]
        except _NOT_NOW:
            pass
        except OSError as error:
            self._over = error

    def close(self) -> None:
        """The last words first, as far as they go at once."""
        with contextlib.suppress(ValueError):
            self.flush()
        self._inner.close()

    def _keep(self, received: bytes) -> None:
        if not received:
            self._over = ConnectionResetError("the other side ended the connection")
        self._further.append(received)
        self._further_bytes += len(received)


class BufferedClient(Client):
    """paho's client on a buffered socket; whoever drives it fills and flushes that."""

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())  # type: ignore[arg-type]
