"""What central ops publish for a ring: which model versions its boxes are to serve, and how they come to trust them.

A release is the target `channels/<ring>.json` of a TUF repository, and signed as such. The manifest of each version
is the target `models/<name>/<version>/manifest.toml`; the files that it names are `blobs/<sha256>`, which its hashes
guard.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from appliance.core.manifest import Name, Sha256, Version
from appliance.errors import ReleaseInvalid

Ring = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Mode = Literal["canary", "shadow", "blue_green"]

_BUCKETS = 10_000
_CLOCK_TIME = re.compile(r"^([01][0-9]|2[0-3]):[0-5][0-9]$")


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class ModelRef(_Part, frozen=True, kw_only=True):
    """One version. manifest: the manifest digest. bytes: of the manifest and all files that it names, once each."""

    version: Version
    manifest: Sha256
    bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class ModelName(_Part, frozen=True, kw_only=True):
    """A version that no box is to serve any more. manifest: its digest, so that nothing can come under its name."""

    name: Name
    version: Version
    manifest: Sha256


class Window(_Part, frozen=True, kw_only=True):
    """When boxes may switch, `HH:MM` in UTC; from 22:00 until 05:00 passes midnight."""

    begins: str
    ends: str

    def __post_init__(self) -> None:
        for time in (self.begins, self.ends):
            if not _CLOCK_TIME.match(time):
                raise ValueError(f"{time!r} is not a time of day as HH:MM, 00:00 to 23:59")


class Requirements(_Part, frozen=True, kw_only=True):
    """What a box must have. appliance: the least version. accelerator: a device that a runtime can use, such as GPU.

    memory_mb, disk_mb: free, in millions of bytes; disk_mb beside what the models themselves need.
    """

    appliance: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+){0,2}$")] | None = None
    accelerator: Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9.]{0,15}$")] | None = None
    memory_mb: Annotated[int, msgspec.Meta(ge=0)] = 0
    disk_mb: Annotated[int, msgspec.Meta(ge=0)] = 0


class Rollout(_Part, frozen=True, kw_only=True):
    """How a box comes to trust the new versions, and when it goes back.

    mode: `canary` gives a share of the inputs to the new ones; `shadow` runs them beside, unseen; `blue_green` switches
    after the self-test alone. share: of the inputs, 0..1. inputs_min: before there is a ruling. errors_max: share of
    the inputs that may fail, 0..1. agreement_min: share of the inputs on which both give the same verdict, 0..1.
    latency_ratio_max: p95 of the new against the p95 of the current one. deadline_s: then there is a ruling anyway.
    probation_s: how long after the switch a box still goes back by itself.
    """

    mode: Mode = "canary"
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    inputs_min: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 200
    errors_max: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    agreement_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.95
    latency_ratio_max: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=2_592_000)] = 86_400.0
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=2_592_000)] = 3_600.0


class Release(_Part, frozen=True, kw_only=True):
    """number: grows with each release of the ring. issued: RFC 3339 in UTC, signed time that a box may rely on.

    models: what the boxes within `percent` serve; others: what the rest serve, the release before.
    paused: nothing new is installed. blocked: versions that a box leaves for its previous one.
    configuration: routes, models, recipes, devices, as `appliance.release_config` takes them; switched and rolled back
    together with the models. None: what the file of each box says.
    """

    schema: Literal[1] = 1
    ring: Ring
    number: Annotated[int, msgspec.Meta(ge=1)]
    issued: str
    models: dict[Name, ModelRef]
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0
    others: dict[Name, ModelRef] = {}
    paused: bool = False
    blocked: tuple[ModelName, ...] = ()
    window: Window | None = None
    requires: Requirements = Requirements()
    rollout: Rollout = Rollout()
    configuration: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        parse_time(self.issued)
        bad = [name for name, ref in {**self.others, **self.models}.items() if self.blocks(name, ref.version)]
        if bad:
            raise ValueError(f"models {bad} are both released and blocked")

    def blocks(self, name: str, version: str) -> bool:
        return any((each.name, each.version) == (name, version) for each in self.blocked)


def parse_release(content: bytes, where: str) -> Release:
    """Raises ReleaseInvalid with the field and the reason; `where` names the document in it."""
    try:
        return msgspec.json.decode(content, type=Release)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ReleaseInvalid(f"{where}: {error}; ask central ops to publish the release again") from error


def encode_release(release: Release) -> bytes:
    """Its JSON, the same bytes for the same release."""
    return msgspec.json.encode(release, order="sorted")


def bucket(device: str, ring: str) -> float:
    """Where a device stands in its ring, 0 <= bucket < 100: the same for ever, and even over many devices."""
    number = int.from_bytes(hashlib.sha256(f"{ring}/{device}".encode()).digest()[:8], "big")
    return number % _BUCKETS / (_BUCKETS / 100)


def models_for(release: Release, device: str) -> Mapping[str, ModelRef]:
    """What this device is to serve."""
    return release.models if bucket(device, release.ring) < release.percent else release.others


def parse_time(text: str) -> float:
    """RFC 3339 in UTC (`2026-11-24T10:00:00Z`) -> seconds since 1970. Raises ValueError."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError(f"issued {text!r} is not a time such as 2026-11-24T10:00:00Z") from None


def format_time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
