"""A registry in memory, with all keys at hand: whatever its owners, or an attacker with some of their keys, could do.

`Simulated` signs; `files` is what a box finds, path -> bytes. `Shelf` is a source over it, at the updater's own seam.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from appliance.core.manifest import parse_manifest
from appliance.updater.fetch import Body, Missing
from tests.support.toml import to_toml

DAY = timedelta(days=1)
RING = "stable"
DEVICE = "box-1"
_TOP = {"root": 3, "targets": 3, "snapshot": 1, "timestamp": 1}
_COMPACT = JSONSerializer(compact=True)


class Simulated:
    """Root and targets 2 of 3, `channels`, and one team `vision` for every model. now: when everything is signed."""

    def __init__(self, now: datetime | None = None, teams: Mapping[str, str] | None = None) -> None:
        self.now = now or datetime.now(UTC).replace(microsecond=0)
        self.files: dict[str, bytes] = {}
        self.keys = {role: [CryptoSigner.generate_ed25519() for _ in range(count)] for role, count in _TOP.items()}
        self.teams = dict(teams or {"vision": "models/*/*/manifest.toml"})
        for team in ("channels", *self.teams):
            self.keys[team] = [CryptoSigner.generate_ed25519()]
        self.root = Root(consistent_snapshot=True, expires=self.now + 365 * DAY)
        for role, signers in self.keys.items():
            if role in _TOP:
                for signer in signers:
                    self.root.add_key(signer.public_key, role)
                self.root.roles[role].threshold = 2 if len(signers) == 3 else 1
        self.targets = Targets(expires=self.now + 180 * DAY)
        roles = {"channels": "channels/*.json", **self.teams}
        self.targets.delegations = Delegations(
            {}, {name: DelegatedRole(name, [], 1, False, [pattern]) for name, pattern in roles.items()}
        )
        for name in roles:
            self.targets.add_key(self.keys[name][0].public_key, name)
        self.delegated = {name: Targets(expires=self.now + 90 * DAY) for name in roles}
        self.snapshot = Snapshot(expires=self.now + 14 * DAY)
        self.timestamp = Timestamp(expires=self.now + 7 * DAY)
        self.number = 0
        self.sign_root()
        self.sign()

    @property
    def first_root(self) -> bytes:
        return self.files["metadata/1.root.json"]

    # What central ops do.

    def sign_root(self, keys: list[CryptoSigner] | None = None) -> None:
        """keys: by default two of the present ones."""
        self.put_root(keys or self.keys["root"][:2])

    def put_root(self, keys: list[CryptoSigner]) -> None:
        self.files[f"metadata/{self.root.version}.root.json"] = signed(self.root, keys)

    def rotate_root(self, keep: int = 2) -> None:
        """A new version, with the oldest root key replaced; signed by old and new."""
        before = self.keys["root"]
        fresh = CryptoSigner.generate_ed25519()
        self.root.revoke_key(before[0].public_key.keyid, "root")
        self.root.add_key(fresh.public_key, "root")
        self.keys["root"] = [*before[1:], fresh]
        self.root.version += 1
        self.put_root([*before[:keep], fresh, self.keys["root"][0]])

    def replace_key(self, role: str) -> CryptoSigner:
        """Of a top role, by a new root; returns the revoked one."""
        old, fresh = self.keys[role][0], CryptoSigner.generate_ed25519()
        self.root.revoke_key(old.public_key.keyid, role)
        self.root.add_key(fresh.public_key, role)
        self.keys[role] = [*self.keys[role][1:], fresh]
        self.root.version += 1
        self.sign_root()
        return old

    def sign(self, *, bump: bool = True) -> None:
        """Everything but the root, from the present state; bump: with new versions."""
        for name, role in self.delegated.items():
            self._put(f"metadata/{role.version}.{name}.json", role, self.keys[name])
            self.snapshot.meta[f"{name}.json"] = MetaFile(role.version)
        self._put(f"metadata/{self.targets.version}.targets.json", self.targets, self.keys["targets"][:2])
        self.snapshot.meta["targets.json"] = MetaFile(self.targets.version)
        if bump:
            self.snapshot.version += 1
            self.timestamp.version += 1
        self._put(f"metadata/{self.snapshot.version}.snapshot.json", self.snapshot, self.keys["snapshot"])
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self._put("metadata/timestamp.json", self.timestamp, self.keys["timestamp"])

    def publish(self, folder: Path, **said: int) -> str:
        """A bundle; returns its manifest digest. said: path in the folder -> another length than it has."""
        content = with_bytes(folder, said)
        manifest = parse_manifest(content, str(folder))
        for path, file in manifest.files().items():
            self.files[f"blobs/{file.sha256}"] = (folder / path).read_bytes()
        return self.add_manifest(manifest.name, manifest.version, content)

    def add_manifest(self, name: str, version: str, content: bytes, team: str = "vision") -> str:
        """A manifest as it comes; returns its digest."""
        return self.add_target(f"models/{name}/{version}/manifest.toml", content, team)

    def add_target(self, path: str, content: bytes, role: str) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.delegated[role].targets[path] = TargetFile.from_data(path, content, ["sha256"])
        self.delegated[role].version += 1
        folder, _, name = path.rpartition("/")
        self.files[f"targets/{folder}/{digest}.{name}"] = content
        self.sign()
        return digest

    def release(self, models: Mapping[str, tuple[str, str]], ring: str = RING, **changes: Any) -> int:
        """models: name -> version and manifest digest. changes: of the release's JSON. Returns its number."""
        self.number += 1
        refs = {
            name: {"version": version, "manifest": digest, "bytes": 1} for name, (version, digest) in models.items()
        }
        issued = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        release = {"ring": ring, "number": self.number, "issued": issued, "models": refs, **changes}
        self.number = release["number"]
        self.add_target(f"channels/{ring}.json", json.dumps(release).encode(), "channels")
        return self.number

    def later(self, **passed: float) -> None:
        """Time passes, and everything online is signed anew."""
        self.now += timedelta(**passed)
        self.snapshot.expires, self.timestamp.expires = self.now + 14 * DAY, self.now + 7 * DAY
        self.targets.expires = max(self.targets.expires, self.now + 30 * DAY)
        for role in self.delegated.values():
            role.expires = max(role.expires, self.now + 30 * DAY)
        self.targets.version += 1
        for role in self.delegated.values():
            role.version += 1
        self.sign()

    def write(self, folder: Path) -> Path:
        """The same on a disk."""
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder

    def _put(self, path: str, role: Targets | Snapshot | Timestamp, keys: list[CryptoSigner]) -> None:
        self.files[path] = signed(role, keys)


