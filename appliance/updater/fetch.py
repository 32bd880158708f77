"""Where a registry is: a place that gives files by their path, and the door through which python-tuf sees it.

There are two: a server over HTTPS (`https.py`) and a folder such as a stick (`folder.py`). Nothing that comes from
either is believed before its signature, length and hash were checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient.fetcher import FetcherInterface

from appliance.errors import RegistryUnavailable

SCHEME = "registry://"
"""What python-tuf is told as the base address of the registry: it only joins names to it."""


class Missing(RegistryUnavailable):
    """The registry answers, and has no such file. status: of its answer."""

    def __init__(self, message: str, status: int = 404) -> None:
        super().__init__(message, answered=True, again=False)
        self.status = status


class Body(msgspec.Struct, frozen=True):
    """A file on its way. begins: the offset of the first byte. total: length of the whole file, when it was told."""

    chunks: Iterator[bytes]
    begins: int = 0
    total: int | None = None


class Source(Protocol):
    """One place. origin: how people know it."""

    origin: str

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Body]:
        """The file from `offset` on; a source may begin at 0 all the same. Raises RegistryUnavailable, here and while
        the chunks are read."""
        ...


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How slow a source may be. gap_s: without a byte. least_bytes_s: on average, asked after `grace_s`."""

    connect_s: float = 10.0
    gap_s: float = 30.0
    grace_s: float = 60.0
    least_bytes_s: float = 256.0

    def check(self, chunks: Iterator[bytes], origin: str, now: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
        """The same chunks, as long as they come fast enough. Raises RegistryUnavailable."""
        began, count = now(), 0
        for chunk in chunks:
            count += len(chunk)
            yield chunk
            # The reader's own pauses count too: with a bounded rate that is still far above this one.
            took_s = now() - began
            if took_s > self.grace_s and count < took_s * self.least_bytes_s:
                raise RegistryUnavailable(
                    f"{origin} gave {count} bytes in {took_s:.0f} s, at least {self.least_bytes_s:.0f} a second are "
                    "wanted; try again later",
                    answered=True,
                )


class TufDoor(FetcherInterface):
    """python-tuf reads metadata through it. Bytes stay in memory: its own way needs room in TMPDIR."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._source.open(url.removeprefix(SCHEME)) as body:
            yield from body.chunks

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Raises DownloadHTTPError for what is not there, DownloadLengthMismatchError, RegistryUnavailable."""
        content = bytearray()
        try:
            for chunk in self._fetch(url):
                content += chunk
                if len(content) > max_length:
                    raise DownloadLengthMismatchError(f"{url} has more than the {max_length} bytes that it may have")
        except Missing as error:
            raise DownloadHTTPError(str(error), error.status) from error
        return bytes(content)
