"""Plain PUBLISH packets, taken past the codec: what is taken is what the codec would have read, and nothing else is."""

from __future__ import annotations

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mqtt.plain import take

TOPICS = {b"in/a": "in/a", "in/ä".encode(): "in/ä"}


def publish(
    packet_id: int | None = 1, topic: str = "in/a", payload: bytes = b"1", *, version: int = 5, **fields: object
) -> bytes:
    """One packet. MQTT 3.1.1 differs by the length of the properties, which it has not."""
    packet = mqtt5.PublishPacket(
        topic,
        payload,
        **{"qos": mqtt5.QoS.AT_LEAST_ONCE, "packet_id": packet_id, **fields},  # type: ignore[arg-type]
    ).write()
    if version == 5:
        return packet
    body = packet[2 : -len(payload) - 1] + payload
    return bytes((0x32, len(body))) + body


@pytest.mark.parametrize("version", [4, 5])
def test_packets_are_taken_one_after_the_other(version: int) -> None:
    packets = [publish(number, payload=b"%d" % number, version=version) for number in (7, 8, 9)]
    data = b"".join(packets) + b"\xc0\0"
    taken, at = take(data, 0, TOPICS, (), version, 10)
    assert taken == [(7, "in/a", b"7"), (8, "in/a", b"8"), (9, "in/a", b"9")]
    assert at == len(data) - 2
    assert take(data, len(packets[0]), TOPICS, (), version, 1) == ([(8, "in/a", b"8")], len(packets[0]) * 2)


def test_long_payload_has_two_bytes_of_length() -> None:
    data = publish(1, payload=bytes(200)) + publish(2, payload=bytes(16_000)) + publish(3)
    taken, at = take(data, 0, TOPICS, (), 5, 10)
    assert [len(payload) for _, _, payload in taken] == [200, 16_000, 1]
    assert at == len(data)


@pytest.mark.parametrize(
    "other",
    [
        publish(None, qos=mqtt5.QoS.AT_MOST_ONCE),
        publish(2, qos=mqtt5.QoS.EXACTLY_ONCE),
        publish(2, retain=True),
        publish(2, duplicate=True),
        publish(2, content_type="text/csv"),
        publish(2, user_properties=[("part", "1")]),
        publish(2, "in/unknown"),
        publish(2, payload=bytes(17_000)),
        publish(1),
        publish(5),
        publish(2)[:-1],
        b"\x32\x02\0\4",
        b"\x32\x05\0\4in/",
        b"\x32\x08\0\4in/a\0\0",
        b"\x32\x09\0\4in/a\0\0\0",
        b"\x32\xff\xff\xff\xff",
        mqtt5.PingReqPacket().write(),
    ],
)
def test_whatever_looks_different_is_left_to_the_codec(other: bytes) -> None:
    first = publish(1)
    assert take(first + other, 0, TOPICS, {5}, 5, 10) == ([(1, "in/a", b"1")], len(first))


@given(st.lists(st.binary(max_size=40), max_size=3), st.integers(4, 5))
def test_any_bytes_are_borne(parts: list[bytes], version: int) -> None:
    data = publish(1, version=version) + b"\x32".join(parts)
    taken, at = take(data, 0, TOPICS, (), version, 100)
    assert taken[0] == (1, "in/a", b"1")
    assert at <= len(data)


@given(
    st.lists(
        st.tuples(st.integers(1, 65_535), st.sampled_from(["in/a", "in/ä"]), st.binary(max_size=300)),
        max_size=8,
        unique_by=lambda each: each[0],
    )
)
def test_what_is_taken_is_what_the_codec_reads(messages: list[tuple[int, str, bytes]]) -> None:
    data = b"".join(publish(*message) for message in messages)
    assert take(data, 0, TOPICS, (), 5, 100) == (messages, len(data))
