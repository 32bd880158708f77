"""Files of a registry: on the disk before anything names them, and one writer at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import RegistryError
from appliance.synced import sync_file, sync_folder, write_synced

METADATA = "metadata"
TARGETS = "targets"
BLOBS = "blobs"
DRAFTS = "drafts"
SERVED = (METADATA, TARGETS, BLOBS)

_LOCK = ".lock"


def put(path: Path, content: bytes) -> None:
    """Under its name only when it is whole and on the disk; in place of what was there. Raises RegistryError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        _make_folders(path.parent)
        write_synced(fresh, content)
        fresh.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise refusal(path, error) from error


def put_copy(source: Path, path: Path) -> None:
    """The same, of a file that may be large."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        _make_folders(path.parent)
        shutil.copyfile(source, fresh)
        sync_file(fresh)
        fresh.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise refusal(path, error) from error


def write_new(path: Path, content: bytes, mode: int) -> None:
    """A file that must not be there yet. Raises RegistryError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except FileExistsError as error:
        raise RegistryError(f"{path} is there already, and is not overwritten; give another name or folder") from error
    except OSError as error:
        raise refusal(path, error) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else changes the registry meanwhile; the system opens it again, however the process ends.

    Raises RegistryError.
    """
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise refusal(folder / _LOCK, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RegistryError(
                f"another appliance-registry changes {folder} now; try again when it is done"
            ) from error
        yield
    finally:
        os.close(handle)


def refusal(path: Path, error: OSError) -> RegistryError:
    return RegistryError(
        f"{error.filename or path}: {error.strerror or error}; what devices see is as it was. Give a folder with room "
        "that you may write to"
    )


def _make_folders(folder: Path) -> None:
    """Their names are on the disk too."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)
