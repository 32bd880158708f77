"""The slot of one model: the version that serves, the one that is tried, the one before; and how these change places.

Everything here is frozen: a slot that changes is another slot, so whoever reads sees the old one or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from appliance.errors import ModelFailed, ModelNotReady, VersionNotFound
from appliance.repository import ModelVersion
from appliance.served import ServedModel
from appliance.tuning import Choice

State = Literal["loading", "ready", "failed", "unloaded"]
Role = Literal["current", "candidate", "previous"]

STABLE = "stable"
CANARY = "canary"
LABELS = (STABLE, CANARY)


class Place(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One version in a slot. served: None unless it is loaded. on_disk: None for a folder that cannot be used."""

    version: str
    on_disk: ModelVersion | None
    state: State = "loading"
    reason: str | None = None
    served: ServedModel | None = None
    choice: Choice | None = None


class Slot(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One model.

    current: what serves, or is to. candidate: loaded beside it. previous: what served before; loaded while the current
    one may still have to go back to it. together: what was promoted with it and goes back with it, empty once that is
    settled. new: nothing has served before its candidate.
    hangs: calls that did not return. alone: its inputs share no call any more, since one did not return.
    generation: grows whenever something else is to become of the current one; a load that began before comes too late.
    """

    name: str
    current: Place
    candidate: Place | None = None
    previous: Place | None = None
    together: tuple[str, ...] = ()
    new: bool = False
    hangs: int = 0
    alone: bool = False
    generation: int = 0
    loading_since: float | None = None

    @property
    def version(self) -> str:
        return self.current.version

    @property
    def on_disk(self) -> ModelVersion | None:
        return self.current.on_disk

    @property
    def state(self) -> State:
        return self.current.state

    @property
    def reason(self) -> str | None:
        return self.current.reason

    @property
    def served(self) -> ServedModel | None:
        return self.current.served

    @property
    def choice(self) -> Choice | None:
        return self.current.choice

    def places(self) -> Iterator[tuple[Role, Place]]:
        """The current one, whatever its state, and those beside it that are loaded or being loaded."""
        if not self.new:
            yield "current", self.current
        if self.candidate is not None:
            yield "candidate", self.candidate
        if self.previous is not None and self.previous.served is not None:
            yield "previous", self.previous

    def loaded(self) -> list[ServedModel]:
        """What can be asked now, the current one first."""
        return [place.served for _, place in self.places() if place.served is not None]


def find(slot: Slot, version: str | None) -> Place:
    """What a number or a label means now; None: what serves. Raises VersionNotFound.

    A canary that is not loaded is the stable version: a label always has somebody behind it.
    """
    if version in (None, STABLE):
        return slot.current
    if version == CANARY:
        candidate = slot.candidate
        return slot.current if candidate is None or candidate.served is None else candidate
    for _, place in slot.places():
        if place.version == version:
            return place
    raise VersionNotFound(
        f"model {slot.name} has no version {version!r} loaded; "
        + ("its first one is still tried" if slot.new else f"version {slot.version} serves")
    )


def pick(slot: Slot, version: str | None) -> ServedModel:
    """What answers a request. Raises VersionNotFound, ModelNotReady, ModelFailed."""
    place = find(slot, version)
    if place.served is not None:
        return place.served
    if place.state == "failed":
        raise ModelFailed(f"model {slot.name} version {place.version} failed: {place.reason}")
    if place.state == "unloaded":
        raise ModelFailed(f"model {slot.name} version {place.version} is not served: {place.reason}")
    raise ModelNotReady(f"model {slot.name} version {place.version} is still loading; try again in a moment")


def promoted(slot: Slot, together: tuple[str, ...]) -> Slot:
    """The candidate serves; what served is kept as it is, for the way back. A folder that was broken is no way back."""
    assert slot.candidate is not None
    previous = None if slot.new or slot.current.on_disk is None else slot.current
    if previous is not None and previous.served is None:
        previous = unloaded(previous)
    return msgspec.structs.replace(
        slot,
        current=slot.candidate,
        candidate=None,
        previous=previous,
        together=together,
        new=False,
        hangs=0,
        alone=False,
        generation=slot.generation + 1,
        loading_since=None,
    )


def rejected(slot: Slot) -> Slot | None:
    """Without its candidate; None when there was nothing else."""
    return None if slot.new else msgspec.structs.replace(slot, candidate=None)


def gone_back(slot: Slot) -> Slot | None:
    """The previous one, which is loaded, serves; None when the model was new. What served is no way forward."""
    if slot.previous is None:
        return None
    return msgspec.structs.replace(
        slot,
        current=slot.previous,
        previous=None,
        together=(),
        hangs=0,
        alone=False,
        generation=slot.generation + 1,
        loading_since=None,
    )


def settled(slot: Slot) -> Slot:
    """The previous one keeps its name and gives back its memory."""
    previous = None if slot.previous is None else unloaded(slot.previous)
    return msgspec.structs.replace(slot, previous=previous, together=())


def unloaded(place: Place, reason: str | None = None) -> Place:
    return Place(version=place.version, on_disk=place.on_disk, state="unloaded", reason=reason)
