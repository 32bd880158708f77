"""What one client may take of the listener, and what the listener does not offer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import mqtt5
import pytest
from mqtt5 import DisconnectPacket, PubAckPacket, PublishPacket, QoS, SubAckPacket

from tests.support.listener import BOTH, Box, Raw, wait_until


def test_a_client_of_mqtt_5_that_exceeds_receive_maximum_is_disconnected(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True, receive_max=3)
    client = box.raw()
    assert client.connack.receive_max == 3
    for packet_id in (1, 2, 3):
        client.publish("a", packet_id=packet_id)
    client.in_step()
    client.publish("a", packet_id=4)
    client.expect_end(0x93)
    assert box.inbound.qsize() == 3


def test_a_client_of_3_1_1_is_read_no_further_than_receive_maximum(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True, receive_max=4)
    client = box.raw(4)
    for packet_id in range(1, 11):
        client.publish("a", packet_id=packet_id)
    acks = [box.next()[1] for _ in range(4)]
    acks[0]()
    assert client.expect(PubAckPacket).packet_id == 1
    assert box.inbound.empty()
    acks[1]()
    assert client.expect(PubAckPacket).packet_id == 2
    later = [box.next() for _ in range(2)]
    assert [message.packet_id for message, _ in later] == [5, 6]
    for ack in [*acks[2:], *(ack for _, ack in later)]:
        ack()
    for _ in range(4):
        box.next()[1]()
    assert [client.expect(PubAckPacket).packet_id for _ in range(8)] == list(range(3, 11))
    client.in_step()


@BOTH
def test_nobody_is_read_while_the_appliance_holds_too_many_bytes(
    make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr("appliance.mqtt.connection.IN_FLIGHT_BYTES_MAX", 1000)
    box = make_box(hold=True)
    first, second = box.raw(version, "first"), box.raw(version, "second")
    first.publish("a", payload=b"x" * 1001, packet_id=1)
    _, ack = box.next()
    second.publish("b", payload=b"y" * 10, packet_id=1)
    message, ack_second = box.next()
    assert message.client == "second"
    second.publish("b", payload=b"y" * 10, packet_id=2)
    ack_second()
    assert second.expect(PubAckPacket).packet_id == 1
    assert box.inbound.empty()

    ack()
    ack()

    assert first.expect(PubAckPacket).packet_id == 1
    assert box.next()[0].packet_id == 2
    first.publish("a", packet_id=2)
    assert box.next()[0].client == "first"


def test_a_client_of_3_1_1_that_leaves_while_not_read_disturbs_nothing(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True, receive_max=2)
    client = box.raw(4)
    for packet_id in range(1, 6):
        client.publish("a", packet_id=packet_id)
    client.drop()
    for _ in range(5):
        box.next()[1]()
    wait_until(lambda: box.listener.stats().clients == 0)


def test_the_window_of_a_subscriber_is_kept(box: Box) -> None:
    client = box.raw(receive_max=2)
    client.subscribe("a")
    for _ in range(3):
        box.listener.publish("a", b"x")
    first, second = client.expect(PublishPacket), client.expect(PublishPacket)
    client.in_step()
    client.send(PubAckPacket(second.packet_id))
    client.expect(PublishPacket)
    assert first.packet_id != second.packet_id


@BOTH
def test_a_packet_larger_than_allowed_ends_its_connection(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(packet_bytes_max=2000)
    client = box.raw(version)
    if version == 5:
        assert client.connack.max_packet_size == 2000
    client.publish("a", bytes(1900), packet_id=1)
    client.expect(PubAckPacket)
    client.publish("a", bytes(2000), packet_id=2)
    client.expect_end(0x95)


def test_a_message_larger_than_a_subscriber_takes_is_not_sent_to_it(box: Box) -> None:
    client = box.raw(max_packet_size=100)
    client.subscribe("a")
    box.listener.publish("a", bytes(200))
    box.listener.publish("a", b"small")
    assert client.expect_publish().payload == b"small"
    assert box.listener.stats().dropped == 1


def test_the_queue_of_a_subscriber_who_is_away_drops_its_oldest(make_box: Callable[..., Box]) -> None:
    box = make_box(queue_messages_max=3)
    client = box.raw(client_id="hmi", session_expiry_interval=100)
    client.subscribe("a")
    client.send(DisconnectPacket())
    assert client.packet() is None
    for number in range(5):
        box.listener.publish("a", b"%d" % number)
    back = box.raw(client_id="hmi", session_expiry_interval=100, clean_start=False)
    assert [back.expect_publish().payload for _ in range(3)] == [b"2", b"3", b"4"]
    assert box.listener.stats().dropped == 2


@BOTH
def test_no_more_clients_than_configured_are_let_in(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(clients_max=2)
    one, two = box.raw(version, "one"), box.raw(version, "two")
    three = Raw(box.port, version)
    assert int(three.connect("three").reason_code) == 0x89
    assert three.packet() is None
    assert box.listener.stats().refused == 1
    again = box.raw(version, "two")
    assert int(again.connack.reason_code) == 0
    two.expect_end(0x8E)
    one.in_step()


def test_sockets_that_never_say_a_word_are_bounded_too(make_box: Callable[..., Box]) -> None:
    box = make_box(clients_max=1)
    silent = [Raw(box.port) for _ in range(65)]
    last = Raw(box.port)
    assert last.packet() is None
    for one in silent:
        one.drop()
    wait_until(lambda: not box.listener._house.connections)
    assert int(box.raw().connack.reason_code) == 0


@BOTH
def test_a_flood_of_one_client_does_not_keep_others_out(box: Box, version: int) -> None:
    stop = threading.Event()
    flooder = box.raw(version, "flooder")
    data = flooder.encode(PublishPacket("noise", bytes(200))) * 500

    def flood() -> None:
        while not stop.is_set():
            flooder.socket.sendall(data)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        client = box.raw(version, "calm")
        for packet_id in range(1, 21):
            client.publish("calm", packet_id=packet_id)
            client.expect(PubAckPacket)
    finally:
        stop.set()
        thread.join()


def test_mqtt_5_is_told_what_is_offered_and_what_not(box: Box) -> None:
    connack = box.raw().connack
    assert connack.max_qos == 2
    assert connack.topic_alias_max == 0
    assert connack.shared_subscription_available
    assert connack.retain_available
    assert connack.wildcard_subscription_available
    assert connack.subscription_id_available


@BOTH
def test_a_subscription_at_qos_2_is_granted_qos_1(box: Box, version: int) -> None:
    client = box.raw(version)
    assert client.subscribe(mqtt5.TopicFilter("a", max_qos=QoS.EXACTLY_ONCE, retain_as_published=False)) == [1]
    box.listener.publish("a", b"x", qos=1)
    assert client.expect_publish().qos == 1


def test_a_topic_alias_ends_its_connection(box: Box) -> None:
    client = box.raw()
    client.publish("a", packet_id=1, topic_alias=1)
    client.expect_end(0x94)


@BOTH
def test_broken_filters_are_refused_one_by_one(box: Box, version: int) -> None:
    client = box.raw(version)
    broken = (b"$share/g", b"$share//a", b"$share/+/a", b"$share/g/", b"$share/g/a#", b"a/#/b", b"")
    filters = b"".join(len(one).to_bytes(2, "big") + one + b"\1" for one in (*broken, b"$share/g/a", b"good"))
    head = b"\0\7\0" if version == 5 else b"\0\7"
    client.send(bytes((0x82, len(head) + len(filters))) + head + filters)
    refused = 0x8F if version == 5 else 0x80
    assert [int(code) for code in client.expect(SubAckPacket).reason_codes] == [refused] * len(broken) + [1, 1]


def test_a_client_has_a_bounded_number_of_subscriptions(make_box: Callable[..., Box]) -> None:
    client = make_box(subscriptions_max=2).raw()
    assert client.subscribe("a", "b", "c", "a", "/" * 200, "$share/g/c") == [1, 1, 0x97, 1, 0x97, 0x97]


def test_an_answer_larger_than_the_client_takes_ends_its_connection(box: Box) -> None:
    client = box.raw(max_packet_size=50)
    client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(f"{number}") for number in range(60)]))
    client.expect_end(0x95)


def test_a_client_that_takes_no_welcome_is_sent_none(box: Box) -> None:
    client = Raw(box.port)
    client.send(mqtt5.ConnectPacket("small", max_packet_size=5))
    assert client.packet() is None


def test_the_queue_of_a_subscriber_is_bounded_in_bytes(make_box: Callable[..., Box]) -> None:
    box = make_box(queue_bytes_max=2000)
    lasting: dict[str, Any] = {"client_id": "hmi", "session_expiry_interval": 100, "clean_start": False}
    client = box.raw(**lasting)
    client.subscribe("a")
    client.drop()
    wait_until(lambda: box.listener.stats().clients == 0)
    for number in range(5):
        box.listener.publish("a", b"%d" % number * 900)
    back = box.raw(**lasting)
    assert [back.expect_publish().payload[:1] for _ in range(2)] == [b"3", b"4"]
    assert box.listener.stats().dropped == 3


def test_the_queues_of_all_subscribers_are_bounded_together(make_box: Callable[..., Box]) -> None:
    box = make_box(queues_bytes_max=2500)
    for name in ("one", "two", "three"):
        client = box.raw(client_id=name, session_expiry_interval=100, clean_start=False)
        client.subscribe(name)
        client.drop()
    wait_until(lambda: box.listener.stats().clients == 0)
    for name in ("one", "two", "three"):
        box.listener.publish(name, bytes(1000))
    wait_until(lambda: box.listener.stats().dropped == 1)
    back = box.raw(client_id="one", session_expiry_interval=100, clean_start=False)
    assert len(back.expect_publish().payload) == 1000


def test_authentication_methods_are_not_offered(box: Box) -> None:
    client = Raw(box.port)
    assert int(client.connect(authentication_method="SCRAM").reason_code) == 0x8C
    assert client.packet() is None
