"""The way in from a site broker: paho, MQTT 5, a session that survives restarts, acknowledgement by hand.

paho's acknowledgement knows neither connection nor session: one that comes late, after a reconnect, could reach the
broker before CONNECT or acknowledge another message with the same packet id. So each message remembers the epoch
(count of connections) that it came in, and its acknowledgement is sent under a lock, only while that epoch lasts.
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
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.config import BrokerConfig
from appliance.errors import ConfigError
from appliance.mqtt.message import Deliver, InboundMessage

log = structlog.get_logger("broker")

CLIENT = "broker"
"""The `client` of messages that came this way."""

_FIRST_RETRY_S = 0.5


class BrokerStatus(msgspec.Struct, frozen=True):
    connected: bool
    reason: str | None
    received: int


class BrokerClient:
    """Owns the connection and paho's network thread. Raises ConfigError when the password file cannot be read."""

    def __init__(
        self, config: BrokerConfig, client_id: str, topics: Iterable[str], deliver: Deliver, will: tuple[str, bytes]
    ) -> None:
        self._config = config
        self._topics = sorted(set(topics))
        self._deliver = deliver
        self._lock = threading.Lock()
        self._epoch = 0
        self._connected = False
        self._resumed = False
        self._reason: str | None = "not connected yet"
        self._received = 0
        self._stopping = threading.Event()
        self.on_sent: Callable[[int], None] = lambda _: None
        self.on_connected: Callable[[], None] = lambda: None
        self._paho = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self._paho.max_inflight_messages_set(100)
        self._paho.will_set(*will, qos=1, retain=True)
        if config.username is not None:
            self._paho.username_pw_set(config.username, _password(config.password_file))
        self._paho.on_connect = self._on_connect
        self._paho.on_connect_fail = self._on_connect_fail
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_message = self._on_message
        self._paho.on_publish = lambda _client, _data, mid, _reason, _properties: self.on_sent(mid)
        self._thread = threading.Thread(target=self._run, name="mqtt-broker", daemon=True)
        self.beat = time.monotonic()

    @property
    def address(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._paho.disconnect()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Send at QoS 1 while connected; returns the id that `on_sent` reports, None when it was not taken."""
        if not self._connected:
            return None
        info = self._paho.publish(topic, payload, qos=1, retain=retain)
        return info.mid if info.rc == 0 else None

    def status(self) -> BrokerStatus:
        return BrokerStatus(self._connected, self._reason, self._received)

    def _run(self) -> None:
        """Connect, and again for as long as the box runs; a pause with jitter keeps boxes from coming all at once."""
        pause_s = _FIRST_RETRY_S
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connect.SessionExpiryInterval = self._config.session_expiry_s
        connect.ReceiveMaximum = self._config.receive_max
        while not self._stopping.is_set():
            self.beat = time.monotonic()
            began = self._epoch
            try:
                self._paho.connect(
                    self._config.host,
                    self._config.port,
                    keepalive=self._config.keep_alive_s,
                    clean_start=False,
                    properties=connect,
                )
                while not self._stopping.is_set() and self._paho.loop(timeout=1.0) == 0:
                    self.beat = time.monotonic()
            except (OSError, ValueError) as error:
                self._reason = str(error)
            except Exception as error:
                # Whatever a broker sends, this thread must live on: without it the box hears nothing.
                log.exception("network_thread")
                self._reason = f"{type(error).__name__}: {error}"
            self._lost()
            if self._epoch != began:
                pause_s = _FIRST_RETRY_S
            self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, self._config.reconnect_s_max)

    def _lost(self) -> None:
        with self._lock:
            self._connected = False
        if self._reason is None:
            self._reason = "the connection was lost"

    def _on_connect(
        self, _client: Client, _data: Any, flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._reason = str(reason)
            log.warning("broker_refused", address=self.address, reason=self._reason)
            return
        with self._lock:
            self._epoch += 1
            self._connected = True
            self._resumed = flags.session_present
            self._reason = None
        log.info("broker_connected", address=self.address, session_present=flags.session_present)
        if not flags.session_present and self._topics:
            self._paho.subscribe([(topic, SubscribeOptions(qos=1)) for topic in self._topics])
        self.on_connected()

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._reason = "the broker did not answer"

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        with self._lock:
            self._connected = False
        self._reason = str(reason)
        if not self._stopping.is_set():
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
                client=CLIENT,
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


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"broker.password_file {path}: {error.strerror}; give a readable file") from error
