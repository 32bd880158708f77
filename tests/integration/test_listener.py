"""The listener with real clients: paho, mosquitto_pub and mosquitto_sub, and raw sockets for what those never send."""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import mqtt5
import paho.mqtt.client as paho
import pytest
import structlog
from mqtt5 import ConnAckPacket, ConnectPacket, DisconnectPacket, PubAckPacket, PublishPacket, QoS, SubAckPacket
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.config import ListenerConfig
from appliance.errors import ConfigError, Overloaded, PortInUse
from appliance.mqtt import connection as connection_module
from appliance.mqtt.listener import Listener
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.sessions import SavedSession
from appliance.mqtt.wire import Wire4, Wire5

WAIT_S = 10.0
AT_LEAST_ONCE = QoS.AT_LEAST_ONCE
BOTH = pytest.mark.parametrize("version", [4, 5])

needs_mosquitto = pytest.mark.usefixtures("mosquitto")


@pytest.fixture
def mosquitto() -> None:
    assert shutil.which("mosquitto_pub"), "apt-get install mosquitto-clients"


class Box:
    """A listener and an appliance behind it that acknowledges at once, or when told to."""

    def __init__(self, *, hold: bool = False, **options: Any) -> None:
        config = {name: options.pop(name) for name in tuple(options) if name in ListenerConfig.__struct_fields__}
        self.hold = hold
        self.inbound: queue.Queue[tuple[InboundMessage, Acknowledge]] = queue.Queue()
        self.saved: dict[str, SavedSession] = {}
        self.faults: list[BaseException] = []
        self.listener = Listener(
            ListenerConfig(port=0, **config),
            options.pop("deliver", self.deliver),
            on_fault=self.faults.append,
            save_session=lambda saved: self.saved.__setitem__(saved.client_id, saved),
            reserved=lambda topic: topic.startswith("appliance/") and "/cmd/" not in topic,
            **options,
        )

    def deliver(self, message: InboundMessage, acknowledge: Acknowledge) -> None:
        self.inbound.put((message, acknowledge))
        if not self.hold:
            acknowledge()

    @property
    def port(self) -> int:
        return self.listener.address[1]

    def next(self) -> tuple[InboundMessage, Acknowledge]:
        return self.inbound.get(timeout=WAIT_S)

    def raw(self, version: int = 5, client_id: str = "raw", **fields: Any) -> Raw:
        client = Raw(self.port, version)
        client.connack = client.connect(client_id, **fields)
        return client


@pytest.fixture
def make_box() -> Iterator[Callable[..., Box]]:
    boxes: list[Box] = []

    def make(**options: Any) -> Box:
        box = Box(**options)
        box.listener.start()
        boxes.append(box)
        return box

    yield make
    while Raw.opened:
        Raw.opened.pop().drop()
    for box in boxes:
        box.listener.stop()
        assert box.faults == []


@pytest.fixture
def box(make_box: Callable[..., Box]) -> Box:
    return make_box()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


