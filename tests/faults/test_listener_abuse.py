"""Clients that abuse the listener: each is disconnected with its reason, and another client notices nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mqtt5
import pytest
from mqtt5 import ConnAckPacket, ConnAckReasonCode, ConnectPacket, PubAckPacket, PublishPacket, PubRecPacket, QoS

from tests.support.faults import tally, times
from tests.support.listener import BOTH, Box, Raw, boxes, wait_until

CONNECTIONS = times(1000, 10_000)
_FILES = CONNECTIONS + 1000
"""The client's end of each socket is a file of this process, and the listener is in it too."""


@pytest.fixture
def make_box() -> Iterator[Callable[..., Box]]:
    with boxes() as make:
        yield make


class Good:
    """A client beside the bad one: its messages are acknowledged and its subscription is served, all the while."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._client = box.raw(client_id="good")
        self._client.subscribe("good/answer")

    def goes_on(self) -> None:
        self._client.publish("good", packet_id=1)
        self._client.expect(PubAckPacket)
        self._box.listener.publish("good/answer", b"yes")
        assert self._client.expect_publish().payload == b"yes"


@BOTH
def test_a_flood_of_messages_keeps_nobody_out(make_box: Callable[..., Box], version: int) -> None:
    box = make_box()
    good = Good(box)
    flooder = box.raw(version, "flooder")
    data = flooder.encode(PublishPacket("noise", bytes(200))) * 500
    stop = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                flooder.socket.sendall(data)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(20):
            good.goes_on()
    finally:
        stop.set()
        thread.join()


def test_a_flood_of_subscriptions_keeps_nobody_out(make_box: Callable[..., Box]) -> None:
    box = make_box()
    for number in range(2000):
        box.listener.publish(f"state/{number}", b"x", retain=True)
    good = Good(box)
    greedy = box.raw(client_id="greedy", receive_max=1)
    for round_ in range(5):
        greedy.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(f"+/{round_}x{one}") for one in range(200)]))
    good.goes_on()
    good.goes_on()


def test_a_subscriber_that_never_reads_holds_up_nobody(make_box: Callable[..., Box]) -> None:
    box = make_box(stalled_s_max=0.5, queue_bytes_max=4 << 20)
    good = Good(box)
    stuck = Raw(box.port, reads_little=True)
    stuck.connect("stuck")
    stuck.subscribe("load")
    for _ in range(30):
        box.listener.publish("load", bytes(1 << 20))
        good.goes_on()
    wait_until(lambda: box.listener.stats().clients == 1)
    assert box.listener.stats().dropped > 0
    good.goes_on()


def test_a_crowd_of_connections_is_bounded_and_gone_when_it_leaves(make_box: Callable[..., Box]) -> None:
    line = tally("connections of a crowd", CONNECTIONS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= _FILES, f"this test opens {_FILES} files and may open {hard}; raise the limit: ulimit -Hn {_FILES}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _FILES), hard))
    try:
        box = make_box(clients_max=50, connections_per_s_max=100_000, connections_per_s_per_address_max=100_000)
        good = Good(box)
        crowd = []
        for number in range(CONNECTIONS):
            crowd.append(socket.create_connection(("127.0.0.1", box.port), timeout=10))
            if number % 200 == 0:
                good.goes_on()
                line.step(number - line.done)
        line.step(CONNECTIONS - line.done)
        assert len(box.listener._house.connections) <= 50 + 64
        good.goes_on()
        for one in crowd:
            one.close()
        wait_until(lambda: len(box.listener._house.connections) == 1)
        good.goes_on()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_come_too_fast_are_refused_with_the_reason(make_box: Callable[..., Box]) -> None:
    box = make_box(clients_max=1, connections_per_s_max=0.001, connections_per_s_per_address_max=0.001)
    for _ in range(102):
        box.raw().drop()
    for version, reason in ((5, ConnAckReasonCode.CONNECTION_RATE_EXCEEDED), (4, ConnAckReasonCode.SERVER_BUSY)):
        late = Raw(box.port, version)
        assert late.connect("late").reason_code == reason
        assert late.packet() is None


@BOTH
@pytest.mark.parametrize(
    "packet", [PubAckPacket(1), PublishPacket("a", b"x"), mqtt5.PingReqPacket(), mqtt5.DisconnectPacket()]
)
def test_any_packet_before_connect_ends_the_connection(make_box: Callable[..., Box], version: int, packet: Any) -> None:
    box = make_box()
    good = Good(box)
    stranger = Raw(box.port, version)
    stranger.send(packet, ConnectPacket("late"))
    assert stranger.packet() is None
    good.goes_on()
    assert box.listener.stats().clients == 1


@BOTH
def test_stale_and_invented_acknowledgements_do_nothing(make_box: Callable[..., Box], version: int) -> None:
    box = make_box()
    client = box.raw(version, "hmi", clean_start=False, session_expiry_interval=100)
    client.subscribe("a")
    box.listener.publish("a", b"1")
    first = client.expect(PublishPacket)
    for packet_id in (first.packet_id, first.packet_id, 7, 65_535):
        client.send(PubAckPacket(packet_id))
    client.in_step()
    box.listener.publish("a", b"2")
    second = client.expect(PublishPacket)
    client.drop()
    again = box.raw(version, "hmi", clean_start=False, session_expiry_interval=100)
    repeated = again.expect(PublishPacket)
    assert (repeated.payload, repeated.packet_id, repeated.duplicate) == (b"2", second.packet_id, True)
    again.send(PubAckPacket(repeated.packet_id))
    again.in_step()


@BOTH
@pytest.mark.parametrize("topic", [b"Stra\xdfe", b"\xed\xa0\x80", b"\xff", b"\xc0\x80"])
def test_topics_that_are_no_utf_8_end_the_connection(make_box: Callable[..., Box], version: int, topic: bytes) -> None:
    box = make_box()
    good = Good(box)
    bad = box.raw(version, "bad")
    body = len(topic).to_bytes(2, "big") + topic + b"\0\1" + (b"\0" if version == 5 else b"")
    bad.send(bytes((0x32, len(body))) + body)
    bad.expect_end(0x81)
    good.goes_on()


def test_half_open_connections_are_ended(make_box: Callable[..., Box]) -> None:
    """A client whose power went says nothing any more: its keep-alive ends it, or a missing CONNECT does."""
    box = make_box(connect_s_max=0.2)
    good = Good(box)
    silent = box.raw(client_id="silent", keep_alive=1, will=mqtt5.Will("good/will", payload=b"gone"))
    begun = Raw(box.port)
    begun.send(b"\x10\x20\0\4MQ")
    assert begun.packet() is None
    silent.expect_end(0x8D)
    good.goes_on()


def test_unreleased_messages_are_bounded(make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.mqtt.connection.UNRELEASED_MAX", 20)
    box = make_box()
    client = box.raw(4, "hoarder")
    for packet_id in range(1, 21):
        client.publish("a", packet_id=packet_id, qos=QoS.EXACTLY_ONCE)
        client.expect(PubRecPacket)
    client.publish("a", packet_id=21, qos=QoS.EXACTLY_ONCE)
    client.expect_end(0x97)


def test_many_wrong_passwords_hold_up_nobody(make_box: Callable[..., Box], tmp_path: Any) -> None:
    from appliance.mqtt.access import user_line

    path = tmp_path / "users"
    path.write_text(user_line("plc", "secret") + "\n")
    box = make_box(users_file=str(path))
    good = box.raw(client_id="good", username="plc", password=b"secret")
    guessing = [Raw(box.port) for _ in range(30)]
    for one in guessing:
        one.send(ConnectPacket("guess", username="plc", password=b"wrong"))
    for packet_id in range(1, 20):
        good.publish("a", packet_id=packet_id)
        good.expect(PubAckPacket)
    for one in guessing:
        assert one.expect(ConnAckPacket).reason_code == ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD
