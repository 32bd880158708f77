"""The steps of one rollout: load beside what serves, try, rule, switch, watch, settle or go back.

Each step is committed in `state.db` with what it changes, so a start goes on where the last run ended: what was on
trial is tried again, what was on probation is still on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial

import structlog

from appliance import standing
from appliance.core.release import Window, format_time
from appliance.core.rollout import Ruling
from appliance.errors import ApplianceError, ModelError, OrderRefused, ReleaseInvalid, StoreUnavailable
from appliance.lanes import Devices
from appliance.rollouts import records
from appliance.rollouts.configuration import SiteConfiguration
from appliance.rollouts.going import Going, unlike
from appliance.rollouts.records import Install, Record
from appliance.rollouts.replay import Pictures, Replay
from appliance.rollouts.trial import Mode, Trial
from appliance.rules import SiteRules
from appliance.served import ServedModel
from appliance.slots import Slots
from appliance.standing import Statement, WayBack
from appliance.state import State

log = structlog.get_logger("rollouts")

AGAIN_S = 60.0
"""Before a way back that could not be taken is tried again."""

_LATE_S = 5.0
"""After which nothing is answered any more that was asked of a version that went."""


class Steps:
    """For the thread of the rollouts; any other may read `going` and `trials` (by model).

    window: of this box's own configuration. site: what it is switched to together with its models. hurry: called when
    there is something to look at. wait: for a way back; it raises what the future raises, or ModelError.
    """

    def __init__(
        self,
        state: State,
        slots: Slots,
        devices: Devices,
        rules: SiteRules,
        pictures: Pictures,
        window: Window | None,
        site: SiteConfiguration,
        hurry: Callable[[], None],
        wait: Callable[[Future[None]], None],
    ) -> None:
        self._state = state
        self._slots = slots
        self._devices = devices
        self._rules = rules
        self._pictures = pictures
        self._window = window
        self._site = site
        self._hurry = hurry
        self._wait = wait
        self.going: Going | None = None
        self.trials: Mapping[str, Trial] = {}
        self._unsaved: list[Statement] = []
        self._again_at = 0.0
        self._forget_at: float | None = None

    def begin(self, record: Record, install: Install, wall: float) -> None:
        self._load(Going(record, install, self._window), wall)

    def resume(self, record: Record, wall: float) -> None:
        """What the last run left undecided."""
        going = Going(record, records.install(self._state, record.install), self._window)
        if record.state == "probation":
            self._watch(going, wall)
        else:
            self._load(going, wall)

    def go_on(self, now: float, wall: float) -> None:
        """now: monotonic."""
        if self._forget_at is not None and now >= self._forget_at:
            self._forget_limits()
        going = self.going
        if going is None:
            return
        if going.record.state == "loading":
            self._go_on_loading(going, wall)
        elif going.record.state == "running":
            self._go_on_trying(going, now, wall)
        else:
            self._go_on_watching(going, now, wall)

    def promote(self, going: Going, reason: str, wall: float) -> None:
        """Raises OrderRefused when a candidate is gone."""
        to = "probation" if going.policy.probation_s > 0 else "done"
        evidence = going.evidence()
        also = [records.ruled(going.id, to, reason, wall), records.kept(going.id, evidence)]
        try:
            self._slots.promote(going.names, rollout=going.id, also=also)
        except StoreUnavailable as error:
            going.waits = str(error)
            return
        self._site.look()
        log.info("rollout_promoted", rollout=going.id, models=going.record.models, reason=reason)
        record = records.rollout(self._state, going.id)
        assert record is not None
        going.record = record
        if to == "probation":
            self._watch(going, wall)
        else:
            self._leave()
            self._slots.settle(going.names)

    def reject(self, going: Going, reason: str, blamed: Collection[str] | None, wall: float) -> None:
        """blamed: the models whose versions are blocked on this box, None: all of them."""
        log.warning("rollout_rejected", rollout=going.id, models=going.record.models, reason=reason)
        statements = standing.given_up(self._state, going.id, reason, wall, blamed)
        evidence = records.kept(going.id, going.evidence())
        self._leave()
        self._slots.reject(going.names)
        self.save([*statements, evidence])

    def back(self, going: Going, reason: str, blamed: Collection[str], wall: float) -> None:
        """From probation. What cannot go back now serves on, and is tried again."""
        try:
            self.take_way(standing.way_back(self._state, going.names[0]), reason, blamed, wall)
        except (OrderRefused, ModelError, StoreUnavailable) as error:
            self._again_at = time.monotonic() + AGAIN_S
            going.waits = f"{reason}; it cannot go back: {error}"
            log.error("roll_back_failed", rollout=going.id, reason=str(error))

    def take_way(
        self, way: WayBack, reason: str, blamed: Collection[str] | None, wall: float, also: Iterable[Statement] = ()
    ) -> None:
        """Go back. Raises OrderRefused, ModelError, StoreUnavailable; nothing has changed then."""
        going = self.going
        statements = list(also)
        if way.rollout is not None:
            statements += standing.given_up(self._state, way.rollout, reason, wall, blamed)
        if going is not None and going.id == way.rollout:
            statements.append(records.kept(going.id, going.evidence()))
        is_below = way.rollout is not None and way.rollout == standing.brought_by(self._state)
        if going is not None and going.id != way.rollout and (is_below or set(going.names) & set(way.versions)):
            self.reject(going, f"what it was compared with has gone back: {reason}", (), wall)
        if self.going is None:
            self._forget_limits()
        self._wait(self._slots.roll_back(way.versions, also=statements))
        self._site.look()
        log.warning("rolled_back", rollout=way.rollout, models=way.versions, reason=reason)
        if going is not None and going.id == way.rollout:
            self._leave()
        self._hurry()

    def held(self, wall: float) -> str | None:
        held = records.holds(self._state, wall)
        return f"on hold by {held[0].by}: {held[0].reason}" if held else None

    def notice_end(self) -> None:
        """A version that hung on probation has gone back by itself."""
        going = self.going
        if going is None:
            return
        record = records.rollout(self._state, going.id)
        if record is None or record.state not in records.UNDECIDED:
            self._leave()
            if record is not None:
                self.save([records.kept(going.id, going.evidence())])

    def save(self, statements: list[Statement]) -> None:
        """What the disk does not take now is tried again; until then nothing else begins."""
        try:
            standing.commit(self._state, statements)
        except StoreUnavailable as error:
            log.error("rollout_not_recorded", reason=str(error))
            self._unsaved += statements
        self._hurry()

    def save_again(self) -> bool:
        """Whether all is recorded."""
        statements, self._unsaved = self._unsaved, []
        if statements:
            self.save(statements)
        return not self._unsaved

    def _load(self, going: Going, wall: float) -> None:
        self.going = going
        going.last(going.policy.deadline_s, going.record.at, time.monotonic(), wall)
        if going.record.state != "loading":
            self.save([records.moved(going.id, "loading")])
            going.moved("loading")
        try:
            self._set_limits(going.record)
            going.staged = self._slots.stage(going.record.models)
        except (OrderRefused, ReleaseInvalid) as error:
            self.reject(going, str(error), (), wall)

    def _go_on_loading(self, going: Going, wall: float) -> None:
        if going.staged is None or not going.staged.done():
            return
        error = going.staged.exception()
        if isinstance(error, ApplianceError):
            self.reject(going, str(error), None, wall)
            return
        if error is not None:
            self.reject(going, f"{type(error).__name__}: {error}", None, wall)
            return
        trials: dict[str, Trial] = {}
        for name in going.names:
            candidate, before = self._slots.candidate(name), self._serving(name)
            if candidate is None or going.record.before.get(name) is None:
                continue
            if going.record.mode == "blue_green":
                continue
            if before is None:
                self.reject(going, f"version {going.record.before[name]} of {name} does not serve now", (), wall)
                return
            differs = unlike(candidate, before)
            if differs is not None:
                reason = f"{name} version {going.record.models[name]} cannot be compared: {differs}"
                self.reject(going, f"{reason}; release it with mode blue_green", (), wall)
                return
            mode: Mode = "canary" if going.record.mode == "canary" else "shadow"
            trials[name] = Trial(going.blank(name), candidate, before, mode, going.policy, self._devices, self._rules)
        self.save([records.moved(going.id, "running")])
        going.moved("running")
        going.trials = self.trials = trials
        self._hurry()

    def _go_on_trying(self, going: Going, now: float, wall: float) -> None:
        ruling = going.ruling()
        if ruling.decision == "wait" and now >= going.until:
            ruling = self._replayed(going)
        if ruling.decision == "reject":
            self.reject(going, ruling.reason, going.blamed(), wall)
        elif ruling.decision == "promote":
            closed_s = 0.0 if records.is_at_once(self._state, going.record.install) else going.closed_s(wall)
            going.waits = self.held(wall) or (
                f"its window opens at {format_time(wall + closed_s)}" if closed_s > 0 else None
            )
            if going.waits is None:
                self.promote(going, ruling.reason, wall)

    def _replayed(self, going: Going) -> Ruling:
        """At the deadline: recent pictures through both, and then whatever it comes to."""
        if going.replays is None:
            log.info("rollout_replays", rollout=going.id)
            going.replays = [
                Replay(trial, self._pictures.recent(name), partial(_has_enough, trial, going))
                for name, trial in going.trials.items()
            ]
            self._hurry()
        more = [replay.go_on() for replay in going.replays]
        going.is_due = not any(more)
        return going.ruling()

    def _go_on_watching(self, going: Going, now: float, wall: float) -> None:
        fault = going.fault()
        if fault is not None and now >= self._again_at:
            name, reason = fault
            self.back(going, f"{name} version {going.record.models[name]} on probation: {reason}", [name], wall)
        elif fault is None and now >= going.until:
            ended = ("UPDATE rollouts SET state = 'done' WHERE id = ?", (going.id,))
            self._leave()
            self.save([ended, records.kept(going.id, going.evidence())])
            self._slots.settle(going.names)
            log.info("rollout_done", rollout=going.id)

    def _watch(self, going: Going, wall: float) -> None:
        self.going = going
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
        going.trials = self.trials = trials
        self._hurry()

    def _leave(self) -> None:
        """No request is tried any more."""
        self.trials = {}
        self.going = None
        self._again_at = 0.0
        self._hurry()
        self._forget_at = time.monotonic() + _LATE_S

    def _set_limits(self, record: Record) -> None:
        """Each version's answers are judged by the limits that came with it. Raises ReleaseInvalid."""
        now, tried = self._site.config, self._site.of(record.configuration)
        limits = {(name, version): now for name, version in record.before.items() if version is not None}
        self._rules.use_beside({**limits, **dict.fromkeys(record.models.items(), tried)})
        self._forget_at = None

    def _forget_limits(self) -> None:
        """What was asked of the version that went has been answered."""
        self._rules.use_beside({})
        self._forget_at = None

    def _serving(self, name: str) -> ServedModel | None:
        return next((slot.served for slot in self._slots.slots() if slot.name == name and not slot.new), None)


def _has_enough(trial: Trial, going: Going) -> bool:
    seen = trial.evidence()
    return min(seen.inputs, seen.compared) >= going.policy.inputs_min
