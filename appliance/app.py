"""The composition root: the one place that knows every part, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec
import structlog
import uvicorn
import uvloop

from appliance import backup, hardware
from appliance.answers import Answers
from appliance.config import Config, named_models
from appliance.core.address import is_loopback
from appliance.core.protocol import Result, Trace
from appliance.errors import ApplianceError, ConfigError, PortInUse
from appliance.history import History
from appliance.http.door import create_app
from appliance.http.protocol import OneWriteProtocol
from appliance.http.security import check_address
from appliance.http.status import BrokerReport, ListenerReport, MqttReport, Status
from appliance.lanes import ENDPOINT, Devices
from appliance.live import Event, Live
from appliance.mqtt.access import check_exposed
from appliance.mqtt.door import MqttDoor
from appliance.outbox.destinations import EVENT_SCHEMA
from appliance.outbox.mqtt import upstream_connection
from appliance.outbox.outbox import Outbox
from appliance.pipeline import Pipeline
from appliance.plant.alarms import Alarms
from appliance.plant.beat import Beat
from appliance.plant.cameras import Cameras
from appliance.plant.recipes import Recipes
from appliance.plant.triggers import Triggers
from appliance.plant.watch import BoxWatch, SourceWatch
from appliance.repository import check_roots, model_roots
from appliance.rollouts.board import Board
from appliance.rollouts.configuration import SiteConfiguration
from appliance.rollouts.replay import Pictures
from appliance.rollouts.reports import Reports
from appliance.rollouts.rollouts import Rollouts
from appliance.rules import SiteRules
from appliance.runtimes import Loaders, default_loaders
from appliance.slots import Slots
from appliance.starts import Starts
from appliance.state import State
from appliance.store import Store
from appliance.trust import trust_of
from appliance.tuning import make_tuner
from appliance.versions import versions
from appliance.watchdog import Beat as Heartbeat
from appliance.watchdog import Watchdog, notify, stale
from appliance.writes import Write, when_added

log = structlog.get_logger("app")

EXIT_HUNG = 70
"""Exit code when only a restart helps: a native call hangs for good."""


_LANES_PER_CORE = 3
"""While one lane waits for its inference, for Python or for the disk, others decode: with one per core a tenth of the
cores stood still."""

_SWITCH_S = 0.001
"""After so long a thread that computes gives way to one that answers. With Python's own 5 ms the p99 of small requests
beside 20,000 readings/s is a fifth higher; the throughput is the same."""

_COLLECT_EVERY = 20_000
"""Objects between two looks of the garbage collector: each message makes some, none of them in a cycle."""


class Box:
    """One appliance. `loaders` are the runtimes; the default ones unless a test brings its own."""

    def __init__(self, config: Config, loaders: Loaders | None = None) -> None:
        check_address(config.http.host, "http.host")
        if config.listener.enabled and not is_loopback(config.listener.host):
            check_exposed(config.listener)
        self.config = config
        data_dir = Path(config.data_dir).absolute()
        cores = hardware.cores()
        tuner = make_tuner(config, loaders or default_loaders(config))
        check_roots(model_roots(config))
        backup.take_waiting(data_dir, config.store)
        self._store = Store(
            data_dir,
            config.store,
            images_days={name: each.images_days for name, each in config.sources.items() if each.images_days},
        )
        try:
            self._state = State(data_dir)
            self._starts = Starts(self._state, time.time())
            self._site = SiteConfiguration(config, self._state)
            self._slots = Slots(
                lambda: model_roots(config),
                config.models,
                tuner,
                self._state,
                tune=config.tune,
                trust=lambda: trust_of(config),
                fatal=_leave,
            )
        except ConfigError:
            self._store.stop()
            raise
        self._devices = Devices(
            lambda device: _lanes_of(device, config, cores),
            config.lanes.waiting_max,
            self._slots.hung,
        )
        self._alarms = Alarms(self._store)
        self._reports = Reports(self._state, self._announce_update, self._commit_update, self._alarms.hold)
        self._recipes = Recipes(self._site.config.recipes, self._store, self._alarms)
        self._watch = SourceWatch(config.sources, self._alarms)
        self._live = Live(config.http.sse_clients_max)
        self._rules = rules = SiteRules(self._site.config, self._recipes.active)
        self._rollouts = Rollouts(
            self._state,
            self._slots,
            self._devices,
            rules,
            Pictures(self._store.path, self._store.frames, rules),
            config.updates.window,
            self._site,
            self._reports,
        )
        self._board = Board(
            config.device,
            config.updates,
            self._state,
            self._rollouts,
            lambda: versions(model_roots(config), self._state, trust_of(config), check=False),
        )
        self._pipeline = Pipeline(
            config.device,
            self._slots,
            self._devices,
            self._store,
            rules,
            config.models,
            config.pixels_max,
            Answers(config.http.cache_bytes) if config.http.cache_bytes else None,
            trials=self._rollouts.trials,
            outgoing=lambda result, body, picture_bytes: self._outbox.desk.result(result, body, picture_bytes),
            outgoing_letter=lambda letter: self._outbox.desk.letter(letter),
            announce=self._announce,
            on_source=self._watch.heard,
        )
        self._listener_fault: str | None = None
        try:
            self._cameras = cameras = Cameras(config.cameras)
            self._triggers = Triggers(
                config.triggers,
                cameras,
                self._pipeline,
                self._store,
                config.device,
                tell=lambda answer, form, reply: self._mqtt.for_plcs.tell(answer, form, reply),
                alarm=self._alarms.hold,
                keep_s=config.store.results_days * 86_400,
            )
            self._mqtt = MqttDoor(
                self._site.config,
                self._slots,
                self._pipeline,
                self._store,
                self._triggers,
                cameras,
                {"recipe": self._recipes.command, "update": self._board.command},
                on_fault=self._listener_failed,
            )
            self._outbox = Outbox(
                config,
                self._store,
                self._mqtt.broker,
                partial(upstream_connection, config.device),
                self._alarms.hold,
                lambda: self._store.upkeep.clock.age,
            )
        except ConfigError:
            self._store.stop()
            raise
        self._beat = Beat(self._mqtt.for_plcs.beat, lambda: not stale(self._beats(), time.monotonic()))
        history = History(self._store.path, self._store.frames)
        self._status = Status(
            config.device,
            self._slots,
            self._devices,
            self._store,
            history,
            config.ready_requires,
            lambda: named_models(self._site.config),
            self._mqtt_report,
            lambda: self._outbox.report(),
            self._alarms,
            self._recipes,
            self._watch,
            self._triggers,
            self._site.report,
        )
        self.app = create_app(
            config.http,
            self._pipeline,
            self._slots,
            history,
            self._live,
            self._status,
            self._store.path,
            {
                "alarms": self._alarms,
                "recipes": self._recipes,
                "triggers": self._triggers,
                "beat": self._beat,
                "store": self._store,
                "updates": self._board,
            },
        )
        self._site.on_change = self._follow
        self._mqtt.on_broker = self._outbox.wake
        self._alarms.outgoing = partial(self._outbox.desk.event, "alarm")
        self._recipes.outgoing = self._outbox.desk.recipe
        self._triggers.outgoing = self._outbox.desk.answer
        self._mqtt.alarms = lambda: msgspec.json.encode(self._alarms.report())
        self._alarms.on_change = self._mqtt.alarms_changed
        box_watch = BoxWatch(self._alarms, self._store.status, self._mqtt.broker_trouble)
        self._loop_beat = time.monotonic()
        self._watchdog = Watchdog(
            self._beats(),
            [
                self._devices.check,
                self._slots.check,
                lambda now: self._starts.tick(now, self._slots.loaded.is_set(), time.time()),
                self._mqtt.tick,
                self._watch.tick,
                box_watch.tick,
                self._upkeep_tick,
            ],
            _leave,
        )

    def start(self) -> None:
        """Start every thread. Raises PortInUse, before a model is compiled; `stop` is due even then."""
        self._store.start()
        self._alarms.start()
        self._alarms.hold("configuration_left_out", self._site.fault)
        self._recipes.start()
        self._devices.lanes("CPU")
        self._triggers.start()
        self._mqtt.start()
        self._outbox.start()
        self._slots.start()
        self._rollouts.start()
        self._beat.start()
        self._loop_beat = time.monotonic()
        self._watchdog.start()

    def stop(self) -> bool:
        """Close the doors first, the store last, so that what was taken is committed.

        Returns whether every native call has ended; while one runs, Python cannot end without a crash.
        """
        self.close_streams()
        self._watchdog.stop()
        self._beat.stop()
        self._triggers.stop()
        self._outbox.stop()
        self._mqtt.stop()
        self._rollouts.stop()
        self._outbox.settle()
        ended = [self._devices.stop(), self._slots.stop()]
        self._starts.settle(time.time())
        self._state.close()
        self._store.stop()
        return all(ended)

    def _beats(self) -> dict[str, Heartbeat]:
        return {
            "loop": lambda: self._loop_beat,
            "store": lambda: self._store.beat,
            "triggers": lambda: self._triggers.beat,
            "folders": lambda: self._cameras.beat,
            "rollouts": lambda: self._rollouts.beat,
            **self._mqtt.beats(),
            **self._outbox.beats(),
        }

    def _follow(self, config: Config) -> None:
        """A release's configuration came, or went: limits first, so that no new route is judged by old ones."""
        self._rules.use(config)
        self._recipes.follow(config.recipes)
        self._mqtt.follow(config.routes)
        self._alarms.hold("configuration_left_out", self._site.fault)

    def _announce(self, result: Result, body: bytes, trace: Trace | None) -> None:
        self._live.publish(Event(result, body, trace))
        self._mqtt.announce(result, body)
        self._outbox.wake()

    def _announce_update(self, at: float, content: Mapping[str, object]) -> None:
        self._mqtt.tell_update(
            msgspec.json.encode(
                {"schema": EVENT_SCHEMA, "event": "update", "at": at, "device": self.config.device, **content}
            )
        )

    def _commit_update(self, at: float, content: Mapping[str, object], done: Callable[[], None]) -> None:
        rows = self._outbox.desk.event("update", at, content)
        self._store.submit(Write(outbox=rows, must=True, awaited=False, done=when_added(done)))

    def _upkeep_tick(self, now: float) -> None:
        for kind, text in self._store.upkeep.concerns().items():
            self._alarms.hold(kind, text)
        if self._store.upkeep.damaged and os.environ.get("NOTIFY_SOCKET"):
            # Whoever watches this process starts it again, and the start puts the damaged file aside.
            _leave("the database is damaged")

    def close_streams(self) -> None:
        """End event streams, which would otherwise hold up a stop."""
        self._live.close()

    def _listener_failed(self, error: BaseException) -> None:
        log.error("listener_failed", exc_info=error)
        self._listener_fault = f"{type(error).__name__}: {error}"

    def _mqtt_report(self) -> MqttReport:
        listener, broker = ListenerReport("off"), BrokerReport("off")
        if self._mqtt.listener is not None:
            stats = self._mqtt.listener.stats()
            listener = ListenerReport(
                "listening" if self._listener_fault is None else "failed",
                "{}:{}".format(*self._mqtt.listener.address),
                stats.clients,
                stats.received,
                stats.acknowledged,
                self._mqtt.listener.files_fault,
            )
        if self._mqtt.broker is not None:
            status = self._mqtt.broker.status()
            broker = BrokerReport(
                "connected" if status.connected else "connecting",
                self._mqtt.broker.address,
                status.reason,
                status.received,
                status.shortcomings,
            )
        return MqttReport(listener, broker, self._mqtt.status(), self._mqtt.routes())

    async def beat_for_ever(self) -> None:
        """The HTTP loop's heartbeat. Once the models are there, the garbage collector need not look at them again."""
        gc.set_threshold(_COLLECT_EVERY)
        spared = False
        while True:
            self._loop_beat = time.monotonic()
            if not spared and self._slots.loaded.is_set():
                # What loading left behind must not stay for ever.
                gc.collect()
                gc.freeze()
                spared = True
            await asyncio.sleep(1.0)


