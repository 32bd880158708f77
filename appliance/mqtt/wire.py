"""Bytes to packets and back, for MQTT 3.1.1 (OASIS, 2014) and MQTT 5 (OASIS, 2019).

One strict codec, `mqtt5`, judges both: a 3.1.1 packet is first given the form of MQTT 5, which for most of them means
an empty list of properties. What that codec lets pass is checked here. A frame is one whole packet, header included.
"""

from __future__ import annotations

from typing import Protocol

from mqtt5 import (
    ConnAckPacket,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    PubAckReasonCode,
    PubCompPacket,
    PubCompReasonCode,
    PublishPacket,
    PubRecPacket,
    PubRecReasonCode,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
)
from mqtt5 import Will as WillOnWire
from mqtt5 import read as decode

from appliance.mqtt.sessions import Delivery, Message, Will
from appliance.mqtt.topics import valid_topic

CONNECT, PUBLISH, PUBACK, PUBREL, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT = 1, 3, 4, 6, 8, 10, 14
EXPIRY_NEVER = 0xFFFF_FFFF

UNACCEPTABLE_VERSION = b"\x20\x02\x00\x01"
"""The 3.1.1 CONNACK for a protocol that is not spoken here; older and newer clients understand it too."""

_REFUSALS_4 = {0: 0, 0x84: 1, 0x85: 2, 0x88: 3, 0x89: 3, 0x9F: 3, 0x86: 4, 0x87: 5}
"""Reason code of a CONNACK -> return code of 3.1.1; for others there is none, the connection is just closed."""


class ProtocolError(Exception):
    """The client broke the protocol. `event` is the fixed word for the log."""

    def __init__(self, reason: DisconnectReasonCode, event: str) -> None:
        super().__init__(event)
        self.reason = reason
        self.event = event


def malformed(event: str = "packet_malformed") -> ProtocolError:
    return ProtocolError(DisconnectReasonCode.MALFORMED_PACKET, event)


