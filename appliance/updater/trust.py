"""Who may say what this box runs: TUF (python-tuf), from the root metadata that came with the box.

The box begins with the root file of `[updates] root`; every later root must be signed by the one before. What was
verified is kept in `<data-dir>/tuf/`, so that nothing older is taken later. That folder may be lost or torn by a power
cut: it is then fetched and verified again, from that first root on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
    StorageError,
)
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig

from appliance.core.clock import Tick
from appliance.errors import (
    ClockUntrusted,
    ConfigError,
    MetadataExpired,
    RegistryUnavailable,
    RolledBack,
    Untrusted,
)
from appliance.synced import sync_file, sync_folder
from appliance.updater.fetch import SCHEME, Missing, Source, TufDoor
from appliance.updater.trusted_time import Floor, is_far_ahead, trusted_now

FOLDER = "tuf"

T = TypeVar("T")


class Signed(msgspec.Struct, frozen=True):
    """A target's bytes, and who signed that they are what they are. role: of the delegation. keys: their ids."""

    content: bytes
    role: str
    keys: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Trusted:
    """The metadata of one source, refreshed and verified at one moment. Used once, by one thread."""

    def __init__(self, folder: Path, root: bytes, source: Source, floor: Floor, tick: Tick) -> None:
        """folder: `<data-dir>/tuf`. root: of the configuration. Goes out; raises UpdateError, ConfigError, OSError."""
        self._source = source
        self._folder = folder
        self._floor = floor
        self._tick = tick
        _prepare(folder, root)
        before = _version(folder / "timestamp.json")
        try:
            self._updater = Updater(
                str(folder), f"{SCHEME}metadata/", fetcher=TufDoor(source), config=_BOUNDS, bootstrap=root
            )
        except RepositoryError as error:
            raise ConfigError(f"updates.root is not the root metadata of a registry ({error})") from error
        set_clock(self._updater, trusted_now(floor, tick))
        self._ask(self._updater.refresh)
        self.fresh = _version(folder / "timestamp.json") != before
        """Whether there was anything newer than at the last refresh."""

    @property
    def expires_at(self) -> float:
        """When the first of the roles that everything hangs on expires, seconds since 1970."""
        files = ("timestamp.json", "snapshot.json", "targets.json", "root.json")
        return min(_expires(self._folder / name) for name in files)

    def read(self, path: str, length_max: int) -> Signed | None:
        """A target, small enough for memory; None when nobody signed one of this name. Raises UpdateError, OSError."""
        found = self._ask(lambda: self._updater.get_targetinfo(path))
        _sync(self._folder)
        if found is None:
            return None
        if found.length > length_max:
            raise Untrusted(
                f"{self._source.origin}: {path} has {found.length} bytes, at most {length_max} are expected"
            )
        role, keys = self._signers(path, found)
        return Signed(self._fetch(path, found), role, keys)

    def _fetch(self, path: str, target: TargetFile) -> bytes:
        """Its file is `<folder>/<sha256>.<name>` (TUF 1.0, 6.2: consistent snapshots)."""
        sha256 = target.hashes.get("sha256")
        if sha256 is None:
            raise Untrusted(f"{self._source.origin}: {path} is signed without a SHA-256")
        folder, _, name = path.rpartition("/")
        door = TufDoor(self._source)
        content = self._ask(lambda: door.download_bytes(f"targets/{folder}/{sha256}.{name}", target.length))
        self._ask(lambda: target.verify_length_and_hashes(content))
        return content

    def _signers(self, path: str, wanted: TargetFile) -> tuple[str, tuple[str, ...]]:
        """The role that names this target, and the keys whose signatures count, from what was just verified."""
        root = Metadata[Root].from_file(str(self._folder / "root.json")).signed
        top = Metadata[Targets].from_file(str(self._folder / "targets.json"))
        if top.signed.targets.get(path) == wanted:
            return Targets.type, tuple(
                root.get_verification_result(Targets.type, top.signed_bytes, top.signatures).signed
            )
        delegations = top.signed.delegations
        for role, _ in delegations.get_roles_for_target(path) if delegations is not None else ():
            file = self._folder / f"{quote(role, '')}.json"
            if not file.is_file():
                continue
            delegated = Metadata[Targets].from_file(str(file))
            if delegated.signed.targets.get(path) == wanted:
                counted = top.signed.get_verification_result(role, delegated.signed_bytes, delegated.signatures)
                return role, tuple(counted.signed)
        raise Untrusted(
            f"{self._source.origin}: {path} is signed by a role that the registry's owners did not name themselves"
        )

    def _ask(self, step: Callable[[], T]) -> T:
        """Raises UpdateError in place of what python-tuf raises."""
        where = self._source.origin
        try:
            return step()
        except ExpiredMetadataError as error:
            if is_far_ahead(self._floor, self._tick):
                raise ClockUntrusted(
                    f"{where}: {error} by this box's clock, which shows {_day(self._tick.wall)} and is led by no time "
                    f"server, while the last signed time is {_day(self._floor.at(self._tick))}; set the clock"
                ) from error
            raise MetadataExpired(
                f"{where}: {error} on {_day(trusted_now(self._floor, self._tick))}; nothing new is installed, what "
                "runs goes on; ask central ops to refresh the registry, or bring a newer stick"
            ) from error
        except BadVersionNumberError as error:
            raise RolledBack(
                f"{where} is older than what this box trusts already ({error}); nothing was changed"
            ) from error
        except RepositoryError as error:
            if isinstance(error, DeserializationError):
                raise RegistryUnavailable(
                    f"{where} answers with something that is not signed metadata ({error}); is it a registry, or a "
                    "login page on the way to it?",
                    answered=True,
                ) from error
            raise Untrusted(
                f"{where}: {error}; nothing was changed. If this stick or address is meant for this site, ask "
                "central ops"
            ) from error
        except DownloadLengthMismatchError as error:
            raise Untrusted(f"{where}: {error}; nothing was changed") from error
        except DownloadHTTPError as error:
            raise Missing(f"{error}; is it the registry of this site?", error.status_code) from error
        except DownloadError as error:
            raise RegistryUnavailable(f"{where}: {error}", answered=True) from error


