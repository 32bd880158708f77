"""`/v1/status`: the whole box in one object, and what is wrong with it in plain words."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from appliance import __version__
from appliance.core.manifest import WindowPreprocess
from appliance.core.route_report import RouteReport
from appliance.core.upstream_report import UpstreamReport
from appliance.disk import free_bytes
from appliance.history import History, LastDeadLetter
from appliance.lanes import Devices, LanesStatus
from appliance.plant.alarms import Alarm, Alarms
from appliance.plant.counts import TriggerReport
from appliance.plant.recipes import RecipeReport, Recipes
from appliance.plant.triggers import Triggers
from appliance.plant.watch import SourceWatch, WatchedSource
from appliance.rollouts.configuration import ConfigurationReport
from appliance.served import ServedModel
from appliance.slot import Place, Slot
from appliance.slots import Slots
from appliance.store import Store
from appliance.tuning import Choice
from appliance.upkeep import UpkeepStatus

_DEAD_LETTER_FRESH_S = 600.0


class Problem(msgspec.Struct, frozen=True):
    """Something an operator should know: a stable code, one line with what to do."""

    code: str
    message: str


class BesideReport(msgspec.Struct, frozen=True, kw_only=True):
    """Another version of a model. state: `ready` while it is loaded."""

    version: str
    state: str
    reason: str | None
    digest: str | None
    signed: bool
    origin: str | None
    requests: int
    errors: int
    infer_ms_p50: float | None
    infer_ms_p99: float | None


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """note: what is not as it was asked for, and why. choice: what was measured on this box, and taken.

    on_loop: so quick that it runs without a lane. signed: whether this box has checked a signature over its manifest.
    origin: `shipped` with the appliance, `update`, `import` signed by the site's key, or `folder`, which nobody signed.
    candidate: what is tried beside it. previous: what it can go back to.
    """

    name: str
    version: str
    title: str
    kind: str | None
    labels: tuple[str, ...]
    variant: str | None
    runtime: str | None
    device: str | None
    note: str | None
    choice: Choice | None
    on_loop: bool
    state: str
    reason: str | None
    digest: str | None
    signed: bool
    origin: str | None
    score_unit: str | None
    score_review_min: float | None
    score_ng_min: float | None
    rate_hz: float | None
    window_size: int | None
    requests: int
    errors: int
    infer_ms_p50: float | None
    infer_ms_p99: float | None
    candidate: BesideReport | None
    previous: BesideReport | None


class StoreReport(msgspec.Struct, frozen=True):
    """lost: answers since the start that said `queued` and could not be recorded. upkeep: room, wear and clock."""

    state: str
    reason: str | None
    results: int
    bytes: int
    free_bytes: int
    last_commit_age_s: float
    waiting: int
    lost: int
    upkeep: UpkeepStatus


class DeadLetters(msgspec.Struct, frozen=True):
    total: int
    last: LastDeadLetter | None


class ListenerReport(msgspec.Struct, frozen=True):
    """The built-in listener."""

    state: Literal["listening", "off", "failed"]
    address: str | None = None
    clients: int = 0
    received: int = 0
    acknowledged: int = 0
    reason: str | None = None
    """Why a users file or a certificate that was changed is not used."""


class BrokerReport(msgspec.Struct, frozen=True):
    """The connection to the site broker."""

    state: Literal["connected", "connecting", "off"]
    address: str | None = None
    reason: str | None = None
    received: int = 0
    shortcomings: tuple[str, ...] = ()
    """Of what the broker grants."""


class MqttReport(msgspec.Struct, frozen=True):
    """intake: counts of messages since the start. routes: what came on each, and what became of its readings."""

    listener: ListenerReport
    broker: BrokerReport
    intake: Any
    routes: list[RouteReport]


class BoxReport(msgspec.Struct, frozen=True, kw_only=True):
    """watched: sources that the configuration has rules for. configuration: what a release brought, null: nothing."""

    device: str
    version: str
    started_at: float
    at: float
    uptime_s: float
    ready: bool
    models: list[ModelReport]
    lanes: list[LanesStatus]
    store: StoreReport
    mqtt: MqttReport
    upstreams: list[UpstreamReport]
    dead_letters: DeadLetters
    problems: list[Problem]
    alarms: tuple[Alarm, ...]
    recipe: RecipeReport
    watched: list[WatchedSource]
    triggers: list[TriggerReport]
    configuration: ConfigurationReport | None


class Status:
    """Asks every part for its state. `mqtt` is given, since doors do not know each other.

    named_models: where the configuration that serves names a model, and the name.
    """

    def __init__(
        self,
        device: str,
        slots: Slots,
        devices: Devices,
        store: Store,
        history: History,
        ready_requires: tuple[str, ...],
        named_models: Callable[[], Sequence[tuple[str, str]]],
        mqtt: Callable[[], MqttReport],
        upstreams: Callable[[], list[UpstreamReport]],
        alarms: Alarms,
        recipes: Recipes,
        watch: SourceWatch,
        triggers: Triggers,
        configuration: Callable[[], ConfigurationReport | None],
    ) -> None:
        self._device = device
        self._slots = slots
        self._devices = devices
        self._store = store
        self._history = history
        self._ready_requires = ready_requires
        self._named_models = named_models
        self._mqtt = mqtt
        self._upstreams = upstreams
        self._alarms = alarms
        self._recipes = recipes
        self._watch = watch
        self._triggers = triggers
        self._configuration = configuration
        self._started_at = time.time()
        self._started = time.monotonic()

    def ready(self) -> bool:
        return self._slots.ready(self._ready_requires)

    def report(self) -> BoxReport:
        """Reads the database; call it from a thread."""
        total, last = self._history.dead_letters()
        dead_letters = DeadLetters(total, last)
        store = self._store_report()
        mqtt = self._mqtt()
        return BoxReport(
            device=self._device,
            version=__version__,
            started_at=self._started_at,
            at=time.time(),
            uptime_s=round(time.monotonic() - self._started, 1),
            ready=self.ready(),
            models=[_model_report(slot) for slot in self._slots.slots()],
            lanes=self._devices.status(),
            store=store,
            mqtt=mqtt,
            upstreams=self._upstreams(),
            dead_letters=dead_letters,
            problems=list(self._problems(store, mqtt, dead_letters)),
            alarms=self._alarms.active(),
            recipe=self._recipes.report(),
            watched=self._watch.report(),
            triggers=self._triggers.reports(),
            configuration=self._configuration(),
        )

    def _store_report(self) -> StoreReport:
        status = self._store.status()
        folder = self._store.path.parent
        files = [self._store.path, *folder.glob("results.db-*"), *(folder / "frames").glob("*.seg")]
        return StoreReport(
            state=status.state,
            reason=status.reason,
            results=self._history.count(),
            bytes=sum(map(_size, files)),
            free_bytes=free_bytes(folder),
            last_commit_age_s=round(time.monotonic() - status.last_commit_at, 1),
            waiting=status.waiting,
            lost=status.lost,
            upkeep=self._store.upkeep.status,
        )

    def _problems(self, store: StoreReport, mqtt: MqttReport, dead_letters: DeadLetters) -> Iterator[Problem]:
        if store.state != "ok":
            yield Problem(f"store_{store.state}", f"Results are not recorded: {store.reason}")
        for kind, text in self._store.upkeep.concerns().items():
            # A store that records nothing says itself that it is full.
            if text is not None and (kind != "store_nearly_full" or store.state == "ok"):
                yield Problem(kind, text)
        for slot in self._slots.slots():
            if slot.state == "failed":
                yield Problem("model_failed", f"Model {slot.name} version {slot.version} does not run: {slot.reason}")
        serving = {(slot.name, slot.version) for slot in self._slots.slots()}
        for broken in self._slots.broken:
            if (broken.name, broken.version) not in serving:
                yield Problem("model_failed", f"Model {broken.name} version {broken.version}: {broken.error}")
        names = {slot.name for slot in self._slots.slots()}
        for where, name in self._named_models():
            if name not in names:
                yield Problem("model_missing", f"{where} names model {name}, which is not here; install or correct it")
        if not names:
            yield Problem("no_models", "There is no model; put one in the models folder as <name>/<version>/")
        if mqtt.listener.state == "failed":
            yield Problem("listener_failed", "The MQTT listener has stopped; restart the appliance")
        if mqtt.listener.reason is not None:
            yield Problem("listener_files", f"{mqtt.listener.reason}; until then the listener uses the one before")
        if mqtt.broker.state == "connecting":
            yield Problem("broker_away", f"No connection to the broker {mqtt.broker.address}: {mqtt.broker.reason}")
        elif mqtt.broker.reason is not None:
            yield Problem("broker_refuses", f"Broker {mqtt.broker.address}: {mqtt.broker.reason}")
        for shortcoming in mqtt.broker.shortcomings:
            yield Problem("broker_falls_short", f"Broker {mqtt.broker.address}: {shortcoming}")
        for route in mqtt.routes:
            if route.problem is not None:
                yield Problem("route_unfit", f"No message can be used: {route.problem}")
        last = dead_letters.last
        if last is not None and time.time() - last.at < _DEAD_LETTER_FRESH_S:
            yield Problem("dead_letters", f"A message on {last.topic} could not be used: {last.reason}")


@get("/v1/status", sync_to_thread=True)
def show_status(status: NamedDependency[Status]) -> BoxReport:
    return status.report()


def _size(file: Path) -> int:
    """Bytes; 0 when retention has just removed the file."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _model_report(slot: Slot) -> ModelReport:
    manifest = slot.on_disk.manifest if slot.on_disk is not None else None
    served = slot.served
    steps: Any = manifest.preprocess if manifest is not None else None
    window = steps if isinstance(steps, WindowPreprocess) else None
    p50, p99 = _times(served)
    return ModelReport(
        name=slot.name,
        version=slot.version,
        title=manifest.title if manifest is not None else "",
        kind=None if manifest is None else manifest.kind,
        labels=manifest.labels if manifest is not None else (),
        variant=served.variant.name if served is not None else None,
        runtime=served.loaded.runtime if served is not None else None,
        device=served.loaded.device if served is not None else None,
        note=served.loaded.note if served is not None else None,
        choice=slot.choice,
        on_loop=served.may_run_on_loop() if served is not None else False,
        state=slot.state,
        reason=slot.reason,
        digest=slot.on_disk.digest if slot.on_disk is not None else None,
        signed=slot.on_disk.signed if slot.on_disk is not None else False,
        origin=slot.on_disk.origin if slot.on_disk is not None else None,
        score_unit=manifest.postprocess.score_unit if manifest is not None else None,
        score_review_min=manifest.verdict.score_review_min if manifest is not None else None,
        score_ng_min=manifest.verdict.score_ng_min if manifest is not None else None,
        rate_hz=window.rate_hz if window is not None else None,
        window_size=window.size if window is not None else None,
        requests=served.stats.requests if served is not None else 0,
        errors=served.stats.errors if served is not None else 0,
        infer_ms_p50=p50,
        infer_ms_p99=p99,
        candidate=None if slot.candidate is None else _beside_report(slot.candidate),
        previous=None if slot.previous is None else _beside_report(slot.previous),
    )


def _beside_report(place: Place) -> BesideReport:
    served = place.served
    p50, p99 = _times(served)
    return BesideReport(
        version=place.version,
        state=place.state,
        reason=place.reason,
        digest=None if place.on_disk is None else place.on_disk.digest,
        signed=place.on_disk is not None and place.on_disk.signed,
        origin=None if place.on_disk is None else place.on_disk.origin,
        requests=0 if served is None else served.stats.requests,
        errors=0 if served is None else served.stats.errors,
        infer_ms_p50=p50,
        infer_ms_p99=p99,
    )


def _times(served: ServedModel | None) -> tuple[float | None, float | None]:
    """Median and 99th percentile of the last calls, in milliseconds; None before the first."""
    times = [] if served is None else sorted(served.stats.infer_ms)
    if not times:
        return None, None
    return round(statistics.median(times), 3), round(times[int(len(times) * 0.99)], 3)
