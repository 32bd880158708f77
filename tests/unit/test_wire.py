import contextlib

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import ConnAckReasonCode, DisconnectReasonCode, PubAckReasonCode, SubAckReasonCode

from appliance.mqtt import wire
from appliance.mqtt.sessions import Delivery, Message
from appliance.mqtt.wire import ProtocolError, Wire, Wire4, Wire5, frame_size, protocol_version

# The codec panics over a string that is not UTF-8, and Python reports what it let fall.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(2, "big") + raw


def frame(first: int, body: bytes) -> memoryview:
    assert len(body) < 128
    return memoryview(bytes((first, len(body))) + body)


def connect(flags: int = 0x02, *fields: str | bytes, level: int = 4, name: str = "MQTT") -> memoryview:
    payload = b"".join(map(string, fields or ("plc",)))
    return frame(0x10, string(name) + bytes((level, flags, 0, 30)) + payload)


def read4(data: memoryview) -> mqtt5.Packet:
    return Wire4().read(data)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"", 0),
        (b"\x30", 0),
        (b"\x30\x00", 2),
        (b"\x30\x7f", 129),
        (b"\x30\x80", 0),
        (b"\x30\x80\x01", 131),
        (b"\x30\xff\xff\xff\x7f", 268_435_460),
    ],
)
def test_the_size_of_a_frame_is_known_from_its_head(head: bytes, size: int) -> None:
    padded = memoryview(b"zz" + head)
    assert frame_size(padded, 2, len(padded)) == size


def test_a_length_of_five_bytes_is_malformed() -> None:
    with pytest.raises(ProtocolError) as fault:
        frame_size(memoryview(b"\x30\xff\xff\xff\xff\x01"), 0, 6)
    assert fault.value.reason == DisconnectReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (connect(), 4),
        (connect(level=5), 5),
        (connect(level=6), 0),
        (connect(name="MQIsdp", level=3), 0),
        (frame(0x10, b""), 0),
        (frame(0x10, b"\0\4MQTT"), 0),
    ],
)
def test_the_version_is_read_from_connect(data: memoryview, version: int) -> None:
    assert protocol_version(data) == version


def test_a_plain_connect_of_3_1_1_becomes_a_clean_session_without_expiry() -> None:
    packet = read4(connect(0x02))
    assert isinstance(packet, mqtt5.ConnectPacket)
    assert (packet.client_id, packet.clean_start, packet.session_expiry_interval, packet.keep_alive) == (
        "plc",
        True,
        0,
        30,
    )


def test_a_session_of_3_1_1_that_is_not_clean_never_expires_by_itself() -> None:
    packet = read4(connect(0x00))
    assert isinstance(packet, mqtt5.ConnectPacket)
    assert not packet.clean_start
    assert packet.session_expiry_interval == wire.EXPIRY_NEVER


def test_will_and_password_of_3_1_1_are_read() -> None:
    packet = read4(connect(0xEE, "plc", "plc/status", b"\xffgone", "user", b"\xfesecret"))
    assert isinstance(packet, mqtt5.ConnectPacket)
    assert packet.will is not None
    will = wire.will_of(packet.will)
    assert (will.message.topic, will.message.payload, will.message.qos, will.message.retain) == (
        "plc/status",
        b"\xffgone",
        1,
        True,
    )
    assert (packet.username, packet.password) == ("user", b"\xfesecret")


@pytest.mark.parametrize(
    "data",
    [
        connect(0x03),  # reserved flag
        connect(0x22),  # RETAIN of a will that is not there
        connect(0x42, "plc", b"secret"),  # password without a user name
        connect(0x06, "plc"),  # will announced, not there
        connect(0x02, b"\xff"),
        connect(0x02, "a\0b"),
        connect(0x06, "plc", "will/#", b""),
        connect(0x02, "plc", "more"),
        frame(0x10, b"\0\4MQTT\4\2\0"),
        frame(0x11, b"\0\4MQTT\4\2\0\0\0\0"),
    ],
)
def test_a_broken_connect_of_3_1_1_is_refused(data: memoryview) -> None:
    with pytest.raises(ProtocolError):
        read4(data)


