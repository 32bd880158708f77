"""Files that this box has already, by their hash: what did not change between two versions is not sent again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from appliance.errors import ModelError
from appliance.repository import check_files, read_version, scan
from appliance.synced import sync_file
from appliance.updater.staging import sha256_of


class Local:
    """roots: model repositories. Their manifests are read once, a file when it is wanted."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._files: dict[str, list[Path]] = {}
        for version in scan([root for root in roots if root.is_dir()])[0]:
            for path, file in version.manifest.files().items():
                self._files.setdefault(file.sha256, []).append(version.folder / path)

    def find(self, sha256: str) -> Path | None:
        """One whose content is right today."""
        for path in self._files.get(sha256, ()):
            try:
                if sha256_of(path) == sha256:
                    return path
            except OSError:
                continue
        return None


def copy(path: Path, target: Path) -> None:
    """On the disk when it returns. Raises OSError."""
    fresh = target.with_name(f"{target.name}.copy")
    shutil.copyfile(path, fresh)
    sync_file(fresh)
    fresh.rename(target)


def is_whole(folder: Path, manifest: str) -> bool:
    """Whether a version's folder has this manifest (its digest), and every file as that says."""
    try:
        version = read_version(folder)
        check_files(version)
    except ModelError:
        return False
    return version.digest == manifest
