"""The steps of a rollout: load beside what serves, try, rule, switch, watch, settle or go back.

One at a time, by one thread. Each step is committed in `state.db` with what it changes, so a start goes on where the
last run ended: what was on trial is tried again, what was on probation is still on it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial

import structlog

from appliance import orders, standing
from appliance.core.release import Window, format_time
from appliance.core.rollout import Ruling
from appliance.errors import ApplianceError, ModelError, OrderRefused, StoreUnavailable
from appliance.lanes import Devices
from appliance.rollouts import records
from appliance.rollouts.going import Going, unlike
from appliance.rollouts.records import Install, Order, Record
from appliance.rollouts.replay import Pictures, Replay
from appliance.rollouts.reports import Reports
from appliance.rollouts.trial import Mode, Trial
from appliance.rules import SiteRules
from appliance.served import ServedModel
from appliance.slot import Slot
from appliance.slots import Slots
from appliance.standing import Statement, WayBack
from appliance.state import State

log = structlog.get_logger("rollouts")

POLL_S = 0.2
REPLAY_POLL_S = 0.02
LOOK_S = 5.0
"""Windows open and holds end without a commit."""

AGAIN_S = 60.0
"""Before a way back that could not be taken is tried again."""


class Rollouts:
    """window: of this box's own configuration. reports: told of every step."""

    def __init__(
        self,
        state: State,
        slots: Slots,
        devices: Devices,
        rules: SiteRules,
        pictures: Pictures,
        window: Window | None,
        reports: Reports,
    ) -> None:
        self._state = state
        self._slots = slots
        self._devices = devices
        self._rules = rules
        self._pictures = pictures
        self._window = window
        self._reports = reports
        self._trials: Mapping[str, Trial] = {}
        self._going: Going | None = None
        self._waits: str | None = None
        self._unsaved: list[Statement] = []
        self._lost: deque[tuple[tuple[str, ...], str]] = deque()
        self._again_at = 0.0
        self._look_at = 0.0
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self.beat: float | None = None
        slots.on_candidate_lost = self._candidate_lost
        slots.on_rolled_back = lambda names, reason: self.wake()
        reports.on_told = self.wake

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Before the slots: what is on trial is tried again after the next start."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self.beat = None

    def wake(self) -> None:
        """Something may have changed. Any thread."""
        self._look_at = 0.0
        self._woken.set()

    def trials(self) -> Mapping[str, Trial]:
        """By model. Any thread."""
        return self._trials

    @property
    def going(self) -> Going | None:
        """Any thread may read it."""
        return self._going

    @property
    def waits(self) -> str | None:
        """Why an update that is ready is not begun, or not switched."""
        going = self._going
        return self._waits or (None if going is None else going.waits)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.beat = time.monotonic()
            try:
                if self._slots.loaded.is_set():
                    self._step(time.monotonic(), time.time())
            except Exception:
                log.exception("rollout_step_failed")
            going = self._going
            self._woken.wait(POLL_S if going is None or going.replays is None else REPLAY_POLL_S)
            self._woken.clear()

    def _step(self, now: float, wall: float) -> None:
        if self._state.changed() or now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(wall)
        while self._lost:
            self._drop_lost(*self._lost.popleft(), wall)
        if self._going is not None:
            self._go_on(self._going, now, wall)

    def _look(self, wall: float) -> None:
        """At what others have committed."""
        if self._unsaved:
            statements, self._unsaved = self._unsaved, []
            self._save(statements)
            if self._unsaved:
                return
        self._notice_end()
        self._take_orders(wall)
        if self._going is None:
            unfinished = records.undecided(self._state)
            if unfinished is not None:
                self._resume(unfinished, wall)
        self._take_install(wall)
        self._reports.tell(wall)

    def _notice_end(self) -> None:
        """A version that hung on probation has gone back by itself."""
        if self._going is None:
            return
        record = records.rollout(self._state, self._going.id)
        if record is None or record.state not in records.UNDECIDED:
            going = self._going
            self._leave()
            if record is not None:
                self._save([records.kept(going.id, going.evidence())])

    # Beginning.

    def _resume(self, record: Record, wall: float) -> None:
        going = Going(record, records.install(self._state, record.install), self._window)
        if record.state == "probation":
            self._watch(going, wall)
        else:
            self._load(going, wall)

    def _take_install(self, wall: float) -> None:
        install = records.newest_ready(self._state)
        self._waits = None
        if install is None:
            return
        if self._going is not None:
            self._make_way(self._going, install, wall)
            return
        leaves = self._leave_blocked(install, wall)
        waits = self._held(wall)
        if waits is not None:
            self._waits = f"release {install.number} is not begun: {waits}"
            return
        self._begin(install, leaves, wall)

    def _make_way(self, going: Going, install: Install, wall: float) -> None:
        """For a newer release: at once while nothing of the older one serves, or when it is withdrawn."""
        came = f"release {install.number} of ring {install.ring} came"
        if going.record.state != "probation":
            self._reject(going, came, (), wall)
            return
        release = install.release
        withdrawn = [name for name, version in going.record.models.items() if release and release.blocks(name, version)]
        if withdrawn:
            self._back(going, f"{came}, which withdraws {', '.join(withdrawn)}", withdrawn, wall)
        else:
            self._waits = f"release {install.number} is not begun: the one before it is on probation"

    def _leave_blocked(self, install: Install, wall: float) -> bool:
        """Go back from what the release withdraws; whether something withdrawn still serves."""
        release, is_left = install.release, False
        for slot in self._slots.slots():
            if release is None or slot.new or not release.blocks(slot.name, slot.version):
                continue
            reason = f"withdrawn by release {install.number} of ring {install.ring}"
            try:
                way = standing.way_back(self._state, slot.name)
                if any(version is None or release.blocks(name, version) for name, version in way.versions.items()):
                    raise OrderRefused(f"model {slot.name} has no version to go back to")
                self._take_way(way, reason, [slot.name], wall)
            except (OrderRefused, ModelError, StoreUnavailable) as error:
                log.warning("blocked_version_serves", model=slot.name, version=slot.version, reason=str(error))
                is_left = True
        return is_left

    def _begin(self, install: Install, leaves: bool, wall: float) -> None:
        """leaves: something that serves is withdrawn, so there is nothing to compare with."""
        slots = {slot.name: slot for slot in self._slots.slots()}
        models = {name: version for name, version in install.models.items() if _serves(slots.get(name)) != version}
        before = {name: _serves(slots.get(name)) for name in models}
        mode = "blue_green" if leaves else install.policy.mode
        try:
            record = records.begin(self._state, install, mode, models, before, wall)
        except Exception as error:
            log.error("rollout_not_begun", install=install.id, reason=str(error))
            return
        log.info("rollout_begins", rollout=record.id, release=install.number, models=models, mode=mode)
        blocked = records.blocked(self._state, models)
        if install.release is not None and install.release.configuration is not None:
            why = "it brings a configuration, which a box of this version does not take; release the models alone"
            self._save([records.ruled(record.id, "rejected", why, wall)])
        elif blocked:
            why = "; ".join(
                f"{name} version {models[name]} is blocked on this box: {blocked[name]}" for name in blocked
            )
            self._save([records.ruled(record.id, "rejected", why, wall)])
        elif not models:
            self._save([records.ruled(record.id, "done", "all of it serves already", wall)])
        else:
            self._load(Going(record, install, self._window), wall)

    def _load(self, going: Going, wall: float) -> None:
        self._going = going
        going.last(going.policy.deadline_s, going.record.at, time.monotonic(), wall)
        if going.record.state != "loading":
            self._save([records.moved(going.id, "loading")])
            going.moved("loading")
        try:
            going.staged = self._slots.stage(going.record.models)
        except OrderRefused as error:
            self._reject(going, str(error), (), wall)

    # Going on.

    def _go_on(self, going: Going, now: float, wall: float) -> None:
        if going.record.state == "loading":
            self._go_on_loading(going, wall)
        elif going.record.state == "running":
            self._go_on_trying(going, now, wall)
        else:
            self._go_on_watching(going, now, wall)

    def _go_on_loading(self, going: Going, wall: float) -> None:
        if going.staged is None or not going.staged.done():
            return
        error = going.staged.exception()
        if isinstance(error, ApplianceError):
            self._reject(going, str(error), None, wall)
            return
        if error is not None:
            self._reject(going, f"{type(error).__name__}: {error}", None, wall)
            return
        trials: dict[str, Trial] = {}
        for name in going.names:
            candidate, before = self._slots.candidate(name), self._serving(name)
            if candidate is None or going.record.before.get(name) is None:
                continue
            if going.record.mode == "blue_green":
                continue
            if before is None:
                self._reject(going, f"version {going.record.before[name]} of {name} does not serve now", (), wall)
                return
            differs = unlike(candidate, before)
            if differs is not None:
                reason = f"{name} version {going.record.models[name]} cannot be compared: {differs}"
                self._reject(going, f"{reason}; release it with mode blue_green", (), wall)
                return
            mode: Mode = "canary" if going.record.mode == "canary" else "shadow"
            trials[name] = Trial(going.blank(name), candidate, before, mode, going.policy, self._devices, self._rules)
        self._save([records.moved(going.id, "running")])
        going.moved("running")
        going.trials = self._trials = trials
        self._look_at = 0.0

    def _go_on_trying(self, going: Going, now: float, wall: float) -> None:
        ruling = going.ruling()
        if ruling.decision == "wait" and now >= going.until:
            ruling = self._replayed(going)
        if ruling.decision == "reject":
            self._reject(going, ruling.reason, going.blamed(), wall)
        elif ruling.decision == "promote":
            closed_s = 0.0 if records.is_at_once(self._state, going.record.install) else going.closed_s(wall)
            going.waits = self._held(wall) or (
                f"its window opens at {format_time(wall + closed_s)}" if closed_s > 0 else None
            )
            if going.waits is None:
                self._promote(going, ruling.reason, wall)

    def _replayed(self, going: Going) -> Ruling:
        """At the deadline: recent pictures through both, and then whatever it comes to."""
        if going.replays is None:
            log.info("rollout_replays", rollout=going.id)
            going.replays = [
                Replay(trial, self._pictures.recent(name), partial(_has_enough, trial, going))
                for name, trial in going.trials.items()
            ]
            self._look_at = 0.0
        more = [replay.go_on() for replay in going.replays]
        going.is_due = not any(more)
        return going.ruling()

    def _go_on_watching(self, going: Going, now: float, wall: float) -> None:
        fault = going.fault()
        if fault is not None and now >= self._again_at:
            name, reason = fault
            self._back(going, f"{name} version {going.record.models[name]} on probation: {reason}", [name], wall)
        elif fault is None and now >= going.until:
            ended = ("UPDATE rollouts SET state = 'done' WHERE id = ?", (going.id,))
            self._leave()
            self._save([ended, records.kept(going.id, going.evidence())])
            self._slots.settle(going.names)
            log.info("rollout_done", rollout=going.id)

    # Ending.

    def _promote(self, going: Going, reason: str, wall: float) -> None:
        """Raises OrderRefused when a candidate is gone."""
        to = "probation" if going.policy.probation_s > 0 else "done"
        evidence = going.evidence()
        also = [records.ruled(going.id, to, reason, wall), records.kept(going.id, evidence)]
        try:
            self._slots.promote(going.names, rollout=going.id, also=also)
        except StoreUnavailable as error:
            going.waits = str(error)
            return
        log.info("rollout_promoted", rollout=going.id, models=going.record.models, reason=reason)
        record = records.rollout(self._state, going.id)
        assert record is not None
        going.record = record
        if to == "probation":
            self._watch(going, wall)
        else:
            self._leave()
            self._slots.settle(going.names)

    def _watch(self, going: Going, wall: float) -> None:
        self._going = going
        since = wall if going.record.ruled_at is None else going.record.ruled_at
        going.last(going.policy.probation_s, since, time.monotonic(), wall)
        kept = {each.name: each for each in going.record.evidence}
        slots = {slot.name: slot for slot in self._slots.slots()}
        trials: dict[str, Trial] = {}
        for name, version in going.record.models.items():
            slot = slots.get(name)
            if slot is None or slot.version != version or slot.served is None:
                continue
            other = None if slot.previous is None else slot.previous.served
            trials[name] = Trial(
                kept.get(name) or going.blank(name),
                slot.served,
                # What takes other inputs cannot stand in.
                None if other is None or unlike(slot.served, other) is not None else other,
                "probation",
                going.policy,
                self._devices,
                self._rules,
            )
        going.waits = None
        going.trials = self._trials = trials
        self._look_at = 0.0

    def _reject(self, going: Going, reason: str, blamed: Collection[str] | None, wall: float) -> None:
        """blamed: the models whose versions are blocked on this box, None: all of them."""
        log.warning("rollout_rejected", rollout=going.id, models=going.record.models, reason=reason)
        statements = standing.given_up(self._state, going.id, reason, wall, blamed)
        evidence = records.kept(going.id, going.evidence())
        self._leave()
        self._slots.reject(going.names)
        self._save([*statements, evidence])

    def _back(self, going: Going, reason: str, blamed: Collection[str], wall: float) -> None:
        """From probation. What cannot go back now serves on, and is tried again."""
        try:
            self._take_way(standing.way_back(self._state, going.names[0]), reason, blamed, wall)
        except (OrderRefused, ModelError, StoreUnavailable) as error:
            self._again_at = time.monotonic() + AGAIN_S
            going.waits = f"{reason}; it cannot go back: {error}"
            log.error("roll_back_failed", rollout=going.id, reason=str(error))

    def _take_way(
        self, way: WayBack, reason: str, blamed: Collection[str] | None, wall: float, also: Iterable[Statement] = ()
    ) -> None:
        """Go back. Raises OrderRefused, ModelError, StoreUnavailable; nothing has changed then."""
        going = self._going
        statements = list(also)
        if way.rollout is not None:
            statements += standing.given_up(self._state, way.rollout, reason, wall, blamed)
        if going is not None and going.id == way.rollout:
            statements.append(records.kept(going.id, going.evidence()))
        if going is not None and going.id != way.rollout and set(going.names) & set(way.versions):
            self._reject(going, f"what it was compared with has gone back: {reason}", (), wall)
        self._wait(self._slots.roll_back(way.versions, also=statements))
        log.warning("rolled_back", rollout=way.rollout, models=way.versions, reason=reason)
        if going is not None and going.id == way.rollout:
            self._leave()
        self._look_at = 0.0

    def _leave(self) -> None:
        """No request is tried any more."""
        self._trials = {}
        self._going = None
        self._again_at = 0.0
        self._look_at = 0.0

    # What comes from elsewhere.

    def _candidate_lost(self, names: tuple[str, ...], reason: str) -> None:
        self._lost.append((names, reason))
        self._woken.set()

    def _drop_lost(self, names: tuple[str, ...], reason: str, wall: float) -> None:
        going = self._going
        if going is not None and going.record.state != "probation" and set(names) & set(going.names):
            self._reject(going, reason, names, wall)

    def _take_orders(self, wall: float) -> None:
        for order in records.open_orders(self._state):
            try:
                outcome = self._carry_out(order, wall)
            except (OrderRefused, ModelError, StoreUnavailable) as error:
                outcome = f"{orders.REFUSED}{error}"
            log.info("order", kind=order.kind, model=order.model, by=order.by, outcome=outcome)
            self._save([records.order_done(order.id, outcome, wall)])

    def _carry_out(self, order: Order, wall: float) -> str:
        """Raises OrderRefused, ModelError, StoreUnavailable."""
        if order.kind == "roll_back":
            way = standing.way_back(self._state, order.model)
            done = records.order_done(order.id, orders.told(way), wall)
            self._take_way(way, f"rolled back by {order.by}", None, wall, [done])
            return orders.told(way)
        going = self._going
        if going is None or going.record.state == "probation":
            raise OrderRefused("nothing is on trial; GET /v1/rollouts shows what was")
        versions = ", ".join(f"{name} version {version}" for name, version in sorted(going.record.models.items()))
        if order.kind == "reject":
            self._reject(going, f"rejected by {order.by}", None, wall)
            return f"rejected: {versions}"
        if going.record.state != "running":
            raise OrderRefused(f"{versions} is still loading; try again in a moment")
        self._promote(going, f"promoted by {order.by}", wall)
        if going.record.state == "running":
            raise OrderRefused(going.waits or "it could not be recorded; try again in a moment")
        return f"promoted: {versions}"

    def _held(self, wall: float) -> str | None:
        held = records.holds(self._state, wall)
        return f"on hold by {held[0].by}: {held[0].reason}" if held else None

    def _serving(self, name: str) -> ServedModel | None:
        return next((slot.served for slot in self._slots.slots() if slot.name == name and not slot.new), None)

    def _save(self, statements: list[Statement]) -> None:
        """What the disk does not take now is tried again; until then nothing else begins."""
        try:
            standing.commit(self._state, statements)
        except StoreUnavailable as error:
            log.error("rollout_not_recorded", reason=str(error))
            self._unsaved += statements
        self._look_at = 0.0

    def _wait(self, future: Future[None]) -> None:
        """Raises what the future raises; ModelError when the box stops meanwhile."""
        while not future.done():
            self.beat = time.monotonic()
            if self._stopping.wait(0.05):
                raise ModelError("the box stops; its next start goes on")
        future.result()


def _serves(slot: Slot | None) -> str | None:
    return None if slot is None or slot.new else slot.version


def _has_enough(trial: Trial, going: Going) -> bool:
    seen = trial.evidence()
    return min(seen.inputs, seen.compared) >= going.policy.inputs_min
