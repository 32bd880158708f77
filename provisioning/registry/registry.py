"""A registry that changes: new metadata is signed, put beside the old, and shown to devices by one rename.

Order of a publication: blobs and targets, then the metadata that names them, then the snapshot, a new root, and last
`timestamp.json`. A device that asks in between, or after a power cut in between, finds the release before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from appliance.errors import RegistryError
from provisioning.registry import drafts, files
from provisioning.registry.drafts import Draft, Signers
from provisioning.registry.keys import PINNED, Keyring, key_name
from provisioning.registry.published import AnyMetadata, Published, encode, target_file
from provisioning.registry.roles import ONLINE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TOP, default_days

DAYS_FIELD = "x-days"
"""In the metadata of a role: for how long it is signed each time; in the root's, of snapshot and timestamp too."""

Now = Callable[[], datetime]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a change. missing: role -> how many signatures are still needed, and the keys that may give them.

    draft: the file that waits for them, None when it is published.
    """

    why: str
    roles: tuple[str, ...]
    signed_by: tuple[str, ...] = ()
    missing: dict[str, tuple[int, list[str]]] = {}
    draft: Path | None = None

    @property
    def published(self) -> bool:
        return self.draft is None


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Registry:
    """folder: what devices are given, with `drafts/` beside it. Change it within `files.locked` only."""

    def __init__(self, folder: Path, keyring: Keyring, now: Now = utc_now) -> None:
        self.folder = folder
        self.keyring = keyring
        self.now = now

    def published(self) -> Published:
        """Raises RegistryError."""
        pinned = [path for each in self.keyring.folders if (path := each / PINNED).is_file()]
        found = Published(self.folder, pinned[0].read_bytes() if pinned else None)
        # A root that a killed rotation left is not settled on before the rest is signed by its keys.
        settled = all(_is_signed(role, found.metadata[role], found.root) for role in (TARGETS, *ONLINE))
        if self.keyring.folders and settled and (not pinned or len(found.roots) > 1):
            files.put(pinned[0] if pinned else self.keyring.folders[0] / PINNED, encode(found.roots[-1]))
        return found

    def change(
        self,
        why: str,
        changes: Mapping[str, Signed],
        contents: Mapping[str, bytes] | None = None,
        before: Published | None = None,
    ) -> Outcome:
        """Sign new metadata with the keys at hand; publish it, or keep it as a draft when signatures are missing.

        changes: role -> its metadata, whose version and expiry are set here. contents: target path -> bytes, of what
        the metadata names. before: None for the first of all. Raises RegistryError.
        """
        contents = contents or {}
        for draft in drafts.waiting(self.folder).values():
            if both := sorted(set(draft.metadata) & set(changes)):
                raise RegistryError(
                    f"{' and '.join(both)} waits for signatures already ({draft.why}); import them, or drop the draft: "
                    f"appliance-registry drop {draft.name}"
                )
        metadata = {role: self._next(role, signed, before) for role, signed in changes.items()}
        signers = _signers(metadata, before)
        texts = {path: content.decode() for path, content in contents.items()}
        draft, signed_by = drafts.sign(drafts.make(why, metadata, signers, texts), self.keyring)
        missing = draft.missing()
        if not missing:
            self._check_online(metadata, before)
        for path, content in contents.items():
            files.put(target_file(self.folder, path, _sha256(metadata, path)), content)
        roles = tuple(sorted(changes))
        if missing:
            file = self.folder / files.DRAFTS / f"{draft.name}.json"
            drafts.save(file, draft)
            return Outcome(why=why, roles=roles, signed_by=tuple(signed_by), missing=missing, draft=file)
        self._publish({role: draft.read(role) for role in metadata}, before)
        return Outcome(why=why, roles=roles, signed_by=tuple(signed_by))

    def take(self, other: Draft) -> Outcome:
        """Signatures from elsewhere for a draft that waits here; with the last one it is published.

        Raises RegistryError.
        """
        path = self.folder / files.DRAFTS / f"{other.name}.json"
        if not path.is_file():
            raise RegistryError(
                f"no draft of {other.name} waits here; it was published or dropped already (appliance-registry drafts)"
            )
        draft = drafts.merge(drafts.load(path), other)
        before = self.published() if self.is_published else None
        for role in draft.metadata:
            version, known = int(draft.read(role).signed.version), before.version(role) if before is not None else 0
            if version != known + 1:
                raise RegistryError(
                    f"the draft has version {version} of {role}, and {known} is published; drop it and order it again"
                )
        missing = draft.missing()
        roles = tuple(sorted(draft.metadata))
        if missing:
            drafts.save(path, draft)
            return Outcome(why=draft.why, roles=roles, missing=missing, draft=path)
        metadata = {role: draft.read(role) for role in draft.metadata}
        self._check_online(metadata, before)
        drafts.save(path, draft)
        self._publish(metadata, before)
        path.unlink()
        return Outcome(why=draft.why, roles=roles)

    def refresh(self, before: Published, *, snapshot_until: datetime | None = None, skip: int = 0) -> None:
        """A new timestamp; and a new snapshot when it is half through its time, or would expire before it is to.

        skip: so many versions of the timestamp were given away elsewhere. Raises RegistryError.
        """
        self._check_online({}, before)
        self._publish({}, before, snapshot_until=snapshot_until, skip=skip)

    @property
    def is_published(self) -> bool:
        return (self.folder / files.METADATA / "timestamp.json").is_file()

    def sign_timestamp(self, before: Published, version: int, expires: datetime) -> AnyMetadata:
        """Of the published snapshot, with a version and an expiry of its own. Raises RegistryError."""
        timestamp = copy.deepcopy(cast(Timestamp, before.metadata[TIMESTAMP].signed))
        timestamp.version, timestamp.expires = version, expires
        return self._sign_online(TIMESTAMP, timestamp, before.root)

    def _publish(
        self,
        fresh: Mapping[str, AnyMetadata],
        before: Published | None,
        *,
        snapshot_until: datetime | None = None,
        skip: int = 0,
    ) -> None:
        combined: dict[str, AnyMetadata] = {**(before.metadata if before is not None else {}), **fresh}
        root, targets = cast(Root, combined[ROOT].signed), cast(Targets, combined[TARGETS].signed)
        for role, each in combined.items():
            if role not in ONLINE:
                _check_signed(role, each, root if role in TOP else targets)
        folder = self.folder / files.METADATA
        for role, each in fresh.items():
            if role not in TOP:
                files.put(folder / f"{each.signed.version}.{role}.json", encode(each))
        if TARGETS in fresh:
            files.put(folder / f"{targets.version}.targets.json", encode(fresh[TARGETS]))
        meta = {
            f"{role}.json": MetaFile(int(each.signed.version))
            for role, each in combined.items()
            if role not in (*ONLINE, ROOT)
        }
        snap = self._snapshot(meta, combined.get(SNAPSHOT), root, snapshot_until)
        if snap is not combined.get(SNAPSHOT):
            files.put(folder / f"{snap.signed.version}.snapshot.json", encode(snap))
        timestamp = (
            Timestamp() if TIMESTAMP not in combined else copy.deepcopy(cast(Timestamp, combined[TIMESTAMP].signed))
        )
        timestamp.version = timestamp.version + 1 + skip if TIMESTAMP in combined else 1
        timestamp.snapshot_meta = MetaFile(int(snap.signed.version))
        timestamp.expires = self._expires(root, TIMESTAMP)
        signed = self._sign_online(TIMESTAMP, timestamp, root)
        if ROOT in fresh:
            files.put(folder / f"{root.version}.root.json", encode(fresh[ROOT]))
        files.put(folder / "timestamp.json", encode(signed))
        if ROOT in fresh and self.keyring.folders:
            self.published()

    def _snapshot(
        self, meta: dict[str, MetaFile], old: AnyMetadata | None, root: Root, until: datetime | None
    ) -> AnyMetadata:
        """The old one as long as it says the same, is signed by the present keys and has half of its time left."""
        if old is None:
            snapshot = Snapshot(meta=meta)
        else:
            snapshot = copy.deepcopy(cast(Snapshot, old.signed))
            half = timedelta(days=_days(root, SNAPSHOT)) / 2
            same = snapshot.meta == meta and snapshot.expires - self.now() > half and _is_signed(SNAPSHOT, old, root)
            if same and (until is None or snapshot.expires >= until):
                return old
            snapshot.version += 1
            snapshot.meta = meta
        snapshot.expires = max(self._expires(root, SNAPSHOT), until or self.now())
        return self._sign_online(SNAPSHOT, snapshot, root)

    def _next(self, role: str, signed: Signed, before: Published | None) -> AnyMetadata:
        signed.version = (before.version(role) if before is not None else 0) + 1
        signed.expires = self._expires(signed, role)
        return Metadata(signed)

    def _expires(self, signed: Signed, role: str) -> datetime:
        return self.now() + timedelta(days=_days(signed, role))

    def _sign_online(self, role: str, signed: Signed, root: Root) -> AnyMetadata:
        draft = drafts.make("", {role: Metadata(signed)}, (_group(role, root, role),), {})
        return drafts.sign(draft, self.keyring)[0].read(role)

    def _check_online(self, fresh: Mapping[str, AnyMetadata], before: Published | None) -> None:
        """Raises RegistryError unless what is published can be signed to its end, before anything is written."""
        root = cast(Root, fresh[ROOT].signed) if ROOT in fresh else before.root if before is not None else Root()
        for role in ONLINE:
            held = [keyid for keyid in root.roles[role].keyids if self.keyring.has(keyid)]
            if len(held) < root.roles[role].threshold:
                names = ", ".join(key_name(root.get_key(keyid)) for keyid in root.roles[role].keyids)
                raise RegistryError(
                    f"nothing can be published from here: the key of {role} ({names}) is not in --keys; run this where "
                    "the online keys are"
                )


def _days(signed: Signed, role: str) -> int:
    """signed: its own metadata; of snapshot and timestamp, the root."""
    days = signed.unrecognized_fields.get(DAYS_FIELD)
    if isinstance(days, dict):
        days = days.get(role)
    return days if isinstance(days, int) and days > 0 else default_days(role)


def _signers(metadata: Mapping[str, AnyMetadata], before: Published | None) -> tuple[Signers, ...]:
    found: list[Signers] = []
    for role in metadata:
        if role == ROOT and before is not None:
            found.append(_group(ROOT, before.root, ROOT))
        if role in TOP:
            owner = metadata[ROOT].signed if ROOT in metadata else before.root if before is not None else None
        else:
            owner = metadata[TARGETS].signed if TARGETS in metadata else before.targets if before is not None else None
        found.append(_group(role, cast("Root | Targets", owner), role))
    return tuple(found)


def _group(role: str, owner: Root | Targets, name: str) -> Signers:
    who = owner.get_delegated_role(name)
    keys = {keyid: owner.get_key(keyid).to_dict() for keyid in who.keyids}
    return Signers(role=role, threshold=who.threshold, keys=keys)


def _check_signed(role: str, metadata: AnyMetadata, owner: Root | Targets) -> None:
    try:
        owner.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise RegistryError(f"{role} would no longer be signed by its keys ({error}); nothing was published") from error


def _is_signed(role: str, metadata: AnyMetadata, owner: Root | Targets) -> bool:
    try:
        owner.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def _sha256(metadata: Mapping[str, AnyMetadata], path: str) -> str:
    for each in metadata.values():
        if isinstance(each.signed, Targets) and path in each.signed.targets:
            return each.signed.targets[path].hashes["sha256"]
    raise RegistryError(f"no role names the target {path}")
