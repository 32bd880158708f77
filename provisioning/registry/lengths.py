"""The length of every file in a manifest, which a published one must say: a device plans disk and time by it."""

from __future__ import annotations

import re

from appliance.core.manifest import ModelManifest, parse_manifest
from appliance.errors import RegistryError
from appliance.repository import ModelVersion
from provisioning.registry.files import put

_WHOLE_LINE = r'^([ \t]*)("?sha256"?[ \t]*=[ \t]*["\']{sha256}["\'])[ \t]*(#[^\n]*)?$'
_INLINE = r'("?sha256"?\s*=\s*["\']{sha256}["\'])(?!\s*,\s*"?bytes"?\s*=)'


def missing(manifest: ModelManifest) -> list[str]:
    """Paths of files without a length."""
    return [path for path, file in manifest.files().items() if file.bytes is None]


def fill(version: ModelVersion) -> int:
    """Write the lengths that are missing into manifest.toml, beside each hash; how many. All else stays as it is.

    Raises RegistryError.
    """
    path = version.folder / "manifest.toml"
    text, count = path.read_text(encoding="utf-8"), 0
    for sha256, size in _sizes(version).items():
        line = re.compile(_WHOLE_LINE.format(sha256=sha256), re.MULTILINE)
        inline = re.compile(_INLINE.format(sha256=sha256))
        if line.search(text):
            text, done = line.subn(lambda found, size=size: f"{found[0]}\n{found[1]}bytes = {size}", text)  # type: ignore[misc]
        else:
            text, done = inline.subn(lambda found, size=size: f"{found[1]}, bytes = {size}", text)  # type: ignore[misc]
        count += done
    if not count and not missing(version.manifest):
        return 0
    filled = parse_manifest(text.encode(), str(path))
    wrong = missing(filled) or [
        name for name, file in filled.files().items() if file.bytes != (version.folder / name).stat().st_size
    ]
    if wrong:
        raise RegistryError(
            f"{path}: the length of {wrong[0]} could not be written; write `bytes = "
            f"{(version.folder / wrong[0]).stat().st_size}` beside its sha256 by hand"
        )
    put(path, text.encode())
    return count


def _sizes(version: ModelVersion) -> dict[str, int]:
    """SHA-256 -> length, of the files whose length the manifest does not say."""
    files = version.manifest.files()
    return {files[path].sha256: (version.folder / path).stat().st_size for path in missing(version.manifest)}
