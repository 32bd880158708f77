"""Another version beside what serves: loaded, promoted, rejected, taken back.

Several models change places together or not at all. A promotion and a way back are committed in `state.db` first, with
whatever else belongs to the same transaction, so a restart serves what served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

import msgspec
import structlog

from appliance import slot as moves
from appliance import standing
from appliance.errors import ModelNotReady, OrderRefused, StoreError
from appliance.installed import Installed
from appliance.loading import Loader, Turn
from appliance.slot import Place, Slot
from appliance.slot_table import SlotTable, log_ready, ready
from appliance.standing import Statement
from appliance.state import State

log = structlog.get_logger("slots")

_replace = msgspec.structs.replace

Tell = Callable[[tuple[str, ...], str], None]
"""Names of models, and a reason. Called from any thread; it must not wait."""


class Trials:
    def __init__(self, table: SlotTable, installed: Installed, loader: Loader, state: State) -> None:
        self._table = table
        self._installed = installed
        self._loader = loader
        self._state = state

    def stage(self, versions: Mapping[str, str]) -> Future[None]:
        """As of `Slots`."""
        tokens = {name: Place(version=version, on_disk=None) for name, version in versions.items()}
        with self._table.lock:
            changes: dict[str, Slot | None] = {}
            for name, token in tokens.items():
                slot = self._table.now.get(name)
                if slot is not None and slot.candidate is not None:
                    raise OrderRefused(f"model {name} has version {slot.candidate.version} on trial; end that first")
                if slot is not None and slot.version == token.version and slot.served is not None:
                    raise OrderRefused(f"model {name} serves version {token.version} already")
                changes[name] = _replace(slot or _new_slot(name, token.version), candidate=token)
            self._table.change(changes)
        what = ", ".join(sorted(versions))
        return self._loader.in_turn(what, partial(self._stage, tokens), partial(self._unstage, tokens))

    def promote(self, names: Collection[str], rollout: int | None, also: Iterable[Statement]) -> None:
        """As of `Slots`."""
        together, now = tuple(sorted(names)), time.time()
        with self._table.lock:
            changes: dict[str, Slot | None] = {}
            statements: list[Statement] = []
            for name in together:
                slot = self._table.now.get(name)
                if slot is None or slot.candidate is None or slot.candidate.served is None:
                    raise OrderRefused(f"model {name} has no version on trial that could be promoted")
                after = changes[name] = moves.promoted(slot, together)
                previous = None if after.previous is None else after.previous.version
                statements.append(standing.served_now(name, after.version, previous, rollout, now))
            standing.commit(self._state, [*statements, *also])
            self._table.change(changes)
        for name, promoted in changes.items():
            log.info("model_promoted", model=name, version=promoted and promoted.version)

    def reject(self, names: Collection[str]) -> None:
        """As of `Slots`."""
        with self._table.lock:
            found = [self._table.now[name] for name in names if name in self._table.now]
            tried = [slot for slot in found if slot.candidate is not None]
            self._table.change({slot.name: moves.rejected(slot) for slot in tried})
        for slot in tried:
            log.info("candidate_rejected", model=slot.name, version=slot.candidate and slot.candidate.version)

    def roll_back(self, names: Collection[str], also: Iterable[Statement]) -> Future[None]:
        """As of `Slots`."""
        together, statements = tuple(sorted(names)), list(also)
        rows = standing.standings(self._state)
        with self._table.lock:
            for name in together:
                slot, row = self._table.now.get(name), rows.get(name)
                was_new = row is not None and row.rollout is not None and row.previous is None
                if slot is None or (slot.previous is None and not was_new):
                    raise OrderRefused(f"model {name} has no version to go back to")
            if self._is_way_open(together):
                done: Future[None] = Future()
                try:
                    self._go_back(together, {}, statements)
                except StoreError as error:
                    done.set_exception(error)
                else:
                    done.set_result(None)
                return done
        return self._loader.in_turn(", ".join(together), partial(self._load_and_go_back, together, statements))

    def settle(self, names: Collection[str]) -> None:
        """As of `Slots`."""
        with self._table.lock:
            self._table.change(
                {name: moves.settled(self._table.now[name]) for name in names if name in self._table.now}
            )

    def retreat(self, names: tuple[str, ...], failed: str, reason: str, tell: Tell) -> None:
        """What serves of `failed` cannot go on, and goes back together with `names`.

        If its rollout is not decided it is given up in the same transaction. tell: once that is done.
        """
        rows = standing.standings(self._state)
        rollouts = {rows[name].rollout for name in names if name in rows}
        also: list[Statement] = []
        for each in standing.undecided(self._state):
            if each.id in rollouts:
                also += standing.given_up(self._state, each.id, reason, time.time())
        with self._table.lock:
            is_open = self._is_way_open(names)
            if is_open:
                self._go_back(names, {}, also, must=True)
            elif failed in self._table.now:
                # Nothing of it serves any more; what came with it goes on until the way back is there.
                self._table.change({failed: _in_retreat(self._table.now[failed], reason)})
        if is_open:
            tell(names, reason)
            return
        way = partial(self._load_and_go_back, names, also, must=True)
        done = self._loader.in_turn(", ".join(names), way, partial(self._stay, failed, reason))
        done.add_done_callback(lambda future: None if future.exception() else tell(names, reason))

    def _stage(self, tokens: Mapping[str, Place], turn: Turn) -> None:
        places: dict[str, Place] = {}
        try:
            for name, token in tokens.items():
                self._load_place(name, token.version, "candidate", places, turn)
            with self._table.lock:
                changes: dict[str, Slot | None] = {}
                for name, token in tokens.items():
                    slot = self._table.now.get(name)
                    if turn.is_over() or slot is None or slot.candidate is not token:
                        raise ModelNotReady(f"model {name} version {token.version} was given up while it loaded")
                    changes[name] = _replace(slot, candidate=places[name])
                self._table.change(changes)
        finally:
            # An error that somebody keeps must not keep what was loaded.
            places.clear()

    def _unstage(self, tokens: Mapping[str, Place]) -> None:
        with self._table.lock:
            slots = [self._table.now[name] for name in tokens if name in self._table.now]
            self._table.change(
                {each.name: moves.rejected(each) for each in slots if each.candidate is tokens[each.name]}
            )

    def _load_and_go_back(
        self, names: Sequence[str], also: Sequence[Statement], turn: Turn, *, must: bool = False
    ) -> None:
        places: dict[str, Place] = {}
        try:
            for name in names:
                slot = self._table.now.get(name)
                if slot is not None and slot.previous is not None and slot.previous.served is None:
                    self._load_place(name, slot.previous.version, "previous", places, turn)
            with self._table.lock:
                if turn.is_over():
                    raise ModelNotReady(f"{', '.join(names)} took too long to load")
                self._go_back(names, places, also, must=must)
        finally:
            places.clear()

    def _load_place(self, name: str, version: str, role: moves.Role, places: dict[str, Place], turn: Turn) -> None:
        """Raises ModelError."""
        turn.begin(name)
        found = self._installed.named(name, version)
        served, choice = self._loader.compile(found)
        log_ready(served, role, turn.began)
        places[name] = ready(found, served, choice)

    def _go_back(
        self, names: Sequence[str], places: Mapping[str, Place], also: Sequence[Statement], *, must: bool = False
    ) -> None:
        """Commit and take the way back. places: the previous versions that were not loaded. Under the lock.

        must: what serves cannot go on, so the box goes back in memory even when the disk takes nothing.
        Raises ModelNotReady, StoreUnavailable.
        """
        changes: dict[str, Slot | None] = {}
        for name in names:
            slot = self._table.now.get(name)
            if slot is not None and slot.previous is not None and name in places:
                slot = _replace(slot, previous=places[name])
            if slot is None or (slot.previous is not None and slot.previous.served is None):
                raise ModelNotReady(f"model {name} was changed by somebody else meanwhile; try again")
            changes[name] = moves.gone_back(slot)
        now = time.time()
        statements = [
            standing.went_back(name, None if after is None else after.version, now) for name, after in changes.items()
        ]
        try:
            standing.commit(self._state, [*statements, *also])
        except StoreError as error:
            if not must:
                raise
            log.error("way_back_not_recorded", reason=str(error))
        self._table.change(changes)
        for name, after in changes.items():
            log.warning("model_rolled_back", model=name, version=after and after.version)

    def _is_way_open(self, names: Collection[str]) -> bool:
        """Whether the way back needs no load; a model that was new just goes. Under the lock."""
        slots = [self._table.now.get(name) for name in names]
        return all(slot is not None and (slot.previous is None or slot.previous.served is not None) for slot in slots)

    def _stay(self, failed: str, reason: str) -> None:
        """There was no way back either."""
        with self._table.lock:
            slot = self._table.now.get(failed)
            if slot is not None and slot.served is None:
                text = f"{reason}; the version before it does not load either"
                self._table.fail(failed, "model_failed", text, slot.generation)


def _new_slot(name: str, version: str) -> Slot:
    current = Place(version=version, on_disk=None, state="unloaded", reason="its first version is still on trial")
    return Slot(name=name, current=current, new=True)


def _in_retreat(slot: Slot, reason: str) -> Slot:
    current = Place(version=slot.version, on_disk=slot.on_disk, state="loading", reason=reason)
    return _replace(slot, current=current, hangs=0, generation=slot.generation + 1, loading_since=time.monotonic())
