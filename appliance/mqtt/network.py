"""The turns of the thread that talks to the broker, in the place of paho's own loop.

A turn receives what is there, takes the plain messages at its head together, leaves all others to paho, one whole
packet at a time, and sends once. Other threads only leave acknowledgements, and wake it.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

from appliance.mqtt import wire
from appliance.mqtt.buffered import BufferedSocket
from appliance.mqtt.wire import ProtocolError

_PUBACK = b"\x40\x02"
"""First byte and length of a PUBACK without a reason (MQTT 3.1.1, section 3.4; the same in MQTT 5)."""


class Ack:
    """The acknowledgement of one message; callable from any thread. epoch: of the connection that it came in."""

    __slots__ = ("_network", "epoch", "packet_id")

    def __init__(self, network: Network, epoch: int, packet_id: int) -> None:
        self._network = network
        self.epoch = epoch
        self.packet_id = packet_id

    def __call__(self) -> None:
        self._network.post(self)


class Network:
    """take_plain: handles the plain messages from a position on, and returns the position after them.

    epoch: of the present connection, None while there is none: acknowledgements of another one are let go.
    """

    def __init__(
        self, client: Client, take_plain: Callable[[bytes, int], int], epoch: Callable[[], int | None]
    ) -> None:
        self._client = client
        self._take_plain = take_plain
        self._epoch = epoch
        self._acks: deque[Ack] = deque()
        self._woken = False
        self._wanted = 0
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def post(self, ack: Ack) -> None:
        """From any thread."""
        self._acks.append(ack)
        self.wake()

    def wake(self) -> None:
        """From any thread: there is something to send."""
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._bell, 1)

    def turn(self, timeout_s: float) -> bool:
        """Wait for something to do, at most so long, and do it; returns whether the connection lasts.

        Raises what paho's callbacks raise, and OSError when the broker sends what is no packet.
        """
        connection = self._client.socket()
        if not isinstance(connection, BufferedSocket):
            return False
        self._await(connection, timeout_s)
        connection.fill()
        if not self._read(connection):
            return False
        self._send_acknowledgements(connection)
        if self._client.want_write() and self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        connection.flush()
        return self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS and self._client.socket() is connection

    def _await(self, connection: BufferedSocket, timeout_s: float) -> None:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN | (select.POLLOUT if connection.unsent else 0))
        poller.register(self._bell, select.POLLIN)
        for file, _ in poller.poll(timeout_s * 1000):
            if file == self._bell:
                os.eventfd_read(self._bell)
        # Whoever comes from here on rings again.
        self._woken = False

    def _read(self, connection: BufferedSocket) -> bool:
        while connection.pending() and connection.pending() >= self._wanted:
            data, at = connection.unread()
            connection.read_to(self._take_plain(data, at))
            data, at = connection.unread()
            try:
                self._wanted = wire.frame_size(memoryview(data), at, len(data))
            except ProtocolError as error:
                raise ConnectionError("the broker sent what is no MQTT packet; check broker.port") from error
            if not self._wanted or at + self._wanted > len(data):
                break
            connection.offer(at + self._wanted)
            self._wanted = 0
            if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or self._client.socket() is not connection:
                return False
        if connection.over:
            self._wanted = 0
            return self._client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
        return True

    def _send_acknowledgements(self, connection: BufferedSocket) -> None:
        epoch = self._epoch()
        frames = []
        while self._acks and not connection.full:
            ack = self._acks.popleft()
            if ack.epoch == epoch:
                frames.append(_PUBACK + ack.packet_id.to_bytes(2, "big"))
        if frames:
            connection.send(b"".join(frames))
