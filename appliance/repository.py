"""The model repository on disk: `<name>/<version>/manifest.toml` and the files that it names.

The layout is Triton's and OpenVINO Model Server's, plus the manifest. A folder that cannot be used is reported with
its reason and never hides the others. Files are read once, their SHA-256 checked, and the bytes that were checked are
the bytes that are loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from appliance.config import Config, shipped_models_dir
from appliance.core.manifest import CheckSet, GoldenCase, ModelManifest, Variant, digest, parse_manifest
from appliance.errors import ConfigError, HashMismatch, ManifestError, ModelError, Unsigned
from appliance.trust import Origin, Trust

MANIFEST = "manifest.toml"
NOT_MODELS = frozenset({"train"})


class ModelVersion(msgspec.Struct, frozen=True):
    """One version on disk, and how it came there."""

    folder: Path
    manifest: ModelManifest
    digest: str
    origin: Origin = "folder"

    @property
    def signed(self) -> bool:
        """Whether a signature over its manifest was checked on this box; what was shipped is as good as its program."""
        return self.origin in ("update", "import")


class Broken(msgspec.Struct, frozen=True):
    """A folder that cannot be used, and why."""

    name: str
    version: str
    error: ModelError


def model_roots(config: Config) -> list[Path]:
    """Where a box with this configuration looks for models: the shipped or given ones, then the installed ones."""
    installed = Path(config.data_dir).absolute() / "models"
    roots = [Path(config.models_dir) if config.models_dir else shipped_models_dir()]
    return [*roots, installed] if installed.is_dir() else roots


def check_roots(roots: Iterable[Path]) -> None:
    """Raises ConfigError when one is no folder."""
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"{root} is not a folder; give --models a folder that holds <name>/<version>/{MANIFEST}")


def scan(roots: Iterable[Path], trust: Trust | None = None) -> tuple[list[ModelVersion], list[Broken]]:
    """Read every manifest under `roots`; a later root replaces the same name and version of an earlier one.

    trust: what may run here; None: everything. What may not is broken, and replaces nothing. Hidden folders and `train`
    are not models. Raises ConfigError when a root is no folder.
    """
    found: dict[tuple[str, str], ModelVersion | Broken] = {}
    unsigned: list[Broken] = []
    for root in roots:
        check_roots([root])
        for folder in sorted(root.glob("*/*/")):
            name, version = folder.parent.name, folder.name
            if name in NOT_MODELS or name.startswith(".") or version.startswith((".", "__")):
                continue
            try:
                found[name, version] = read_version(folder, trust)
            except Unsigned as error:
                unsigned.append(Broken(name, version, error))
            except ModelError as error:
                found[name, version] = Broken(name, version, error)
    good = [each for each in found.values() if isinstance(each, ModelVersion)]
    return good, [*(each for each in found.values() if isinstance(each, Broken)), *unsigned]


def read_version(folder: Path, trust: Trust | None = None) -> ModelVersion:
    """Raises ManifestError when the manifest is missing, wrong, or names another folder; Unsigned when `trust` does."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; every version folder needs a {MANIFEST}") from error
    manifest = parse_manifest(text, str(path))
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise ManifestError(
            f"{path}: names {manifest.name}/{manifest.version}, but the folder is {folder.parent.name}/{folder.name}"
        )
    name = digest(text)
    return ModelVersion(folder, manifest, name, "folder" if trust is None else trust.origin(folder, text, name))


def check_files(version: ModelVersion) -> int:
    """Read every file that the manifest names and compare its SHA-256; how many there are.

    Raises HashMismatch or ManifestError.
    """
    files = version.manifest.files().values()
    for file in files:
        _read(version.folder / file.path, file.sha256)
    return len(files)


def read_variant(version: ModelVersion, variant: Variant) -> dict[str, bytes]:
    """Path -> content of the variant's files. Raises HashMismatch or ManifestError."""
    return {file.path: _read(version.folder / file.path, file.sha256) for file in variant.files}


def read_golden(version: ModelVersion, case: GoldenCase) -> bytes:
    """The input of a golden case. Raises HashMismatch or ManifestError."""
    return _read(version.folder / case.file, case.sha256)


def read_check(version: ModelVersion, check: CheckSet) -> bytes:
    """The check set's archive. Raises HashMismatch or ManifestError."""
    return _read(version.folder / check.file, check.sha256)


def _read(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; the manifest names it; install the model again") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise HashMismatch(
            f"{path} has SHA-256 {actual[:16]}..., the manifest says {sha256[:16]}...; install the model again"
        )
    return content
