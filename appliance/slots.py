"""Which version of each model serves, and the state of the rest.

A slot holds the current version of one model. It is `loading` until the model is compiled and its golden cases have
passed, then `ready`; or `failed` with the reason. Only the newest version of a model is loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from appliance.config import ModelConfig
from appliance.core.manifest import ModelManifest
from appliance.errors import ApplianceError, ModelFailed, ModelNotFound, ModelNotReady, VersionNotFound
from appliance.repository import Broken, ModelVersion, scan
from appliance.runtimes import Loaders
from appliance.served import ServedModel, load

log = structlog.get_logger("slots")

HANGS_MAX = 2
LOAD_S_MAX = 120.0

State = Literal["loading", "ready", "failed"]


class Slot:
    """One model. `served` is replaced as a whole, so that a reader sees either the old or the new one."""

    def __init__(self, name: str, version: str, on_disk: ModelVersion | None) -> None:
        self.name = name
        self.version = version
        self.on_disk = on_disk
        self.state: State = "loading"
        self.reason: str | None = None
        self.served: ServedModel | None = None
        self.hangs = 0
        self.loading_since: float | None = None


class Slots:
    """fatal: called with a reason when a model has hung for good and only a restart helps."""

    def __init__(
        self,
        roots: list[Path],
        models: Mapping[str, ModelConfig],
        loaders: Loaders,
        *,
        lanes: int,
        pixels_max: int,
        fatal: Callable[[str], None],
    ) -> None:
        self._models = models
        self._loaders = loaders
        self._lanes = lanes
        self._pixels_max = pixels_max
        self._fatal = fatal
        good, broken = scan(roots)
        self._slots: dict[str, Slot] = {}
        for version in sorted(good, key=lambda each: int(each.manifest.version)):
            manifest = version.manifest
            self._slots[manifest.name] = Slot(manifest.name, manifest.version, version)
        self.broken = broken
        self._add_broken(broken)
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self.loaded = threading.Event()

    def start(self) -> None:
        """Load every model in a thread of its own; the doors answer meanwhile."""
        self._start_loading(self._load_all, "model-loader")

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Load no further model; returns whether those that are being compiled were done in time."""
        self._stopping = True
        ends_at = time.monotonic() + timeout_s
        compiling = [thread for thread in self._threads if thread.is_alive()]
        for thread in compiling:
            thread.join(max(0.0, ends_at - time.monotonic()))
        return not any(thread.is_alive() for thread in compiling)

    def choose(self, name: str, version: str | None = None) -> ServedModel:
        """The served version. Raises ModelNotFound, VersionNotFound, ModelNotReady, ModelFailed."""
        slot = self._slots.get(name)
        if slot is None:
            raise ModelNotFound(f"no model {name!r}; this box has {sorted(self._slots)}")
        if version is not None and version != slot.version:
            raise VersionNotFound(f"model {name} has no version {version!r} loaded; version {slot.version} serves")
        served = slot.served
        if served is None:
            if slot.state == "failed":
                raise ModelFailed(f"model {name} version {slot.version} failed: {slot.reason}")
            raise ModelNotReady(f"model {name} version {slot.version} is still loading; try again in a moment")
        return served

    def on_disk(self, name: str) -> ModelVersion:
        """The version that serves or is to serve, known before it is loaded. Raises ModelNotFound, ModelFailed."""
        slot = self._slots.get(name)
        if slot is None:
            raise ModelNotFound(f"no model {name!r}; this box has {sorted(self._slots)}")
        if slot.on_disk is None:
            raise ModelFailed(f"model {name} version {slot.version} failed: {slot.reason}")
        return slot.on_disk

    def manifest(self, name: str) -> ModelManifest:
        """What the model expects, known before it is loaded. Raises ModelNotFound, ModelFailed."""
        return self.on_disk(name).manifest

    def slots(self) -> list[Slot]:
        return [self._slots[name] for name in sorted(self._slots)]

    def ready(self, required: tuple[str, ...]) -> bool:
        """True once every model is warm or failed, and the required ones (none named: any one) are warm."""
        states = {slot.name: slot.state for slot in self._slots.values()}
        if not states or "loading" in states.values():
            return False
        if required:
            return all(states.get(name) == "ready" for name in required)
        return "ready" in states.values()

    def hung(self, owner: Hashable) -> None:
        """A native call of this model did not return: compile it afresh; at the second hang give up."""
        slot = next((each for each in self._slots.values() if each.served is owner), None)
        if slot is None:
            return
        slot.hangs += 1
        if slot.hangs >= HANGS_MAX:
            self._fatal(f"model {slot.name} version {slot.version} hung {slot.hangs} times")
            return
        slot.served, slot.state, slot.reason = None, "loading", "it hung and is compiled afresh"
        self._start_loading(partial(self._load, slot), f"reload-{slot.name}")

    def check(self, now: float) -> None:
        """Enforce the bound on a load; called by the watchdog with the monotonic time.

        A model that hangs in its first load is given up, and the others are loaded without it.
        """
        overdue = [
            slot for slot in self.slots() if slot.loading_since is not None and now - slot.loading_since > LOAD_S_MAX
        ]
        for slot in overdue:
            if slot.hangs:
                self._fatal(f"model {slot.name} could not be compiled afresh within {LOAD_S_MAX:g} s")
            else:
                slot.loading_since = None
                self._fail(slot, "model_load_failed", f"it did not load within {LOAD_S_MAX:g} s")
                self._start_loading(self._load_all, "model-loader")

    def _add_broken(self, broken: list[Broken]) -> None:
        for each in broken:
            log.error(
                "model_failed", model=each.name, version=each.version, code=each.error.code, reason=str(each.error)
            )
            known = self._slots.get(each.name)
            if known is None:
                slot = Slot(each.name, each.version, None)
                slot.state, slot.reason = "failed", str(each.error)
                self._slots[each.name] = slot

    def _start_loading(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _load_all(self) -> None:
        for slot in self.slots():
            if slot.state == "loading" and slot.loading_since is None and not self._stopping:
                self._load(slot)
        self.loaded.set()

    def _load(self, slot: Slot) -> None:
        assert slot.on_disk is not None
        started = slot.loading_since = time.monotonic()
        variant = self._models.get(slot.name, ModelConfig()).variant
        try:
            served = load(slot.on_disk, variant, self._loaders, self._lanes, self._pixels_max)
        except ApplianceError as error:
            self._fail(slot, error.code, str(error))
        except Exception as error:
            # A runtime may raise anything while compiling a file it does not know; the other models go on.
            self._fail(slot, "model_load_failed", f"{type(error).__name__}: {error}")
        else:
            if slot.loading_since is None:
                return  # it was given up meanwhile
            slot.served, slot.state, slot.reason = served, "ready", None
            log.info(
                "model_ready",
                model=slot.name,
                version=slot.version,
                variant=served.variant.name,
                runtime=served.loaded.runtime,
                seconds=round(time.monotonic() - started, 3),
            )
        slot.loading_since = None

    def _fail(self, slot: Slot, code: str, reason: str) -> None:
        slot.state, slot.reason = "failed", " ".join(reason.split())
        log.error("model_failed", model=slot.name, version=slot.version, code=code, reason=slot.reason)