class Raw:
    """A socket that speaks either version: packets in the form of MQTT 5, bytes as they are on the wire."""

    opened: ClassVar[list[Raw]] = []

    def __init__(self, port: int, version: int = 5, *, reads_little: bool = False) -> None:
        self.version = version
        self.socket = socket.socket()
        self.opened.append(self)
        self.socket.settimeout(WAIT_S)
        if reads_little:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""
        self.connack: ConnAckPacket

    def send(self, *packets: Any) -> None:
        self.socket.sendall(b"".join(self.encode(packet) for packet in packets))

    def encode(self, packet: Any) -> bytes:
        """3.1.1 is what MQTT 5 is without its empty property lists."""
        if isinstance(packet, bytes):
            return packet
        data: bytes = packet.write()
        if self.version == 5:
            return data
        at = 1
        while data[at] & 0x80:
            at += 1
        body = data[at + 1 :]
        if isinstance(packet, ConnectPacket):
            assert packet.will is None
            body = body[:6] + b"\4" + body[7:10] + body[11 + body[10] :]
        elif isinstance(packet, PublishPacket):
            place = 2 + int.from_bytes(body[:2], "big") + (2 if packet.packet_id else 0)
            assert body[place] == 0
            body = body[:place] + body[place + 1 :]
        elif isinstance(packet, mqtt5.SubscribePacket | mqtt5.UnsubscribePacket):
            body = body[:2] + body[3:]
        length = bytearray()
        left = len(body)
        while left > 127:
            length.append(left & 127 | 128)
            left >>= 7
        return data[:1] + bytes((*length, left)) + body

    def connect(self, client_id: str = "raw", **fields: Any) -> ConnAckPacket:
        fields.setdefault("clean_start", True)
        self.send(ConnectPacket(client_id, **fields))
        answer: ConnAckPacket = self.expect(ConnAckPacket)
        return answer

    def publish(self, topic: str, payload: bytes = b"x", packet_id: int | None = None, **fields: Any) -> None:
        qos = AT_LEAST_ONCE if packet_id else QoS.AT_MOST_ONCE
        self.send(PublishPacket(topic, payload, **{"qos": qos, "packet_id": packet_id, **fields}))

    def subscribe(self, *filters: str | mqtt5.TopicFilter, packet_id: int = 1, **fields: Any) -> list[int]:
        wanted = [
            mqtt5.TopicFilter(one, max_qos=AT_LEAST_ONCE, retain_as_published=False) if isinstance(one, str) else one
            for one in filters
        ]
        self.send(mqtt5.SubscribePacket(packet_id, wanted, **fields))
        answer = self.expect(SubAckPacket)
        assert answer.packet_id == packet_id
        return [int(reason) for reason in answer.reason_codes]

    def packet(self) -> Any:
        """The next packet, None at the end of the stream."""
        while True:
            frame = self._frame()
            if frame is not None:
                return self.decode(frame)
            try:
                data = self.socket.recv(65_536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.buffer += data

    def _frame(self) -> bytes | None:
        length, at = 0, 1
        while at < len(self.buffer):
            byte = self.buffer[at]
            length |= (byte & 127) << (7 * (at - 1))
            at += 1
            if byte < 128:
                break
        else:
            return None
        if len(self.buffer) < at + length:
            return None
        frame, self.buffer = self.buffer[: at + length], self.buffer[at + length :]
        return frame

    def decode(self, frame: bytes) -> Any:
        kind = frame[0] >> 4
        if self.version == 5 or kind in (4, 13):
            return mqtt5.read(memoryview(frame))[0]
        if kind == 2:
            code = {0: 0, 1: 132, 2: 133, 3: 137, 4: 134, 5: 135}[frame[3]]
            return ConnAckPacket(session_present=bool(frame[2]), reason_code=mqtt5.ConnAckReasonCode(code))
        if kind == 9:
            codes = [mqtt5.SubAckReasonCode(code) for code in frame[4:]]
            return SubAckPacket(int.from_bytes(frame[2:4], "big"), codes)
        if kind == 11:
            return mqtt5.UnsubAckPacket(int.from_bytes(frame[2:4], "big"), [])
        return Wire4().read(memoryview(frame))

    def expect(self, kind: type[Any]) -> Any:
        packet = self.packet()
        assert isinstance(packet, kind), packet
        return packet

    def expect_publish(self) -> PublishPacket:
        packet: PublishPacket = self.expect(PublishPacket)
        if packet.packet_id is not None:
            self.send(PubAckPacket(packet.packet_id))
        return packet

    def expect_end(self, reason: int) -> None:
        """Disconnected: with the reason in MQTT 5, without a word in 3.1.1."""
        if self.version == 5:
            assert int(self.expect(DisconnectPacket).reason_code) == reason
        assert self.packet() is None

    def in_step(self) -> None:
        """All that was sent before has been handled, and nothing else came."""
        self.send(mqtt5.PingReqPacket())
        self.expect(mqtt5.PingRespPacket)

    def drop(self) -> None:
        """Gone without DISCONNECT."""
        self.socket.close()


class Client:
    """A paho client that collects what it gets."""

    def __init__(self, port: int, version: int, client_id: str = "paho", clean: bool = True, **connect: Any) -> None:
        self.got: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._connected: queue.Queue[Any] = queue.Queue()
        self._subscribed = threading.Event()
        options = {"clean_session": clean} if version == 4 else {}
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5 if version == 5 else paho.MQTTv311,
            **options,  # type: ignore[arg-type]
        )
        self.paho.on_message = lambda _client, _data, message: self.got.put(message)
        self.paho.on_connect = lambda *arguments: self._connected.put(arguments[2])
        self.paho.on_subscribe = lambda *_: self._subscribed.set()
        if version == 5:
            connect.setdefault("clean_start", clean)
        will = connect.pop("will", None)
        if will is not None:
            self.paho.will_set(**will)
        self.paho.connect("127.0.0.1", port, **connect)
        self.paho.loop_start()
        self.flags = self._connected.get(timeout=WAIT_S)

    def subscribe(self, topic_filter: str, qos: int = 1, **options: Any) -> None:
        self._subscribed.clear()
        self.paho.subscribe(topic_filter, **(options or {"qos": qos}))
        assert self._subscribed.wait(WAIT_S)

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, **options: Any) -> None:
        self.paho.publish(topic, payload, qos, **options).wait_for_publish(WAIT_S)

    def next(self) -> paho.MQTTMessage:
        return self.got.get(timeout=WAIT_S)

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest.fixture
def make_client() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(*arguments: Any, **options: Any) -> Client:
        clients.append(Client(*arguments, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what only shows in counters: no event to wait for, so ask again, within a bound."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


# -- a message in, its acknowledgement out


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


# -- windows and limits


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


# -- QoS 2 and other things that are not offered


def test_mqtt_5_is_told_what_is_not_offered(box: Box) -> None:
    connack = box.raw().connack
    assert connack.max_qos == 1
    assert connack.topic_alias_max == 0
    assert not connack.shared_subscription_available
    assert connack.retain_available
    assert connack.wildcard_subscription_available
    assert connack.subscription_id_available


@BOTH
def test_a_publish_at_qos_2_ends_its_connection(box: Box, version: int, logs: list[Any]) -> None:
    client = box.raw(version)
    client.publish("a", packet_id=1, qos=QoS.EXACTLY_ONCE)
    client.expect_end(0x9B)
    assert box.inbound.empty()
    assert "qos_not_supported" in [entry.get("reason") for entry in logs]


@BOTH
def test_a_subscription_at_qos_2_is_granted_qos_1(box: Box, version: int) -> None:
    client = box.raw(version)
    assert client.subscribe(mqtt5.TopicFilter("a", max_qos=QoS.EXACTLY_ONCE, retain_as_published=False)) == [1]
    box.listener.publish("a", b"x", qos=1)
    assert client.expect_publish().qos == 1


def test_a_will_at_qos_2_is_refused_in_mqtt_5(box: Box) -> None:
    client = Raw(box.port)
    will = mqtt5.Will("a", payload=b"x", qos=QoS.EXACTLY_ONCE)
    assert int(client.connect(will=will).reason_code) == 0x9B
    assert client.packet() is None


def test_a_topic_alias_ends_its_connection(box: Box) -> None:
    client = box.raw()
    client.publish("a", packet_id=1, topic_alias=1)
    client.expect_end(0x94)


@BOTH
def test_shared_subscriptions_and_broken_filters_are_refused_one_by_one(box: Box, version: int) -> None:
    client = box.raw(version)
    filters = b"".join(len(one).to_bytes(2, "big") + one + b"\1" for one in (b"$share/g/a", b"a/#/b", b"", b"good"))
    head = b"\0\7\0" if version == 5 else b"\0\7"
    client.send(bytes((0x82, len(head) + len(filters))) + head + filters)
    expected = [0x9E, 0x8F, 0x8F, 1] if version == 5 else [0x80, 0x80, 0x80, 1]
    assert [int(code) for code in client.expect(SubAckPacket).reason_codes] == expected


def test_a_session_has_a_bounded_number_of_subscriptions(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SUBSCRIPTIONS_MAX", 2)
    client = box.raw()
    assert client.subscribe("a", "b", "c", "a", "/" * 200) == [1, 1, 0x97, 1, 0x97]


def test_authentication_methods_are_not_offered(box: Box) -> None:
    client = Raw(box.port)
    assert int(client.connect(authentication_method="SCRAM").reason_code) == 0x8C
    assert client.packet() is None


# -- subscribers


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


@needs_mosquitto
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


@needs_mosquitto
def test_mosquitto_pub_ends_only_after_the_acknowledgement(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True)
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "-t", "a", "-m", "x", "-q", "1"]
    with subprocess.Popen(command) as publisher:
        _, acknowledge = box.next()
        assert publisher.poll() is None
        acknowledge()
        assert publisher.wait(WAIT_S) == 0


# -- retained messages


@needs_mosquitto
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


# -- wills, keep-alive, takeover

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


# -- sessions


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


# -- clients that misbehave


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
    "a step of QoS 2": (b"\x62\x02\0\1", 0x82),
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


# -- start, stop, figures


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
