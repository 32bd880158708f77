"""A registry in a folder: a stick, or a share. The same files as on a server."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from appliance.core.manifest import check_relative
from appliance.errors import RegistryUnavailable
from appliance.updater.fetch import Body, Missing

_CHUNK_BYTES = 64 << 10
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


class FolderSource:
    """Reads plain files only: no link, pipe or device that somebody left on the stick."""

    def __init__(self, folder: Path) -> None:
        """Raises RegistryUnavailable unless there is a registry."""
        self.origin = str(folder)
        self._folder = folder
        if not (folder / "metadata").is_dir():
            raise RegistryUnavailable(
                f"{folder} holds no registry (no folder `metadata` in it); give the folder that `appliance-registry "
                "mirror` wrote",
                again=False,
            )

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        name = unquote(path)
        try:
            check_relative(name)
            # O_NONBLOCK: a pipe without a writer would be waited for.
            handle = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except ValueError as error:
            raise Missing(f"{self.origin}: {error}") from error
        except OSError as error:
            raise self._failed(name, error) from error
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Missing(f"{self.origin}: {name} is not a plain file")
            os.lseek(handle, offset, os.SEEK_SET)
            yield Body(self._chunks(handle, name), offset, found.st_size)
        finally:
            os.close(handle)

    def _chunks(self, handle: int, name: str) -> Iterator[bytes]:
        try:
            while chunk := os.read(handle, _CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise self._failed(name, error) from error

    def _failed(self, name: str, error: OSError) -> RegistryUnavailable:
        if error.errno in _NOT_THERE:
            return Missing(f"{self.origin} has no {name}")
        return RegistryUnavailable(f"{self.origin}: {name}: {error.strerror}; is the stick still in?")
