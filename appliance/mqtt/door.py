"""The MQTT side put together: the listener, the site broker, their one intake, and what the box publishes.

Out: `appliance/<device>/results/<model>/<source>`, `.../deadletter`, `.../alarms` and `.../updates`, retained, and
`.../status`, retained, with a beat and, at the broker, a last will. What it says for PLCs is in `plc.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from appliance import hardware
from appliance.config import Config, RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Result
from appliance.core.route_report import RouteReport
from appliance.errors import ModelNotFound
from appliance.mqtt.client import BrokerClient, broker_name, in_flight_max
from appliance.mqtt.commands import Command, Commands
from appliance.mqtt.intake import Intake, IntakeStatus
from appliance.mqtt.listener import Listener
from appliance.mqtt.plc import ForPlcs
from appliance.mqtt.poison import Suspects
from appliance.mqtt.receipts import Receipts
from appliance.mqtt.releases import Releases
from appliance.mqtt.route_reports import route_reports
from appliance.mqtt.sessions import SavedSession, Subscription
from appliance.mqtt.streams import Streams
from appliance.mqtt.topics import matches
from appliance.pipeline import Pipeline
from appliance.plant.cameras import Cameras
from appliance.plant.triggers import Triggers
from appliance.slots import Slots
from appliance.store import Store
from appliance.watchdog import Beat
from appliance.writes import DeadLetter, Write

log = structlog.get_logger("mqtt")

PREFIX = "appliance"
STATUS_EVERY_S = 10.0

_SESSION = msgspec.json.Decoder(SavedSession)


class BoxStatus(msgspec.Struct, frozen=True):
    """The retained status: `online` with a counter that grows at every beat, or `offline` (the last will)."""

    state: str
    beat: int = 0
    at: float | None = None


class MqttDoor:
    """on_fault: told when the listener's thread ended without being asked to."""

    def __init__(
        self,
        config: Config,
        slots: Slots,
        pipeline: Pipeline,
        store: Store,
        triggers: Triggers,
        cameras: Cameras,
        commands: Mapping[str, Command],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._slots = slots
        self._store = store
        self._routes: tuple[RouteConfig, ...] = config.routes or default_routes(slots)
        suspects = Suspects(store)
        self._streams = Streams(pipeline, store, suspects, self._window_of, self._announce_letter)
        windows = {} if config.broker is None else {broker_name(config.broker): in_flight_max(config.broker)}
        store.keep_receipts(
            max(config.listener.receive_max, *windows.values()) if windows else config.listener.receive_max
        )
        self._receipts = Receipts(config.listener.receive_max, store.receipts(), windows)
        self.intake = Intake(
            self._routes,
            slots,
            pipeline,
            store,
            self._streams,
            self._receipts,
            suspects,
            at_once=2 * (config.lanes.lanes or hardware.cores()),
            announce_letter=self._announce_letter,
        )
        self.commands = Commands(
            f"{PREFIX}/{config.device}",
            triggers,
            cameras,
            commands,
            self._receipts,
            store,
            deliver=self.intake.deliver,
            deliver_plain=self.intake.deliver_plain,
            takes=self._takes,
            own=lambda topic: topic.startswith(f"{PREFIX}/") or self._takes(topic),
            heard=pipeline.heard,
            keepable=pipeline.keepable,
            broker=None if config.broker is None else broker_name(config.broker),
            reply=lambda topic, body, where: self.for_plcs.reply(topic, body, where),
            announce_letter=self._announce_letter,
            outgoing_letter=pipeline.letter_rows,
        )
        sessions = {each.client_id: each for each in map(_SESSION.decode, store.sessions())}
        self.listener: Listener | None = None
        self.broker: BrokerClient | None = None
        self.on_broker: Callable[[], None] = lambda: None
        """The site broker is there again."""
        self._beat = 0
        self._next_status = 0.0
        self._started = time.monotonic()
        self.alarms: Callable[[], bytes] = lambda: b'{"at":0,"alarms":[]}'
        self._alarms_due = True
        if config.broker is not None:
            self.broker = BrokerClient(
                config.broker,
                config.broker.client_id or config.device,
                self._subscriptions(),
                self.commands.deliver,
                (self._topic("status"), msgspec.json.encode(BoxStatus("offline"))),
                subscribed=_filters(sessions.pop(broker_name(config.broker), None)),
                ignored=self._said_by_a_box,
                deliver_plain=self.commands.deliver_plain,
            )
            self._receipts.remember(self.broker.name)
            self.broker.on_new_session = self._broker_forgot
            self.broker.on_subscribed = self._save_subscriptions
            self.broker.on_connected = self._broker_connected
        if config.listener.enabled:
            for client in sessions:
                self._receipts.remember(client)
            releases = Releases(store, self._receipts)
            self.listener = Listener(
                config.listener,
                self.commands.deliver,
                deliver_plain=self.commands.deliver_plain,
                on_fault=on_fault,
                sessions=sessions.values(),
                save_session=self._save_session,
                unreleased=releases.load(),
                keep_ids=releases,
                reserved=self._reserved,
            )
        self.for_plcs = ForPlcs(f"{PREFIX}/{config.device}", self._routes, self.listener, self.broker)

    def start(self) -> None:
        """Rebuild the open windows, then open the ways in. Raises PortInUse, ConfigError."""
        self._streams.restore(self._store, {route.name: route for route in self._routes})
        self._streams.start()
        if self.listener is not None:
            self.listener.start()
        if self.broker is not None:
            self.broker.start()

    def stop(self) -> None:
        """Say goodbye, then close the ways in."""
        self._publish(self._topic("status"), msgspec.json.encode(BoxStatus("offline")), retain=True)
        if self.broker is not None:
            self.broker.stop()
        if self.listener is not None:
            self.listener.stop()
        self._streams.stop()

    def follow(self, routes: tuple[RouteConfig, ...]) -> None:
        """From now on these routes, as of the configuration. What came before is judged to its end as it was taken."""
        self._routes = routes or default_routes(self._slots)
        self.for_plcs.follow(self._routes)
        self._streams.follow({route.name: route for route in self._routes})
        self.intake.follow(self._routes)
        if self.broker is not None:
            self.broker.follow(self._subscriptions())

    def announce(self, result: Result, body: bytes) -> None:
        """A committed result: to the listener's subscribers. The broker gets it from the outbox."""
        # Waking the listener's thread for nobody would cost as much as writing the result.
        if self.listener is not None and self.listener.subscriptions:
            self.listener.publish(self._result_topic(result), body, qos=1, content_type="application/json")
        self.for_plcs.result(result)

    def tell_update(self, body: bytes) -> None:
        """The last step of an update, kept for whoever subscribes later."""
        self._publish(self._topic("updates"), body, retain=True)

    def alarms_changed(self) -> None:
        """The next tick publishes what `alarms` gives: one thread alone, so that no older list comes last."""
        self._alarms_due = True

    def broker_trouble(self) -> str | None:
        """What is wrong with the connection to the site broker, if there is to be one."""
        if self.broker is None or (status := self.broker.status()).connected:
            return None
        return (
            f"No connection to the broker {self.broker.address}: {status.reason}; results wait here until it answers, "
            "check the broker and the network"
        )

    def tick(self, now: float) -> None:
        """The retained status beats; called by the watchdog."""
        self.intake.tick(now)
        if self._alarms_due:
            self._alarms_due = False
            self._publish(self._topic("alarms"), self.alarms(), retain=True)
        if now >= self._next_status:
            self._next_status = now + STATUS_EVERY_S
            self._beat += 1
            status = BoxStatus("online", self._beat, time.time())
            self._publish(self._topic("status"), msgspec.json.encode(status), retain=True)

    def beats(self) -> dict[str, Beat]:
        """Heartbeats of the threads."""
        beats: dict[str, Beat] = {"windows": lambda: self._streams.beat}
        if self.listener is not None:
            listener = self.listener
            beats["listener"] = lambda: listener.beat
        if self.broker is not None:
            broker = self.broker
            beats["broker"] = lambda: broker.beat
        return beats

    def status(self) -> IntakeStatus:
        return self.intake.status()

    def routes(self) -> list[RouteReport]:
        """What came on each route, and what became of its readings."""
        running_s = time.monotonic() - self._started
        kept_hours = self._config.store.readings_hours
        return route_reports(self._routes, self._slots, self._streams.counts(), kept_hours, running_s)

    def _window_of(self, route: RouteConfig) -> WindowPreprocess:
        steps = self._slots.manifest(route.model).preprocess
        if not isinstance(steps, WindowPreprocess):
            raise ModelNotFound(f"model {route.model} of route {route.name} takes no windows")
        return steps

    def _announce_letter(self, letter: DeadLetter) -> None:
        body = msgspec.json.encode(
            {
                "at": letter.at,
                "topic": letter.topic,
                "client": letter.client,
                "code": letter.code,
                "reason": letter.reason,
                "bytes": len(letter.payload),
            }
        )
        self._publish(self._topic("deadletter"), body)

    def _publish(self, topic: str, body: bytes, *, retain: bool = False) -> None:
        if self.listener is not None:
            self.listener.publish(topic, body, qos=1, retain=retain, content_type="application/json")
        if self.broker is not None:
            self.broker.publish(topic, body, retain=retain)

    def _save_session(self, session: SavedSession) -> None:
        if session.expires_at == 0:
            self._forget(session.client_id)
            return
        self._receipts.remember(session.client_id)
        self._store.submit(Write(session=(session.client_id, msgspec.json.encode(session)), must=True))

    def _forget(self, client: str) -> None:
        """The session is over: what was noted of its packet ids would only confuse the next one."""
        self._receipts.forget(client)
        forgotten = ("DELETE FROM unreleased WHERE client = ?", (client,))
        self._store.submit(Write(session=(client, None), also=(forgotten,), must=True))

    def _broker_forgot(self) -> None:
        assert self.broker is not None
        self._forget(self.broker.name)
        self._receipts.remember(self.broker.name)

    def _save_subscriptions(self, filters: list[str]) -> None:
        """What the broker's session is subscribed to, kept in the form of the listener's own sessions."""
        assert self.broker is not None
        subscriptions = tuple(Subscription(topic_filter=each, qos=1) for each in filters)
        saved = SavedSession(
            client_id=self.broker.name, version=5, subscriptions=subscriptions, expiry_s=0, expires_at=None
        )
        self._store.submit(Write(session=(saved.client_id, msgspec.json.encode(saved)), must=True))

    def _broker_connected(self) -> None:
        """In the network thread: the last will may have announced the box as offline."""
        self._next_status = 0.0
        self._alarms_due = True
        self.on_broker()

    def _subscriptions(self) -> list[str]:
        return [*(route.subscription for route in self._routes), *self.commands.topics]

    def _takes(self, topic: str) -> bool:
        """Whether a route takes a topic."""
        return any(matches(route.topic, topic) for route in self._routes)

    def _said_by_a_box(self, topic: str) -> bool:
        """At the broker a route with `#` at its head gets what boxes say: dead letters would come of dead letters."""
        named = any(route.topic.startswith(f"{PREFIX}/") for route in self._routes)
        return self._reserved(topic) and (not named or topic.startswith(f"{PREFIX}/{self._config.device}/"))

    def _reserved(self, topic: str) -> bool:
        """Topics on which only the box may speak: nobody forges a result."""
        return topic.startswith(f"{PREFIX}/") and not topic.startswith(f"{PREFIX}/{self._config.device}/cmd/")

    def _topic(self, name: str) -> str:
        return f"{PREFIX}/{self._config.device}/{name}"

    def _result_topic(self, result: Result) -> str:
        return f"{PREFIX}/{self._config.device}/results/{result.model}/{result.source}"


def _filters(session: SavedSession | None) -> list[str]:
    return [] if session is None else [each.topic_filter for each in session.subscriptions]


def default_routes(slots: Slots) -> tuple[RouteConfig, ...]:
    """Without routes in the configuration, each model listens on `in/<model>/<source>`."""
    return tuple(RouteConfig(name=slot.name, topic=f"in/{slot.name}/+", model=slot.name) for slot in slots.slots())
