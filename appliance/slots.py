"""Which version of each model serves, which one is tried beside it, and which one it can go back to.

The current version is `loading` until it is compiled and its golden cases have passed, then `ready`; or `failed` with
the reason; or `unloaded`, because somebody asked for it. Whatever is loaded later is loaded beside what serves, and
takes its place when it is warm and proven: no request notices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import msgspec
import structlog

from appliance import slot as moves
from appliance.config import ModelConfig
from appliance.core.manifest import ModelManifest
from appliance.errors import ModelError, ModelFailed, ModelNotFound, ModelNotReady
from appliance.installed import Installed
from appliance.lanes import Flow
from appliance.loading import LOAD_S_MAX, Loader, Turn
from appliance.repository import Broken, ModelVersion
from appliance.served import ServedModel
from appliance.slot import Place, Slot
from appliance.slot_table import SlotTable, ready
from appliance.standing import Statement
from appliance.state import State
from appliance.trials import Tell, Trials
from appliance.trust import Trust
from appliance.tuning import Tuner

log = structlog.get_logger("slots")

HANGS_MAX = 2

_replace = msgspec.structs.replace


class Slots:
    """roots: where models are, asked each time, since the folder of the installed ones may come later.

    trust: what may run here, asked each time; None: everything.
    fatal: called with a reason when a model has hung for good and only a restart helps.
    on_candidate_lost: a candidate hung or was unloaded; it is dropped already, what else is tried with it is not.
    on_rolled_back: what served on probation could not go on; the way back is committed and taken already.
    """

    def __init__(
        self,
        roots: Callable[[], list[Path]],
        models: Mapping[str, ModelConfig],
        tuner: Tuner,
        state: State,
        *,
        tune: bool = True,
        trust: Callable[[], Trust | None] = lambda: None,
        fatal: Callable[[str], None],
    ) -> None:
        self._fatal = fatal
        self.on_candidate_lost: Tell = _nobody
        self.on_rolled_back: Tell = _nobody
        self._loader = Loader(tuner, models, tune)
        self._installed = Installed(roots, state, trust)
        self._table = SlotTable(self._installed.slots())
        self._trials = Trials(self._table, self._installed, self._loader, state)
        self._stopping = False
        self.loaded = threading.Event()

    def start(self) -> None:
        """Load every model in a thread of its own; the doors answer meanwhile."""
        self._loader.start_thread(self._load_all, "model-loader")

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Load no further model; returns whether those that are being compiled were done in time."""
        self._stopping = True
        return self._loader.stop(timeout_s)

    @property
    def broken(self) -> list[Broken]:
        """Folders on disk that cannot be used."""
        return self._installed.broken

    # Choosing.

    def choose(self, name: str, version: str | None = None) -> ServedModel:
        """What answers a request now. version: a number of what is loaded, `stable` or `canary`; None: what serves.

        Raises ModelNotFound, VersionNotFound, ModelNotReady, ModelFailed.
        """
        slot = self._slot(name)
        if version is None and slot.current.served is not None:
            return slot.current.served
        return moves.pick(slot, version)

    def candidate(self, name: str) -> ServedModel | None:
        """What is tried beside what serves, once it is loaded."""
        slot = self._table.now.get(name)
        return None if slot is None or slot.candidate is None else slot.candidate.served

    def on_disk(self, name: str) -> ModelVersion:
        """The version that serves or is to serve, known before it is loaded. Raises ModelNotFound, ModelFailed."""
        slot = self._slot(name)
        if slot.on_disk is None:
            raise ModelFailed(f"model {name} version {slot.version} failed: {slot.reason}")
        return slot.on_disk

    def manifest(self, name: str) -> ModelManifest:
        """What the model expects, known before it is loaded. Raises ModelNotFound, ModelFailed."""
        return self.on_disk(name).manifest

    def slots(self) -> list[Slot]:
        """As they are at one moment, by name."""
        table = self._table.now
        return [table[name] for name in sorted(table)]

    def ready(self, required: tuple[str, ...]) -> bool:
        """True once every model is warm or failed, and the required ones (none named: any one) are warm."""
        states = {slot.name: slot.state for slot in self.slots()}
        if not states or "loading" in states.values():
            return False
        if required:
            return all(states.get(name) == "ready" for name in required)
        return "ready" in states.values()

    # Trying another version, and what comes of it.

    def stage(self, versions: Mapping[str, str]) -> Future[None]:
        """Load versions beside what serves: all of them or none. versions: name -> version on disk.

        Raises OrderRefused when one has a candidate already, or serves already. The future ends when all are warm and
        proven; it raises ModelError, and then nothing has changed.
        """
        return self._trials.stage(versions)

    def promote(self, names: Collection[str], *, rollout: int | None = None, also: Iterable[Statement] = ()) -> None:
        """Serve the candidates, all from the same moment on. What served is kept loaded until `settle`.

        rollout: whose models these are; they go back together. also: committed in the same transaction.
        Raises OrderRefused when one has no loaded candidate, StoreUnavailable; nothing has changed then.
        """
        self._trials.promote(names, rollout, also)

    def reject(self, names: Collection[str]) -> None:
        """Drop the candidates; requests that they have already are answered."""
        self._trials.reject(names)

    def roll_back(self, names: Collection[str], *, also: Iterable[Statement] = ()) -> Future[None]:
        """Serve what served before, all from the same moment on; a model that was new goes.

        At once while the previous versions are loaded, else they are loaded first, beside what serves.
        also: committed in the same transaction. Raises OrderRefused when one has nothing to go back to; the future
        raises ModelError or StoreUnavailable, and then nothing has changed.
        """
        return self._trials.roll_back(names, also)

    def settle(self, names: Collection[str]) -> None:
        """Give back the memory of the previous versions: going back needs a load from now on."""
        self._trials.settle(names)

    # What somebody asks for by hand.

    def load(self, name: str) -> Future[None]:
        """Look at the disk again and load the version of a model that is to serve, beside the one that does.

        That is the one that was promoted; without updates, the newest. The future ends when it serves; it raises
        ModelError, and then what served before still serves.
        """
        return self._loader.in_turn(name, partial(self._reload, name))

    def unload(self, name: str) -> Future[None]:
        """Serve a model no more and give its memory back. Requests that it has already are answered."""
        return self._loader.in_turn(name, partial(self._unload, name))

    # What goes wrong.

    def hung(self, flow: Flow) -> None:
        """A native call of this model did not return.

        A candidate is dropped. What was promoted a moment ago goes back. Anything else is compiled afresh; at the
        second hang the box gives up.
        """
        with self._table.lock:
            found = self._table.holder(flow)
            if found is None:
                return
            slot, role, place = found
            if role == "candidate":
                self._table.change({slot.name: moves.rejected(slot)})
            elif role == "previous":
                self._table.change({slot.name: _replace(slot, previous=moves.unloaded(place))})
            elif not slot.together:
                self._compile_afresh(slot, flow)
        reason = f"model {slot.name} version {place.version} hung"
        if role == "candidate":
            log.error("candidate_lost", model=slot.name, version=place.version, reason=reason)
            self.on_candidate_lost((slot.name,), reason)
        elif role == "current" and slot.together:
            self._trials.retreat(slot.together, slot.name, reason, self._rolled_back)

    def check(self, now: float) -> None:
        """Enforce the bound on a load; called by the watchdog with the monotonic time.

        A model that hangs in its first load is given up, and the others are loaded without it.
        """
        for slot in self.slots():
            if slot.loading_since is None or now - slot.loading_since <= LOAD_S_MAX:
                continue
            if slot.hangs:
                self._fatal(f"model {slot.name} could not be compiled afresh within {LOAD_S_MAX:g} s")
                continue
            with self._table.lock:
                self._table.fail(
                    slot.name, "model_load_failed", f"it did not load within {LOAD_S_MAX:g} s", slot.generation
                )
            self._loader.start_thread(self._load_all, "model-loader")
        self._loader.check(now)
        self._table.trim()

    def _slot(self, name: str) -> Slot:
        slot = self._table.now.get(name)
        if slot is None:
            raise ModelNotFound(f"no model {name!r}; this box has {sorted(self._table.now)}")
        return slot

    def _rolled_back(self, names: tuple[str, ...], reason: str) -> None:
        self.on_rolled_back(names, reason)

    def _load_all(self) -> None:
        for slot in self.slots():
            if slot.state == "loading" and slot.loading_since is None and not self._stopping:
                self._load(slot.name, slot.generation, first=True)
        self.loaded.set()

    def _load(self, name: str, generation: int, *, first: bool = False) -> None:
        """first: nobody is served yet. What does not load then leaves the version before it, if there is one."""
        started = time.monotonic()
        with self._table.lock:
            slot = self._table.now.get(name)
            if slot is None or slot.generation != generation or slot.on_disk is None:
                return
            self._table.change({name: _replace(slot, loading_since=started)})
        version = slot.on_disk
        try:
            served, choice = self._loader.compile(version, first=first)
        except ModelError as error:
            with self._table.lock:
                is_due = self._table.fail(name, error.code, str(error), generation)
            if is_due and first and (slot.previous is not None or slot.together):
                reason = f"model {name} version {version.manifest.version} did not load: {error}"
                self._trials.retreat(slot.together or (name,), name, reason, self._rolled_back)
            return
        with self._table.lock:
            now = self._table.now.get(name)
            # It may have been given up, unloaded or replaced meanwhile.
            if now is not None and now.generation == generation:
                self._table.put(now, ready(version, served, choice), started)

    def _compile_afresh(self, slot: Slot, flow: Flow) -> None:
        """Under the lock."""
        alone, hangs, generation = slot.alone, slot.hangs, slot.generation + 1
        if flow.batch_max > 1:
            # Several may have shared the call: from now on each is run alone, and one that hangs again is to blame.
            alone = True
        else:
            hangs += 1
        if hangs >= HANGS_MAX:
            self._fatal(f"model {slot.name} version {slot.version} hung {hangs} times")
            return
        current = Place(version=slot.version, on_disk=slot.on_disk, reason="it hung and is compiled afresh")
        after = _replace(slot, current=current, alone=alone, hangs=hangs, generation=generation, loading_since=None)
        self._table.change({slot.name: after})
        self._loader.start_thread(partial(self._load, slot.name, generation), f"reload-{slot.name}")

    def _reload(self, name: str, turn: Turn) -> None:
        version = self._installed.to_serve(name)
        generation = _generation(self._table.now.get(name))
        fresh = Place(version=version.manifest.version, on_disk=version)
        try:
            served, choice = self._loader.compile(version)
        except ModelError as error:
            with self._table.lock:
                slot = self._table.now.get(name)
                if not turn.is_over() and _generation(slot) == generation and (slot is None or slot.served is None):
                    slot = Slot(name=name, current=fresh) if slot is None else _replace(slot, current=fresh, new=False)
                    self._table.change({name: slot})
                    self._table.fail(name, error.code, str(error), slot.generation)
            raise
        with self._table.lock:
            slot = self._table.now.get(name)
            if turn.is_over() or _generation(slot) != generation:
                raise ModelNotReady(f"model {name} was changed by somebody else meanwhile; load it again")
            if slot is None:
                slot = Slot(name=name, current=fresh)
            elif slot.version != fresh.version:
                # What hung was another version.
                slot = _replace(slot, hangs=0, alone=False)
            self._table.put(_replace(slot, new=False), ready(version, served, choice), turn.began)

    def _unload(self, name: str, turn: Turn) -> None:
        reason = f"somebody unloaded it; load it with POST /v2/repository/models/{name}/load"
        with self._table.lock:
            slot = self._slot(name)
            after = _replace(
                slot,
                current=moves.unloaded(slot.current, reason),
                candidate=None,
                previous=None if slot.previous is None else moves.unloaded(slot.previous),
                generation=slot.generation + 1,
                loading_since=None,
            )
            self._table.change({name: None if slot.new else after})
        log.info("model_unloaded", model=name, version=slot.version)
        if slot.candidate is not None:
            self.on_candidate_lost((name,), f"model {name} was unloaded")


def _nobody(names: tuple[str, ...], reason: str) -> None:
    pass


def _generation(slot: Slot | None) -> int | None:
    return None if slot is None else slot.generation
