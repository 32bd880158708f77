"""A version's folder, made whole before it can be seen: everything is on the disk, then one rename shows it.

`models/.incoming/<sha256>` holds files that came and were checked, `models/.staged/<name>/<version>/` a version that is
not yet proven. Both are on the disk of `models/`, so that files move by their names: nothing is written twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from appliance.core.manifest import ModelManifest
from appliance.errors import Untrusted
from appliance.repository import MANIFEST
from appliance.synced import sync_file, sync_folder, write_synced

INCOMING = ".incoming"
STAGED = ".staged"

_CHUNK_BYTES = 1 << 20
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)


def stage(models: Path, name: str, version: str, manifest: bytes, files: Mapping[str, Path]) -> Path:
    """Make the staged folder anew and return it; it is on the disk then.

    files: path in the folder -> where its content is, checked already. Raises OSError.
    """
    folder = models / STAGED / name / version
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_synced(folder / MANIFEST, manifest)
    folders = {folder}
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(content, target)
        folders.update(each for each in target.parents if folder in each.parents)
    for each in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        sync_folder(each)
    return folder


def show(models: Path, staged: Path) -> Path:
    """Let the repository have it: `models/<name>/<version>/`, which must not exist. On the disk when it returns."""
    shelf = models / staged.parent.name
    if not shelf.exists():
        shelf.mkdir()
        sync_folder(models)
    target = shelf / staged.name
    staged.rename(target)
    sync_folder(shelf)
    return target


def check_paths(manifest: ModelManifest) -> None:
    """Raises Untrusted when a name would leave the folder, hide the manifest or stand in another's way."""
    taken: set[PurePosixPath] = {PurePosixPath(MANIFEST)}
    where = f"model {manifest.name} version {manifest.version}"
    paths = sorted(manifest.files())
    for path in paths:
        plain = PurePosixPath(path)
        if plain.is_absolute() or ".." in plain.parts or any(part.startswith(".") for part in plain.parts):
            raise Untrusted(f"{where}: file {path!r} is hidden or outside of its folder; publish it under another name")
        if plain in taken:
            raise Untrusted(f"{where}: file {path!r} is there twice; publish it under another name")
        taken.add(plain)
    for plain in taken:
        if taken & set(plain.parents):
            raise Untrusted(f"{where}: {str(plain)!r} stands below a file; publish it under another name")


def clear(folder: Path, keep: Iterable[str] = ()) -> None:
    """Remove what is in a folder, but for some names. What cannot be removed stays."""
    kept = set(keep)
    if not folder.is_dir():
        return
    for each in folder.iterdir():
        if each.name in kept:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(content: Path, target: Path) -> None:
    """A second name for the same bytes, or, where the file system has none, a copy that is on the disk."""
    try:
        os.link(content, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(content, target)
        sync_file(target)
