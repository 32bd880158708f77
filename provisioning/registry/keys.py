"""Signing keys: a folder of *cards*, each the public half of a key and the place where its private half is.

A card is `<name>.json`. The private half is `<name>.pem` beside it (PKCS#8, encrypted under a passphrase), or behind a
URI of securesystemslib such as `hsm:2?label=ops`. Who is given a key is given both files, or the token; a card alone
tells others who somebody is, and signs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signer, SSlibKey

from appliance.errors import RegistryError
from provisioning.registry.files import write_new

NAME_FIELD = "x-name"
"""In a key's metadata: how people call it."""

Secret = Callable[[str], str]
"""Asked for `passphrase of <file>` or `PIN of <uri>`; gives it."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """key: the public half as TUF writes it. file: of the private half, beside the card; uri: or where else it is."""

    name: str
    keyid: str
    key: dict[str, Any]
    file: str | None = None
    uri: str | None = None

    @property
    def public(self) -> Key:
        return Key.from_dict(self.keyid, {**self.key, NAME_FIELD: self.name})


class Keyring:
    """What can be signed with here. folders: of cards. secret: asked for a key when nothing known opens it."""

    def __init__(
        self, folders: Sequence[Path], secret: Secret, signers: Iterable[Signer] = (), known: Iterable[str] = ()
    ) -> None:
        """signers: keys that are at hand without a card. known: passphrases to try first. Raises RegistryError."""
        self._known = list(known)
        self.folders = tuple(folders)
        self._secret = secret
        self._signers: dict[str, Signer] = {signer.public_key.keyid: signer for signer in signers}
        self._cards: dict[str, tuple[Card, Path]] = {}
        for folder in folders:
            for path in sorted(folder.glob("*.json")):
                if path.name != PINNED:
                    card = read_card(path)
                    if card.uri is not None or (card.file is not None and (folder / card.file).is_file()):
                        self._cards[card.keyid] = card, folder

    def has(self, keyid: str) -> bool:
        return keyid in self._signers or keyid in self._cards

    def signer(self, keyid: str) -> Signer:
        """Of a key that it has. Raises RegistryError when its secret is wrong or its token does not answer."""
        if keyid not in self._signers:
            card, folder = self._cards[keyid]
            self._signers[keyid] = _open(card, folder, self._secret, self._known)
        return self._signers[keyid]


PINNED = "trusted-root.json"
"""In a folder of keys: the root metadata that its owner has seen last."""


def make_key(folder: Path, name: str, passphrase: str) -> Card:
    """A new Ed25519 key in a folder, its file readable by its owner alone. Raises RegistryError."""
    if not passphrase:
        raise RegistryError(f"key {name}: an empty passphrase protects nothing; give one of several words")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    card = _card(name, SSlibKey.from_crypto(private.public_key()), file=f"{name}.pem")
    write_new(folder / f"{name}.pem", pem, 0o600)
    _write_card(folder, card)
    return card


def add_key(folder: Path, name: str, uri: str, public: Path | None, scheme: str | None, secret: Secret) -> Card:
    """A card for a key that is elsewhere. public: its public half (PEM); a PKCS#11 token tells it by itself.

    Raises RegistryError.
    """
    if public is not None:
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(public.read_bytes()), scheme=scheme)
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise RegistryError(f"{public} is no public key in PEM that is known here ({error})") from error
    elif uri.startswith("hsm:"):
        number, _, query = uri.removeprefix("hsm:").partition("?")
        try:
            label = dict(part.split("=", 1) for part in query.split("&") if part).get("label")
            uri, key = HSMSigner.import_(int(number) if number else None, label, lambda _: secret(f"PIN of {uri}"))
        except Exception as error:
            raise RegistryError(
                f"{uri}: {_reason(error)}; is the token there, does PYKCS11LIB name its library, and is the extra "
                "`registry` installed?"
            ) from error
    else:
        raise RegistryError(f"{uri}: say its public half as well, --public FILE.pem")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    card = _card(name, key, uri=uri)
    _open(card, folder, secret, [])
    _write_card(folder, card)
    return card


def read_card(path: Path) -> Card:
    """Raises RegistryError."""
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
        card.public  # noqa: B018 - whether it is a key at all
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}; give the card of a key, <name>.json") from error
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise RegistryError(
            f"{path} is not the card of a key ({error}); `appliance-registry key` writes one"
        ) from error
    return card


def key_name(key: Key) -> str:
    """How people call it."""
    name = key.unrecognized_fields.get(NAME_FIELD)
    return name if isinstance(name, str) else key.keyid[:8]


def _card(name: str, key: SSlibKey, **where: str) -> Card:
    return Card(name=name, keyid=key.keyid, key=key.to_dict(), **where)


def _write_card(folder: Path, card: Card) -> None:
    write_new(folder / f"{card.name}.json", msgspec.json.format(msgspec.json.encode(card)) + b"\n", 0o644)


def _open(card: Card, folder: Path, secret: Secret, known: list[str]) -> Signer:
    """known: passphrases that opened others; this one's joins them."""
    if card.file is not None:
        return _open_file(folder / card.file, card, secret, known)
    assert card.uri is not None
    uri, pins = card.uri, dict[str, str]()

    def pin(_: str) -> str:
        if uri not in pins:
            pins[uri] = secret(f"PIN of {uri}")
        return pins[uri]

    try:
        return Signer.from_priv_key_uri(uri, card.public, pin)
    except Exception as error:
        # Each of the libraries behind a URI has errors of its own.
        raise RegistryError(f"key {card.name}: {uri}: {_reason(error)}") from error


def _open_file(path: Path, card: Card, secret: Secret, known: list[str]) -> Signer:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}; give the folder with this key") from error
    if b"ENCRYPTED" not in pem.partition(b"\n")[0]:
        return _decrypt(path, pem, None, card)
    # Keys that were made together share one, and nobody is asked ten times for it.
    for passphrase in known:
        with suppress(RegistryError):
            return _decrypt(path, pem, passphrase, card)
    passphrase = secret(f"passphrase of {path}")
    signer = _decrypt(path, pem, passphrase, card)
    known.append(passphrase)
    return signer


def _decrypt(path: Path, pem: bytes, passphrase: str | None, card: Card) -> Signer:
    try:
        private = load_pem_private_key(pem, None if passphrase is None else passphrase.encode())
        public = card.public
        assert isinstance(public, SSlibKey)
        return CryptoSigner(private, public)
    except (ValueError, TypeError, UnsupportedAlgorithm, SigningError) as error:
        raise RegistryError(f"{path} cannot be opened: a wrong passphrase, or not the key of {card.name}") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def read_secret_file(path: Path) -> str:
    """Its first line. Raises RegistryError."""
    try:
        return (path.read_text(encoding="utf-8").splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path}: {error}; give a file with the passphrase on one line") from error


def environment_secret(environment: Mapping[str, str], ask: Secret) -> Secret:
    """`APPLIANCE_REGISTRY_PASSPHRASE`, `..._PASSPHRASE_FILE` and `..._PIN`, else `ask`."""

    def secret(what: str) -> str:
        if what.startswith("PIN"):
            return environment.get("APPLIANCE_REGISTRY_PIN") or ask(what)
        path = environment.get("APPLIANCE_REGISTRY_PASSPHRASE_FILE")
        if path:
            return read_secret_file(Path(os.path.expanduser(path)))
        return environment.get("APPLIANCE_REGISTRY_PASSPHRASE") or ask(what)

    return secret
