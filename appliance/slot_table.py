"""The slots of all models in one table, which is replaced as a whole: no request sees half of a change."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping

import msgspec
import structlog

from appliance import hardware
from appliance.lanes import Flow
from appliance.repository import ModelVersion
from appliance.served import ServedModel
from appliance.slot import Place, Role, Slot
from appliance.tuning import Choice

log = structlog.get_logger("slots")


class SlotTable:
    """now: read it once and without the lock. Whoever changes it reads and writes under the lock."""

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self.now: Mapping[str, Slot] = slots
        self.lock = threading.RLock()
        self._leaving: list[weakref.ref[ServedModel]] = []

    def change(self, changes: Mapping[str, Slot | None]) -> None:
        """Replace slots, all from the same moment on; None removes one. Under the lock.

        A request that holds a model is answered by it. After the last one its memory goes back to the system.
        """
        table = dict(self.now)
        for name, slot in changes.items():
            before = _held(table.pop(name, None))
            self._leaving += [weakref.ref(served) for served in before - _held(slot)]
            if slot is not None:
                table[name] = slot
        self.now = table

    def put(self, slot: Slot, place: Place, started: float) -> None:
        """Serve a loaded version from now on. started: when its load began, monotonic. Under the lock."""
        assert place.served is not None
        if slot.alone:
            place.served.flow.batch_max = 1
        generation = slot.generation + 1
        self.change(
            {slot.name: msgspec.structs.replace(slot, current=place, generation=generation, loading_since=None)}
        )
        log_ready(place.served, "current", started)

    def fail(self, name: str, code: str, reason: str, generation: int) -> bool:
        """What was to serve does not; whether the slot was still of this generation. Under the lock."""
        slot = self.now.get(name)
        if slot is None or slot.generation != generation:
            return False
        place = Place(version=slot.version, on_disk=slot.on_disk, state="failed", reason=" ".join(reason.split()))
        self.change({name: msgspec.structs.replace(slot, current=place, generation=generation + 1, loading_since=None)})
        log.error("model_failed", model=name, version=place.version, code=code, reason=place.reason)
        return True

    def holder(self, flow: Flow) -> tuple[Slot, Role, Place] | None:
        """Where the model of this flow is, if it is still here."""
        for slot in self.now.values():
            for role, place in slot.places():
                if place.served is not None and place.served.flow is flow:
                    return slot, role, place
        return None

    def trim(self) -> None:
        """Give memory back, when something that was replaced is not in use any more."""
        with self.lock:
            left = [each for each in self._leaving if each() is not None]
            gone, self._leaving = len(left) < len(self._leaving), left
        if gone:
            hardware.trim()


def ready(version: ModelVersion, served: ServedModel, choice: Choice) -> Place:
    return Place(version=version.manifest.version, on_disk=version, state="ready", served=served, choice=choice)


def log_ready(served: ServedModel, slot: Role, started: float) -> None:
    log.info(
        "model_ready",
        model=served.manifest.name,
        version=served.manifest.version,
        slot=slot,
        variant=served.variant.name,
        runtime=served.loaded.runtime,
        device=served.loaded.device,
        note=served.loaded.note,
        seconds=round(time.monotonic() - started, 3),
    )


def _held(slot: Slot | None) -> set[ServedModel]:
    if slot is None:
        return set()
    places = (slot.current, slot.candidate, slot.previous)
    return {place.served for place in places if place is not None and place.served is not None}
