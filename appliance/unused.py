"""Versions that came by updates and that nothing on this box needs any more.

The current, the previous and the candidate version of a model are kept, and so is what waits for its rollout. What
somebody brought is theirs, and stays.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from appliance import standing
from appliance.errors import DataDirError
from appliance.repository import scan
from appliance.state import State
from appliance.synced import sync_folder

_GOING = ".going-"


class Unused(msgspec.Struct, frozen=True):
    """A version that can go. bytes: on the disk."""

    name: str
    version: str
    folder: str
    bytes: int


def find_unused(state: State) -> list[Unused]:
    root = standing.installed_root(state)
    if not root.is_dir():
        return []
    kept, by_update = _kept(state), standing.came_by_update(state)
    return [
        Unused(each.manifest.name, each.manifest.version, str(each.folder), _size(each.folder))
        for each in scan([root])[0]
        if each.digest in by_update and (each.manifest.name, each.manifest.version) not in kept
    ]


def remove(unused: list[Unused]) -> None:
    """A version disappears whole, under whatever power cut. Raises DataDirError."""
    for each in unused:
        try:
            set_aside(Path(each.folder))
        except OSError as error:
            raise DataDirError(f"{each.folder}: {error.strerror}; let this user write there") from error


def set_aside(folder: Path) -> None:
    """Take a version out of the repository, whole, and then off the disk. Raises OSError."""
    going = folder.with_name(f"{_GOING}{folder.name}")
    shutil.rmtree(going, ignore_errors=True)
    folder.rename(going)
    sync_folder(folder.parent)
    shutil.rmtree(going)


def remove_left_over(state: State) -> None:
    """What a power cut left of versions that were going."""
    for going in standing.installed_root(state).glob(f"*/{_GOING}*"):
        shutil.rmtree(going, ignore_errors=True)


def _kept(state: State) -> set[tuple[str, str]]:
    kept: set[tuple[str, str]] = set()
    for row in standing.standings(state).values():
        kept.add((row.name, row.current))
        if row.previous is not None:
            kept.add((row.name, row.previous))
    for rollout in standing.undecided(state):
        kept |= set(rollout.models.items())
        kept |= {(name, version) for name, version in rollout.before.items() if version is not None}
    for install in state.rows(
        """SELECT models FROM installs WHERE status IN ('checking', 'downloading', 'testing', 'ready')
        AND id NOT IN (SELECT install FROM rollouts)"""
    ):
        models = msgspec.json.decode(install["models"], type=dict[str, dict[str, object]])
        kept |= {(name, str(model.get("version"))) for name, model in models.items()}
    return kept


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
