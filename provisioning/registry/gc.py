"""What nobody can ask for any more: old metadata, releases beyond the log, files of versions that are gone."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tuf.api.metadata import Signed, Targets

from appliance.errors import RegistryError
from provisioning.registry import channels, drafts, files
from provisioning.registry.bundle import blobs
from provisioning.registry.publish import manifest_of
from provisioning.registry.published import Published, read_metadata, target_file, versions_of
from provisioning.registry.registry import Outcome, Registry
from provisioning.registry.releases import standing
from provisioning.registry.roles import CHANNELS, ROOT

KEEP_S = 7 * 86_400.0
"""A device that has begun with older metadata, or a cache on its way, may still ask for what it names."""

_VERSIONED = re.compile(r"^([0-9]+)\.(.+)\.json$")


class Waste(msgspec.Struct, frozen=True):
    """Files that may go."""

    paths: tuple[Path, ...]
    bytes: int


def find(published: Published, releases: int, now: float | None = None) -> Waste:
    """releases: how many versions of the releases are kept for the log and for a roll-back. Raises RegistryError."""
    now = time.time() if now is None else now
    kept = _kept(published, releases)
    gone = [path for path in _all(published.folder) if path not in kept and now - path.stat().st_mtime > KEEP_S]
    return Waste(tuple(gone), sum(path.stat().st_size for path in gone))


def remove(waste: Waste) -> None:
    """Raises RegistryError."""
    for path in waste.paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.refusal(path, error) from error


def retire(registry: Registry, before: Published, versions: int) -> tuple[list[str], Outcome | None]:
    """Take versions of models out of what is signed, so that devices load less: all but the newest few of each model
    and those that a ring has, or goes back to. Names of those that went; None: there was none. Raises RegistryError.
    """
    if versions < 1:
        raise RegistryError("keep at least 1 version of each model")
    needed = {
        (name, ref.version)
        for ring in before.rings()
        for release in [*standing(channels.history(before, ring))[-2:], before.release(ring)]
        if release is not None
        for name, ref in [*release.models.items(), *release.others.items()]
    }
    changes: dict[str, Signed] = {}
    gone: list[str] = []
    for team in before.teams:
        role = copy.deepcopy(before.delegated(team))
        for name in sorted({path.split("/")[1] for path in role.targets}):
            for version in versions_of(role, name)[:-versions]:
                if (name, version) not in needed:
                    del role.targets[f"models/{name}/{version}/manifest.toml"]
                    gone.append(f"{name} {version}")
                    changes[team] = role
    if not changes:
        return [], None
    return gone, registry.change(f"retire {', '.join(gone)}", changes, None, before)


def _kept(published: Published, releases: int) -> set[Path]:
    folder = published.folder
    metadata = folder / files.METADATA
    kept = {metadata / "timestamp.json", *metadata.glob(f"*.{ROOT}.json")}
    for role in published.metadata:
        kept.add(metadata / f"{published.version(role)}.{role}.json")
    newest = published.version(CHANNELS)
    for version in range(newest, max(0, newest - releases), -1):
        path = metadata / f"{version}.{CHANNELS}.json"
        if not path.is_file():
            break
        kept.add(path)
        past = read_metadata(path, Targets).signed
        kept |= {target_file(folder, name, target.hashes["sha256"]) for name, target in past.targets.items()}
    waiting = [draft.read(role).signed for draft in drafts.waiting(folder).values() for role in draft.metadata]
    for signed in [*(published.delegated(team) for team in published.teams), *waiting]:
        if isinstance(signed, Targets):
            for name, target in signed.targets.items():
                kept.add(target_file(folder, name, target.hashes["sha256"]))
    for team in published.teams:
        for target_path in published.delegated(team).targets:
            _, model, number, _ = target_path.split("/")
            kept |= {folder / files.BLOBS / sha256 for sha256 in blobs(manifest_of(published, model, number)[0])}
    return kept


def _all(folder: Path) -> Iterator[Path]:
    for path in (folder / files.METADATA).iterdir():
        if _VERSIONED.match(path.name) or path.name.endswith(".new"):
            yield path
    for name in (files.TARGETS, files.BLOBS):
        yield from (path for path in (folder / name).rglob("*") if path.is_file())
