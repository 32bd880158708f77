"""What a CONNECT or a SUBSCRIBE asks for, and what it is granted. The doing is the connection's."""

from __future__ import annotations

from mqtt5 import ConnAckPacket, ConnAckReasonCode, ConnectPacket, RetainHandling, SubAckReasonCode, TopicFilter

from appliance.config import ListenerConfig, valid_filter
from appliance.mqtt.access import Rules
from appliance.mqtt.house import House
from appliance.mqtt.sessions import Session, Subscription
from appliance.mqtt.topics import LEVELS_MAX, shared_filter

CLIENT_ID_CHARS_MAX = 256


def refusal(
    house: House, packet: ConnectPacket, version: int, user: str | None, rules: Rules | None
) -> ConnAckReasonCode | None:
    """Why a client that is who it says cannot be let in; None: it can. version: 4 (MQTT 3.1.1) or 5."""
    will = packet.will
    if packet.authentication_method is not None:
        return ConnAckReasonCode.BAD_AUTHENTICATION_METHOD
    nameless = version == 4 and not packet.client_id and not packet.clean_start
    if nameless or len(packet.client_id) > CLIENT_ID_CHARS_MAX:
        return ConnAckReasonCode.CLIENT_ID_NOT_VALID
    if will is not None and not may_publish(house, rules, will.topic):
        return ConnAckReasonCode.NOT_AUTHORIZED
    known = house.exchange.sessions.get(packet.client_id)
    if known is not None and known.user != user:
        # What waits in a session is for the user who asked for it.
        return ConnAckReasonCode.NOT_AUTHORIZED
    taking_over = known is not None and known.link is not None
    if not taking_over and house.exchange.clients >= house.config.clients_max:
        return ConnAckReasonCode.SERVER_BUSY
    return None


def may_publish(house: House, rules: Rules | None, topic: str) -> bool:
    """Some topics are the appliance's own; of the others the access list has the say."""
    return topic[0] != "$" and not house.reserved(topic) and (rules is None or rules.may_publish(topic))


def welcome(
    config: ListenerConfig,
    packet: ConnectPacket,
    *,
    resumed: bool,
    assigned: str | None,
    expiry_s: int,
    keep_alive_s: int,
) -> ConnAckPacket:
    """The CONNACK, with what differs from what was asked for.

    QoS 2 is taken from clients; what is sent to subscribers is granted at QoS 1 at most.
    """
    return ConnAckPacket(
        session_present=resumed,
        session_expiry_interval=None if expiry_s == packet.session_expiry_interval else expiry_s,
        assigned_client_id=assigned,
        server_keep_alive=None if keep_alive_s == packet.keep_alive else keep_alive_s,
        receive_max=config.receive_max,
        max_packet_size=config.packet_bytes_max,
    )


def subscription(
    config: ListenerConfig, session: Session, rules: Rules | None, wanted: TopicFilter, identifier: int | None
) -> Subscription | SubAckReasonCode:
    """What a topic filter in a SUBSCRIBE is granted, or why it is refused."""
    topic_filter = wanted.pattern
    shared = shared_filter(topic_filter)
    group, inner = ("group", topic_filter) if shared is None else shared
    if not valid_filter(topic_filter) or not valid_filter(inner) or not group or group in ("+", "#"):
        return SubAckReasonCode.TOPIC_FILTER_INVALID
    if rules is not None and not rules.may_subscribe(topic_filter):
        return SubAckReasonCode.NOT_AUTHORIZED
    full = len(session.subscriptions) >= config.subscriptions_max and topic_filter not in session.subscriptions
    if full or topic_filter.count("/") >= LEVELS_MAX:
        return SubAckReasonCode.QUOTA_EXCEEDED
    return Subscription(
        topic_filter=topic_filter,
        qos=min(int(wanted.max_qos), 1),
        no_local=wanted.no_local,
        retain_as_published=wanted.retain_as_published,
        identifier=identifier,
    )


def wants_retained(wanted: TopicFilter, *, known: bool) -> bool:
    """Whether retained messages follow a SUBSCRIBE; never to a shared one (MQTT 5, section 4.8.2).

    known: there was such a subscription before.
    """
    if shared_filter(wanted.pattern) is not None:
        return False
    handling = wanted.retain_handling
    return handling == RetainHandling.SEND_ALWAYS or (
        handling == RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS and not known
    )
