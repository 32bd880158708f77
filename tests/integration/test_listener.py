"""The listener: a message in, its acknowledgement out; start, stop and figures."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from mqtt5 import PubAckPacket, PublishPacket

from appliance.config import ListenerConfig
from appliance.errors import ConfigError, Overloaded, PortInUse
from appliance.mqtt.listener import Listener
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.wire import Wire4, Wire5
from tests.support.listener import AT_LEAST_ONCE, BOTH, WAIT_S, Box, Client, Raw, wait_until


@BOTH
def test_a_message_reaches_the_appliance_as_it_was_sent(box: Box, version: int) -> None:
    client = box.raw(version, "plc-7")
    client.publish("line/1/vibration", b"\0\xff", packet_id=9)
    message, _ = box.next()
    assert message == InboundMessage(client="plc-7", topic="line/1/vibration", payload=b"\0\xff", qos=1, packet_id=9)
    assert client.expect(PubAckPacket).packet_id == 9


@BOTH
def test_puback_comes_only_when_the_appliance_acknowledges(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(hold=True)
    client = box.raw(version)
    client.publish("a", packet_id=1)
    _, acknowledge = box.next()
    client.in_step()
    acknowledge()
    assert client.expect(PubAckPacket).packet_id == 1
    assert box.listener.stats().acknowledged == 1


def test_messages_may_be_acknowledged_in_any_order_from_any_thread(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True, receive_max=500)
    client = box.raw()
    for packet_id in range(1, 501):
        client.publish("a", packet_id=packet_id)
    acks = [box.next()[1] for _ in range(500)]
    threads = [threading.Thread(target=lambda part=part: [ack() for ack in part]) for part in (acks[::-2], acks[::2])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {client.expect(PubAckPacket).packet_id for _ in range(500)} == set(range(1, 501))
    client.in_step()


def test_an_old_acknowledgement_does_not_reach_a_later_connection(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True)
    first = box.raw(session_expiry_interval=100, clean_start=False)
    first.publish("a", b"old", packet_id=5)
    _, old = box.next()
    first.drop()
    second = box.raw(session_expiry_interval=100, clean_start=False)
    second.publish("a", b"new", packet_id=5)
    message, new = box.next()
    assert message.session_resumed
    old()
    second.in_step()
    new()
    assert second.expect(PubAckPacket).packet_id == 5


def test_a_second_call_does_not_acknowledge_a_later_message(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True)
    client = box.raw()
    client.publish("a", b"first", packet_id=5)
    _, first = box.next()
    first()
    client.expect(PubAckPacket)
    client.publish("a", b"second", packet_id=5)
    _, second = box.next()
    first()
    client.in_step()
    second()
    assert client.expect(PubAckPacket).packet_id == 5


@BOTH
def test_a_repeat_of_a_message_in_flight_is_ignored_when_marked_as_one(
    make_box: Callable[..., Box], version: int
) -> None:
    box = make_box(hold=True)
    client = box.raw(version)
    client.publish("a", packet_id=1)
    client.publish("a", packet_id=1, duplicate=True)
    client.in_step()
    _, acknowledge = box.next()
    acknowledge()
    client.expect(PubAckPacket)
    client.in_step()
    assert box.inbound.empty()


@BOTH
def test_a_packet_id_in_flight_may_not_be_used_for_another_message(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(hold=True)
    client = box.raw(version)
    client.publish("a", packet_id=1)
    client.publish("b", packet_id=1)
    client.expect_end(0x82)
    assert box.next()[0].topic == "a"
    assert box.inbound.empty()


@BOTH
def test_a_message_that_was_not_acknowledged_is_taken_again_on_the_next_connection(
    make_box: Callable[..., Box], version: int
) -> None:
    box = make_box(hold=True)
    first = box.raw(version, clean_start=False, session_expiry_interval=100)
    first.publish("a", packet_id=7)
    assert not box.next()[0].session_resumed
    first.drop()
    second = box.raw(version, clean_start=False, session_expiry_interval=100)
    assert second.connack.session_present
    second.publish("a", packet_id=7, duplicate=True)
    message, acknowledge = box.next()
    assert (message.duplicate, message.session_resumed, message.packet_id) == (True, True, 7)
    acknowledge()
    assert second.expect(PubAckPacket).packet_id == 7


@BOTH
def test_qos_0_is_delivered_and_never_acknowledged(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(hold=True)
    client = box.raw(version)
    client.publish("a")
    message, acknowledge = box.next()
    acknowledge()
    assert (message.qos, message.packet_id) == (0, None)
    client.in_step()


def test_a_publisher_who_retains_sends_something_new(box: Box) -> None:
    box.raw().publish("a", packet_id=1, retain=True)
    assert not box.next()[0].retain


def test_properties_reach_the_appliance(box: Box) -> None:
    properties = [("part", "P-1"), ("lot", "L"), ("part", "é")]
    box.raw().publish("a", packet_id=1, content_type="image/jpeg", user_properties=properties)
    message, _ = box.next()
    assert message.content_type == "image/jpeg"
    assert message.user_properties == tuple(properties)


def test_packets_may_come_byte_by_byte_or_many_at_once(make_box: Callable[..., Box]) -> None:
    box = make_box(receive_max=2000)
    client = box.raw()
    data = PublishPacket("a", b"payload", qos=AT_LEAST_ONCE, packet_id=1).write()
    for at in range(len(data)):
        client.send(data[at : at + 1])
    assert box.next()[0].payload == b"payload"
    client.expect(PubAckPacket)
    many = b"".join(PublishPacket("a", bytes(n), qos=AT_LEAST_ONCE, packet_id=n).write() for n in range(1, 2001))
    client.send(many)
    assert [client.expect(PubAckPacket).packet_id for _ in range(2000)] == list(range(1, 2001))


@BOTH
def test_a_message_of_many_megabytes_goes_in_and_out(
    box: Box, make_client: Callable[..., Client], version: int
) -> None:
    client = make_client(box.port, version)
    client.subscribe("image")
    payload = bytes(range(256)) * 20_000
    client.publish("image", payload)
    assert box.next()[0].payload == payload
    assert client.next().payload == payload


def test_a_port_in_use_is_told_in_one_line(box: Box) -> None:
    other = Listener(ListenerConfig(port=box.port), lambda *_: None, on_fault=lambda _: None)
    with pytest.raises(PortInUse, match=f"port {box.port} .* listener.port") as error:
        other.start()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host.invalid", "", "a" * 300])
def test_an_impossible_address_is_told_in_one_line(host: str) -> None:
    listener = Listener(ListenerConfig(host=host or "\0", port=0), lambda *_: None, on_fault=lambda _: None)
    with pytest.raises(ConfigError) as error:
        listener.start()
    assert "\n" not in str(error.value)


def test_the_address_is_the_one_it_listens_on(box: Box) -> None:
    host, port = box.listener.address
    assert host == "127.0.0.1"
    assert port > 0
    assert "mqtt-listener" in {thread.name for thread in threading.enumerate()}


@BOTH
def test_stop_tells_clients_and_ends_the_thread(make_box: Callable[..., Box], version: int) -> None:
    box = make_box()
    clients = [box.raw(version, f"client-{number}") for number in range(3)]
    box.listener.stop()
    for client in clients:
        client.expect_end(0x8B)
    assert not box.listener._thread.is_alive()
    with pytest.raises(OSError, match="refused"):
        Raw(box.port)
    box.listener.stop()
    box.listener.publish("a", b"nobody hears it")
    assert box.faults == []


def test_stop_writes_the_acknowledgements_given_before_and_none_after(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True)
    client = box.raw()
    client.publish("a", packet_id=1)
    client.publish("a", packet_id=2)
    (_, first), (_, second) = box.next(), box.next()
    first()
    box.listener.stop()
    second()
    assert client.expect(PubAckPacket).packet_id == 1
    client.expect_end(0x8B)


def test_a_client_that_does_not_hang_up_does_not_hold_up_the_stop(make_box: Callable[..., Box]) -> None:
    box = make_box()
    box.raw()
    box.listener.stop()
    assert not box.listener._thread.is_alive()


def test_stop_without_start_does_nothing() -> None:
    Box().listener.stop()


def test_a_thread_that_ends_by_itself_is_reported() -> None:
    box = Box()
    box.listener.start()
    box.listener._loop.call_soon_threadsafe(box.listener._loop.stop)
    box.listener._thread.join(WAIT_S)
    assert [str(fault) for fault in box.faults] == ["the listener's loop ended by itself"]


def test_stats_count_what_happened(box: Box) -> None:
    client = box.raw()
    client.subscribe("a", "b/#")
    client.publish("a", packet_id=1, retain=True)
    client.expect_publish()
    client.publish("other")
    client.expect(PubAckPacket)
    client.in_step()
    stats = box.listener.stats()
    assert (stats.clients, stats.subscriptions, stats.retained) == (1, 2, 1)
    assert (stats.received, stats.acknowledged, stats.delivered, stats.dropped, stats.refused) == (2, 1, 1, 0, 0)


def test_the_beat_goes_on(box: Box) -> None:
    first = box.listener.beat
    wait_until(lambda: box.listener.beat > first)


@pytest.mark.parametrize(("topic", "qos"), [("", 1), ("a/#", 1), ("a", 2)])
def test_the_appliance_cannot_publish_what_is_no_message(box: Box, topic: str, qos: int) -> None:
    with pytest.raises(ValueError, match="cannot publish"):
        box.listener.publish(topic, b"x", qos=qos)


def test_both_wires_say_who_they_are() -> None:
    assert (Wire4().version, Wire5().version) == (4, 5)


@BOTH
def test_a_message_that_the_appliance_cannot_take_ends_its_connection_unacknowledged(
    make_box: Callable[..., Box], version: int
) -> None:
    def full(_message: InboundMessage, _acknowledge: Acknowledge) -> None:
        raise Overloaded("no room")

    box = make_box(deliver=full)
    client = box.raw(version)
    client.publish("a", packet_id=1)
    client.expect_end(0x89)
    assert box.listener._house.in_flight_bytes == 0
