"""Which rollout goes on: of the newest release that is ready, until a newer one, an order or a fault ends it.

One at a time, by one thread, which notices what the updater and people commit in `state.db`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future

import structlog

from appliance import orders, standing
from appliance.core.release import Window
from appliance.errors import ModelError, OrderRefused, StoreUnavailable
from appliance.lanes import Devices
from appliance.rollouts import records
from appliance.rollouts.configuration import SiteConfiguration
from appliance.rollouts.going import Going
from appliance.rollouts.records import Install, Order
from appliance.rollouts.replay import Pictures
from appliance.rollouts.reports import Reports
from appliance.rollouts.steps import Steps
from appliance.rollouts.trial import Trial
from appliance.rules import SiteRules
from appliance.slot import Slot
from appliance.slots import Slots
from appliance.state import State

log = structlog.get_logger("rollouts")

POLL_S = 0.2
REPLAY_POLL_S = 0.02
LOOK_S = 5.0
"""Windows open and holds end without a commit."""


class Rollouts:
    """window: of this box's own configuration. site: what it is switched to together with its models.

    reports: told of every step.
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
        reports: Reports,
    ) -> None:
        self._state = state
        self._slots = slots
        self._site = site
        self._reports = reports
        self._steps = Steps(state, slots, devices, rules, pictures, window, site, self._hurry, self._wait)
        self._waits: str | None = None
        self._lost: deque[tuple[tuple[str, ...], str]] = deque()
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
        return self._steps.trials

    @property
    def going(self) -> Going | None:
        """Any thread may read it."""
        return self._steps.going

    @property
    def waits(self) -> str | None:
        """Why an update that is ready is not begun, or not switched."""
        going = self._steps.going
        return self._waits or (None if going is None else going.waits)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.beat = time.monotonic()
            try:
                if self._slots.loaded.is_set():
                    self._step(time.monotonic(), time.time())
            except Exception:
                log.exception("rollout_step_failed")
            going = self._steps.going
            self._woken.wait(POLL_S if going is None or going.replays is None else REPLAY_POLL_S)
            self._woken.clear()

    def _step(self, now: float, wall: float) -> None:
        if self._state.changed() or now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(wall)
        while self._lost:
            self._drop_lost(*self._lost.popleft(), wall)
        self._steps.go_on(now, wall)

    def _look(self, wall: float) -> None:
        """At what others have committed."""
        if not self._steps.save_again():
            return
        self._site.look()
        self._steps.notice_end()
        self._take_orders(wall)
        if self._steps.going is None:
            unfinished = records.undecided(self._state)
            if unfinished is not None:
                self._steps.resume(unfinished, wall)
        self._take_install(wall)
        self._reports.tell(wall)

    # Beginning.

    def _take_install(self, wall: float) -> None:
        install = records.newest_ready(self._state)
        self._waits = None
        if install is None:
            return
        if self._steps.going is not None:
            self._make_way(self._steps.going, install, wall)
            return
        leaves = self._leave_blocked(install, wall)
        waits = self._steps.held(wall)
        if waits is not None:
            self._waits = f"release {install.number} is not begun: {waits}"
            return
        self._begin(install, leaves, wall)

    def _make_way(self, going: Going, install: Install, wall: float) -> None:
        """For a newer release: at once while nothing of the older one serves, or when it is withdrawn."""
        came = f"release {install.number} of ring {install.ring} came"
        if going.record.state != "probation":
            self._steps.reject(going, came, (), wall)
            return
        release = install.release
        withdrawn = [name for name, version in going.record.models.items() if release and release.blocks(name, version)]
        if withdrawn:
            self._steps.back(going, f"{came}, which withdraws {', '.join(withdrawn)}", withdrawn, wall)
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
                self._steps.take_way(way, reason, [slot.name], wall)
            except (OrderRefused, ModelError, StoreUnavailable) as error:
                log.warning("blocked_version_serves", model=slot.name, version=slot.version, reason=str(error))
                is_left = True
        return is_left

    def _begin(self, install: Install, leaves: bool, wall: float) -> None:
        """leaves: something that serves is withdrawn, so there is nothing to compare with."""
        slots = {slot.name: slot for slot in self._slots.slots()}
        models = {name: version for name, version in install.models.items() if _serves(slots.get(name)) != version}
        before = {name: _serves(slots.get(name)) for name in models}
        brought = self._site.brought(install)
        mode = "blue_green" if leaves or not models else install.policy.mode
        blocked = records.blocked(self._state, models)
        to, why = "loading", None
        if blocked:
            told = (f"{name} version {models[name]} is blocked on this box: {blocked[name]}" for name in blocked)
            to, why = "rejected", "; ".join(told)
        elif not models and standing.is_same(brought, self._site.serves):
            to, why = "done", "all of it serves already"
        try:
            record = records.begin(self._state, install, mode, models, before, brought, wall, to, why)
        except Exception as error:
            log.error("rollout_not_begun", install=install.id, reason=str(error))
            return
        log.info("rollout_begins", rollout=record.id, release=install.number, models=models, mode=mode, state=to)
        self._hurry()
        if to == "loading":
            self._steps.begin(record, install, wall)

    # What comes from elsewhere.

    def _candidate_lost(self, names: tuple[str, ...], reason: str) -> None:
        self._lost.append((names, reason))
        self._woken.set()

    def _drop_lost(self, names: tuple[str, ...], reason: str, wall: float) -> None:
        going = self._steps.going
        if going is not None and going.record.state != "probation" and set(names) & set(going.names):
            self._steps.reject(going, reason, names, wall)

    def _take_orders(self, wall: float) -> None:
        for order in records.open_orders(self._state):
            try:
                outcome = self._carry_out(order, wall)
            except (OrderRefused, ModelError, StoreUnavailable) as error:
                outcome = f"{orders.REFUSED}{error}"
            log.info("order", kind=order.kind, model=order.model, by=order.by, outcome=outcome)
            self._steps.save([records.order_done(order.id, outcome, wall)])

    def _carry_out(self, order: Order, wall: float) -> str:
        """Raises OrderRefused, ModelError, StoreUnavailable."""
        if order.kind == "roll_back":
            way = standing.way_back(self._state, order.model)
            done = records.order_done(order.id, orders.told(way), wall)
            self._steps.take_way(way, f"rolled back by {order.by}", None, wall, [done])
            return orders.told(way)
        going = self._steps.going
        if going is None or going.record.state == "probation":
            raise OrderRefused("nothing is on trial; GET /v1/rollouts shows what was")
        models = sorted(going.record.models.items())
        versions = ", ".join(f"{name} version {version}" for name, version in models) or "the configuration"
        if order.kind == "reject":
            self._steps.reject(going, f"rejected by {order.by}", None, wall)
            return f"rejected: {versions}"
        if going.record.state != "running":
            raise OrderRefused(f"{versions} is still loading; try again in a moment")
        self._steps.promote(going, f"promoted by {order.by}", wall)
        if going.record.state == "running":
            raise OrderRefused(going.waits or "it could not be recorded; try again in a moment")
        return f"promoted: {versions}"

    def _hurry(self) -> None:
        """Look again at the next turn."""
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