def frame_size(view: memoryview, at: int, end: int) -> int:
    """Bytes of the packet that begins at `at`, 0 while its length is not known. Raises ProtocolError."""
    if end - at > 1 and view[at + 1] < 0x80:  # most packets, without the loop
        return 2 + view[at + 1]
    if end - at > 2 and view[at + 2] < 0x80:
        return 3 + (view[at + 1] & 0x7F | view[at + 2] << 7)
    length = shift = 0
    for position in range(at + 1, min(at + 5, end)):
        byte = view[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return position + 1 - at + length
        shift += 7
    if end >= at + 5:
        raise malformed()
    return 0


def protocol_version(frame: memoryview) -> int:
    """The version a CONNECT asks for: 4 is MQTT 3.1.1, 5 is MQTT 5, 0 is not MQTT as it is spoken here."""
    body = frame[_header(frame) :]
    if bytes(body[:6]) != b"\0\4MQTT" or len(body) < 7:
        return 0
    return body[6] if body[6] in (4, 5) else 0


class Wire(Protocol):
    """One protocol version. `read` raises ProtocolError; the others return the bytes to send, b"" for none."""

    version: int

    def read(self, frame: memoryview) -> Packet: ...
    def connack(self, packet: ConnAckPacket) -> bytes: ...
    def publish(self, delivery: Delivery, packet_id: int | None, *, duplicate: bool, now: float) -> bytes: ...
    def puback(self, packet_id: int, reason: PubAckReasonCode) -> bytes: ...
    def pubrec(self, packet_id: int, reason: PubRecReasonCode) -> bytes: ...
    def pubcomp(self, packet_id: int, *, found: bool) -> bytes: ...
    def suback(self, packet_id: int, reasons: list[SubAckReasonCode]) -> bytes: ...
    def unsuback(self, packet_id: int, reasons: list[UnsubAckReasonCode]) -> bytes: ...
    def disconnect(self, reason: DisconnectReasonCode) -> bytes: ...


class Wire5:
    version = 5

    def read(self, frame: memoryview) -> Packet:
        kind = frame[0] >> 4
        if kind == PUBLISH:
            _check_utf8(frame, _header(frame))
        elif kind == CONNECT:
            _check_connect_flags(frame)
        return _read(frame)

    def connack(self, packet: ConnAckPacket) -> bytes:
        return packet.write()

    def publish(self, delivery: Delivery, packet_id: int | None, *, duplicate: bool, now: float) -> bytes:
        message = delivery.message
        expiry = None if message.expires_at is None else max(1, round(message.expires_at - now))
        return PublishPacket(
            message.topic,
            message.payload,
            qos=QoS.AT_LEAST_ONCE if delivery.qos else QoS.AT_MOST_ONCE,
            retain=delivery.retain,
            packet_id=packet_id,
            duplicate=duplicate,
            payload_format_indicator=message.payload_format,
            message_expiry_interval=expiry,
            content_type=message.content_type,
            response_topic=message.response_topic,
            correlation_data=message.correlation_data,
            subscription_ids=list(delivery.identifiers),
            user_properties=list(message.user_properties),
        ).write()

    def puback(self, packet_id: int, reason: PubAckReasonCode) -> bytes:
        return PubAckPacket(packet_id, reason_code=reason).write()

    def pubrec(self, packet_id: int, reason: PubRecReasonCode) -> bytes:
        return PubRecPacket(packet_id, reason_code=reason).write()

    def pubcomp(self, packet_id: int, *, found: bool) -> bytes:
        reason = PubCompReasonCode.SUCCESS if found else PubCompReasonCode.PACKET_ID_NOT_FOUND
        return PubCompPacket(packet_id, reason_code=reason).write()

    def suback(self, packet_id: int, reasons: list[SubAckReasonCode]) -> bytes:
        return SubAckPacket(packet_id, reasons).write()

    def unsuback(self, packet_id: int, reasons: list[UnsubAckReasonCode]) -> bytes:
        return UnsubAckPacket(packet_id, reasons).write()

    def disconnect(self, reason: DisconnectReasonCode) -> bytes:
        return DisconnectPacket(reason_code=reason).write()


class Wire4:
    version = 4

    def read(self, frame: memoryview) -> Packet:
        kind = frame[0] >> 4
        at = _header(frame)
        if kind == PUBLISH:
            end = _check_utf8(frame, at) + (2 if frame[0] & 0x06 else 0)
            return _read(_inserted(frame, at, {end: b"\0"}))
        if kind in (SUBSCRIBE, UNSUBSCRIBE):
            if kind == SUBSCRIBE:
                _check_options(frame, at + 2)
            return _read(_inserted(frame, at, {at + 2: b"\0"}))
        if kind == CONNECT:
            return _read(_connect_as_5(frame, at))
        if (kind in (PUBACK, PUBREL) and len(frame) != 4) or (kind == DISCONNECT and len(frame) != 2):
            raise malformed()
        return _read(frame)

    def connack(self, packet: ConnAckPacket) -> bytes:
        code = _REFUSALS_4.get(int(packet.reason_code))
        return b"" if code is None else bytes((0x20, 2, packet.session_present, code))

    def publish(self, delivery: Delivery, packet_id: int | None, *, duplicate: bool, now: float) -> bytes:
        first = PUBLISH << 4 | duplicate << 3 | delivery.qos << 1 | delivery.retain
        ident = b"" if packet_id is None else packet_id.to_bytes(2, "big")
        topic = delivery.message.topic.encode()
        return _frame(first, len(topic).to_bytes(2, "big"), topic, ident, delivery.message.payload)

    def puback(self, packet_id: int, reason: PubAckReasonCode) -> bytes:
        return PubAckPacket(packet_id).write()

    def pubrec(self, packet_id: int, reason: PubRecReasonCode) -> bytes:
        return PubRecPacket(packet_id).write()

    def pubcomp(self, packet_id: int, *, found: bool) -> bytes:
        return PubCompPacket(packet_id).write()

    def suback(self, packet_id: int, reasons: list[SubAckReasonCode]) -> bytes:
        return _frame(0x90, packet_id.to_bytes(2, "big"), bytes(min(int(reason), 0x80) for reason in reasons))

    def unsuback(self, packet_id: int, reasons: list[UnsubAckReasonCode]) -> bytes:
        return _frame(0xB0, packet_id.to_bytes(2, "big"))

    def disconnect(self, reason: DisconnectReasonCode) -> bytes:
        return b""


def message_of(packet: PublishPacket, now: float) -> Message:
    """The message in a PUBLISH of a client."""
    expiry = packet.message_expiry_interval
    return Message(
        topic=packet.topic,
        payload=packet.payload,
        qos=int(packet.qos),
        retain=packet.retain,
        payload_format=packet.payload_format_indicator,
        expires_at=None if expiry is None else now + expiry,
        content_type=packet.content_type,
        response_topic=packet.response_topic,
        correlation_data=packet.correlation_data,
        user_properties=tuple(packet.user_properties),
    )


def will_of(will: WillOnWire) -> Will:
    """The will in a CONNECT; QoS 2 becomes 1, the highest that is sent to subscribers."""
    message = Message(
        topic=will.topic,
        payload=will.payload or b"",
        qos=min(int(will.qos), 1),
        retain=will.retain,
        payload_format=will.payload_format_indicator,
        content_type=will.content_type,
        response_topic=will.response_topic,
        correlation_data=will.correlation_data,
        user_properties=tuple(will.user_properties),
    )
    return Will(message, will.will_delay_interval, will.message_expiry_interval)


def _read(frame: memoryview) -> Packet:
    try:
        packet, size = decode(frame)
    except (ValueError, IndexError) as error:
        raise malformed() from error
    except BaseException as error:
        # The codec's answer to a string that is not UTF-8 is a Rust panic, which is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise malformed() from error
    if size != len(frame):
        raise malformed()
    _check(packet)
    return packet


def _check(packet: Packet) -> None:
    """The rules that the codec leaves to its caller."""
    if type(packet) is PublishPacket:
        if packet.topic_alias is not None:
            raise ProtocolError(DisconnectReasonCode.TOPIC_ALIAS_INVALID, "topic_alias_not_supported")
        if not valid_topic(packet.topic):
            raise ProtocolError(DisconnectReasonCode.TOPIC_NAME_INVALID, "topic_invalid")
        if packet.packet_id == 0 or (packet.packet_id is None and packet.duplicate):
            raise malformed()
        if packet.subscription_ids or packet.payload_format_indicator > 1:
            raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "property_invalid")
        _check_response_topic(packet.response_topic)
    elif isinstance(packet, ConnectPacket):
        if "\0" in packet.client_id or "\0" in (packet.username or ""):
            raise malformed()
        if packet.will is not None:
            if not valid_topic(packet.will.topic):
                raise ProtocolError(DisconnectReasonCode.TOPIC_NAME_INVALID, "will_topic_invalid")
            _check_response_topic(packet.will.response_topic)
    elif isinstance(packet, SubscribePacket | UnsubscribePacket):
        filters = packet.topic_filters if isinstance(packet, SubscribePacket) else packet.patterns
        if packet.packet_id == 0:
            raise malformed()
        if not filters:
            raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "filters_missing")


