"""A broker that a test plays by hand: it says what it is told to, right or wrong, and keeps all that it hears."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mqtt5
from mqtt5 import (
    ConnAckPacket,
    ConnectPacket,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
)

from appliance.mqtt.wire import frame_size
from tests.support.wait import until

WAIT_S = 30.0


class Link:
    """One connection of a client. A thread answers what every broker answers, except for CONNECT."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.heard: list[Any] = []
        """Packets of the client, in their order."""
        self.over = False
        """The client has ended the connection, or `cut` has."""
        self._thread = threading.Thread(target=self._listen, name="raw-broker", daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> list[int]:
        """Packet ids of its PUBACKs, in their order."""
        return [packet.packet_id for packet in list(self.heard) if isinstance(packet, PubAckPacket)]

    def await_connect(self) -> ConnectPacket:
        """What it said first."""
        until(lambda: self.heard, WAIT_S, "the client's first packet")
        first = self.heard[0]
        assert isinstance(first, ConnectPacket), first
        return first

    def welcome(self, *, session_present: bool = False) -> None:
        self.await_connect()
        self.send(ConnAckPacket(session_present=session_present, receive_max=1000).write())

    def publish(
        self,
        packet_id: int,
        topic: str,
        payload: bytes | str,
        *,
        duplicate: bool = False,
        user: Mapping[str, str] | None = None,
    ) -> None:
        """At QoS 1. user: user properties."""
        body = payload if isinstance(payload, bytes) else payload.encode()
        properties = None if user is None else list(user.items())
        self.send(
            PublishPacket(
                topic,
                body,
                qos=QoS.AT_LEAST_ONCE,
                packet_id=packet_id,
                duplicate=duplicate,
                user_properties=properties,
            ).write()
        )

    def await_acknowledged(self, *packet_ids: int) -> None:
        until(lambda: set(packet_ids) <= set(self.acknowledged), WAIT_S, f"PUBACKs of {packet_ids}")

    def send(self, content: bytes) -> None:
        """Whatever it is. Nothing when the client has gone."""
        with contextlib.suppress(OSError):
            self._connection.sendall(content)

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.ended()

    def ended(self) -> None:
        """Wait for the client to end it."""
        self._thread.join(WAIT_S)
        assert self.over, "the connection is still there"

    def _listen(self) -> None:
        data = b""
        with contextlib.suppress(OSError):
            while more := self._connection.recv(65_536):
                data += more
                while size := frame_size(memoryview(data), 0, len(data)):
                    if size > len(data):
                        break
                    packet, _ = mqtt5.read(memoryview(data[:size]))
                    data = data[size:]
                    self.heard.append(packet)
                    self._answer(packet)
        self.over = True
        self._connection.close()

    def _answer(self, packet: Any) -> None:
        if isinstance(packet, SubscribePacket):
            granted = [SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(packet.topic_filters)
            self.send(SubAckPacket(packet.packet_id, granted).write())
        elif isinstance(packet, UnsubscribePacket):
            done = [UnsubAckReasonCode.SUCCESS] * len(packet.patterns)
            self.send(UnsubAckPacket(packet.packet_id, done).write())
        elif isinstance(packet, PublishPacket) and packet.packet_id is not None:
            self.send(PubAckPacket(packet.packet_id).write())
        elif isinstance(packet, PingReqPacket):
            self.send(PingRespPacket().write())


class RawBroker:
    """Takes connections on a port of the loopback when it is asked to; until then nobody is answered."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(WAIT_S)
        self._links: list[Link] = []
        self.port: int = self._listening.getsockname()[1]

    def accept(self) -> Link:
        """The next connection."""
        connection, _ = self._listening.accept()
        connection.settimeout(None)
        self._links.append(Link(connection))
        return self._links[-1]

    def close(self) -> None:
        self._listening.close()
        for link in self._links:
            link.cut()


@contextmanager
def raw_broker() -> Iterator[RawBroker]:
    """Closed on leaving, and every connection with it."""
    broker = RawBroker()
    try:
        yield broker
    finally:
        broker.close()