def set_clock(updater: Updater, now: float) -> None:
    """The time that python-tuf judges expiry by, seconds since 1970. It has no public door for it."""
    updater._trusted_set.reference_time = datetime.fromtimestamp(now, UTC)


_BOUNDS = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=64,
    root_max_length=256 << 10,
    timestamp_max_length=16 << 10,
    snapshot_max_length=2 << 20,
    targets_max_length=8 << 20,
)


def _prepare(folder: Path, root: bytes) -> None:
    """The folder is there, without what a power cut left; and trust has not been given to somebody else meanwhile.

    Raises ConfigError, OSError.
    """
    folder.mkdir(exist_ok=True)
    for left in folder.glob("tmp*"):
        left.unlink()
    try:
        given = Metadata[Root].from_bytes(root)
    except (DeserializationError, RepositoryError) as error:
        raise ConfigError(f"updates.root is not the root metadata of a registry ({error})") from error
    kept = folder / "root_history" / f"{given.signed.version}.root.json"
    try:
        known = Metadata[Root].from_bytes(kept.read_bytes())
    except (OSError, DeserializationError, RepositoryError):
        return
    if known.signed != given.signed:
        raise ConfigError(
            f"updates.root is another root than the one that this box trusts since it was set up (version "
            f"{given.signed.version} in {folder}); put that back, or remove {folder} to trust the new one from now on"
        )


def _sync(folder: Path) -> None:
    """python-tuf renames files that may not be on the disk yet. Raises OSError."""
    for each in (folder / "root_history", folder):
        for path in each.glob("*.json"):
            sync_file(path)
        sync_folder(each)


def _version(path: Path) -> int | None:
    try:
        return int(Metadata.from_file(str(path)).signed.version)
    except (OSError, StorageError, DeserializationError, RepositoryError):
        return None


def _expires(path: Path) -> float:
    return float(Metadata.from_file(str(path)).signed.expires.timestamp())


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