def _check_response_topic(topic: str | None) -> None:
    if topic is not None and not valid_topic(topic):
        raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "response_topic_invalid")


def _check_utf8(frame: memoryview, at: int) -> int:
    """The position after the string that begins at `at`.

    Names in Latin-1 are the most likely fault of a device; found here, they cost no panic in the codec.
    """
    end = _skip_string(frame, at)
    try:
        str(frame[at + 2 : end], "utf-8")
    except UnicodeDecodeError as error:
        raise malformed("string_not_utf8") from error
    return end


def _check_connect_flags(frame: memoryview) -> int:
    """The flags of a CONNECT: the lowest bit is reserved, QoS and RETAIN of a will need a will."""
    at = _header(frame) + 7
    if at >= len(frame):
        raise malformed()
    flags = frame[at]
    if flags & 0x01 or (flags & 0x38 and not flags & 0x04):
        raise malformed()
    return flags


def _check_options(frame: memoryview, at: int) -> None:
    """Of a 3.1.1 SUBSCRIBE: only the QoS may be set, the bits that MQTT 5 gave a meaning must be 0."""
    while at < len(frame):
        at = _check_utf8(frame, at) + 1
        if at > len(frame) or frame[at - 1] > 2:
            raise malformed()


def _connect_as_5(frame: memoryview, at: int) -> memoryview:
    client_id = at + 10
    flags = _check_connect_flags(frame)
    if flags & 0xC0 == 0x40:  # a password without a user name, which only MQTT 5 allows
        raise malformed()
    kept = b"\x05\x11\xff\xff\xff\xff"  # a session that is not clean has no expiry of its own
    inserted = {client_id: b"\0" if flags & 0x02 else kept}
    will_topic = _check_utf8(frame, client_id)
    if flags & 0x04:
        inserted[will_topic] = b"\0"
        _check_utf8(frame, will_topic)
    translated = bytearray(_inserted(frame, at, inserted))
    translated[_header(memoryview(translated)) + 6] = 5
    return memoryview(translated)


def _inserted(frame: memoryview, body: int, inserted: dict[int, bytes]) -> memoryview:
    """A new frame with more bytes in its body, at the given ascending positions of the old one."""
    parts: list[bytes | memoryview] = []
    at = body
    for position, added in inserted.items():
        if position > len(frame):
            raise malformed()
        parts += (frame[at:position], added)
        at = position
    return memoryview(_frame(frame[0], *parts, frame[at:]))


def _frame(first: int, *parts: bytes | memoryview) -> bytes:
    length = sum(map(len, parts))
    head = bytearray((first,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, *parts))


def _header(frame: memoryview) -> int:
    at = 1
    while frame[at] & 0x80:
        at += 1
    return at + 1


def _skip_string(frame: memoryview, at: int) -> int:
    """The position after the string (or binary data) that begins at `at`."""
    end = at + 2
    if end <= len(frame):
        end += frame[at] << 8 | frame[at + 1]
    if end > len(frame):
        raise malformed()
    return end
