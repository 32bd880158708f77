"""What a broker grants (CONNACK: MQTT 5, section 3.2.2.3), and where that falls short of what the box relies on."""

from __future__ import annotations

from typing import Any

import msgspec

from appliance.config import BrokerConfig

PACKET_BYTES_MIN = 1 << 20
"""A picture is commonly smaller."""

_IN_FLIGHT_GOOD = 100


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """version: of MQTT, 4 is 3.1.1, which grants nothing in words. in_flight_max: of what the box publishes."""

    version: int = 5
    in_flight_max: int = 65_535
    qos_max: int = 2
    packet_bytes_max: int | None = None
    session_expiry_s: int | None = None
    retaining: bool = True
    wildcards: bool = True
    sharing: bool = True
    identifiers: bool = True


def terms_of(properties: Any) -> Terms:
    """properties: of a CONNACK of MQTT 5, as attributes; those that are missing have their default."""
    return Terms(
        in_flight_max=getattr(properties, "ReceiveMaximum", 65_535),
        qos_max=getattr(properties, "MaximumQoS", 2),
        packet_bytes_max=getattr(properties, "MaximumPacketSize", None),
        session_expiry_s=getattr(properties, "SessionExpiryInterval", None),
        retaining=bool(getattr(properties, "RetainAvailable", 1)),
        wildcards=bool(getattr(properties, "WildcardSubscriptionAvailable", 1)),
        sharing=bool(getattr(properties, "SharedSubscriptionAvailable", 1)),
        identifiers=bool(getattr(properties, "SubscriptionIdentifierAvailable", 1)),
    )


def shortcomings(terms: Terms, config: BrokerConfig, *, sharing: bool, overlapping: bool) -> tuple[str, ...]:
    """What can cost messages, each with what to do. sharing, overlapping: of the routes."""
    found: list[str] = []
    if terms.qos_max < 1:
        found.append("it grants QoS 0 only, at which messages get lost; allow QoS 1")
    granted = terms.session_expiry_s
    if granted is not None and granted < config.session_expiry_s:
        found.append(
            f"it keeps messages for a box that is away for {granted} s only, not {config.session_expiry_s} s;"
            " raise its limit, or lower broker.session_expiry_s"
        )
    if terms.packet_bytes_max is not None and terms.packet_bytes_max < PACKET_BYTES_MIN:
        found.append(
            f"it takes packets of {terms.packet_bytes_max} bytes at most; allow {PACKET_BYTES_MIN} for pictures"
        )
    if not terms.retaining:
        found.append("it retains nothing, as the box's status and last will need it; allow retained messages")
    if not terms.wildcards:
        found.append("it knows no wildcards in subscriptions; name whole topics in the routes")
    if sharing and (terms.version < 5 or not terms.sharing):
        found.append("it cannot share messages among boxes as share_group asks; remove share_group, or use MQTT 5")
    if overlapping and (terms.version < 5 or not terms.identifiers):
        found.append("topics of routes overlap, and it may send what matches several once for each; separate them")
    return tuple(found)


def advice(terms: Terms) -> str | None:
    """What makes it slower than it could be, or is commonly set too low with it."""
    if terms.version < 5:
        return "it speaks MQTT 3.1.1: no limits are agreed on, and no user properties are carried; prefer MQTT 5"
    if terms.in_flight_max < _IN_FLIGHT_GOOD:
        return (
            f"it takes {terms.in_flight_max} of our messages at once, and keeps commonly few for a box that is away"
            " (Mosquitto: 1,000 unless told); see systemd/mosquitto.conf"
        )
    return None
