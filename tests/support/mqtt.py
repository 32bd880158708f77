"""Devices and brokers: paho clients with bounded waits, a raw socket, a real Mosquitto, and its two commands."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mqtt5 import ConnAckPacket, ConnectPacket, Packet, PubAckPacket, PublishPacket, QoS, read
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.box import free_port
from tests.support.wait import until

WAIT_S = 20.0


class Device:
    """A paho client with its own network thread. version: 4 or 5. expiry_s: above 0 its session outlives it."""

    def __init__(
        self,
        port: int,
        client_id: str = "",
        *,
        version: int = 5,
        expiry_s: int = 0,
        will: tuple[str, bytes] | None = None,
        in_flight: int = 20,
    ) -> None:
        self.messages: list[MQTTMessage] = []
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.connections = 0
        self._port = port
        self._version = version
        self._expiry_s = expiry_s
        self._connected = threading.Event()
        self._granted: set[int] = set()
        protocol = MQTTProtocolVersion.MQTTv5 if version == 5 else MQTTProtocolVersion.MQTTv311
        clean = None if version == 5 else expiry_s == 0
        self.paho = Paho(CallbackAPIVersion.VERSION2, client_id, clean_session=clean, protocol=protocol)
        self.paho.max_inflight_messages_set(in_flight)
        self.paho.reconnect_delay_set(1, 1)
        if will is not None:
            self.paho.will_set(*will, qos=1)
        self.paho.on_connect = self._on_connect
        self.paho.on_publish = self._on_publish
        self.paho.on_message = lambda _client, _data, message: self.messages.append(message)
        self.paho.on_subscribe = lambda _client, _data, mid, _codes, _properties: self._granted.add(mid)

    def connect(self) -> Device:
        """Connect, and again by itself whenever the connection is lost."""
        options: dict[str, Any] = {}
        if self._version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._expiry_s
            options = {"clean_start": self._expiry_s == 0, "properties": properties}
        self.paho.connect("127.0.0.1", self._port, **options)
        self.paho.loop_start()
        assert self._connected.wait(WAIT_S), "no connection in time"
        return self

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 1,
        retain: bool = False,
        user: Mapping[str, str] | None = None,
    ) -> int:
        """Returns the packet id. user: user properties (MQTT 5)."""
        properties = None
        if user is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = list(user.items())
        return self.paho.publish(topic, payload, qos=qos, retain=retain, properties=properties).mid

    def send(self, topic: str, payload: object, **options: Any) -> int:
        """Publish (an object as JSON) and wait for the PUBACK."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload)
        mid = self.publish(topic, body, **options)
        until(lambda: mid in self.acknowledged, WAIT_S, f"the PUBACK of {topic}")
        return mid

    def subscribe(self, topic_filter: str) -> Device:
        _, mid = self.paho.subscribe(topic_filter, qos=1)
        until(lambda: mid in self._granted, WAIT_S, f"the SUBACK of {topic_filter}")
        return self

    def received(self, topic: str, count: int = 1) -> list[MQTTMessage]:
        """Wait for `count` messages on a topic; returns all of that topic so far."""

        def found() -> list[MQTTMessage] | None:
            matching = [message for message in list(self.messages) if message.topic == topic]
            return matching if len(matching) >= count else None

        answer = until(found, WAIT_S, f"{count} message(s) on {topic}")
        assert answer is not None
        return answer

    def objects(self, topic: str, count: int = 1) -> list[Any]:
        """As `received`, the payloads read as JSON."""
        return [json.loads(message.payload) for message in self.received(topic, count)]

    def close(self) -> None:
        """Say goodbye."""
        self.paho.disconnect()
        self.paho.loop_stop()
        # paho leaves its socket to the collector when its thread ends before the goodbye is written.
        left = self.paho.socket()
        if left is not None:
            left.close()

    def _on_connect(self, _client: Paho, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not reason.is_failure:
            self.connections += 1
            self._connected.set()

    def _on_publish(self, _client: Paho, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        (self.refused if reason.is_failure else self.acknowledged).add(mid)


@contextmanager
def device(port: int, client_id: str = "", **options: Any) -> Iterator[Device]:
    """A connected device, closed on leaving."""
    one = Device(port, client_id, **options)
    try:
        yield one.connect()
    finally:
        one.close()


class RawClient:
    """MQTT 5 over a bare socket: it decides itself on packet ids and DUP, and may vanish at any moment."""

    def __init__(self, port: int, client_id: str, *, expiry_s: int = 600, clean: bool = False) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._received = b""
        packet = ConnectPacket(client_id, clean_start=clean, session_expiry_interval=expiry_s, keep_alive=60)
        self._socket.sendall(packet.write())
        connack = self._next()
        assert isinstance(connack, ConnAckPacket)
        self.session_present = connack.session_present

    def publish(self, packet_id: int, topic: str, payload: object, *, duplicate: bool = False) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        packet = PublishPacket(topic, body, qos=QoS.AT_LEAST_ONCE, packet_id=packet_id, duplicate=duplicate)
        self._socket.sendall(packet.write())

    def acknowledged(self) -> int:
        """Wait for the next PUBACK; returns its packet id."""
        packet = self._next()
        assert isinstance(packet, PubAckPacket), packet
        return packet.packet_id

    def vanish(self) -> None:
        """Close without a word."""
        self._socket.close()

    def _next(self) -> Packet:
        while True:
            try:
                packet, size = read(memoryview(self._received))
            except (IndexError, ValueError):
                more = self._socket.recv(65_536)
                assert more, "the connection was closed"
                self._received += more
            else:
                self._received = self._received[size:]
                return packet


class Mosquitto:
    """A real broker with a folder of its own; what it has acknowledged is saved at once, as far as it can.

    queue_max: messages that wait for a client; None leaves that to `extra`, further lines of its configuration.
    """

    def __init__(self, folder: Path, *extra: str, queue_max: int | None = 100_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._database = folder / "mosquitto.db"
        self._log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        lines = (
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {folder}/",
            "user root",
            *(
                ()
                if queue_max is None
                else ("autosave_on_changes true", "autosave_interval 1", f"max_queued_messages {queue_max}")
            ),
            *extra,
        )
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", str(self._config)], stdout=log, stderr=log)
        until(self._answers, WAIT_S, "Mosquitto answering")
        return self

    def stop(self) -> None:
        """SIGTERM: it saves its database."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_S)

    def forget(self) -> None:
        """While it is down: lose every session and retained message."""
        self._database.unlink(missing_ok=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def mosquitto(folder: Path, *extra: str) -> Iterator[Mosquitto]:
    """A broker that answers, killed on leaving. extra: further lines of its configuration."""
    broker = Mosquitto(folder, *extra)
    try:
        yield broker.start()
    finally:
        broker.kill()


def mosquitto_pub(port: int, *arguments: str, payload: bytes) -> None:
    """Publish one message with Mosquitto's own command, at QoS 1 unless `arguments` say otherwise."""
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-s", *arguments],
        input=payload,
        check=True,
        timeout=WAIT_S,
        capture_output=True,
    )


def mosquitto_sub(port: int, topic: str, *arguments: str) -> subprocess.Popen[str]:
    """Follow a topic with Mosquitto's own command; its output is read with `communicate`."""
    return subprocess.Popen(
        ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", topic, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
