"""What may run on this box.

A provisioned box (`[updates] root`) runs what came with the package, what a signed update brought, and what the site's
key signed. Any other box also runs folders that nobody signed, as long as no other machine reaches it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from appliance import site_key
from appliance.config import Config, shipped_models_dir
from appliance.core.address import is_loopback
from appliance.errors import DataDirError, Unsigned

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Origin = Literal["shipped", "update", "import", "folder"]
"""How a version came: with the appliance itself, by an update whose signatures were checked, signed by the site's key,
or as a folder that nobody signed."""


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """package: the folder of the models that came with the appliance. updates: digests of manifests whose signatures
    were checked. refused: why a folder that nobody signed does not run, and what to do; None: it runs.
    """

    package: Path
    updates: Mapping[str, str] = {}
    key: Ed25519PublicKey | None = None
    refused: str | None = None

    def origin(self, folder: Path, manifest: bytes, digest: str) -> Origin:
        """Of the version in `folder`. manifest: its bytes. digest: their SHA-256. Raises Unsigned."""
        if self.package.resolve() in folder.resolve().parents:
            return "shipped"
        if digest in self.updates:
            return "import" if self.updates[digest] == "import" else "update"
        signed = None if self.key is None else site_key.is_signed(folder, manifest, self.key)
        if signed:
            return "import"
        if self.refused is not None:
            what = "nobody signed it" if signed is None else f"{site_key.SIGNATURE} is not the site key's"
            raise Unsigned(f"{folder}: {what}, and {self.refused}")
        return "folder"


def trust_of(config: Config) -> Trust:
    """As it is now: updates come while the box runs. Raises ConfigError, DataDirError."""
    updates, key = config.updates, None
    if updates.import_key is not None:
        key = site_key.read_public(Path(updates.import_key))
    return Trust(
        package=shipped_models_dir(), updates=_updates(Path(config.data_dir)), key=key, refused=_refused(config)
    )


def _refused(config: Config) -> str | None:
    sign = "sign it with the site's key (appliance models sign NAME --key FILE)"
    if config.updates.root is not None:
        return f"this box runs signed models only; publish it as an update, or {sign}"
    hosts = {"http.host": config.http.host}
    if config.listener.enabled:
        hosts["listener.host"] = config.listener.host
    for what, host in hosts.items():
        if not is_loopback(host):
            return f"other machines reach this box ({what} is {host}); listen on 127.0.0.1, or {sign}"
    return None


def _updates(data_dir: Path) -> dict[str, str]:
    """Manifest digest -> where it came from, as the updater wrote it. Raises DataDirError."""
    path = data_dir.absolute() / "state" / "state.db"
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT manifest, origin FROM trusted"))
    except sqlite3.Error as error:
        raise DataDirError(f"{path}: {error}; let this user read the folder") from error
