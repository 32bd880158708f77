"""Whether a model version is fit to be published: its manifest, its files, and its golden cases on this computer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance.config import Config
from appliance.core.manifest import ModelManifest, digest
from appliance.core.release import ModelRef
from appliance.errors import RegistryError, UpdateError
from appliance.repository import MANIFEST, ModelVersion, check_files, read_version
from appliance.updater.selftest import SelfTest, run
from appliance.updater.staging import check_paths
from provisioning.registry import lengths

Prove = Callable[[Path], SelfTest]


class Bundle(msgspec.Struct, frozen=True):
    """A version that may be published. content: of its manifest. test: how its golden cases went."""

    version: ModelVersion
    content: bytes
    test: SelfTest

    @property
    def manifest(self) -> ModelManifest:
        return self.version.manifest

    @property
    def ref(self) -> ModelRef:
        return ref_of(self.manifest, self.content, self.version.digest)

    @property
    def name(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"


def golden_cases(folder: Path) -> SelfTest:
    """As a box runs them before it installs a version, in a process of their own."""
    return run(folder, Config(), unit=False)


def check(folder: Path, prove: Prove = golden_cases) -> Bundle:
    """Raises RegistryError, ModelError."""
    folder = folder.absolute()
    version = read_version(folder)
    manifest, where = version.manifest, f"{folder / MANIFEST}"
    for field in ("title", "licence", "provenance"):
        if not getattr(manifest, field).strip():
            raise RegistryError(f"{where}: {field} is empty; say it, so that people can know what they run")
    if not manifest.golden:
        raise RegistryError(f"{where}: there is no golden case, so a box could not tell whether it works; add some")
    try:
        check_paths(manifest)
    except UpdateError as error:
        raise RegistryError(str(error)) from error
    if unknown := lengths.missing(manifest):
        raise RegistryError(
            f"{where}: gives no `bytes` for {unknown[0]}; write them with: appliance-registry measure {folder}"
        )
    check_files(version)
    for path, file in manifest.files().items():
        size = (folder / path).stat().st_size
        if size != file.bytes:
            raise RegistryError(
                f"{where}: says that {path} has {file.bytes} bytes, it has {size}; correct the manifest"
            )
    try:
        test = prove(folder)
    except UpdateError as error:
        raise RegistryError(f"{folder}: {error}") from error
    if not test.passed:
        raise RegistryError(
            f"{manifest.name} {manifest.version}: its golden cases do not hold here ({test.code}: {test.reason}); "
            "no box would install it"
        )
    content = (folder / MANIFEST).read_bytes()
    if version.digest != digest(content):
        raise RegistryError(f"{where}: changed while it was checked; publish it again")
    return Bundle(version, content, test)


def ref_of(manifest: ModelManifest, content: bytes, digest: str) -> ModelRef:
    """As a release names it."""
    return ModelRef(
        version=manifest.version,
        manifest=digest,
        bytes=len(content) + sum(blobs(manifest).values()),
    )


def blobs(manifest: ModelManifest) -> dict[str, int]:
    """SHA-256 -> length of what a device may have to download beside the manifest. Raises RegistryError."""
    found = {}
    for path, file in manifest.files().items():
        if file.bytes is None:
            raise RegistryError(f"{manifest.name} {manifest.version}: there is no length of {path}")
        found[file.sha256] = file.bytes
    return found
