"""A stick: what one ring needs and nothing else, with a timestamp of its own that is good for as long as is said."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import msgspec

from appliance.errors import RegistryError
from provisioning.registry import files
from provisioning.registry.bundle import blobs
from provisioning.registry.channels import has_begun, history
from provisioning.registry.publish import manifest_of
from provisioning.registry.published import Published, encode, manifest_path, release_path, target_file
from provisioning.registry.registry import Registry
from provisioning.registry.roles import CHANNELS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, team_of


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. bytes: of all files; copied: of those that were not there yet. expires: the last good day."""

    folder: str
    ring: str
    models: dict[str, tuple[str, ...]]
    bytes: int
    copied: int
    expires: str


def mirror(registry: Registry, folder: Path, ring: str, days: int) -> Mirror:
    """Write or bring up to date a stick. What it had of another release goes.

    A box that has seen the registry since takes nothing from it, since that is newer. Raises RegistryError.
    """
    before = registry.published()
    release = has_begun(history(before, ring), ring, before.rings())[-1]
    until = registry.now() + timedelta(days=days)
    versions = {(name, ref.version) for models in (release.models, release.others) for name, ref in models.items()}
    teams = {team_of(name, before.teams) for name, _ in versions}
    roles = [ROOT, TARGETS, SNAPSHOT, CHANNELS, *sorted(teams)]
    for role in sorted({*roles} - {SNAPSHOT}):
        expires = before.metadata[role].signed.expires
        if expires < until:
            left = max(1, (expires - registry.now()).days)
            raise RegistryError(
                f"{role} expires on {expires:%Y-%m-%d}, before the stick would on {until:%Y-%m-%d}; sign it anew "
                f"(appliance-registry refresh {role} --days {days}), or give --days {left}"
            )
    if before.metadata[SNAPSHOT].signed.expires < until:
        registry.refresh(before, snapshot_until=until)
        before = registry.published()
    wanted = {f"{files.METADATA}/{root.signed.version}.root.json" for root in before.roots}
    wanted |= {f"{files.METADATA}/{version}.root.json" for version in range(1, before.version(ROOT))}
    wanted |= {f"{files.METADATA}/{before.version(role)}.{role}.json" for role in roles if role != ROOT}
    targets = {(CHANNELS, release_path(ring))}
    targets |= {(team_of(name, before.teams), manifest_path(name, version)) for name, version in versions}
    for role, path in targets:
        before.content(role, path)
        sha256 = before.delegated(role).targets[path].hashes["sha256"]
        wanted.add(str(target_file(before.folder, path, sha256).relative_to(before.folder)))
    for name, version in versions:
        wanted |= {f"{files.BLOBS}/{sha256}" for sha256 in blobs(manifest_of(before, name, version)[0])}
    copied = _write(before, folder, wanted)
    # The stick's version is its own, so that a box can tell it from what is online; online goes one further.
    timestamp = registry.sign_timestamp(before, before.version(TIMESTAMP) + 1, until)
    registry.refresh(before, skip=1)
    content = encode(timestamp)
    files.put(folder / files.METADATA / "timestamp.json", content)
    _clear(folder, wanted | {f"{files.METADATA}/timestamp.json"})
    models: dict[str, tuple[str, ...]] = {}
    for name, number in sorted(versions):
        models[name] = (*models.get(name, ()), number)
    return Mirror(
        folder=str(folder),
        ring=ring,
        models=models,
        bytes=sum((folder / name).stat().st_size for name in wanted) + len(content),
        copied=copied + len(content),
        expires=f"{until:%Y-%m-%d}",
    )


def _write(before: Published, folder: Path, wanted: set[str]) -> int:
    """Bytes that were copied."""
    needed = [name for name in sorted(wanted) if not _is_same(before.folder / name, folder / name)]
    size = sum((before.folder / name).stat().st_size for name in needed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise files.refusal(folder, error) from error
    if size > free:
        raise RegistryError(
            f"{folder} has {free / 1e6:.1f} MB free, the ring needs {size / 1e6:.1f} MB more; take a larger stick"
        )
    # Metadata last: until then the stick gives what it gave before.
    for name in sorted(needed, key=lambda name: name.startswith(files.METADATA)):
        files.put_copy(before.folder / name, folder / name)
    return size


def _is_same(source: Path, there: Path) -> bool:
    """A blob that is there with its length is taken as it is: a device checks its hash."""
    if not there.is_file() or there.stat().st_size != source.stat().st_size:
        return False
    return source.parent.name == files.BLOBS or there.read_bytes() == source.read_bytes()


def _clear(folder: Path, wanted: set[str]) -> None:
    for name in files.SERVED:
        for path in (folder / name).rglob("*"):
            if path.is_file() and str(path.relative_to(folder)) not in wanted:
                path.unlink()
