"""Whether a registry is whole: every signature, expiry, hash and length, and what a device finds when it asks."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from appliance.core.clock import Tick
from appliance.core.manifest import ModelManifest
from appliance.core.release import Release
from appliance.errors import ApplianceError, RegistryError
from appliance.updater.folder import FolderSource
from appliance.updater.trust import Trusted
from appliance.updater.trusted_time import Floor
from provisioning.registry import files
from provisioning.registry.publish import manifest_of
from provisioning.registry.published import Published, release_path
from provisioning.registry.roles import TIMESTAMP, team_of

_SOON = timedelta(days=30)
_SOON_TIMESTAMP = timedelta(days=2)


class Finding(msgspec.Struct, frozen=True):
    """level: `error`, devices will refuse something; `warning`, they will soon."""

    level: Literal["error", "warning"]
    text: str


def verify(published: Published, now: datetime) -> list[Finding]:
    """All that is wrong. Reads every file."""
    found = [*expiring(published, now)]
    manifests: dict[tuple[str, str], str] = {}
    blobs: dict[str, int] = {}
    for team in published.teams:
        for path, target in published.delegated(team).targets.items():
            try:
                name, version = _model(path)
                if team_of(name, published.teams) != team:
                    raise RegistryError(f"{path} is not for team {team} to sign; devices refuse it")
                manifest = manifest_of(published, name, version)[0]
                manifests[name, version] = target.hashes["sha256"]
                blobs |= _blobs(manifest, path)
            except RegistryError as error:
                found.append(Finding("error", str(error)))
    found += [Finding("error", text) for text in _bad_blobs(published.folder, blobs)]
    for ring in published.rings():
        try:
            release = published.release(ring)
            assert release is not None
            found += [Finding("error", text) for text in _bad_release(release, ring, manifests)]
        except RegistryError as error:
            found.append(Finding("error", str(error)))
    try:
        ask_as_device(published, now)
    except ApplianceError as error:
        found.append(Finding("error", f"a device that asks now is told: {error.code}: {error}"))
    return found


def expiring(published: Published, now: datetime) -> Iterator[Finding]:
    """Roles that have expired or soon will."""
    for role, metadata in sorted(published.metadata.items()):
        expires: datetime = metadata.signed.expires
        how = "appliance-registry refresh" if role == TIMESTAMP else f"appliance-registry refresh {role}"
        if expires <= now:
            yield Finding("error", f"{role} has expired on {expires:%Y-%m-%d}: nothing new is installed; {how}")
        elif expires - now < (_SOON_TIMESTAMP if role == TIMESTAMP else _SOON):
            yield Finding("warning", f"{role} expires on {expires:%Y-%m-%d}; {how}")


def ask_as_device(published: Published, now: datetime, rings: list[str] | None = None) -> None:
    """Walk from the first root to each ring's release as a box does that knows nothing yet. Raises UpdateError."""
    first = (published.folder / files.METADATA / "1.root.json").read_bytes()
    wall = now.timestamp()
    with tempfile.TemporaryDirectory() as folder:
        trusted = Trusted(
            Path(folder) / "tuf", first, FolderSource(published.folder), Floor(wall, 0.0, "-"), Tick(wall, 0.0, "-")
        )
        for ring in published.rings() if rings is None else rings:
            trusted.read(release_path(ring), 4 << 20)


def _model(path: str) -> tuple[str, str]:
    parts = path.split("/")
    if len(parts) != 4 or parts[0] != "models" or parts[3] != "manifest.toml" or not parts[2].isdecimal():
        raise RegistryError(f"{path} is not the manifest of a model; devices never ask for it")
    return parts[1], parts[2]


def _blobs(manifest: ModelManifest, path: str) -> dict[str, int]:
    unknown = [each for each, file in manifest.files().items() if file.bytes is None]
    if unknown:
        raise RegistryError(f"{path} gives no length of {unknown[0]}; devices refuse it")
    return {file.sha256: file.bytes or 0 for file in manifest.files().values()}


def _bad_blobs(folder: Path, blobs: dict[str, int]) -> Iterator[str]:
    for sha256, size in sorted(blobs.items()):
        path = folder / files.BLOBS / sha256
        try:
            with path.open("rb") as file:
                right = path.stat().st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError as error:
            yield f"{path}: {error.strerror}; publish its model again, from the same bundle"
            continue
        if not right:
            yield f"{path} is damaged; remove it, and publish its model again, from the same bundle"


def _bad_release(release: Release, ring: str, manifests: dict[tuple[str, str], str]) -> Iterator[str]:
    if release.ring != ring:
        yield f"the release of ring {ring} is for ring {release.ring}; promote again"
    for name, ref in sorted({*release.models.items(), *release.others.items()}, key=lambda each: each[0]):
        if manifests.get((name, ref.version)) != ref.manifest:
            yield f"ring {ring} names {name} {ref.version}, which is not published so; publish it, or promote another"