class _Server(uvicorn.Server):
    """uvicorn, telling when it serves and ending event streams when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None], on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_exit = on_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own would raise the signal again when it is done, and end the process before the store is closed.
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        await super().shutdown(sockets)


def serve(config: Config, loaders: Loaders | None = None, on_started: Callable[[str], None] | None = None) -> None:
    """Run a box until SIGTERM or SIGINT. Raises ConfigError and PortInUse before anything is served.

    on_started: told the address of the page.
    """
    sys.setswitchinterval(_SWITCH_S)
    listening = _bind(config.http.host, config.http.port)
    try:
        box = Box(config, loaders)
    except ApplianceError:
        listening.close()
        raise
    host, port = listening.getsockname()[:2]
    address = f"http://{host}:{port}"

    def started() -> None:
        log.info("serving", address=address, data_dir=str(Path(config.data_dir).absolute()))
        notify("READY=1")
        if on_started is not None:
            on_started(address)

    server = _Server(
        uvicorn.Config(
            box.app,
            http=OneWriteProtocol,
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=5,
            # A device's clock may be anywhere; the header would tell a wrong time with authority.
            date_header=False,
            server_header=False,
        ),
        started,
        box.close_streams,
    )
    try:
        box.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(server, box, listening))
    finally:
        notify("STOPPING=1")
        listening.close()
        ended = box.stop()
        log.info("stopped")
        if not ended:
            os._exit(0)


async def _run(server: uvicorn.Server, box: Box, listening: socket.socket) -> None:
    beating = asyncio.create_task(box.beat_for_ever(), name="loop-beat")
    try:
        await server.serve([listening])
    finally:
        beating.cancel()


def _bind(host: str, port: int) -> socket.socket:
    check_address(host, "http.host")
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{host}:{port} is taken by another program; stop it, or choose a port with --port or http.port"
            ) from error
        raise ConfigError(f"http.host {host!r}, port {port}: {error.strerror}; choose another address") from error


def _lanes_of(device: str, config: Config, cores: int) -> tuple[int, float]:
    """How many jobs run at once on a device, and how long one may wait and run there."""
    timeout_s = config.lanes.timeout_s
    if device.startswith(ENDPOINT):
        endpoint = config.endpoints[device.removeprefix(ENDPOINT)]
        # It keeps its own limit; the lanes' is for what is left.
        return endpoint.lanes, endpoint.timeout_s + timeout_s
    return config.lanes.lanes or cores * _LANES_PER_CORE, timeout_s


def _leave(reason: str) -> None:
    log.error("giving_up", reason=reason)
    os._exit(EXIT_HUNG)
