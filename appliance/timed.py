"""A connection whose every step must end within the time of one call, also when a server answers byte by byte."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from typing import Any


class CallTime:
    """What is left to a call."""

    def __init__(self, whole_s: float) -> None:
        self.whole_s = whole_s
        self._ends_at = time.monotonic() + whole_s

    def start(self) -> None:
        self._ends_at = time.monotonic() + self.whole_s

    def left_s(self) -> float:
        """Raises TimeoutError when it is over."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class TimedSocket:
    """What `http.client` uses of a socket; each step may take what is left of the call's time."""

    def __init__(self, inner: socket.socket, time_of_call: CallTime) -> None:
        self._inner = inner
        self._time = time_of_call

    def ready(self) -> socket.socket:
        self._inner.settimeout(self._time.left_s())
        return self._inner

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.ready().send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_File(self, self._inner.makefile("rb", 0)))

    def close(self) -> None:
        self._inner.close()


def connect(host: str, port: int, tls: ssl.SSLContext | None, time_of_call: CallTime) -> TimedSocket:
    """Raises OSError, TimeoutError among them."""
    inner = _open(host, port, time_of_call)
    try:
        if tls is not None:
            inner.settimeout(time_of_call.left_s())
            inner = tls.wrap_socket(inner, server_hostname=host)
    except BaseException:
        inner.close()
        raise
    return TimedSocket(inner, time_of_call)


class _File(io.RawIOBase):
    """The reading end of a `TimedSocket`; the socket stays open for as long as this does."""

    def __init__(self, over: TimedSocket, inner: socket.SocketIO) -> None:
        self._over = over
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._over.ready()
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _open(host: str, port: int, time_of_call: CallTime) -> socket.socket:
    """The first address that answers; one that is silent leaves time for the others."""
    addresses = _addresses(host, port, time_of_call.left_s())
    for index, (family, kind, number, _, address) in enumerate(addresses):
        inner = socket.socket(family, kind, number)
        try:
            inner.settimeout(time_of_call.left_s() / (len(addresses) - index))
            inner.connect(address)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            inner.close()
            if index == len(addresses) - 1:
                raise
        else:
            return inner
    raise OSError(f"{host} has no address")


def _addresses(host: str, port: int, timeout_s: float) -> list[Any]:
    """As `socket.getaddrinfo`, which knows no time limit: a thread of its own asks it."""
    found: Future[list[Any]] = Future()

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.set_exception(OSError(str(error)))

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    return found.result(timeout_s)
