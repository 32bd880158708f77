"""A real registry in a folder of a test, its keys in memory: what central ops do, and what a thief of keys could do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata

from appliance.core.release import ModelRef, Release
from appliance.repository import read_version
from appliance.updater.selftest import SelfTest
from provisioning.registry import bundle, channels, files, lengths, publish, releases
from provisioning.registry.create import Owners, create
from provisioning.registry.keys import Keyring
from provisioning.registry.published import Published, encode
from provisioning.registry.registry import Outcome, Registry
from provisioning.registry.releases import Terms
from provisioning.registry.roles import TOP, default_keys

RING = "stable"
TEAMS = {"vision": "*"}


class RealRegistry:
    """folder: as served. keys: role -> its signers. now: what its clock shows; set it."""

    def __init__(self, folder: Path, teams: Mapping[str, str], now: datetime | None, **owners: Any) -> None:
        self.folder = folder
        self.now = now or datetime.now(UTC).replace(microsecond=0)
        self.keys = {
            role: [_signer(f"{role}-{n + 1}") for n in range(default_keys(role))] for role in (*TOP, "channels", *teams)
        }
        self.registry = self.with_keys(signer for signers in self.keys.values() for signer in signers)
        public = {role: [signer.public_key for signer in signers] for role, signers in self.keys.items()}
        with files.locked(_made(folder)):
            create(self.registry, Owners(teams=teams, keys=public, **owners))

    def with_keys(self, signers: Iterable[Signer]) -> Registry:
        """The same folder for somebody who has these keys only."""
        return Registry(self.folder, Keyring((), _no_secret, signers), lambda: self.now)

    @property
    def root(self) -> bytes:
        """The root metadata that a box is given."""
        return self.root_path.read_bytes()

    @property
    def root_path(self) -> Path:
        return self.folder / "metadata" / "1.root.json"

    def published(self) -> Published:
        return self.registry.published()

    def publish(self, folder: Path, *, prove: Callable[[Path], SelfTest] | None = None) -> ModelRef:
        """A bundle, whose manifest gets its lengths. prove: its golden cases; they are not run unless given."""
        lengths.fill(read_version(folder))
        found = bundle.check(folder, prove or (lambda _: SelfTest(passed=True)))
        publish.publish(self.registry, self.published(), found)
        return found.ref

    def promote(
        self,
        name: str,
        version: str | None = None,
        ring: str = RING,
        percent: float = 100.0,
        also: Mapping[str, str] | None = None,
        **terms: Any,
    ) -> Release:
        """also: more models of the same release. terms: fields of `Terms`."""
        before = self.published()
        named = {
            each: publish.manifest_of(before, each, wanted or before.versions(each)[-1])[1]
            for each, wanted in {name: version, **(also or {})}.items()
        }

        def decide(history: Sequence[Release]) -> Release:
            last = history[-1] if history else None
            return releases.promote(last, ring, named, percent, self._issued(), Terms(**terms))

        return self._next(ring, decide)

    def rollback(self, ring: str = RING, to: int | None = None) -> Release:
        return self._next(ring, lambda history: releases.rollback(history, self._issued(), to))

    def pause(self, ring: str = RING, paused: bool = True) -> Release:
        return self._next(ring, lambda history: releases.pause(history[-1], self._issued(), paused))

    def block(self, name: str, version: str, ring: str = RING) -> Release:
        ref = publish.manifest_of(self.published(), name, version)[1]
        return self._next(ring, lambda history: releases.block(history, name, ref, self._issued()))

    def release(self, release: Release) -> Outcome:
        """Whatever it says, signed as it should be."""
        return channels.publish_releases(self.registry, self.published(), [release], "a test")

    def refresh(self) -> None:
        self.registry.refresh(self.published())

    def later(self, **passed: float) -> None:
        """Time passes; nothing is signed."""
        self.now += timedelta(**passed)

    def forge(self, file: str, change: Callable[[Any], None], signers: Iterable[Signer] = ()) -> None:
        """Change `metadata/<file>` in place. change: is given what is signed. signers: sign it; none: as it was."""
        path = self.folder / "metadata" / file
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        change(metadata.signed)
        for index, signer in enumerate(signers):
            metadata.sign(signer, append=index > 0)
        path.write_bytes(encode(metadata))

    def _next(self, ring: str, decide: Callable[[list[Release]], Release]) -> Release:
        before = self.published()
        release = decide(channels.history(before, ring))
        channels.publish_releases(self.registry, before, [release], "a test")
        return release

    def _issued(self) -> str:
        return channels.issued(self.registry)


def make_registry(
    folder: Path, teams: Mapping[str, str] = TEAMS, now: datetime | None = None, **owners: Any
) -> RealRegistry:
    """owners: `days` and `thresholds` of `Owners`."""
    return RealRegistry(folder, teams, now, **owners)


def _signer(name: str) -> CryptoSigner:
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.unrecognized_fields["x-name"] = name
    return signer


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _no_secret(what: str) -> str:
    raise AssertionError(f"nobody should be asked for the {what}")