class Shelf:
    """A source that gives `files`. bends: path -> what comes in place of the file, as chunks; may raise.

    wire: bytes that were given, of every path.
    """

    def __init__(self, files: dict[str, bytes], origin: str = "https://updates.example/") -> None:
        self.files = files
        self.origin = origin
        self.bends: dict[str, Callable[[bytes, int], Iterator[bytes]]] = {}
        self.wire: dict[str, int] = {}

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        content = self.files.get(path)
        bend = next((bend for start, bend in self.bends.items() if path.startswith(start)), None)
        if content is None and bend is None:
            raise Missing(f"{self.origin} has no {path}")
        chunks = self._plain(content or b"", offset) if bend is None else bend(content or b"", offset)
        yield Body(self._counted(path, chunks), offset, None if bend is not None else len(content or b""))

    def _plain(self, content: bytes, offset: int) -> Iterator[bytes]:
        for at in range(offset, len(content), 64 << 10):
            yield content[at : at + (64 << 10)]

    def _counted(self, path: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.wire[path] = self.wire.get(path, 0) + len(chunk)
            yield chunk


def signed(role: Signed, keys: list[CryptoSigner]) -> bytes:
    metadata: Metadata[Any] = Metadata(role)
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes(_COMPACT)


def with_bytes(folder: Path, said: Mapping[str, int] | None = None) -> bytes:
    """The manifest of a bundle with the length of each file, which a published one has."""
    manifest = tomllib.loads((folder / "manifest.toml").read_text())
    for file in [*(file for variant in manifest["variants"] for file in variant["files"]), *manifest["golden"]]:
        path = file.get("path") or file["file"]
        file["bytes"] = (said or {}).get(path, (folder / path).stat().st_size)
    return to_toml(manifest).encode()


def add_file(folder: Path, path: str, content: bytes) -> None:
    """A file more in the first variant of a bundle, of any size."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    manifest = tomllib.loads((folder / "manifest.toml").read_text())
    files = manifest["variants"][0]["files"]
    files[:] = [file for file in files if file["path"] != path]
    files.append({"path": path, "sha256": hashlib.sha256(content).hexdigest()})
    (folder / "manifest.toml").write_text(to_toml(manifest))
