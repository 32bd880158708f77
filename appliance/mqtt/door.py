"""The MQTT side put together: the listener, the site broker, their one intake, and what the box publishes.

Out: `appliance/<device>/results/<model>/<source>`, `.../deadletter`, and `.../status`, retained, with a beat and, at
the broker, a last will.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog

from appliance.config import Config, RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Result
from appliance.errors import ModelNotFound
from appliance.mqtt.client import BrokerClient
from appliance.mqtt.intake import Intake, IntakeStatus
from appliance.mqtt.listener import Listener
from appliance.mqtt.outbox import Outbox
from appliance.mqtt.sessions import SavedSession
from appliance.mqtt.streams import Streams
from appliance.pipeline import Pipeline
from appliance.slots import Slots
from appliance.store import DeadLetter, Store, Write
from appliance.watchdog import Beat

log = structlog.get_logger("mqtt")

PREFIX = "appliance"
STATUS_EVERY_S = 10.0


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
        self._streams = Streams(pipeline, store, self._window_of, self._announce_letter)
        self.intake = Intake(
            self._routes,
            slots,
            pipeline,
            store,
            self._streams,
            at_once=2 * (config.lanes.lanes or 2),
            in_flight_max=max(config.listener.receive_max, config.broker.receive_max if config.broker else 0),
            announce_letter=self._announce_letter,
        )
        self.listener: Listener | None = None
        self.broker: BrokerClient | None = None
        self._outbox: Outbox | None = None
        self._beat = 0
        self._next_status = 0.0
        if config.listener.enabled:
            self.listener = Listener(
                config.listener,
                self.intake.deliver,
                on_fault=on_fault,
                sessions=[msgspec.json.decode(body, type=SavedSession) for body in store.sessions()],
                save_session=self._save_session,
                reserved=self._reserved,
            )
        if config.broker is not None:
            offline = msgspec.json.encode(BoxStatus("offline"))
            self.broker = BrokerClient(
                config.broker,
                config.broker.client_id or config.device,
                [route.topic for route in self._routes],
                self.intake.deliver,
                (self._topic("status"), offline),
            )
            self._outbox = Outbox(store, self.broker)

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
        if self.listener is not None:
            self.listener.stop()
        self._streams.stop()

    def outgoing(self, result: Result, body: bytes) -> tuple[tuple[str, bytes], ...]:
        """The outbox rows that are committed with a result: one where there is a site broker."""
        return ((self._result_topic(result), body),) if self.broker is not None else ()

    def announce(self, result: Result, body: bytes) -> None:
        """A committed result: to the listener's subscribers at once, to the broker from the outbox."""
        if self.listener is not None:
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
        body = None if session.expires_at == 0 else msgspec.json.encode(session)
        self._store.submit(Write(session=(session.client_id, body), must=True))

    def _reserved(self, topic: str) -> bool:
        """Topics on which only the box may speak: nobody forges a result."""
        return topic.startswith(f"{PREFIX}/") and not topic.startswith(f"{PREFIX}/{self._config.device}/cmd/")

    def _topic(self, name: str) -> str:
        return f"{PREFIX}/{self._config.device}/{name}"

    def _result_topic(self, result: Result) -> str:
        return f"{PREFIX}/{self._config.device}/results/{result.model}/{result.source}"


def default_routes(slots: Slots) -> tuple[RouteConfig, ...]:
    """Without routes in the configuration, each model listens on `in/<model>/<source>`."""
    return tuple(RouteConfig(name=slot.name, topic=f"in/{slot.name}/+", model=slot.name) for slot in slots.slots())
