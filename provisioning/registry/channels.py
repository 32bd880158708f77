"""The releases of each ring, as they were published: read, and followed by the next."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets

from appliance.core.release import Release, encode_release, format_time, parse_release
from appliance.errors import RegistryError, ReleaseInvalid
from provisioning.registry import files
from provisioning.registry.published import Published, read_metadata, read_target, release_path
from provisioning.registry.registry import Outcome, Registry
from provisioning.registry.roles import CHANNELS

Decide = Callable[[list[Release]], Release]
"""The releases of a ring, the oldest first, to the next one. Raises RegistryError."""


class Past(msgspec.Struct, frozen=True):
    """A release, and the ids of the keys that signed it first. good: they are keys of the role to this day."""

    release: Release
    keys: tuple[str, ...]
    good: bool


def past(published: Published, ring: str) -> list[Past]:
    """The releases of a ring that the registry still has, the oldest first. Raises RegistryError."""
    found: dict[int, Past] = {}
    path = release_path(ring)
    for metadata in _versions(published):
        role = metadata.signed
        if path not in role.targets:
            break
        try:
            release = parse_release(read_target(published.folder, role, path), path)
        except ReleaseInvalid as error:
            raise RegistryError(str(error)) from error
        found[release.number] = Past(release, tuple(metadata.signatures), _is_good(published, metadata))
    return [found[number] for number in sorted(found)]


def history(published: Published, ring: str) -> list[Release]:
    """Those that may be given again: nobody but the present keys of the role has signed them. Raises RegistryError."""
    return [each.release for each in past(published, ring) if each.good]


def has_begun(releases: Sequence[Release], ring: str, known: Sequence[str]) -> list[Release]:
    """The same releases. Raises RegistryError when there is none."""
    if not releases:
        raise RegistryError(f"ring {ring} has no release yet; rings are: {', '.join(known) or 'none'}")
    return list(releases)


def publish_releases(registry: Registry, before: Published, releases: Sequence[Release], why: str) -> Outcome:
    """The next one of each of these rings, all at once. Raises RegistryError."""
    role = copy.deepcopy(before.delegated(CHANNELS))
    contents = {}
    for release in releases:
        path, content = release_path(release.ring), encode_release(release)
        role.targets[path] = TargetFile.from_data(path, content, ["sha256"])
        contents[path] = content
    return registry.change(why, {CHANNELS: role}, contents, before)


def issued(registry: Registry) -> str:
    """Now, as a release says it."""
    return format_time(registry.now().timestamp())


def _is_good(published: Published, metadata: Metadata[Targets]) -> bool:
    try:
        published.targets.verify_delegate(CHANNELS, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def _versions(published: Published) -> list[Metadata[Targets]]:
    """Of the role, the newest first, as far back as they are kept; older ones as they are found."""
    found: list[Metadata[Targets]] = [published.metadata[CHANNELS]]
    for version in range(published.version(CHANNELS) - 1, 0, -1):
        file = published.folder / files.METADATA / f"{version}.{CHANNELS}.json"
        if not file.is_file():
            break
        found.append(read_metadata(file, Targets))
    return found
