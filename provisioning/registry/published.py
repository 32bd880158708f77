"""What a registry has published: its metadata, verified from the root that this signer has seen last.

Whoever may write to the folder could put something of his own into it, and wait until an owner signs it together with
what he meant to sign. So nothing is taken from there that its own keys did not sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from tuf.api.exceptions import RepositoryError, StorageError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from appliance.core.release import Release, parse_release
from appliance.errors import RegistryError, ReleaseInvalid
from provisioning.registry import files
from provisioning.registry.roles import CHANNELS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TOP, team_of

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)
AnyMetadata: TypeAlias = Metadata[Any]

_COMPACT = JSONSerializer(compact=True)


class Published:
    """The newest state, as a device would see it, whether it has expired or not. metadata: role -> its document."""

    def __init__(self, folder: Path, pinned: bytes | None = None) -> None:
        """pinned: the root to begin from; None: the first of the registry. Raises RegistryError."""
        self.folder = folder
        if not (folder / files.METADATA / "timestamp.json").is_file() and any((folder / files.DRAFTS).glob("*.json")):
            raise RegistryError(
                f"{folder} has published nothing yet: its first metadata waits for signatures (appliance-registry "
                "drafts)"
            )
        self.roots = _roots(folder, pinned)
        self.metadata: dict[str, AnyMetadata] = {ROOT: self.roots[-1]}
        timestamp = self._read("timestamp.json", Timestamp, TIMESTAMP)
        snapshot = self._read(f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot, SNAPSHOT)
        versions = {name.removesuffix(".json"): meta.version for name, meta in snapshot.signed.meta.items()}
        targets = self._read(f"{versions[TARGETS]}.targets.json", Targets, TARGETS)
        self.metadata |= {TIMESTAMP: timestamp, SNAPSHOT: snapshot, TARGETS: targets}
        for role, version in versions.items():
            if role != TARGETS:
                self.metadata[role] = self._read(f"{version}.{role}.json", Targets, role)

    @property
    def root(self) -> Root:
        return cast(Root, self.metadata[ROOT].signed)

    @property
    def targets(self) -> Targets:
        return cast(Targets, self.metadata[TARGETS].signed)

    @property
    def teams(self) -> dict[str, str]:
        """Name -> pattern of the names of its models."""
        return teams_of(self.targets)

    def delegated(self, role: str) -> Targets:
        """Of `channels` or of a team."""
        return cast(Targets, self.metadata[role].signed)

    def version(self, role: str) -> int:
        """0: there is none yet."""
        found = self.metadata.get(role)
        return 0 if found is None else int(found.signed.version)

    def content(self, role: str, path: str) -> bytes:
        """Of a target that the role names, checked. Raises RegistryError."""
        return read_target(self.folder, self.delegated(role), path)

    def release(self, ring: str) -> Release | None:
        """The present one of a ring. Raises RegistryError."""
        path = release_path(ring)
        if path not in self.delegated(CHANNELS).targets:
            return None
        try:
            return parse_release(self.content(CHANNELS, path), path)
        except ReleaseInvalid as error:
            raise RegistryError(str(error)) from error

    def rings(self) -> list[str]:
        names = self.delegated(CHANNELS).targets
        return sorted(name.removeprefix("channels/").removesuffix(".json") for name in names)

    def versions(self, name: str) -> list[str]:
        """Of a model, the oldest first. Raises RegistryError when no team may publish it."""
        return versions_of(self.delegated(team_of(name, self.teams)), name)

    def _read(self, name: str, form: type[T], role: str) -> Metadata[T]:
        found = read_metadata(self.folder / files.METADATA / name, form)
        # A killed rotation may have published a root whose keys have not signed the rest yet.
        delegators: list[Root | Targets] = [root.signed for root in reversed(self.roots[-2:])]
        if role not in TOP:
            delegators = [self.targets]
        error: Exception | None = None
        for delegator in delegators:
            try:
                delegator.verify_delegate(role, found.signed_bytes, found.signatures)
                return found
            except (RepositoryError, ValueError) as problem:
                error = problem
        raise RegistryError(
            f"{self.folder / files.METADATA / name} is not signed by the keys of {role} ({error}); somebody changed "
            "it: put back what was published before anything is signed"
        )


def release_path(ring: str) -> str:
    return f"channels/{ring}.json"


def manifest_path(name: str, version: str) -> str:
    return f"models/{name}/{version}/manifest.toml"


def target_file(folder: Path, path: str, sha256: str) -> Path:
    """Where a target is kept (TUF 1.0, 6.2: consistent snapshots)."""
    parent, _, name = path.rpartition("/")
    return folder / files.TARGETS / parent / f"{sha256}.{name}"


def read_target(folder: Path, role: Targets, path: str) -> bytes:
    """Raises RegistryError."""
    target = role.targets[path]
    file = target_file(folder, path, target.hashes["sha256"])
    try:
        content = file.read_bytes()
        target.verify_length_and_hashes(content)
    except OSError as error:
        raise RegistryError(f"{file}: {error.strerror}; put it back from a copy of the registry") from error
    except RepositoryError as error:
        raise RegistryError(
            f"{file} is not what was signed ({error}); put it back from a copy of the registry"
        ) from error
    return content


def teams_of(targets: Targets) -> dict[str, str]:
    roles = targets.delegations.roles if targets.delegations is not None else None
    found = {name: (role.paths or [""])[0] for name, role in (roles or {}).items() if name != CHANNELS}
    return {name: path.removeprefix("models/").removesuffix("/*/manifest.toml") for name, path in found.items()}


def versions_of(role: Targets, name: str) -> list[str]:
    found = [path.split("/")[2] for path in role.targets if path.startswith(f"models/{name}/")]
    return sorted(found, key=int)


def read_metadata(path: Path, form: type[T]) -> Metadata[T]:
    """Raises RegistryError."""
    try:
        found: AnyMetadata = Metadata.from_file(str(path))
    except StorageError as error:
        raise RegistryError(f"{path} cannot be read; put it back from a copy of the registry") from error
    except (DeserializationError, RepositoryError) as error:
        raise RegistryError(f"{path} is not TUF metadata ({error}); put it back from a copy of the registry") from error
    if not isinstance(found.signed, form):
        raise RegistryError(f"{path} is metadata of another role ({found.signed.type}); put it back from a copy")
    return cast("Metadata[T]", found)


def encode(metadata: AnyMetadata) -> bytes:
    """Without a space: a device pays for each byte."""
    return metadata.to_bytes(_COMPACT)


def thresholds(targets: Targets, root: Root) -> Mapping[str, tuple[int, list[str]]]:
    """Role -> signatures that it needs, ids of the keys that may give them."""
    found = {name: (role.threshold, list(role.keyids)) for name, role in root.roles.items()}
    delegations = targets.delegations
    if delegations is not None:
        found |= {name: (role.threshold, list(role.keyids)) for name, role in (delegations.roles or {}).items()}
    return found


def _roots(folder: Path, pinned: bytes | None) -> list[Metadata[Root]]:
    """From the pinned one on, each signed by the one before and by itself."""
    first = folder / files.METADATA / "1.root.json"
    if pinned is not None:
        try:
            found: list[Metadata[Root]] = [Metadata[Root].from_bytes(pinned)]
        except (DeserializationError, RepositoryError) as error:
            raise RegistryError(f"the root metadata beside your keys is damaged ({error}); put it back") from error
    elif first.is_file():
        found = [read_metadata(first, Root)]
    else:
        raise RegistryError(f"{folder} is not a registry; give its folder, or make one (appliance-registry init)")
    try:
        found[0].signed.verify_delegate(ROOT, found[0].signed_bytes, found[0].signatures)
        while (path := folder / files.METADATA / f"{found[-1].signed.version + 1}.root.json").is_file():
            fresh = read_metadata(path, Root)
            for delegator in (found[-1].signed, fresh.signed):
                delegator.verify_delegate(ROOT, fresh.signed_bytes, fresh.signatures)
            found.append(fresh)
    except (RepositoryError, ValueError) as error:
        raise RegistryError(
            f"{folder}: its root metadata is not signed by the owners that you know ({error}); nothing is signed upon "
            "it. Is it the registry of this site?"
        ) from error
    pinned_file = folder / files.METADATA / f"{found[0].signed.version}.root.json"
    if not pinned_file.is_file() or read_metadata(pinned_file, Root).signed != found[0].signed:
        raise RegistryError(
            f"{folder} is another registry than the one that your keys belong to, or an older copy of it; give the "
            "right folder, or the right --keys"
        )
    return found
