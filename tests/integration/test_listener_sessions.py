"""Wills, keep-alive, takeover and sessions of the listener."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mqtt5
import pytest
from mqtt5 import DisconnectPacket, PubAckPacket, PublishPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.listener import AT_LEAST_ONCE, BOTH, Box, Client, Raw, wait_until

_WILL = mqtt5.Will("plc/status", payload=b"gone", qos=AT_LEAST_ONCE, retain=True)


@pytest.fixture
def watcher(box: Box) -> Raw:
    client = box.raw(client_id="watcher")
    client.subscribe("plc/status")
    return client


def test_a_lost_connection_publishes_the_will_to_subscribers_and_the_appliance(box: Box, watcher: Raw) -> None:
    box.raw(client_id="plc", will=_WILL).drop()
    got = watcher.expect_publish()
    assert (got.topic, got.payload) == ("plc/status", b"gone")
    message, _ = box.next()
    assert (message.client, message.topic, message.payload) == ("plc", "plc/status", b"gone")
    assert box.listener.stats().retained == 1


@BOTH
def test_paho_clients_leave_a_will(box: Box, watcher: Raw, make_client: Callable[..., Client], version: int) -> None:
    client = make_client(
        box.port, version, "plc", will={"topic": "plc/status", "payload": b"lost", "qos": 1, "retain": False}
    )
    client.paho.loop_stop()
    client.paho.socket().close()  # type: ignore[union-attr]
    assert watcher.expect_publish().payload == b"lost"


def test_a_clean_disconnect_publishes_no_will(box: Box, watcher: Raw) -> None:
    client = box.raw(client_id="plc", will=_WILL)
    client.send(DisconnectPacket())
    assert client.packet() is None
    watcher.in_step()
    assert box.inbound.empty()


def test_a_disconnect_may_ask_for_the_will(box: Box, watcher: Raw) -> None:
    client = box.raw(client_id="plc", will=_WILL)
    client.send(DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE))
    assert watcher.expect_publish().payload == b"gone"


def test_a_protocol_error_publishes_the_will(box: Box, watcher: Raw) -> None:
    box.raw(client_id="plc", will=_WILL).send(b"\0\0")
    assert watcher.expect_publish().payload == b"gone"


def test_a_silent_client_is_disconnected_after_one_and_a_half_keep_alives(box: Box, watcher: Raw) -> None:
    client = box.raw(client_id="plc", keep_alive=1, will=_WILL)
    client.expect_end(0x8D)
    assert watcher.expect_publish().payload == b"gone"


def test_a_client_that_pings_in_time_stays(box: Box) -> None:
    client = box.raw(keep_alive=1)
    for _ in range(5):
        time.sleep(0.5)  # the keep-alive itself
        client.in_step()


@BOTH
def test_a_second_connection_takes_over_and_the_first_leaves_its_will(box: Box, watcher: Raw, version: int) -> None:
    first = Raw(box.port, 5)
    first.connect("plc", will=_WILL)
    second = box.raw(version, "plc")
    first.expect_end(0x8E)
    assert watcher.expect_publish().payload == b"gone"
    second.in_step()


def test_a_delayed_will_is_not_published_when_its_client_is_back(box: Box, watcher: Raw) -> None:
    will = mqtt5.Will("plc/status", payload=b"gone", will_delay_interval=60)
    lasting: dict[str, Any] = {"client_id": "plc", "session_expiry_interval": 100, "clean_start": False}
    first = box.raw(will=will, **lasting)
    second = box.raw(**lasting)
    first.expect_end(0x8E)
    second.in_step()
    watcher.in_step()
    assert box.inbound.empty()


@BOTH
def test_a_session_waits_for_its_client(box: Box, make_client: Callable[..., Client], version: int) -> None:
    properties = None
    if version == 5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 100
    options = {} if version == 4 else {"properties": properties}
    first = make_client(box.port, version, "hmi", clean=False, **options)
    assert not first.flags.session_present
    first.subscribe("a")
    first.close()
    wait_until(lambda: box.listener.stats().clients == 0)
    box.listener.publish("a", b"missed")
    box.listener.publish("a", b"not kept", qos=0)
    second = make_client(box.port, version, "hmi", clean=False, **options)
    assert second.flags.session_present
    assert second.next().payload == b"missed"
    second.close()
    third = make_client(box.port, version, "hmi", clean=True)
    assert not third.flags.session_present
    assert box.listener.stats().subscriptions == 0


@BOTH
def test_what_a_subscriber_did_not_acknowledge_is_sent_again(box: Box, version: int) -> None:
    lasting: dict[str, Any] = {"client_id": "hmi", "session_expiry_interval": 100, "clean_start": False}
    first = box.raw(version, **lasting)
    first.subscribe("a")
    box.listener.publish("a", b"1")
    box.listener.publish("a", b"2")
    packet_ids = [first.expect(PublishPacket).packet_id for _ in range(2)]
    first.send(PubAckPacket(packet_ids[0]))
    first.in_step()
    first.drop()
    second = box.raw(version, **lasting)
    again = second.expect_publish()
    assert (again.payload, again.packet_id, again.duplicate) == (b"2", packet_ids[1], True)
    second.in_step()


def test_a_session_ends_when_its_expiry_is_over(box: Box) -> None:
    client = box.raw(client_id="hmi", session_expiry_interval=1)
    client.subscribe("a")
    client.drop()
    wait_until(lambda: box.listener.stats().subscriptions == 0)
    assert not box.raw(client_id="hmi", clean_start=False).connack.session_present


def test_a_disconnect_may_shorten_the_expiry_but_not_invent_one(box: Box) -> None:
    client = box.raw(client_id="hmi", session_expiry_interval=100)
    client.send(DisconnectPacket(session_expiry_interval=0))
    assert client.packet() is None
    again = box.raw(client_id="hmi", clean_start=False)
    assert not again.connack.session_present
    again.send(DisconnectPacket(session_expiry_interval=100))
    again.expect_end(0x82)


def test_limits_of_the_appliance_are_told_in_connack(make_box: Callable[..., Box]) -> None:
    box = make_box(session_expiry_s_max=50, keep_alive_s_max=20)
    generous = box.raw(client_id="one", session_expiry_interval=100, keep_alive=0).connack
    assert (generous.session_expiry_interval, generous.server_keep_alive) == (50, 20)
    modest = box.raw(client_id="two", session_expiry_interval=10, keep_alive=5).connack
    assert (modest.session_expiry_interval, modest.server_keep_alive) == (None, None)


def test_a_client_without_a_name_gets_one(box: Box) -> None:
    client = box.raw(client_id="")
    assert client.connack.assigned_client_id
    client.publish("a", packet_id=1)
    assert box.next()[0].client == client.connack.assigned_client_id
    assert int(box.raw(4, "").connack.reason_code) == 0


def test_a_client_of_3_1_1_without_a_name_cannot_ask_for_a_lasting_session(box: Box) -> None:
    client = Raw(box.port, 4)
    assert int(client.connect("", clean_start=False).reason_code) == 0x85
    assert client.packet() is None


def test_a_client_name_has_a_bounded_length(box: Box) -> None:
    assert int(box.raw(client_id="x" * 256).connack.reason_code) == 0
    assert int(box.raw(client_id="x" * 257).connack.reason_code) == 0x85


@BOTH
def test_sessions_survive_a_restart_of_the_process(make_box: Callable[..., Box], version: int) -> None:
    before = make_box()
    client = before.raw(version, "hmi", session_expiry_interval=100, clean_start=False)
    client.subscribe("line/#")
    passing = before.raw(version, "passing")
    passing.subscribe("line/#")
    before.listener.stop()
    assert set(before.saved) == {"hmi"}
    after = make_box(sessions=before.saved.values())
    after.listener.publish("line/1", b"early")
    back = after.raw(version, "hmi", session_expiry_interval=100, clean_start=False)
    assert back.connack.session_present
    assert back.expect_publish().payload == b"early"
