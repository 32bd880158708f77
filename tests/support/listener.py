"""A listener in this process, and clients of it: paho, and a socket for what real clients never send."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import mqtt5
import paho.mqtt.client as paho
import pytest
from mqtt5 import ConnAckPacket, ConnectPacket, DisconnectPacket, PubAckPacket, PublishPacket, QoS, SubAckPacket
from paho.mqtt.enums import CallbackAPIVersion

from appliance.config import ListenerConfig
from appliance.mqtt.listener import Listener
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.sessions import SavedSession
from appliance.mqtt.wire import Wire4

WAIT_S = 10.0
AT_LEAST_ONCE = QoS.AT_LEAST_ONCE
BOTH = pytest.mark.parametrize("version", [4, 5])


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


@contextlib.contextmanager
def boxes() -> Iterator[Callable[..., Box]]:
    """Makes listeners that are started, and ends them and all raw clients."""
    made: list[Box] = []

    def make(**options: Any) -> Box:
        box = Box(**options)
        box.listener.start()
        made.append(box)
        return box

    try:
        yield make
    finally:
        while Raw.opened:
            Raw.opened.pop().drop()
        for box in made:
            box.listener.stop()
    for box in made:
        assert box.faults == []


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
        if self.version == 5 or isinstance(packet, mqtt5.PubRelPacket):
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
        if self.version == 5 or kind in (4, 5, 7, 13):
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


def wait_until(condition: Callable[[], bool]) -> None:
    """For what only shows in counters: no event to wait for, so ask again, within a bound."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
