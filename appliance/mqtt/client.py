"""The way in from a site broker: paho, MQTT 5, a session that survives restarts, acknowledgement by hand.

paho's acknowledgement knows neither connection nor session: one that comes late, after a reconnect, could reach the
broker before CONNECT or acknowledge another message with the same packet id. So each message remembers the epoch
(count of connections) that it came in, and its acknowledgement is sent under a lock, only while that epoch lasts.

Only the network thread writes to the socket: two threads that write at once would mix their packets, and one that
finds the connection broken would run the callbacks in the middle of an acknowledgement.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.config import BrokerConfig
from appliance.errors import ConfigError, Overloaded
from appliance.mqtt.message import Deliver, InboundMessage

log = structlog.get_logger("broker")

_FIRST_RETRY_S = 0.5
_STOP_S = 2.0
_IN_FLIGHT_MAX = 20
"""Publishes that wait for their PUBACK: what brokers commonly allow; paho does not look at what this one allows."""

_QUEUED_MAX = 1000
_REFUSED = 0x80
"""Reason codes of a SUBACK from here on are refusals."""


class BrokerStatus(msgspec.Struct, frozen=True):
    connected: bool
    reason: str | None
    received: int


class BrokerClient:
    """Owns the connection and paho's network thread. Raises ConfigError when the password file cannot be read.

    topics: filters to subscribe to. subscribed: those that the session at the broker had when it was last heard of.
    """

    beat: float | None
    """Monotonic time of the last turn of the network thread; None while it looks for the broker."""

    def __init__(
        self,
        config: BrokerConfig,
        client_id: str,
        topics: Iterable[str],
        deliver: Deliver,
        will: tuple[str, bytes],
        subscribed: Iterable[str] = (),
    ) -> None:
        self._config = config
        self._topics = set(topics)
        self._subscribed = set(subscribed)
        self._deliver = deliver
        self._lock = threading.Lock()
        self._epoch = 0
        self._connected = False
        self._resumed = False
        self._reason: str | None = "not connected yet"
        self._refused: str | None = None
        self._received = 0
        self._in_flight_max = _IN_FLIGHT_MAX
        self._stopping = threading.Event()
        self.on_sent: Callable[[int], None] = lambda _: None
        self.on_connected: Callable[[], None] = lambda: None
        self.on_new_session: Callable[[], None] = lambda: None
        self.on_subscribed: Callable[[list[str]], None] = lambda _: None
        self._paho = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self._paho.max_queued_messages_set(_QUEUED_MAX)
        self._paho.will_set(*will, qos=1, retain=True)
        if config.username is not None:
            self._paho.username_pw_set(config.username, _password(config.password_file))
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        # With this callback paho leaves writing to whoever calls `loop`, which its own socket pair wakes up.
        self._paho.on_socket_register_write = lambda _client, _data, _socket: None
        self._thread = threading.Thread(target=self._run, name="mqtt-broker", daemon=True)
        self.beat = None

    @property
    def name(self) -> str:
        """The `client` of messages that came this way."""
        return broker_name(self._config)

    @property
    def address(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what was published, say goodbye, join the thread."""
        self._stopping.set()
        self._paho.disconnect()
        if self._thread.is_alive():
            self._thread.join(2 * _STOP_S)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Send at QoS 1 while connected; returns the id that `on_sent` reports, None when it was not taken.

        What was taken is sent again by itself after a lost connection, for as long as this process lives.
        """
        if not self._connected:
            return None
        info = self._paho.publish(topic, payload, qos=1, retain=retain)
        return info.mid if info.rc in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN) else None

    def status(self) -> BrokerStatus:
        return BrokerStatus(self._connected, self._reason or self._refused, self._received)

    def _run(self) -> None:
        """Connect, and again for as long as the box runs; a pause with jitter keeps boxes from coming all at once."""
        pause_s = _FIRST_RETRY_S
        while not self._stopping.is_set():
            began = self._epoch
            try:
                self._connect()
                self._talk()
            except (OSError, ValueError) as error:
                self._reason = str(error)
            except Overloaded as error:
                self._reason = str(error)
                log.warning("broker_paused", address=self.address, reason=self._reason)
            except Exception as error:
                # Whatever a broker sends, this thread must live on: without it the box hears nothing.
                log.exception("network_thread")
                self._reason = f"{type(error).__name__}: {error}"
            self._lost()
            if self._epoch != began:
                pause_s = _FIRST_RETRY_S
            self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, self._config.reconnect_s_max)

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._config.session_expiry_s
        properties.ReceiveMaximum = self._config.receive_max
        if self._paho.max_inflight_messages != self._in_flight_max:
            self._paho.max_inflight_messages_set(self._in_flight_max)
        self._paho.connect(
            self._config.host,
            self._config.port,
            keepalive=self._config.keep_alive_s,
            clean_start=False,
            properties=properties,
        )

    def _talk(self) -> None:
        """Until the connection ends, or a stop has had time to send what waits."""
        stop_at: float | None = None
        while self._paho.loop(timeout=1.0 if stop_at is None else 0.1) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.beat = time.monotonic()
            if self._stopping.is_set():
                stop_at = stop_at or self.beat + _STOP_S
                if self.beat > stop_at:
                    return

    def _lost(self) -> None:
        with self._lock:
            self._connected = False
        self.beat = None
        if self._reason is None:
            self._reason = "the connection was lost"

    def _on_connect(
        self, client: Client, _data: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._reason = str(reason)
            log.warning("broker_refused", address=self.address, reason=self._reason)
            return
        self._in_flight_max = min(_IN_FLIGHT_MAX, getattr(properties, "ReceiveMaximum", _IN_FLIGHT_MAX))
        if not flags.session_present:
            self._subscribed = set()
            self.on_new_session()
        with self._lock:
            self._epoch += 1
            self._connected = True
            self._resumed = flags.session_present
            self._reason = None
        log.info("broker_connected", address=self.address, session_present=flags.session_present)
        if dropped := sorted(self._subscribed - self._topics):
            client.unsubscribe(dropped)
        # A filter that the session has already is left alone: to subscribe again would bring what is retained again.
        if added := sorted(self._topics - self._subscribed):
            client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in added])
        elif dropped:
            self._subscriptions_changed()
        self.on_connected()

    def _on_publish(
        self, _client: Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        """Under paho's lock. What the broker refuses is not sent again: it would be refused again."""
        refused = f"the broker refuses what this box publishes: {reason}" if reason.is_failure else None
        if refused is not None and refused != self._refused:
            log.error("publish_refused", address=self.address, reason=str(reason))
        self._refused = refused
        self.on_sent(mid)

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        """There is one SUBSCRIBE in a connection at most, and its filters were sorted."""
        added = sorted(self._topics - self._subscribed)
        refused = [topic for topic, reason in zip(added, reasons, strict=False) if reason.value >= _REFUSED]
        if refused:
            self._reason = f"the broker refused to subscribe to {', '.join(refused)}; give this user the right to"
            log.error("subscription_refused", address=self.address, topics=refused)
            return
        self._subscriptions_changed()

    def _subscriptions_changed(self) -> None:
        self._subscribed = set(self._topics)
        self.on_subscribed(sorted(self._topics))

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        with self._lock:
            was_connected, self._connected = self._connected, False
        if was_connected and not self._stopping.is_set():
            # Otherwise the refusal of the connection is known, and says more.
            self._reason = str(reason)
            log.warning("broker_lost", address=self.address, reason=self._reason)

    def _on_message(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        self._received += 1
        epoch, mid, qos = self._epoch, message.mid, message.qos

        def ack() -> None:
            if qos == 0:
                return
            with self._lock:
                if self._connected and self._epoch == epoch:
                    client.ack(mid, qos)

        properties = message.properties
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ascii(bytes(message._topic))[2:-1]
        self._deliver(
            InboundMessage(
                client=self.name,
                topic=topic,
                payload=bytes(message.payload),
                qos=qos,
                retain=message.retain,
                duplicate=message.dup,
                packet_id=mid if qos else None,
                session_resumed=self._resumed,
                content_type=getattr(properties, "ContentType", None),
                user_properties=tuple(getattr(properties, "UserProperty", ())),
            ),
            ack,
        )


def broker_name(config: BrokerConfig) -> str:
    return f"broker {config.host}:{config.port}"


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"broker.password_file {path}: {error.strerror}; give a readable file") from error
