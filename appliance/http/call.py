"""One HTTP call at a door that speaks a wire format of its own: a plain ASGI application, with its own error form.

The doors that carry inference are such applications, mounted in the HTTP server by path. Half of what a request costs
would otherwise be spent on features that they do not use.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import structlog

from appliance.errors import ApplianceError, BodyTooLarge, DecodeError, FieldError, Overloaded, WrongMethod
from appliance.http.security import HEADERS, check_call

log = structlog.get_logger("http")

T = TypeVar("T")

_HEADERS = tuple((name.lower().encode(), value.encode()) for name, value in HEADERS.items())


class HungUp(Exception):
    """The caller is gone; nobody reads an answer."""


class Bodies:
    """How much may come in, in one body and in all that are not answered yet. Shared by the doors; loop only."""

    __slots__ = ("_held", "bytes_max", "seconds_max", "together_max")

    def __init__(self, bytes_max: int, together_max: int, seconds_max: float) -> None:
        self.bytes_max = bytes_max
        self.together_max = together_max
        self.seconds_max = seconds_max
        self._held = 0

    def check(self, count: int) -> None:
        """Raises BodyTooLarge for one body of so many bytes."""
        if count > self.bytes_max:
            raise BodyTooLarge(
                f"the body is above http.body_bytes_max ({self.bytes_max} bytes); send it smaller or raise the limit"
            )

    def take(self, count: int) -> None:
        """So many bytes more are here. Raises Overloaded."""
        if self._held + count > self.together_max:
            raise Overloaded(
                f"uploads of {self._held} bytes are not answered yet, http.bodies_bytes_max is {self.together_max}; "
                "send it again in a moment"
            )
        self._held += count

    def give(self, count: int) -> None:
        """So many bytes are gone."""
        self._held -= count


class Call:
    """What came: method, path (decoded), headers by lower-case name, query, body."""

    __slots__ = ("_bodies", "_receive", "headers", "held", "method", "path", "query_string")

    def __init__(self, scope: Any, receive: Any, bodies: Bodies) -> None:
        self.method: str = scope["method"]
        # The path as it was sent, since `%2F` inside a name must not become a separator.
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        self.path: str = raw.partition(b"?")[0].decode("latin-1")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.query_string: bytes = scope["query_string"]
        self.held = 0
        self._receive = receive
        self._bodies = bodies

    @property
    def segments(self) -> list[str]:
        """The path's parts between slashes, decoded."""
        if "%" not in self.path:
            return self.path.strip("/").split("/")
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def header(self, name: str) -> str:
        """A header's value, empty when it is not there. Bytes that are not UTF-8 are read as Latin-1."""
        value = self.headers.get(name.encode(), b"")
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")

    @property
    def media_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    def query(self) -> dict[str, str]:
        """Raises FieldError for a parameter that is given twice."""
        if not self.query_string:
            return {}
        found: dict[str, str] = {}
        for name, value in parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True):
            if name in found:
                raise FieldError(f"query parameter {name!r} is given twice; give it once")
            found[name] = value
        return found

    async def body(self) -> bytes:
        """The whole body. Raises BodyTooLarge, Overloaded, DecodeError for one that comes too slowly, HungUp."""
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit():
            self._bodies.check(int(declared))
        try:
            async with asyncio.timeout(self._bodies.seconds_max):
                return await self._gather()
        except TimeoutError as error:
            raise DecodeError(
                f"the body did not arrive within {self._bodies.seconds_max:g} s; send it faster or smaller"
            ) from error

    async def _gather(self) -> bytes:
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise HungUp
            part: bytes = message.get("body", b"")
            self._bodies.check(len(body) + len(part))
            self._bodies.take(len(part))
            self.held += len(part)
            if not message.get("more_body"):
                return bytes(body + part) if body else part
            body += part


class Reply:
    """What goes back. headers: beside Content-Type, Content-Length and those of every answer."""

    __slots__ = ("body", "headers", "media_type", "status")

    def __init__(
        self,
        body: bytes,
        media_type: str = "application/json",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.media_type = media_type
        self.status = status
        self.headers = headers


Answer = Callable[[Call], Awaitable[Reply]]
OnError = Callable[[Call, ApplianceError], Reply]


class Door:
    """An ASGI application for one wire format. `on_error` words every error in the door's own form."""

    def __init__(self, answer: Answer, on_error: OnError, bodies: Bodies) -> None:
        self._answer = answer
        self._on_error = on_error
        self._bodies = bodies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        call = Call(scope, receive, self._bodies)
        try:
            check_call(call.method, scope["path"], call.header("host"), call.headers.get(b"origin"))
            reply = await self._answer(call)
        except HungUp:
            return
        except ApplianceError as error:
            reply = self._on_error(call, error)
        except Exception as error:
            log.error("unexpected", path=call.path, exc_info=error)
            reply = self._on_error(call, ApplianceError(f"{type(error).__name__}; the log of the box has the details"))
        finally:
            self._bodies.give(call.held)
        headers = [
            (b"content-type", reply.media_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *_HEADERS,
        ]
        if reply.headers:
            headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else reply.body})


async def await_answer(future: Future[T]) -> T:
    """What a lane answers; at once when the answer is there already."""
    return future.result() if future.done() else await asyncio.wrap_future(future)


def wrong_method(call: Call, allow: str) -> WrongMethod:
    """allow: the methods that a door takes at this path."""
    return WrongMethod(f"{call.method} is not allowed at {call.path}; send {allow}", allow)


def cache_headers(cached: Iterable[bool | None]) -> dict[str, str]:
    """X-Cache: `hit` when the cache gave all of the answers; nothing when it was asked for none of them (None)."""
    asked = [each for each in cached if each is not None]
    return {"X-Cache": "hit" if all(asked) else "miss"} if asked else {}


def one_line(text: str) -> str:
    """For an error's text in a header or a JSON string."""
    return " ".join(text.split())


def error_json(text: str) -> bytes:
    """{"error": ...}: the form that OIP and TensorFlow Serving clients read."""
    return json.dumps({"error": one_line(text)}).encode()
