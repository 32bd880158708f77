"""A short visit to the site broker: does it let the box in, and what does it grant. For the doctor."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import msgspec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from appliance.config import BrokerConfig
from appliance.errors import ConfigError
from appliance.mqtt.broker_tls import broker_context, why
from appliance.mqtt.client import NO_SUCH_VERSION, broker_password, identifiers_of
from appliance.mqtt.terms import Terms, advice, shortcomings, terms_of
from appliance.mqtt.topics import shared_filter

NAME_END = "-doctor"
"""Closes the client id: under the box's own name the visit would throw out a box that is connected."""

_KEEP_ALIVE_S = 10


class Visit(msgspec.Struct, frozen=True):
    """terms: None when the broker did not let it in, for `reason`. concerns: of the terms, each with what to do."""

    terms: Terms | None = None
    reason: str | None = None
    concerns: tuple[str, ...] = ()


def visit(config: BrokerConfig, device: str, topics: Collection[str], timeout_s: float) -> Visit:
    """Connect as the box would, under another name, and leave without a trace; raises nothing.

    topics: filters that the box subscribes to. timeout_s: for each of two attempts, MQTT 5 and 3.1.1.
    """
    found: Visit | None = None
    try:
        for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            reason, properties = _answer(config, (config.client_id or device) + NAME_END, version, timeout_s)
            if reason.value == NO_SUCH_VERSION and version == MQTTProtocolVersion.MQTTv5:
                continue
            if reason.is_failure:
                found = Visit(reason=f"it does not let the box in: {reason}")
            else:
                newest = version == MQTTProtocolVersion.MQTTv5
                found = _judged(terms_of(properties) if newest else Terms(version=4), config, topics)
            break
    except (OSError, ValueError) as error:
        return Visit(reason=why(error))
    except ConfigError as error:
        return Visit(reason=str(error))
    return found or Visit(reason="it speaks neither MQTT 5 nor 3.1.1")


def in_words(terms: Terms) -> str:
    """The terms on one line."""
    if terms.version < 5:
        return "MQTT 3.1.1, which names no limits"
    size = "of any size" if terms.packet_bytes_max is None else f"of at most {terms.packet_bytes_max} bytes"
    kept = "for as long as asked" if terms.session_expiry_s is None else f"for {terms.session_expiry_s} s"
    return (
        f"MQTT 5, QoS {terms.qos_max}, {terms.in_flight_max} messages in flight, packets {size},"
        f" {_whether(terms.retaining, 'retained messages')}, {_whether(terms.sharing, 'shared subscriptions')},"
        f" sessions kept {kept}"
    )


def _whether(there: bool, what: str) -> str:
    return what if there else f"no {what}"


def _judged(terms: Terms, config: BrokerConfig, topics: Collection[str]) -> Visit:
    sharing = any(shared_filter(topic) is not None for topic in topics)
    concerns = shortcomings(terms, config, sharing=sharing, overlapping=bool(identifiers_of(topics)))
    advised = advice(terms)
    return Visit(terms, None, concerns if advised is None else (*concerns, advised))


def _answer(
    config: BrokerConfig, name: str, version: MQTTProtocolVersion, timeout_s: float
) -> tuple[ReasonCode, Properties | None]:
    """What the CONNACK says. Raises OSError, or ConfigError when a file cannot be used."""
    answers: list[tuple[ReasonCode, Properties | None]] = []

    def on_connect(_client: Client, _data: Any, _flags: Any, reason: ReasonCode, granted: Properties | None) -> None:
        answers.append((reason, granted))

    client = Client(CallbackAPIVersion.VERSION2, name, protocol=version, reconnect_on_failure=False)
    client.connect_timeout = timeout_s
    client.on_connect = on_connect
    context = broker_context(config)
    if context is not None:
        client.tls_set_context(context)
    if config.username is not None:
        client.username_pw_set(config.username, broker_password(config.password_file))
    if version == MQTTProtocolVersion.MQTTv5:
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = config.session_expiry_s
        wanted.ReceiveMaximum = config.receive_max
        client.connect(config.host, config.port, _KEEP_ALIVE_S, clean_start=True, properties=wanted)
    else:
        client.connect(config.host, config.port, _KEEP_ALIVE_S)
    until = time.monotonic() + timeout_s
    while not answers and client.loop(0.1) == MQTTErrorCode.MQTT_ERR_SUCCESS and time.monotonic() < until:
        pass
    _leave(client, version)
    if not answers:
        raise ConnectionError("it does not answer as a broker does; check broker.port, broker.tls and broker.cert_file")
    return answers[0]


def _leave(client: Client, version: MQTTProtocolVersion) -> None:
    """With a session that ends at once."""
    goodbye: Properties | None = None
    if version == MQTTProtocolVersion.MQTTv5:
        goodbye = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        goodbye.SessionExpiryInterval = 0
    client.disconnect(properties=goodbye)
    client.loop(0.1)
    left = client.socket()
    if left is not None:
        left.close()
