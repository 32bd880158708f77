"""The listener's subscribers and retained messages, with real clients."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import mqtt5
import pytest
from mqtt5 import PubAckPacket
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.support.listener import AT_LEAST_ONCE, BOTH, WAIT_S, Box, Client, wait_until


@pytest.mark.parametrize("publisher", [4, 5])
@pytest.mark.parametrize("subscriber", [4, 5])
def test_subscribers_follow_what_clients_publish(
    box: Box, make_client: Callable[..., Client], publisher: int, subscriber: int
) -> None:
    hmi = make_client(box.port, subscriber, "hmi")
    hmi.subscribe("line/+/state", qos=1)
    plc = make_client(box.port, publisher, "plc")
    plc.publish("line/1/state", b"running")
    plc.publish("line/1/other", b"not wanted")
    plc.publish("line/2/state", b"stopped", qos=0)
    got = [hmi.next(), hmi.next()]
    assert [(one.topic, one.payload, one.qos, one.retain) for one in got] == [
        ("line/1/state", b"running", 1, False),
        ("line/2/state", b"stopped", 0, False),
    ]
    assert [box.next()[0].topic for _ in range(3)] == ["line/1/state", "line/1/other", "line/2/state"]


@BOTH
def test_the_appliance_publishes_to_subscribers_and_not_to_itself(
    box: Box, make_client: Callable[..., Client], version: int
) -> None:
    hmi = make_client(box.port, version)
    hmi.subscribe("appliance/+/results/#")
    box.listener.publish("appliance/box/results/surface/camera-1", b"{}", content_type="application/json")
    message = hmi.next()
    assert (message.topic, message.payload, message.qos) == ("appliance/box/results/surface/camera-1", b"{}", 1)
    assert box.inbound.empty()


def test_properties_are_passed_through_to_subscribers(box: Box) -> None:
    hmi = box.raw(client_id="hmi")
    hmi.subscribe("a", subscription_id=42)
    box.raw(client_id="plc").publish(
        "a",
        packet_id=1,
        payload_format_indicator=1,
        message_expiry_interval=60,
        content_type="text/plain",
        response_topic="answer",
        correlation_data=b"\0\1",
        user_properties=[("part", "P-1")],
    )
    got = hmi.expect_publish()
    assert got.subscription_ids == [42]
    assert 1 <= (got.message_expiry_interval or 0) <= 60
    assert (got.payload_format_indicator, got.content_type, got.response_topic, got.correlation_data) == (
        1,
        "text/plain",
        "answer",
        b"\0\1",
    )
    assert got.user_properties == [("part", "P-1")]


def test_the_appliance_may_add_user_properties(box: Box) -> None:
    client = box.raw()
    client.subscribe("a")
    box.listener.publish("a", b"x", user_properties=(("k", "v"),), content_type="text/plain")
    got = client.expect_publish()
    assert (got.user_properties, got.content_type) == ([("k", "v")], "text/plain")


def test_topics_with_a_dollar_are_only_seen_by_those_who_name_it(box: Box) -> None:
    client = box.raw()
    client.subscribe("#", "+/x")
    box.listener.publish("$SYS/x", b"hidden")
    box.listener.publish("other/x", b"seen")
    assert client.expect_publish().payload == b"seen"
    client.subscribe("$SYS/#")
    box.listener.publish("$SYS/x", b"named")
    assert client.expect_publish().payload == b"named"


def test_no_local_spares_a_client_its_own_messages(box: Box, make_client: Callable[..., Client]) -> None:
    client = make_client(box.port, 5)
    client.subscribe("a", options=SubscribeOptions(qos=1, noLocal=True))
    client.publish("a", b"own")
    box.listener.publish("a", b"other")
    assert client.next().payload == b"other"


@BOTH
def test_who_unsubscribes_gets_no_more(box: Box, version: int) -> None:
    client = box.raw(version)
    client.subscribe("a", "b")
    client.send(mqtt5.UnsubscribePacket(5, ["a", "never"]))
    answer = client.expect(mqtt5.UnsubAckPacket)
    assert answer.packet_id == 5
    if version == 5:
        assert [int(code) for code in answer.reason_codes] == [0, 17]
    box.listener.publish("a", b"x")
    box.listener.publish("b", b"y")
    assert client.expect_publish().payload == b"y"


def test_an_expired_message_is_not_sent_to_who_was_away(box: Box) -> None:
    client = box.raw(client_id="hmi", session_expiry_interval=100)
    client.subscribe("a")
    client.drop()
    wait_until(lambda: box.listener.stats().clients == 0)
    plc = box.raw(client_id="plc")
    plc.publish("a", b"short", packet_id=1, message_expiry_interval=1)
    plc.publish("a", b"lasting", packet_id=2, message_expiry_interval=1000)
    plc.expect(PubAckPacket)
    plc.expect(PubAckPacket)
    time.sleep(1.1)  # the expiry itself: nothing happens when it is over
    back = box.raw(client_id="hmi", session_expiry_interval=100, clean_start=False)
    assert back.expect_publish().payload == b"lasting"


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_clients_publish_and_subscribe(box: Box, version: str) -> None:
    common = ["-h", "127.0.0.1", "-p", str(box.port), "-V", version, "-q", "1"]
    with subprocess.Popen(
        ["mosquitto_sub", *common, "-t", "line/#", "-C", "3", "-W", "10", "-v"], stdout=subprocess.PIPE, text=True
    ) as subscriber:
        wait_until(lambda: box.listener.stats().subscriptions == 1)
        subprocess.run(
            ["mosquitto_pub", *common, "-t", "line/1", "-l"],
            input="one\ntwo\nthree\n",
            text=True,
            check=True,
            timeout=10,
        )
        out, _ = subscriber.communicate(timeout=WAIT_S)
    assert out == "line/1 one\nline/1 two\nline/1 three\n"
    assert [box.next()[0].payload for _ in range(3)] == [b"one", b"two", b"three"]
    assert subscriber.returncode == 0


def test_mosquitto_pub_ends_only_after_the_acknowledgement(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True)
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "-t", "a", "-m", "x", "-q", "1"]
    with subprocess.Popen(command) as publisher:
        _, acknowledge = box.next()
        assert publisher.poll() is None
        acknowledge()
        assert publisher.wait(WAIT_S) == 0


@pytest.mark.parametrize("version", ["311", "5"])
def test_a_retained_message_is_there_for_who_comes_later(box: Box, version: str) -> None:
    common = ["-h", "127.0.0.1", "-p", str(box.port), "-V", version]
    subprocess.run(["mosquitto_pub", *common, "-t", "plc/state", "-m", "on", "-r", "-q", "1"], check=True, timeout=10)
    assert box.listener.stats().retained == 1
    got = subprocess.run(
        ["mosquitto_sub", *common, "-t", "plc/+", "-C", "1", "-W", "10", "-F", "%r %t %p"],
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
    )
    assert got.stdout == "1 plc/state on\n"
    subprocess.run(["mosquitto_pub", *common, "-t", "plc/state", "-n", "-r", "-q", "1"], check=True, timeout=10)
    assert box.listener.stats().retained == 0


def test_retain_handling_is_honoured(box: Box) -> None:
    box.listener.publish("state", b"on", retain=True)
    client = box.raw()

    def wanted(handling: int) -> mqtt5.TopicFilter:
        return mqtt5.TopicFilter("state", max_qos=AT_LEAST_ONCE, retain_handling=mqtt5.RetainHandling(handling))

    client.subscribe(wanted(2))
    client.in_step()
    client.subscribe(wanted(1))
    client.in_step()
    client.subscribe(wanted(0))
    assert client.expect_publish().retain
    client.send(mqtt5.UnsubscribePacket(5, ["state"]))
    client.expect(mqtt5.UnsubAckPacket)
    client.subscribe(wanted(1))
    assert client.expect_publish().retain


def test_what_is_published_before_the_start_is_there_after_it() -> None:
    box = Box()
    box.listener.publish("state", b"on", retain=True)
    box.listener.start()
    try:
        client = box.raw()
        client.subscribe("state")
        assert client.expect_publish().payload == b"on"
        client.drop()
    finally:
        box.listener.stop()
