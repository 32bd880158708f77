"""A *draft*: metadata that belongs together and waits for signatures, in one file that can be carried to who signs.

`drafts/<roles>.json` in the registry's folder, or a copy of it on a stick. It carries the new metadata of each role
with the signatures so far, whose keys count, and the text of what the metadata names, so that people read what they
sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root

from appliance.errors import RegistryError
from provisioning.registry import files
from provisioning.registry.keys import Keyring, key_name
from provisioning.registry.published import AnyMetadata


class Signers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group of keys that must sign: a role's; a new root needs its own and that of the root before."""

    role: str
    threshold: int
    keys: dict[str, dict[str, Any]]


class Draft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """why: what changes, in words. metadata: role -> TUF metadata. texts: target path -> its content."""

    schema: int = 1
    why: str
    signers: tuple[Signers, ...]
    metadata: dict[str, dict[str, Any]]
    texts: dict[str, str] = {}

    @property
    def name(self) -> str:
        return "-".join(sorted(self.metadata))

    def read(self, role: str) -> AnyMetadata:
        """Raises RegistryError."""
        try:
            # python-tuf takes apart what it is given.
            return Metadata.from_dict(msgspec.json.decode(msgspec.json.encode(self.metadata[role])))
        except (RepositoryError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"the draft of {role} is not TUF metadata ({error}); export it again") from error

    def missing(self) -> dict[str, tuple[int, list[str]]]:
        """Role -> how many signatures it still needs, names of the keys that may give them; empty when it is whole."""
        found: dict[str, tuple[int, list[str]]] = {}
        for group in self.signers:
            metadata = self.read(group.role)
            given = set(_valid(metadata, group))
            left = group.threshold - len(given)
            if left > 0:
                names = [key_name(key) for keyid, key in _keys(group).items() if keyid not in given]
                before = found.get(group.role, (0, []))
                found[group.role] = max(left, before[0]), sorted({*before[1], *names})
        return found


def make(
    why: str,
    metadata: Mapping[str, AnyMetadata],
    signers: tuple[Signers, ...],
    texts: Mapping[str, str],
) -> Draft:
    plain = {role: each.to_dict() for role, each in metadata.items()}
    return Draft(why=why, signers=signers, metadata=plain, texts=dict(texts))


def sign(draft: Draft, keyring: Keyring) -> tuple[Draft, list[str]]:
    """The draft with the signatures of the keys at hand, as far as they are needed; and the names of those that signed.

    Raises RegistryError.
    """
    found, names = dict(draft.metadata), list[str]()
    for group in draft.signers:
        metadata = Draft(why="", signers=(), metadata=found).read(group.role)
        for keyid, key in _keys(group).items():
            given = _valid(metadata, group)
            if len(given) >= group.threshold:
                break
            if keyid in given or not keyring.has(keyid):
                continue
            try:
                metadata.sign(keyring.signer(keyid), append=True)
            except UnsignedMetadataError as error:
                cause = error.__cause__ or error
                why = f"{type(cause).__name__} {cause}".strip()
                raise RegistryError(
                    f"key {key_name(key)} did not sign: {why}; is its token there, and its PIN right?"
                ) from error
            names.append(key_name(key))
        found[group.role] = metadata.to_dict()
    return msgspec.structs.replace(draft, metadata=found), sorted(set(names))


def merge(draft: Draft, other: Draft) -> Draft:
    """The signatures of both. Raises RegistryError when they are not of the same draft."""
    found = {}
    if set(draft.metadata) != set(other.metadata):
        raise RegistryError(
            "these signatures are for another draft than the one that waits; export it again and sign it"
        )
    for role in draft.metadata:
        mine, theirs = draft.read(role), other.read(role)
        if mine.signed != theirs.signed:
            raise RegistryError(
                f"these signatures are for version {theirs.signed.version} of {role} with another content than the "
                "draft that waits; export it again and sign it"
            )
        mine.signatures.update(theirs.signatures)
        _drop_bad(mine, (group for group in draft.signers if group.role == role))
        found[role] = mine.to_dict()
    return msgspec.structs.replace(draft, metadata=found)


def load(path: Path) -> Draft:
    """Raises RegistryError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Draft)
    except OSError as error:
        raise RegistryError(
            f"{path}: {error.strerror}; give the file that `appliance-registry export` wrote"
        ) from error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RegistryError(
            f"{path} is not a draft ({error}); give the file that `appliance-registry export` wrote"
        ) from error


def save(path: Path, draft: Draft) -> None:
    """Raises RegistryError."""
    files.put(path, msgspec.json.format(msgspec.json.encode(draft)) + b"\n")


def waiting(folder: Path) -> dict[Path, Draft]:
    """Of a registry. Raises RegistryError."""
    return {path: load(path) for path in sorted((folder / files.DRAFTS).glob("*.json"))}


def _keys(group: Signers) -> dict[str, Key]:
    return {keyid: Key.from_dict(keyid, dict(key)) for keyid, key in group.keys.items()}


def _valid(metadata: AnyMetadata, group: Signers) -> dict[str, Key]:
    """Keys of the group whose signatures hold."""
    judge = Root(consistent_snapshot=True)
    for key in _keys(group).values():
        judge.add_key(key, "targets")
    judge.roles["targets"].threshold = max(1, group.threshold)
    return judge.get_verification_result("targets", metadata.signed_bytes, metadata.signatures).signed


def _drop_bad(metadata: AnyMetadata, groups: Iterable[Signers]) -> None:
    """A signature that nobody can verify only costs bytes."""
    good = {keyid for group in groups for keyid in _valid(metadata, group)}
    for keyid in set(metadata.signatures) - good:
        del metadata.signatures[keyid]
