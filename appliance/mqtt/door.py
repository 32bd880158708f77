"""The MQTT side put together: the listener, the site broker, their one intake, and what the box publishes.

Out: `appliance/<device>/results/<model>/<source>`, `.../deadletter`, and `.../status`, retained, with a beat and, at
the broker, a last will.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog

from appliance import hardware
from appliance.config import Config, RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Result
from appliance.errors import ModelNotFound
from appliance.mqtt.client import BrokerClient, broker_name
from appliance.mqtt.intake import Intake, IntakeStatus
from appliance.mqtt.listener import Listener
from appliance.mqtt.outbox import Outbox
from appliance.mqtt.poison import Suspects
from appliance.mqtt.receipts import Receipts
from appliance.mqtt.sessions import SavedSession, Subscription
from appliance.mqtt.streams import Streams
from appliance.pipeline import Pipeline
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
        self, config: Config, slots: Slots, pipeline: Pipeline, store: Store, on_fault: Callable[[BaseException], None]
    ) -> None:
        self._config = config
        self._slots = slots
        self._store = store
        self._routes = config.routes or default_routes(slots)
        suspects = Suspects(store)
        self._streams = Streams(pipeline, store, suspects, self._window_of, self._announce_letter)
        in_flight_max = max(config.listener.receive_max, config.broker.receive_max if config.broker else 0)
        self._receipts = Receipts(in_flight_max, store.receipts())
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
        sessions = {each.client_id: each for each in map(_SESSION.decode, store.sessions())}
        self.listener: Listener | None = None
        self.broker: BrokerClient | None = None
        self._outbox: Outbox | None = None
        self._beat = 0
        self._next_status = 0.0
        if config.broker is not None:
            self.broker = BrokerClient(
                config.broker,
                config.broker.client_id or config.device,
                [route.topic for route in self._routes],
                self.intake.deliver,
                (self._topic("status"), msgspec.json.encode(BoxStatus("offline"))),
                subscribed=_filters(sessions.pop(broker_name(config.broker), None)),
            )
            self._receipts.remember(self.broker.name)
            self.broker.on_new_session = self._broker_forgot
            self.broker.on_subscribed = self._save_subscriptions
            self.broker.on_connected = self._broker_connected
            self._outbox = Outbox(store, self.broker)
        if config.listener.enabled:
            for client in sessions:
                self._receipts.remember(client)
            self.listener = Listener(
                config.listener,
                self.intake.deliver,
                on_fault=on_fault,
                sessions=sessions.values(),
                save_session=self._save_session,
                reserved=self._reserved,
            )

    def start(self) -> None:
        """Rebuild the open windows, then open the ways in. Raises PortInUse, ConfigError."""
        self._streams.restore(self._store, {route.name: route for route in self._routes})
        self._streams.start()
        if self.listener is not None:
            self.listener.start()
        if self.broker is not None and self._outbox is not None:
            self.broker.start()
            self._outbox.start()

    def stop(self) -> None:
        """Say goodbye, then close the ways in."""
        self._publish(self._topic("status"), msgspec.json.encode(BoxStatus("offline")), retain=True)
        if self.broker is not None and self._outbox is not None:
            self._outbox.stop()
            self.broker.stop()
            self._outbox.settle()
        if self.listener is not None:
            self.listener.stop()
        self._streams.stop()

    def outgoing(self, result: Result, body: bytes) -> tuple[tuple[str, bytes], ...]:
        """The outbox rows that are committed with a result: one where there is a site broker."""
        return ((self._result_topic(result), body),) if self.broker is not None else ()

    def announce(self, result: Result, body: bytes) -> None:
        """A committed result: to the listener's subscribers at once, to the broker from the outbox."""
        # Waking the listener's thread for nobody would cost as much as writing the result.
        if self.listener is not None and self.listener.subscriptions:
            self.listener.publish(self._result_topic(result), body, qos=1, content_type="application/json")
        if self._outbox is not None:
            self._outbox.wake()

    def tick(self, now: float) -> None:
        """The retained status beats; called by the watchdog."""
        self.intake.tick(now)
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
        if self.broker is not None and self._outbox is not None:
            broker, outbox = self.broker, self._outbox
            beats["broker"] = lambda: broker.beat
            beats["outbox"] = lambda: outbox.beat
        return beats

    def status(self) -> IntakeStatus:
        return self.intake.status()

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
        self._store.submit(Write(session=(client, None), must=True))

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
        if self._outbox is not None:
            self._outbox.wake()

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
