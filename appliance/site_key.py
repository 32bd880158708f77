"""The key that a site signs its own models with: `manifest.sig` beside `manifest.toml`.

The file holds the 64 bytes of an Ed25519 signature (RFC 8032) over the manifest's bytes; the manifest names every file
by its SHA-256. Keys are PEM files, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import ConfigError
from appliance.synced import sync_folder, write_synced

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "manifest.sig"

_SIGNATURE_BYTES = 64


def read_public(path: Path) -> Ed25519PublicKey:
    """Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key: Ed25519PublicKey = _key(path, load_pem_public_key, Ed25519PublicKey, "openssl pkey -in KEY -pubout")
    return key


def read_private(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """passphrase: asked for when the file is encrypted. Raises ConfigError, and whatever `passphrase` raises."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    def parse(content: bytes) -> object:
        encrypted = b"ENCRYPTED" in content
        return load_pem_private_key(content, passphrase().encode() if encrypted else None)

    key: Ed25519PrivateKey = _key(path, parse, Ed25519PrivateKey, "openssl genpkey -algorithm ed25519")
    return key


def sign(folder: Path, key: Ed25519PrivateKey, manifest: str) -> None:
    """Sign the manifest in `folder`; the signature is on the disk when this returns. Raises OSError."""
    content = key.sign((folder / manifest).read_bytes())
    fresh = folder / f".{SIGNATURE}"
    write_synced(fresh, content)
    fresh.replace(folder / SIGNATURE)
    sync_folder(folder)


def is_signed(folder: Path, manifest: bytes, key: Ed25519PublicKey) -> bool | None:
    """Whether the signature beside the manifest is this key's; None when there is none. manifest: its bytes."""
    from cryptography.exceptions import InvalidSignature

    try:
        with (folder / SIGNATURE).open("rb") as file:
            signature = file.read(_SIGNATURE_BYTES + 1)
    except OSError:
        return None
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        return False
    return True


def _key(path: Path, parse: Callable[[bytes], object], kind: Any, made_by: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a readable PEM file with the key") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path}: no key can be read from it ({reason}); such a file comes from: {made_by}"
        ) from error
    if not isinstance(key, kind):
        raise ConfigError(f"{path}: holds another kind of key than Ed25519; such a file comes from: {made_by}")
    return key
