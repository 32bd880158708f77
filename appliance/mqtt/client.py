"""The way in from a site broker: paho, MQTT 5 or 3.1.1, a session that survives restarts, acknowledgement by hand.

paho's acknowledgement knows neither connection nor session: one that comes late, after a reconnect, could reach the
broker before CONNECT or acknowledge another message with the same packet id. So each message remembers the epoch
(count of connections) that it came in, and its acknowledgement is sent only while that epoch lasts.

Only the network thread writes to the socket, and it alone knows the epoch: others leave their acknowledgements with it.

Where filters overlap, a broker may send a message once for each that matches. An identifier for each of those
subscriptions tells which copy is for which; the others go without, as the packets are shorter and read faster.
"""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from itertools import combinations
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
from appliance.mqtt import plain
from appliance.mqtt.broker_tls import broker_context, why
from appliance.mqtt.buffered import BufferedClient
from appliance.mqtt.message import Acknowledge, Deliver, DeliverPlain, InboundMessage
from appliance.mqtt.network import Ack, Network
from appliance.mqtt.terms import Terms, advice, shortcomings, terms_of
from appliance.mqtt.topics import overlap, shared_filter

log = structlog.get_logger("broker")

_FIRST_RETRY_S = 0.5
_STOP_S = 2.0
_IN_FLIGHT_MAX = 100
"""Publishes that wait for their PUBACK, where the broker allows as many; paho does not look at what it allows."""

_IN_FLIGHT_UNSAID = 20
"""What brokers commonly allow without saying so."""

_QUEUED_MAX = 1000
_REFUSED = 0x80
"""Reason codes of a SUBACK from here on are refusals."""

NO_SUCH_VERSION = 0x84
_PLAIN_AT_ONCE = 500
_PLAIN_TOPICS_MAX = 10_000
_IDENTIFIERS = 0x0FFF_FFFF
"""The largest subscription identifier."""


class BrokerStatus(msgspec.Struct, frozen=True):
    """reason: why it is not connected, or what the broker refuses. shortcomings: of what it grants."""

    connected: bool
    reason: str | None
    received: int
    shortcomings: tuple[str, ...] = ()
    version: int = 5


