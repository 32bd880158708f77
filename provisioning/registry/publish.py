"""Publish a model version: its manifest is signed by its team, its files are kept by their hash. It never changes."""

from __future__ import annotations

import copy

import msgspec
from tuf.api.metadata import TargetFile

from appliance.core.manifest import ModelManifest, parse_manifest
from appliance.core.release import ModelRef
from appliance.errors import ManifestError, RegistryError
from provisioning.registry import files
from provisioning.registry.bundle import Bundle, blobs, ref_of
from provisioning.registry.files import BLOBS
from provisioning.registry.published import Published, manifest_path
from provisioning.registry.registry import Outcome, Registry
from provisioning.registry.roles import team_of


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """What comes to a device. whole: bytes, when it has nothing of it. change: when it has version `since`."""

    whole: int
    change: int
    since: str | None


def publish(registry: Registry, before: Published, bundle: Bundle) -> Outcome | None:
    """None: it is published already, just so. Raises RegistryError."""
    manifest = bundle.manifest
    team = team_of(manifest.name, before.teams)
    path = manifest_path(manifest.name, manifest.version)
    known = before.delegated(team).targets.get(path)
    if known is not None and known.hashes["sha256"] != bundle.version.digest:
        raise RegistryError(
            f"{bundle.name} is published already, with another manifest ({known.hashes['sha256'][:16]}...): a version "
            f"never changes; give it the next number ({int(before.versions(manifest.name)[-1]) + 1})"
        )
    newest = (before.versions(manifest.name) or ["0"])[-1]
    if known is None and int(manifest.version) < int(newest):
        raise RegistryError(
            f"{bundle.name} is below version {newest}, which is published, and may have been another one once; give it "
            f"the next number ({int(newest) + 1})"
        )
    for file_path, file in manifest.files().items():
        blob = registry.folder / BLOBS / file.sha256
        if not blob.is_file() or blob.stat().st_size != file.bytes:
            files.put_copy(bundle.version.folder / file_path, blob)
    if known is not None:
        return None
    role = copy.deepcopy(before.delegated(team))
    role.targets[path] = TargetFile.from_data(path, bundle.content, ["sha256"])
    return registry.change(f"publish {bundle.name}", {team: role}, {path: bundle.content}, before)


def manifest_of(before: Published, name: str, version: str) -> tuple[ModelManifest, ModelRef]:
    """Of a published version. Raises RegistryError."""
    team, path = team_of(name, before.teams), manifest_path(name, version)
    if path not in before.delegated(team).targets:
        there = ", ".join(before.versions(name)) or "none"
        raise RegistryError(f"{name} {version} is not published; of {name} there are {there}")
    content = before.content(team, path)
    try:
        manifest = parse_manifest(content, path)
    except ManifestError as error:
        raise RegistryError(str(error)) from error
    return manifest, ref_of(manifest, content, before.delegated(team).targets[path].hashes["sha256"])


def download(before: Published, manifest: ModelManifest, ref: ModelRef) -> Download:
    """For the version before it, as far as that is published. Raises RegistryError."""
    there = blobs(manifest)
    older = [each for each in before.versions(manifest.name) if int(each) < int(manifest.version)]
    if not older:
        return Download(whole=ref.bytes, change=ref.bytes, since=None)
    known = blobs(manifest_of(before, manifest.name, older[-1])[0])
    same = sum(size for sha256, size in there.items() if sha256 in known)
    return Download(whole=ref.bytes, change=ref.bytes - same, since=older[-1])
