"""Clients of the listener that do what the protocol forbids."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import mqtt5
import pytest
from mqtt5 import ConnAckPacket, ConnectPacket, PubAckPacket

from appliance.mqtt import connection as connection_module
from appliance.mqtt.message import Acknowledge, InboundMessage
from tests.support.listener import BOTH, Box, Raw, wait_until


@BOTH
@pytest.mark.parametrize("topic", ["appliance/box/results/surface/camera", "appliance/box/status", "$SYS/fake"])
def test_clients_cannot_publish_where_only_the_appliance_speaks(box: Box, version: int, topic: str) -> None:
    watching = box.raw(client_id="hmi")
    watching.subscribe("#", "$SYS/#")
    client = box.raw(version, "forger")
    client.publish(topic, packet_id=1, retain=True)
    client.publish(topic, retain=True)
    answer = client.expect(PubAckPacket)
    assert int(answer.reason_code) == (0x87 if version == 5 else 0)
    client.publish("appliance/box/cmd/poll", packet_id=2)
    assert client.expect(PubAckPacket).packet_id == 2
    assert watching.expect_publish().topic == "appliance/box/cmd/poll"
    assert box.next()[0].topic == "appliance/box/cmd/poll"
    assert box.inbound.empty()
    stats = box.listener.stats()
    assert (stats.refused, stats.retained, stats.acknowledged) == (2, 0, 1)


def test_refused_publishes_are_logged_once_a_connection(box: Box, logs: list[Any]) -> None:
    client = box.raw(client_id="forger")
    for packet_id in range(1, 50):
        client.publish("appliance/box/status", packet_id=packet_id)
    for _ in range(1, 50):
        client.expect(PubAckPacket)
    refused = [entry for entry in logs if entry["event"] == "publish_refused"]
    assert [(entry["client"], entry["topic"]) for entry in refused] == [("forger", "appliance/box/status")]


def test_a_will_where_only_the_appliance_speaks_is_refused(box: Box) -> None:
    client = Raw(box.port)
    assert int(client.connect(will=mqtt5.Will("appliance/box/status", payload=b"x")).reason_code) == 0x87
    assert client.packet() is None


def _publish_frame(topic: bytes, version: int) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + b"\0\1" + (b"\0" if version == 5 else b"")
    return bytes((0x32, len(body))) + body


MISBEHAVIOURS = {
    "a packet type that does not exist": (b"\0\0", 0x81),
    "wrong flags": (b"\xc1\0", 0x81),
    "an endless length": (b"\x32\xff\xff\xff\xff\x01", 0x81),
    "a body that ends too early": (b"\x32\x02\x00\x09", 0x81),
    "a second CONNECT": (b"CONNECT", 0x82),
    "a packet that only servers send": (b"\x40\x02\0\0\x20\x02\0\0", 0x82),
    "a step of QoS 2 that only the receiver takes": (b"\x50\x02\0\1", 0x82),
    "a release without a packet id": (b"\x62\x02\0\0", 0x82),
    "a topic that is not UTF-8": (b"Stra\xdfe", 0x81),
    "a topic with NUL": (b"a\0b", 0x90),
    "a topic with a wildcard": (b"a/+", 0x90),
    "a topic with the other wildcard": (b"#", 0x90),
    "SUBSCRIBE without a filter": (b"SUBSCRIBE", 0x82),
    "SUBSCRIBE that is not UTF-8": (b"SUBSCRIBE\xff", 0x81),
}


@BOTH
@pytest.mark.parametrize("name", MISBEHAVIOURS)
# The codec panics over a string that is not UTF-8, and Python reports what it let fall; the listener lives on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_that_misbehaves_is_disconnected_and_disturbs_nobody(box: Box, version: int, name: str) -> None:
    good = box.raw(version, "good")
    bad = box.raw(version, "bad")
    data, reason = MISBEHAVIOURS[name]
    properties = b"\0" if version == 5 else b""
    if name.startswith("a topic"):
        data = _publish_frame(data, version)
    elif data == b"CONNECT":
        data = bad.encode(ConnectPacket("bad"))
    elif name.startswith("a packet that only"):
        data = data[:4] + bad.encode(ConnAckPacket()) if version == 5 else data
    elif data.startswith(b"SUBSCRIBE"):
        body = b"\0\1" + properties + (b"\0\1\xff\0" if data[-1] == 0xFF else b"")
        data = bytes((0x82, len(body))) + body
    bad.send(data)
    bad.expect_end(reason)
    good.publish("a", packet_id=1)
    good.expect(PubAckPacket)
    assert box.next()[0].client == "good"
    assert box.listener.stats().clients == 1


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: box\r\n\r\n", b"\xc0\0", b"\x30\x03\0\1a", b"\x16\x03\x01\x02\0", b"\x11"]
)
def test_what_does_not_begin_with_connect_is_closed(box: Box, data: bytes) -> None:
    stranger = Raw(box.port)
    stranger.send(data)
    assert stranger.packet() is None
    box.raw().in_step()


@pytest.mark.parametrize("head", [b"\0\6MQIsdp\3", b"\0\4MQTT\6", b"\0\4HTTP\5"])
def test_another_protocol_version_is_refused_with_a_word(box: Box, head: bytes) -> None:
    stranger = Raw(box.port, 4)
    body = head + b"\2\0\x0a\0\1a"
    stranger.send(bytes((0x10, len(body))) + body)
    assert int(stranger.expect(ConnAckPacket).reason_code) == 0x84
    assert stranger.packet() is None


def test_a_connect_that_is_far_too_large_is_not_waited_for(box: Box) -> None:
    stranger = Raw(box.port)
    stranger.send(b"\x10\xff\xff\xff\x01")
    assert stranger.packet() is None


def test_who_does_not_send_connect_is_closed(make_box: Callable[..., Box]) -> None:
    box = make_box(connect_s_max=0.1)
    silent, slow = Raw(box.port), Raw(box.port)
    slow.send(b"\x10\x20\0\4MQ")
    assert silent.packet() is None
    assert slow.packet() is None


def test_who_does_not_hang_up_when_told_to_go_is_cut_off(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LINGER_S", 0.1)
    client = box.raw()
    client.send(b"\0\0")
    client.expect_end(0x81)
    wait_until(lambda: not box.listener._house.connections)


def test_a_subscriber_that_never_reads_is_disconnected_and_disturbs_nobody(make_box: Callable[..., Box]) -> None:
    box = make_box(stalled_s_max=0.5, queue_messages_max=10)
    stuck = Raw(box.port, reads_little=True)
    stuck.connect("stuck")
    stuck.subscribe("a")
    good = box.raw(client_id="good")
    good.subscribe("a")
    payload = bytes(1 << 20)
    sent = 0
    while box.listener.stats().dropped == 0:
        assert sent < 100
        box.listener.publish("a", payload, qos=0)
        assert len(good.expect_publish().payload) == len(payload)
        sent += 1
    wait_until(lambda: box.listener.stats().clients == 1)
    box.listener.publish("a", b"still there")
    assert good.expect_publish().payload == b"still there"


def test_a_client_that_asks_and_never_reads_the_answers_is_disconnected(
    make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "WRITE_BYTES_HIGH", 10_000)
    box = make_box(packet_bytes_max=100_000)
    client = Raw(box.port, reads_little=True)
    client.connect()
    request = mqtt5.UnsubscribePacket(1, ["a"] * 30_000).write()
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            client.socket.sendall(request)
    wait_until(lambda: box.listener.stats().clients == 0)


def test_an_error_behind_one_connection_ends_that_one_only(make_box: Callable[..., Box], logs: list[Any]) -> None:
    acknowledged = []

    def deliver(message: InboundMessage, acknowledge: Acknowledge) -> None:
        if message.topic == "poison":
            raise RuntimeError("a fault in the appliance")
        acknowledged.append(message)
        acknowledge()

    box = make_box(deliver=deliver)
    good, bad = box.raw(client_id="good"), box.raw(client_id="bad")
    bad.publish("poison", packet_id=1)
    bad.expect_end(0x80)
    good.publish("a", packet_id=1)
    good.expect(PubAckPacket)
    assert [entry["client"] for entry in logs if entry["event"] == "connection_failed"] == ["bad"]
