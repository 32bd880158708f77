"""A file of known length and SHA-256, fetched so that no cut, restart or power loss makes much come twice.

What has come is in `<sha256>.part`, on the disk at every half MiB. The name of a file is the hash of its content, so it
can be taken up from any mirror at any byte; a validator (If-Range) could only make a server that was replaced send all
of it again. What is put together wrong shows in the hash, and is fetched once more from a single place.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from appliance.core.pace import Pace
from appliance.core.polling import back_off
from appliance.errors import RegistryUnavailable, Untrusted
from appliance.synced import sync_folder
from appliance.updater.fetch import Source

SYNC_BYTES = 512 << 10
"""What is beyond the last multiple was perhaps not on the disk when the power went: a new process drops it."""

_READ_BYTES = 1 << 20
_PROGRESS_BYTES = 64 << 10
"""A connection that brought less counts as a failure."""

_FAILURES_MAX = 6
_BASE_S = 0.5
_MOST_S = 20.0
_RETRY_AFTER_S_MAX = 60.0
"""A registry that wants to be left alone for longer is left to the next poll."""


class Wanted(msgspec.Struct, frozen=True):
    """A file that a manifest names."""

    sha256: str
    bytes: int


class Downloader:
    """sources: asked in this order, the next one when one fails. rate_bytes_s: None, as fast as it comes.

    on_bytes: told of every part that came. sleep, draw: for tests; draw() is in 0..1.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        *,
        rate_bytes_s: int | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._pace = None if rate_bytes_s is None else Pace(rate_bytes_s, time.monotonic())
        self._on_bytes = on_bytes
        self._sleep = sleep
        self._draw = draw

    def has(self, wanted: Wanted) -> int:
        """Bytes of it that need not come again."""
        if (self._folder / wanted.sha256).is_file():
            return wanted.bytes
        with suppress(OSError):
            return min(wanted.bytes, _synced(self._part(wanted).stat().st_size))
        return 0

    def get(self, wanted: Wanted) -> Path:
        """`<folder>/<sha256>`, checked and on the disk. Raises RegistryUnavailable, Untrusted, OSError."""
        done = self._folder / wanted.sha256
        if done.is_file():
            return done
        part = _Part(self._part(wanted), wanted)
        try:
            self._fill(part, wanted)
        finally:
            part.close()
        self._part(wanted).rename(done)
        sync_folder(self._folder)
        return done

    def _part(self, wanted: Wanted) -> Path:
        return self._folder / f"{wanted.sha256}.part"

    def _fill(self, part: _Part, wanted: Wanted) -> None:
        """Until it is whole and right. Ends: a source that gave wrong bytes, or none worth a failure, is not asked for
        ever."""
        left = list(self._sources)
        given_by: set[str] = {"an earlier run"} if part.size else set()
        failures, wrong, most = 0, 0, part.size
        while True:
            source = left[0]
            try:
                if part.size < wanted.bytes:
                    given_by.add(source.origin)
                    self._read(source, part)
                part.finish()
                return
            except RegistryUnavailable as error:
                failures = 0 if part.size >= most + _PROGRESS_BYTES else failures + 1
                most = max(most, part.size)
                left = [*left[1:], source] if error.again else left[1:]
                wait_s = error.retry_after_s or 0.0
                if not left or failures >= _FAILURES_MAX or wait_s > _RETRY_AFTER_S_MAX:
                    raise
                self._sleep(max(wait_s, back_off(failures, self._draw(), _BASE_S, _MOST_S)))
            except Untrusted:
                part.start_again()
                wrong += 1
                if given_by == {source.origin}:
                    left = left[1:]
                if not left or wrong > len(self._sources):
                    raise
                # From one place alone, so that it is clear who gave what.
                given_by, most = set(), 0

    def _read(self, source: Source, part: _Part) -> None:
        """Raises RegistryUnavailable when it ends too early, Untrusted when it cannot be the right one."""
        with source.open(f"blobs/{part.wanted.sha256}", part.size) as body:
            if body.total is not None and body.total != part.wanted.bytes:
                raise Untrusted(
                    f"{source.origin}: blob {part.wanted.sha256[:16]}... has {body.total} bytes, its manifest says "
                    f"{part.wanted.bytes}"
                )
            if body.begins != part.size:
                part.start_again()
            for chunk in body.chunks:
                # No byte more than was signed, however much comes.
                part.write(chunk[: part.wanted.bytes - part.size])
                self._on_bytes(len(chunk))
                if part.size == part.wanted.bytes:
                    return
                self._slow_down(len(chunk))
        raise RegistryUnavailable(
            f"{source.origin} ended after {part.size} of {part.wanted.bytes} bytes of a file; try again later",
            answered=True,
        )

    def _slow_down(self, count: int) -> None:
        if self._pace is None:
            return
        self._pace.spend(count)
        while not self._pace.left(time.monotonic()):
            self._sleep(self._pace.wait_s())


class _Part:
    """The file that grows. What is behind `SYNC_BYTES` boundaries is on the disk."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.wanted = wanted
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.size = min(_synced(os.fstat(self._file).st_size), wanted.bytes)
        os.ftruncate(self._file, self.size)
        self._hash = hashlib.sha256()
        while content := os.read(self._file, _READ_BYTES):
            self._hash.update(content)

    def write(self, content: bytes) -> None:
        while content:
            now = content[: SYNC_BYTES - self.size % SYNC_BYTES]
            count = os.write(self._file, now)
            self._hash.update(now[:count])
            self.size += count
            content = content[count:]
            if self.size % SYNC_BYTES == 0:
                os.fdatasync(self._file)

    def start_again(self) -> None:
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.size = 0
        self._hash = hashlib.sha256()

    def finish(self) -> None:
        """Raises Untrusted."""
        found = self._hash.hexdigest()
        if found != self.wanted.sha256:
            raise Untrusted(
                f"blob {self.wanted.sha256[:16]}... came with SHA-256 {found[:16]}...: it is not what was signed; ask "
                "central ops to look at the registry (appliance-registry verify)"
            )
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _synced(size: int) -> int:
    """What of a part was on the disk for certain: its end was perhaps still on the way."""
    return max(0, size - 1) // SYNC_BYTES * SYNC_BYTES
