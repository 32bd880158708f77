"""A site's key pair, as openssl would write it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from appliance.repository import MANIFEST
from appliance.site_key import sign


class SiteKey(NamedTuple):
    """Two PEM files, and the private key in them."""

    private: Path
    public: Path
    key: Ed25519PrivateKey

    def sign(self, folder: Path) -> None:
        sign(folder, self.key, MANIFEST)


def make_site_key(folder: Path, name: str = "site", passphrase: str | None = None) -> SiteKey:
    key = Ed25519PrivateKey.generate()
    made = SiteKey(folder / f"{name}.pem", folder / f"{name}.pub", key)
    folder.mkdir(parents=True, exist_ok=True)
    locked = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    made.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    made.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return made
