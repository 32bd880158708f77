"""The registry's files over HTTP, for a small site: ranges, nothing outside of its three folders, no listing.

Any static server, object store or CDN does the same. Everything but `timestamp.json` has a name that says what is in
it, so it may be kept by whoever is on the way.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from appliance.core.manifest import check_relative
from appliance.errors import ConfigError
from provisioning.registry.files import SERVED

_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_CHUNK_BYTES = 256 << 10
_RANGE = re.compile(r"^bytes=([0-9]{0,18})-([0-9]{0,18})$")
_CONNECTIONS_MAX = 512
_NEVER_CHANGES = b"public, max-age=31536000, immutable"
_CHANGES = b"no-cache"


class StaticFiles:
    """An ASGI application."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, [(b"allow", b"GET, HEAD")], b"only GET and HEAD\n")
            return
        handle = _open(self._folder, scope["raw_path"].decode("latin-1"))
        if handle is None:
            await _answer(send, 404, [(b"cache-control", b"no-store")], b"there is no such file\n")
            return
        try:
            await self._give(scope, send, handle)
        finally:
            os.close(handle)

    async def _give(self, scope: _Scope, send: _Send, handle: int) -> None:
        found = os.fstat(handle)
        asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
        tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
        changes = scope["path"].endswith("/timestamp.json")
        headers = [
            (b"accept-ranges", b"bytes"),
            (b"etag", tag.encode()),
            (b"last-modified", formatdate(found.st_mtime, usegmt=True).encode()),
            (b"cache-control", _CHANGES if changes else _NEVER_CHANGES),
            (b"content-type", b"application/json" if scope["path"].endswith(".json") else b"application/octet-stream"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if asked.get(b"if-none-match") == tag:
            await _answer(send, 304, headers[:4], b"")
            return
        begins, ends, status = 0, found.st_size, 200
        span = asked.get(b"range")
        if span is not None and asked.get(b"if-range", tag) == tag:
            try:
                wanted = parse_range(span, found.st_size)
            except ValueError:
                await _answer(send, 416, [(b"content-range", f"bytes */{found.st_size}".encode())], b"")
                return
            if wanted is not None:
                (begins, ends), status = wanted, 206
                headers.append((b"content-range", f"bytes {begins}-{ends - 1}/{found.st_size}".encode()))
        headers.append((b"content-length", str(ends - begins).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        while begins < ends:
            chunk = await asyncio.to_thread(os.pread, handle, min(_CHUNK_BYTES, ends - begins), begins)
            if not chunk:
                raise OSError("the file became shorter while it was sent")
            begins += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": begins < ends})
        if found.st_size == 0:
            await send({"type": "http.response.body", "body": b""})


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """RFC 9110, 14.1.2: one range of bytes -> begin and end (exclusive). None: answer as if none was asked for.

    Raises ValueError when there is nothing in it.
    """
    found = _RANGE.match(header)
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        begins, ends = max(0, size - int(found[2])), size
    else:
        begins, ends = int(found[1]), size if found[2] == "" else int(found[2]) + 1
        if found[2] != "" and ends <= begins:
            return None
    if begins >= size:
        raise ValueError(f"{header} begins beyond the {size} bytes that there are")
    return begins, min(ends, size)


def check(folder: Path, host: str, certificate: Path | None, key: Path | None) -> None:
    """Raises ConfigError, also when others could reach it without TLS."""
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key belong together; give both")
    if certificate is None and not _is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from outside, and devices take updates over HTTPS alone; give --certificate and "
            "--key"
        )
    for path in (certificate, key):
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(f"{path} cannot be read; give a file in PEM")
    if not (folder / "metadata").is_dir():
        raise ConfigError(f"{folder} is not a registry; give its folder")


def serve(folder: Path, host: str, port: int, certificate: Path | None, key: Path | None) -> None:
    """Until stopped. What is given was checked."""
    import uvicorn

    uvicorn.run(
        StaticFiles(folder),
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_keep_alive=30,
        server_header=False,
        lifespan="off",
        log_level="warning",
    )


def _open(folder: Path, path: str) -> int | None:
    """A plain file in one of the folders that are served; no link, no hidden name, nothing above."""
    name = unquote(path.partition("?")[0]).removeprefix("/")
    parts = name.split("/")
    try:
        check_relative(name)
    except ValueError:
        return None
    if parts[0] not in SERVED or any(part.startswith(".") or not part for part in parts):
        return None
    if _passes_link(folder, parts):
        return None
    try:
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return handle


def _passes_link(folder: Path, parts: Iterable[str]) -> bool:
    for part in parts:
        folder = folder / part
        if folder.is_symlink():
            return True
    return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _answer(send: _Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if status != 304:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
