"""The folder of compiled models, which spares the next start the compiling. It is a convenience and never a promise:
whatever is wrong with it, the model is compiled instead.

One file per compiled model, `<key>.blob`: magic, SHA-256 of key and content, content. The key names everything that
the content depends on, so that neither another file, another version of the runtime, nor another CPU finds it. Files
are complete or absent (temp, fsync, rename); when they would exceed the bound, those that were not used for longest go.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from appliance.synced import sync_folder

_MAGIC = b"compiled model 1\n"
_HEAD_BYTES = len(_MAGIC) + hashlib.sha256().digest_size
_SUFFIX = ".blob"
_TEMP_SUFFIX = ".part"
_TEMP_AGE_S_MAX = 3600.0
FREE_BYTES_MIN = 64 << 20
"""The disk keeps this much for what matters more."""


def key(parts: Mapping[str, object]) -> str:
    """Name of a compiled model: the SHA-256 of all that it depends on, in any order."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def read(folder: Path, name: str) -> bytes | None:
    """The content of a compiled model, None when there is none. What is damaged is removed.

    Raises OSError with the reason when the file cannot be read or is damaged.
    """
    path = folder / f"{name}{_SUFFIX}"
    try:
        with path.open("rb") as file:
            head, content = file.read(_HEAD_BYTES), file.read()
    except FileNotFoundError:
        return None
    if head != _head(name, content):
        forget(folder, name)
        raise OSError(errno.EBADMSG, "the compiled model is damaged and was removed", str(path))
    with suppress(OSError):
        os.utime(path)
    return content


def write(folder: Path, name: str, content: bytes, bytes_max: int, free_bytes_min: int = FREE_BYTES_MIN) -> None:
    """Keep a compiled model, and no more than `bytes_max` of all together.

    Raises OSError when it cannot be kept: too large, no room, no right to write. Nothing of it is left then.
    """
    size = _HEAD_BYTES + len(content)
    if size > bytes_max:
        raise OSError(errno.EFBIG, f"the compiled model has {size} bytes, `compiled.bytes_max` is {bytes_max}")
    folder.mkdir(parents=True, exist_ok=True)
    _make_room(folder, bytes_max - size)
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < size + free_bytes_min:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    file, temp = tempfile.mkstemp(_TEMP_SUFFIX, dir=folder)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(_head(name, content))
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temp, folder / f"{name}{_SUFFIX}")
    except OSError:
        with suppress(OSError):
            os.unlink(temp)
        raise
    sync_folder(folder)


def forget(folder: Path, name: str) -> None:
    """Remove a compiled model that turned out wrong. Raises nothing: one that cannot be removed is refused again."""
    with suppress(OSError):
        (folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)


def _head(name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(content)
    return _MAGIC + digest.digest()


def _make_room(folder: Path, bytes_max: int) -> None:
    """Remove the least recently used files until `bytes_max` are left, and what an interrupted write left behind."""
    old = time.time() - _TEMP_AGE_S_MAX
    files: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found = path.stat()
            if path.suffix == _SUFFIX:
                files.append((found.st_mtime, found.st_size, path))
            elif path.suffix == _TEMP_SUFFIX and found.st_mtime < old:
                path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= bytes_max:
            break
        path.unlink(missing_ok=True)
        total -= size
