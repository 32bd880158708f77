"""Which version of each model serves, and the state of the rest.

A slot holds the current version of one model. It is `loading` until the model is compiled and its golden cases have
passed, then `ready`; or `failed` with the reason; or `unloaded`, because somebody asked for it. Only the newest version
of a model is loaded. A model that is loaded again is loaded beside the one that serves, and takes its place when it
is warm and proven: no request notices.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from appliance import hardware
from appliance.config import ModelConfig
from appliance.core.manifest import ModelManifest
from appliance.errors import (
    ManifestError,
    ModelError,
    ModelFailed,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    VersionNotFound,
)
from appliance.lanes import Flow
from appliance.repository import Broken, ModelVersion, scan
from appliance.served import ServedModel
from appliance.tuning import Choice, Tuner

log = structlog.get_logger("slots")

HANGS_MAX = 2
LOAD_S_MAX = 120.0

State = Literal["loading", "ready", "failed", "unloaded"]


class Slot:
    """One model. `served` is replaced as a whole, so that a reader sees either the old or the new one.

    hangs: calls that did not return. alone: its inputs share no call any more, since one did not return.
    generation: grows whenever something else is to become of the slot; a load that began before then comes too late.
    """

    def __init__(self, name: str, version: str, on_disk: ModelVersion | None) -> None:
        self.name = name
        self.version = version
        self.on_disk = on_disk
        self.state: State = "loading"
        self.reason: str | None = None
        self.served: ServedModel | None = None
        self.choice: Choice | None = None
        self.hangs = 0
        self.alone = False
        self.generation = 0
        self.loading_since: float | None = None


class _Reload:
    """A load or unload that somebody asked for. Its thread and the bound on loads compete for the answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = 0.0
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()
        self._open = threading.Lock()

    def settle(self, error: Exception | None) -> None:
        if not self._open.acquire(blocking=False):
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Slots:
    """roots: where models are, asked each time, since the folder of the installed ones may come later.

    fatal: called with a reason when a model has hung for good and only a restart helps.
    """

    def __init__(
        self,
        roots: Callable[[], list[Path]],
        models: Mapping[str, ModelConfig],
        tuner: Tuner,
        *,
        tune: bool = True,
        fatal: Callable[[str], None],
    ) -> None:
        self._roots = roots
        self._models = models
        self._tuner = tuner
        self._tune = tune
        self._fatal = fatal
        good, broken = scan(roots())
        self._slots: dict[str, Slot] = {}
        for version in sorted(good, key=lambda each: int(each.manifest.version)):
            manifest = version.manifest
            self._slots[manifest.name] = Slot(manifest.name, manifest.version, version)
        self.broken = broken
        self._add_broken(broken)
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        self._reloading: _Reload | None = None
        self._leaving: list[weakref.ref[ServedModel]] = []
        self._stopping = False
        self.loaded = threading.Event()

    def start(self) -> None:
        """Load every model in a thread of its own; the doors answer meanwhile."""
        self._start_thread(self._load_all, "model-loader")

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
            if slot.state == "unloaded":
                raise ModelFailed(f"model {name} was unloaded; load it with POST /v2/repository/models/{name}/load")
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

    def load(self, name: str) -> Future[None]:
        """Look at the disk again and load the newest version of a model, beside the one that serves, if one does.

        The future ends when the new one serves; it raises ModelError, and then what served before still serves.
        """
        return self._in_turn(name, self._reload)

    def unload(self, name: str) -> Future[None]:
        """Serve a model no more and give its memory back. Requests that it has already are answered."""
        return self._in_turn(name, self._unload)

    def manifest(self, name: str) -> ModelManifest:
        """What the model expects, known before it is loaded. Raises ModelNotFound, ModelFailed."""
        return self.on_disk(name).manifest

    def slots(self) -> list[Slot]:
        return [self._slots[name] for name in sorted(self._slots)]

    def ready(self, required: tuple[str, ...]) -> bool:
        """True once every model is warm or failed, and the required ones (none named: any one) are warm."""
        states = {slot.name: slot.state for slot in self.slots()}
        if not states or "loading" in states.values():
            return False
        if required:
            return all(states.get(name) == "ready" for name in required)
        return "ready" in states.values()

    def hung(self, flow: Flow) -> None:
        """A native call of this model did not return: compile it afresh; at the second hang give up."""
        slot = next((each for each in self.slots() if each.served is not None and each.served.flow is flow), None)
        if slot is None:
            return
        if flow.batch_max > 1:
            # Several may have shared the call: from now on each is run alone, and one that hangs again is to blame.
            slot.alone = True
        else:
            slot.hangs += 1
        if slot.hangs >= HANGS_MAX:
            self._fatal(f"model {slot.name} version {slot.version} hung {slot.hangs} times")
            return
        self._let_go(slot)
        slot.state, slot.reason = "loading", "it hung and is compiled afresh"
        self._start_thread(partial(self._load, slot, slot.generation), f"reload-{slot.name}")

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
                continue
            slot.loading_since = None
            slot.generation += 1
            self._fail(slot, "model_load_failed", f"it did not load within {LOAD_S_MAX:g} s")
            self._start_thread(self._load_all, "model-loader")
        reload = self._reloading
        if reload is not None and now - reload.began > LOAD_S_MAX:
            # Its thread is lost; whoever waits for a turn gets a new one.
            self._reloading, self._turn = None, threading.Lock()
            reload.settle(ModelLoadError(f"model {reload.name} did not load within {LOAD_S_MAX:g} s"))
        gone = [left for left in self._leaving if left() is None]
        if gone:
            self._leaving = [left for left in self._leaving if left() is not None]
            hardware.trim()

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

    def _start_thread(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _in_turn(self, name: str, run: Callable[[_Reload], None]) -> Future[None]:
        """One after the other: a load takes cores from what is served."""
        reload = _Reload(name)

        def work() -> None:
            with self._turn:
                reload.began = time.monotonic()
                self._reloading = reload
                try:
                    run(reload)
                except Exception as error:
                    reload.settle(error)
                else:
                    reload.settle(None)
                finally:
                    if self._reloading is reload:
                        self._reloading = None

        self._start_thread(work, f"change-{name}")
        return reload.done

    def _load_all(self) -> None:
        for slot in self.slots():
            if slot.state == "loading" and slot.loading_since is None and not self._stopping:
                self._load(slot, slot.generation, first=True)
        self.loaded.set()

    def _load(self, slot: Slot, generation: int, *, first: bool = False) -> None:
        """first: nobody is served yet, so that the box may be measured."""
        assert slot.on_disk is not None
        version = slot.on_disk
        started = slot.loading_since = time.monotonic()
        try:
            served, choice = self._compile(version, first)
        except ModelError as error:
            if slot.generation == generation:
                self._fail(slot, error.code, str(error))
        else:
            if slot.generation != generation:
                return  # it was given up, unloaded or replaced meanwhile
            self._put(slot, version, served, choice, started)
        if slot.generation == generation:
            slot.loading_since = None

    def _compile(self, version: ModelVersion, first: bool) -> tuple[ServedModel, Choice]:
        """Raises ModelError: a runtime may raise anything while compiling a file it does not know."""
        config = self._models.get(version.manifest.name, ModelConfig())
        try:
            return self._tuner.load(version, config, measure=first and self._tune, compile_threads=0 if first else 1)
        except ModelError:
            raise
        except Exception as error:
            raise ModelLoadError(f"{type(error).__name__}: {error}") from error

    def _reload(self, reload: _Reload) -> None:
        name = reload.name
        newest = self._newest_on_disk(name)
        slot = self._slots.get(name)
        generation = None if slot is None else slot.generation
        try:
            served, choice = self._compile(newest, False)
        except ModelError as error:
            if slot is None:
                slot = self._slots[name] = Slot(name, newest.manifest.version, newest)
            if slot.served is None and not reload.done.done():
                self._fail(slot, error.code, str(error))
            raise
        if reload.done.done() or (slot is not None and slot.generation != generation):
            raise ModelNotReady(f"model {name} was changed by somebody else meanwhile; load it again")
        if slot is None:
            slot = Slot(name, newest.manifest.version, newest)
        slot.generation += 1
        slot.loading_since = None
        if slot.version != newest.manifest.version:
            slot.hangs, slot.alone = 0, False
        self._leave(slot)
        self._put(slot, newest, served, choice, reload.began)
        self._slots[name] = slot

    def _newest_on_disk(self, name: str) -> ModelVersion:
        """Raises ModelNotFound, ManifestError."""
        good, broken = scan(self._roots())
        self.broken = broken
        versions = [each for each in good if each.manifest.name == name]
        if versions:
            return max(versions, key=lambda each: int(each.manifest.version))
        reason = next((str(each.error) for each in broken if each.name == name), None)
        if reason is not None:
            raise ManifestError(reason)
        raise ModelNotFound(f"no model {name!r} on disk; this box has {sorted(each.manifest.name for each in good)}")

    def _unload(self, reload: _Reload) -> None:
        slot = self._slots.get(reload.name)
        if slot is None:
            raise ModelNotFound(f"no model {reload.name!r}; this box has {sorted(self._slots)}")
        self._let_go(slot)
        slot.state, slot.reason = "unloaded", "somebody unloaded it"
        log.info("model_unloaded", model=slot.name, version=slot.version)

    def _put(self, slot: Slot, version: ModelVersion, served: ServedModel, choice: Choice, started: float) -> None:
        """Serve it from now on."""
        if slot.alone:
            served.flow.batch_max = 1
        slot.on_disk, slot.version, slot.choice = version, version.manifest.version, choice
        slot.served, slot.state, slot.reason = served, "ready", None
        self._log_ready(slot, served, started)

    def _let_go(self, slot: Slot) -> None:
        """Serve nothing, and take no load that is under way."""
        slot.generation += 1
        slot.loading_since = None
        self._leave(slot)
        slot.served, slot.choice = None, None

    def _leave(self, slot: Slot) -> None:
        """When the last request of what served is answered, its memory goes back to the system."""
        if slot.served is not None:
            self._leaving.append(weakref.ref(slot.served))

    def _log_ready(self, slot: Slot, served: ServedModel, started: float) -> None:
        log.info(
            "model_ready",
            model=slot.name,
            version=slot.version,
            variant=served.variant.name,
            runtime=served.loaded.runtime,
            device=served.loaded.device,
            note=served.loaded.note,
            seconds=round(time.monotonic() - started, 3),
        )

    def _fail(self, slot: Slot, code: str, reason: str) -> None:
        slot.state, slot.reason = "failed", " ".join(reason.split())
        log.error("model_failed", model=slot.name, version=slot.version, code=code, reason=slot.reason)