def publish5(
    topic: str | bytes = "a", *, first: int = 0x32, packet_id: int | None = 7, rest: bytes = b"\0x"
) -> memoryview:
    return frame(first, string(topic) + (b"" if packet_id is None else packet_id.to_bytes(2, "big")) + rest)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (publish5("a/+"), 0x90),
        (publish5("#"), 0x90),
        (publish5("a\0"), 0x90),
        (publish5(b"Stra\xdfe"), 0x81),
        (publish5(b"\xed\xa0\x80"), 0x81),
        (publish5(""), 0x81),
        (publish5(packet_id=0), 0x81),
        (publish5(first=0x36), 0x81),
        (publish5(first=0x38, packet_id=None), 0x81),
        (publish5(rest=b"\x03\x23\0\1x"), 0x94),
        (publish5("", rest=b"\x03\x23\0\1x"), 0x94),
        (publish5(rest=b"\x02\x0b\x01x"), 0x82),
        (publish5(rest=b"\x02\x01\x02x"), 0x82),
        (publish5(rest=b"\x04\x08\0\1+x"), 0x82),
        (publish5(rest=b"\x05\x03\0\2\xff\xfex"), 0x81),
        (publish5(rest=b"\x7f"), 0x81),
        (publish5(rest=b""), 0x81),
        (frame(0x32, b""), 0x81),
        (frame(0x32, b"\0\x09a"), 0x81),
        (frame(0x00, b""), 0x81),
        (frame(0x82, b"\0\0\0\0\1a\0"), 0x81),
        (frame(0x82, b"\0\1\0"), 0x82),
        (frame(0xA2, b"\0\1\0"), 0x82),
        (frame(0x80, b"\0\1\0\0\1a\0"), 0x81),
        (frame(0xC0, b"\0"), 0x81),
    ],
)
def test_a_broken_packet_of_mqtt_5_is_refused_with_its_reason(data: memoryview, reason: int) -> None:
    with pytest.raises(ProtocolError) as fault:
        Wire5().read(data)
    assert int(fault.value.reason) == reason


def test_a_publish_of_3_1_1_is_read_as_it_is() -> None:
    packet = read4(frame(0x3B, string("a/b") + b"\x01\x02" + b"\0payload"))
    assert isinstance(packet, mqtt5.PublishPacket)
    message = wire.message_of(packet, 0.0)
    assert (message.topic, message.payload, message.qos, message.retain) == ("a/b", b"\0payload", 1, True)
    assert (packet.packet_id, packet.duplicate) == (0x0102, True)


def test_a_publish_of_3_1_1_grows_over_a_length_boundary() -> None:
    body = string("a") + bytes(124)
    packet = read4(memoryview(bytes((0x30, len(body))) + body))
    assert isinstance(packet, mqtt5.PublishPacket)
    assert len(packet.payload) == 124


@pytest.mark.parametrize(
    "data",
    [
        frame(0x32, string("a")),
        frame(0x32, string("a") + b"\0"),
        frame(0x30, b"\0"),
        frame(0x30, b"\0\x05a"),
        frame(0x30, string(b"\xe4")),
        frame(0x40, b"\0\1\0"),
        frame(0xE0, b"\0"),
        frame(0x82, b"\0\1" + string("a") + b"\x04"),  # an option of MQTT 5
        frame(0x82, b"\0\1" + string("a") + b"\x03"),
        frame(0x82, b"\0\1" + string("a")),
        frame(0x82, b"\0"),
        frame(0xA2, b"\0\1\0\5a"),
        frame(0xF0, b""),
    ],
)
def test_a_broken_packet_of_3_1_1_is_refused(data: memoryview) -> None:
    with pytest.raises(ProtocolError):
        read4(data)


def test_subscribe_and_unsubscribe_of_3_1_1_are_read() -> None:
    subscribe = read4(frame(0x82, b"\0\x09" + string("a/#") + b"\1" + string("b") + b"\2"))
    assert isinstance(subscribe, mqtt5.SubscribePacket)
    assert [
        (one.pattern, one.max_qos == 1, one.no_local, one.retain_as_published) for one in subscribe.topic_filters
    ] == [
        ("a/#", True, False, False),
        ("b", False, False, False),
    ]
    unsubscribe = read4(frame(0xA2, b"\0\x09" + string("a/#")))
    assert isinstance(unsubscribe, mqtt5.UnsubscribePacket)
    assert (unsubscribe.packet_id, unsubscribe.patterns) == (9, ["a/#"])


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ConnAckReasonCode.SUCCESS, 0),
        (ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ConnAckReasonCode.CLIENT_ID_NOT_VALID, 2),
        (ConnAckReasonCode.SERVER_BUSY, 3),
        (ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
        (ConnAckReasonCode.NOT_AUTHORIZED, 5),
    ],
)
def test_connack_of_3_1_1_has_its_own_return_codes(reason: ConnAckReasonCode, code: int) -> None:
    assert Wire4().connack(mqtt5.ConnAckPacket(reason_code=reason)) == bytes((0x20, 2, 0, code))