class BrokerClient:
    """Owns the connection and paho's network thread. Raises ConfigError when a file it needs cannot be used.

    topics: filters to subscribe to. subscribed: those that the session at the broker had when it was last heard of.
    ignored: topics whose messages are acknowledged and no more.
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
        ignored: Callable[[str], bool] = lambda _: False,
        deliver_plain: DeliverPlain | None = None,
    ) -> None:
        self._config = config
        self._topics = set(topics)
        self._wanted = self._topics
        self._terms = Terms()
        self._identifiers = identifiers_of(self._topics)
        self._subscribed = set(subscribed)
        self._awaited: dict[int, str] = {}
        self._ignored = ignored
        self._deliver = deliver
        self._deliver_plain = deliver_plain
        self._plain_topics: dict[bytes, str] = {}
        self._epoch = 0
        self._connected = False
        self._resumed = False
        self._reason: str | None = "not connected yet"
        self._turned_away = False
        self._refused: str | None = None
        self._received = 0
        self._version = 5
        self._shortcomings: tuple[str, ...] = ()
        self._in_flight_max = _IN_FLIGHT_UNSAID
        self._identified = False
        self._stopping = threading.Event()
        self.on_sent: Callable[[int, int], None] = lambda _mid, _reason: None
        self.on_connected: Callable[[], None] = lambda: None
        self.on_new_session: Callable[[], None] = lambda: None
        self.on_subscribed: Callable[[list[str]], None] = lambda _: None
        # Without the last option paho goes on from 3.1.1 to 3.1 by itself, where no session is told from a new one.
        self._paho = BufferedClient(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        context = broker_context(config)
        if context is not None:
            self._paho.tls_set_context(context)
        self._paho.max_queued_messages_set(_QUEUED_MAX)
        self._paho.will_set(*will, qos=1, retain=True)
        if config.username is not None:
            self._paho.username_pw_set(config.username, broker_password(config.password_file))
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        self._network = Network(self._paho, self._take_plain, lambda: self._epoch if self._connected else None)
        # With this callback paho leaves writing to the network's turns.
        self._paho.on_socket_register_write = lambda _client, _data, _socket: self._network.wake()
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

    def follow(self, topics: Iterable[str]) -> None:
        """From now on these filters; from any thread."""
        self._wanted = set(topics)
        self._network.wake()

    def stop(self) -> None:
        """Send what was published, say goodbye, join the thread."""
        self._stopping.set()
        self._paho.disconnect()
        self._network.wake()
        if self._thread.is_alive():
            self._thread.join(2 * _STOP_S)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str | None = None,
        correlation_data: bytes | None = None,
        user: tuple[tuple[str, str], ...] = (),
    ) -> int | None:
        """Send while connected; returns the id that `on_sent` reports with the reason code of the PUBACK, None when it
        was not taken. user: properties, which a broker that knows 3.1.1 only does not get.

        What was taken is sent again by itself after a lost connection, for as long as this process lives.
        """
        if not self._connected:
            return None
        properties: Properties | None = None
        if self._version == 5 and (content_type is not None or correlation_data is not None or user):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if content_type is not None:
                properties.ContentType = content_type
            if correlation_data is not None:
                properties.CorrelationData = correlation_data
            if user:
                properties.UserProperty = list(user)
        info = self._paho.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        self._network.wake()
        return info.mid if info.rc in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN) else None

    def status(self) -> BrokerStatus:
        return BrokerStatus(
            self._connected, self._reason or self._refused, self._received, self._shortcomings, self._version
        )

    def _run(self) -> None:
        """Connect, and again for as long as the box runs; a pause with jitter keeps boxes from coming all at once."""
        first_s = pause_s = min(_FIRST_RETRY_S, self._config.reconnect_s_max)
        while not self._stopping.is_set():
            began = self._epoch
            self._turned_away = False
            try:
                self._connect()
                self._talk()
                if self._epoch == began and not self._turned_away:
                    self._reason = "it ended the connection before it answered; check broker.port, tls and cert_file"
            except (OSError, ValueError) as error:
                self._reason = why(error)
            except Overloaded as error:
                self._reason = str(error)
                log.warning("broker_paused", address=self.address, reason=self._reason)
            except Exception as error:
                # Whatever a broker sends, this thread must live on: without it the box hears nothing.
                log.exception("network_thread")
                self._reason = f"{type(error).__name__}: {error}"
            self._lost()
            if self._epoch != began:
                pause_s = first_s
            self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, self._config.reconnect_s_max)

    def _connect(self) -> None:
        config = self._config
        # Its setter refuses for as long as paho has not noticed that the last connection is gone.
        self._paho._max_inflight_messages = self._in_flight_max
        if self._version < 5:
            self._paho.connect(config.host, config.port, config.keep_alive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = config.session_expiry_s
        properties.ReceiveMaximum = config.receive_max
        self._paho.connect(config.host, config.port, config.keep_alive_s, clean_start=False, properties=properties)

    def _speak_older(self) -> None:
        """MQTT 3.1.1 from now on, with the same client: what it has in flight keeps its packet ids."""
        self._version = 4
        self._paho._protocol = MQTTProtocolVersion.MQTTv311
        self._paho._clean_session = False
        log.warning("broker_speaks_older", address=self.address, version="3.1.1")

    def _talk(self) -> None:
        """Until the connection ends, or a stop has had time to send what waits."""
        stop_at: float | None = None
        while self._network.turn(1.0 if stop_at is None else 0.1):
            self.beat = time.monotonic()
            if self._wanted is not self._topics and self._connected:
                self._follow()
            if self._stopping.is_set():
                stop_at = stop_at or self.beat + _STOP_S
                if self.beat > stop_at:
                    return

    def _lost(self) -> None:
        self._connected = False
        self.beat = None
        if self._reason is None:
            self._reason = "the connection was lost"

    def _on_connect(
        self, client: Client, _data: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._turned_away = True
            self._reason = str(reason)
            if reason.value == NO_SUCH_VERSION and self._version == 5:
                self._speak_older()
            else:
                log.warning("broker_refused", address=self.address, reason=self._reason)
            return
        self._terms = terms_of(properties) if self._version == 5 else Terms(version=4, in_flight_max=_IN_FLIGHT_UNSAID)
        self._take_wanted()
        self._note_terms(self._terms)
        if not flags.session_present:
            self._subscribed = set()
            self.on_new_session()
        self._epoch += 1
        self._connected = True
        self._resumed = flags.session_present
        self._reason = None
        log.info("broker_connected", address=self.address, session_present=flags.session_present)
        self._awaited = {}
        self._subscribe_all(client)
        self.on_connected()

    def _follow(self) -> None:
        """In the network thread, while it is connected."""
        before = self._identifiers
        self._take_wanted()
        self._note_terms(self._terms)
        for topic in sorted(self._topics & self._subscribed):
            if self._identified and before.get(topic) != self._identifiers.get(topic):
                self._subscribe(self._paho, topic, again=True)
        self._subscribe_all(self._paho)

    def _take_wanted(self) -> None:
        self._topics = self._wanted
        self._identifiers = identifiers_of(self._topics)

    def _subscribe_all(self, client: Client) -> None:
        if dropped := sorted(self._subscribed - self._topics):
            client.unsubscribe(dropped)
            self._subscribed &= self._topics
        # A filter that the session has already is left alone: to subscribe again would bring what is retained again.
        for topic in sorted(self._topics - self._subscribed):
            self._subscribe(client, topic)
        if dropped and not self._awaited:
            self.on_subscribed(sorted(self._subscribed))

    def _note_terms(self, terms: Terms) -> None:
        self._in_flight_max = min(_IN_FLIGHT_MAX, terms.in_flight_max)
        sharing = any(shared_filter(topic) for topic in self._topics)
        self._shortcomings = shortcomings(terms, self._config, sharing=sharing, overlapping=bool(self._identifiers))
        self._identified = terms.identifiers and terms.version == 5
        for shortcoming in self._shortcomings:
            log.warning("broker_falls_short", address=self.address, reason=shortcoming)
        if (advised := advice(terms)) is not None:
            log.info("broker_terms", address=self.address, advice=advised)

    def _subscribe(self, client: Client, topic: str, *, again: bool = False) -> None:
        """One SUBSCRIBE for each filter: an identifier is for all in a packet. again: without what is retained."""
        if self._version < 5:
            _, mid = client.subscribe(topic, qos=1)
        else:
            properties = None
            if self._identified and topic in self._identifiers:
                properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
                properties.SubscriptionIdentifier = self._identifiers[topic]
            handling = SubscribeOptions.RETAIN_DO_NOT_SEND if again else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
            options = SubscribeOptions(qos=1, retainHandling=handling)
            _, mid = client.subscribe(topic, options=options, properties=properties)
        if mid is not None:
            self._awaited[mid] = topic

    def _on_publish(
        self, _client: Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        """Under paho's lock. What the broker refuses is not sent again: it would be refused again."""
        refused = f"the broker refuses what this box publishes: {reason}" if reason.is_failure else None
        if refused is not None and refused != self._refused:
            log.error("publish_refused", address=self.address, reason=str(reason))
        self._refused = refused
        self.on_sent(mid, reason.value)

    def _on_subscribe(
        self, _client: Client, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        topic = self._awaited.pop(mid, None)
        if topic is None:
            return
        if any(reason.value >= _REFUSED for reason in reasons):
            self._reason = f"the broker refused to subscribe to {topic} ({reasons[0]}); give this user the right to"
            log.error("subscription_refused", address=self.address, topic=topic, reason=str(reasons[0]))
        else:
            self._subscribed.add(topic)
        if not self._awaited:
            self.on_subscribed(sorted(self._subscribed))

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        was_connected, self._connected = self._connected, False
        if was_connected and not self._stopping.is_set():
            # Otherwise the refusal of the connection is known, and says more.
            self._reason = str(reason)
            log.warning("broker_lost", address=self.address, reason=self._reason)

    def _take_plain(self, data: bytes, at: int) -> int:
        """Deliver the plain messages that begin at `at`, together; returns the position after them."""
        if self._deliver_plain is None or not self._connected or not self._plain_topics:
            return at
        found, at = plain.take(data, at, self._plain_topics, (), self._version, _PLAIN_AT_ONCE)
        if found:
            self._received += len(found)
            name, resumed, epoch = self.name, self._resumed, self._epoch
            self._deliver_plain(
                [
                    (
                        InboundMessage(
                            client=name,
                            topic=topic,
                            payload=payload,
                            qos=1,
                            packet_id=packet_id,
                            session_resumed=resumed,
                        ),
                        Ack(self._network, epoch, packet_id),
                    )
                    for packet_id, topic, payload in found
                ]
            )
        return at

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._received += 1
        mid, qos = message.mid, message.qos
        ack: Acknowledge = Ack(self._network, self._epoch, mid) if qos else _nothing_to_acknowledge
        properties = message.properties
        try:
            topic = message.topic
            known = True
        except UnicodeDecodeError:
            topic = ascii(bytes(message._topic))[2:-1]
            known = False
        if self._ignored(topic):
            ack()
            return
        if known and len(self._plain_topics) < _PLAIN_TOPICS_MAX:
            self._plain_topics[topic.encode()] = topic
        identifiers = getattr(properties, "SubscriptionIdentifier", ())
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
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation_data=getattr(properties, "CorrelationData", None),
                user_properties=tuple(getattr(properties, "UserProperty", ())),
                subscriptions=tuple(each for each, number in self._identifiers.items() if number in identifiers)
                if identifiers
                else (),
            ),
            ack,
        )


def _nothing_to_acknowledge() -> None:
    pass


def in_flight_max(config: BrokerConfig) -> int:
    """Messages that may come again at a reconnect. Mosquitto 2.0.11 sends up to three times the Receive Maximum it was
    given (measured), and all of them again."""
    return min(0xFFFF, 8 * config.receive_max)


def broker_name(config: BrokerConfig) -> str:
    return f"broker {config.host}:{config.port}"


def identifiers_of(topics: Iterable[str]) -> dict[str, int]:
    """An identifier for each filter that overlaps another: always the same, as sessions outlive this process."""
    plain = {topic: (shared_filter(topic) or ("", topic))[1] for topic in topics}
    crossing = {
        topic for one, other in combinations(plain, 2) if overlap(plain[one], plain[other]) for topic in (one, other)
    }
    return {topic: zlib.crc32(topic.encode()) % _IDENTIFIERS + 1 for topic in sorted(crossing)}


def broker_password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"broker.password_file {path}: {error.strerror}; give a readable file") from error
