"""CHECK: the newest release of this box's ring, signed, not older than what is known, from the first source with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.config import UpdatesConfig
from appliance.core.clock import Tick
from appliance.core.manifest import ModelManifest, parse_manifest
from appliance.core.release import ModelRef, Release, format_time, parse_release, parse_time
from appliance.errors import (
    ConfigError,
    ManifestError,
    MetadataExpired,
    RegistryUnavailable,
    ReleaseInvalid,
    RolledBack,
    Untrusted,
    UpdateError,
)
from appliance.state import State
from appliance.updater import installs
from appliance.updater.fetch import Source
from appliance.updater.installs import Proof
from appliance.updater.staging import check_paths
from appliance.updater.trust import FOLDER, Trusted
from appliance.updater.trusted_time import Floor

_RELEASE_BYTES_MAX = 4 << 20
_MANIFEST_BYTES_MAX = 4 << 20

_WORST_FIRST = (Untrusted, ReleaseInvalid, RolledBack, MetadataExpired, RegistryUnavailable)
"""Of several sources that all failed, what people are told."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """release: None when nobody has published one for this ring yet."""

    trusted: Trusted
    source: Source
    release: Release | None


class Version(msgspec.Struct, frozen=True):
    """A version that the release names: its manifest, verified, and its bytes."""

    ref: ModelRef
    manifest: ModelManifest
    content: bytes
    proof: Proof


def find(
    sources: Sequence[Source], updates: UpdatesConfig, data_dir: Path, state: State, floor: Floor, tick: Tick
) -> Found:
    """Raises UpdateError, ConfigError, OSError."""
    root = read_root(updates, data_dir)
    errors: list[UpdateError] = []
    for source in sources:
        try:
            trusted = Trusted(data_dir / FOLDER, root, source, floor, tick)
            return Found(trusted=trusted, source=source, release=_release(trusted, source, updates.ring, state))
        except UpdateError as error:
            errors.append(error)
    raise min(errors, key=_badness)


def read_root(updates: UpdatesConfig, data_dir: Path) -> bytes:
    """The root that this box trusts first. Its file may be gone once there is a copy. Raises ConfigError."""
    if updates.root is None:
        raise ConfigError(
            "this box is not set up for signed updates: updates.root is not set; give it the root metadata that "
            "central ops handed out"
        )
    try:
        return Path(updates.root).read_bytes()
    except OSError as error:
        kept = sorted(
            (data_dir / FOLDER / "root_history").glob("*.root.json"), key=lambda path: int(path.name.split(".")[0])
        )
        if kept:
            return kept[0].read_bytes()
        raise ConfigError(
            f"updates.root: {updates.root}: {error.strerror}; give the path of a readable file"
        ) from error


def manifest_of(found: Found, name: str, ref: ModelRef) -> Version:
    """Raises Untrusted when what the team signed is not what the release names, UpdateError, OSError."""
    path, where = f"models/{name}/{ref.version}/manifest.toml", f"model {name} version {ref.version}"
    signed = found.trusted.read(path, _MANIFEST_BYTES_MAX)
    if signed is None:
        raise Untrusted(
            f"{where}: no team that may publish it has signed it; ask central ops to publish it, or to take "
            "the release back"
        )
    if signed.sha256 != ref.manifest:
        raise Untrusted(
            f"{where}: the manifest that its team signed ({signed.sha256[:16]}...) is not the one that the release "
            f"names ({ref.manifest[:16]}...); ask central ops to release it again"
        )
    try:
        manifest = parse_manifest(signed.content, where)
    except ManifestError as error:
        raise ReleaseInvalid(str(error)) from error
    if (manifest.name, manifest.version) != (name, ref.version):
        raise Untrusted(f"{where}: its manifest says {manifest.name} version {manifest.version}; publish it again")
    check_paths(manifest)
    unknown = [file.path for file in manifest.files().values() if file.bytes is None]
    if unknown:
        raise ReleaseInvalid(f"{where}: its manifest gives no `bytes` for {unknown[0]}; publish it again")
    proof = Proof(name=name, version=ref.version, manifest=ref.manifest, role=signed.role, keys=signed.keys)
    return Version(ref, manifest, signed.content, proof)


def _release(trusted: Trusted, source: Source, ring: str, state: State) -> Release | None:
    path = f"channels/{ring}.json"
    signed = trusted.read(path, _RELEASE_BYTES_MAX)
    if signed is None:
        return None
    release = parse_release(signed.content, f"{source.origin}: {path}")
    if release.ring != ring:
        raise Untrusted(
            f"{source.origin}: {path} is a release for ring {release.ring}; ask central ops to release it again"
        )
    issued = parse_time(release.issued)
    if issued > trusted.expires_at:
        # Or one who holds the key of the releases alone could send the boxes' time far ahead.
        raise Untrusted(
            f"{source.origin}: {path} says that it was issued at {release.issued}, after its signatures expire "
            f"({format_time(trusted.expires_at)}); ask central ops to release it again"
        )
    newest = installs.newest(state, ring)
    if newest is not None and release.number < newest[0] and issued < newest[1]:
        raise RolledBack(
            f"{source.origin}: release {release.number} of ring {ring} ({release.issued}) is older than release "
            f"{newest[0]} ({format_time(newest[1])}), which this box knows; nothing was changed"
        )
    return release


def _badness(error: UpdateError) -> int:
    return next((index for index, kind in enumerate(_WORST_FIRST) if isinstance(error, kind)), -1)