def test_what_3_1_1_cannot_say_is_not_said() -> None:
    spoken = Wire4()
    assert spoken.connack(mqtt5.ConnAckPacket(reason_code=ConnAckReasonCode.BAD_AUTHENTICATION_METHOD)) == b""
    assert spoken.disconnect(DisconnectReasonCode.PROTOCOL_ERROR) == b""
    assert spoken.puback(7, PubAckReasonCode.NOT_AUTHORIZED) == b"\x40\x02\0\x07"
    reasons = [SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, SubAckReasonCode.TOPIC_FILTER_INVALID]
    assert spoken.suback(7, reasons) == b"\x90\x04\0\x07\x01\x80"
    assert spoken.unsuback(7, []) == b"\xb0\x02\0\x07"


@pytest.mark.parametrize("size", [0, 1, 117, 118, 119, 120, 121, 20_000, 3_000_000])
def test_what_is_written_for_3_1_1_is_read_back_the_same(size: int) -> None:
    delivery = Delivery(Message(topic="a/b", payload=bytes(size)), qos=1, retain=True)
    written = memoryview(Wire4().publish(delivery, 7, duplicate=True, now=0.0))
    assert frame_size(written, 0, len(written)) == len(written)
    packet = read4(written)
    assert isinstance(packet, mqtt5.PublishPacket)
    assert (packet.topic, len(packet.payload), packet.packet_id, packet.duplicate, packet.retain) == (
        "a/b",
        size,
        7,
        True,
        True,
    )


def test_properties_are_passed_through_in_mqtt_5() -> None:
    message = Message(
        topic="a",
        payload=b"x",
        payload_format=1,
        expires_at=100.0,
        content_type="image/png",
        response_topic="answer/here",
        correlation_data=b"\0\1",
        user_properties=(("part", "P-1"), ("part", "P-2")),
    )
    written = Wire5().publish(Delivery(message, qos=0, identifiers=(3, 4)), None, duplicate=False, now=90.4)
    packet, _ = mqtt5.read(memoryview(written))
    assert isinstance(packet, mqtt5.PublishPacket)
    assert packet.subscription_ids == [3, 4]
    assert packet.message_expiry_interval == 10
    # Sent back to a server it would have no identifiers; the rest comes back as the message it was.
    assert wire.message_of(packet, 90.0) == message


@given(st.binary(max_size=60), st.integers(0, 255), st.sampled_from([Wire4(), Wire5()]))
def test_no_bytes_do_more_than_raise_a_protocol_error(body: bytes, first: int, spoken: Wire) -> None:
    with contextlib.suppress(ProtocolError):
        spoken.read(frame(first, body))


_WHOLE = [
    connect(0xEE, "plc", "plc/status", b"gone", "user", b"secret").tobytes(),
    mqtt5.ConnectPacket("plc", will=mqtt5.Will("w", payload=b"x", user_properties=[("k", "v")])).write(),
    mqtt5.PublishPacket("a/b", b"xyz", content_type="text", user_properties=[("key", "value")]).write(),
    mqtt5.SubscribePacket(7, [mqtt5.TopicFilter("a/+")], subscription_id=9).write(),
    mqtt5.DisconnectPacket(reason_str="bye").write(),
]


@given(st.sampled_from(_WHOLE), st.integers(2, 200), st.integers(0, 255), st.sampled_from([Wire4(), Wire5()]))
def test_no_changed_byte_does_more_than_raise_a_protocol_error(whole: bytes, at: int, byte: int, spoken: Wire) -> None:
    changed = bytearray(whole)
    changed[min(at, len(changed) - 1)] = byte
    with contextlib.suppress(ProtocolError):
        spoken.read(memoryview(changed))
