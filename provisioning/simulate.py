"""A simulated camera and a simulated PLC that publish over MQTT as real devices do.

Both speak MQTT 5 at QoS 1, name each part, and number their messages with a key that does not repeat after a restart,
so that the box records nothing twice. What they show comes from regions and machines that training never saw.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from provisioning.belt import BELTS, scene
from provisioning.textures import TEXTURES, Kind, encode, frame
from provisioning.vibration import RATE_HZ, SEVERITIES_G, UNSEEN_SEED_MIN, Condition, Machine

CAMERA_TURNS: tuple[Kind, ...] = ("good", "good", "scratch", "good", "good", "hole", "good", "stain")
"""Good parts and faults in turn, for ever."""

BELT_TURNS: tuple[int, ...] = (3, 5, 2, 4, 6, 3, 8, 4, 1, 12)
"""Parts on the belt, in turn, for ever: mostly a few, now and then many, then a jam."""

CameraKind = Literal["surface", "belt"]

PLC_TURNS: tuple[tuple[Condition, float], ...] = (
    ("normal", 20.0),
    ("outer_race", 10.0),
    ("normal", 15.0),
    ("inner_race", 10.0),
    ("normal", 15.0),
    ("ball", 10.0),
)
"""Conditions of the machine, in turn, and for how many seconds."""

SAMPLES_PER_MESSAGE = 512
_PART_S = 4.0
_IN_FLIGHT_MAX = 20
_FAREWELL_S = 3.0


class Message(msgspec.Struct, frozen=True):
    """What a device publishes next: after a pause, with MQTT 5 user properties."""

    pause_s: float
    payload: bytes
    content_type: str
    properties: tuple[tuple[str, str], ...] = ()


def camera(seed: int, every_s: float, boot: str, kind: CameraKind = "surface") -> Iterator[Message]:
    """JPEG pictures of `surface`s, 480x480, or of parts on a `belt`, 640x480; part, lot and key travel as user
    properties. boot: starts every key.
    """
    rng = np.random.default_rng(seed)
    for number, image in enumerate(_surfaces(rng, seed) if kind == "surface" else _belts(rng, seed), 1):
        properties = (("part", f"P-{number:06d}"), ("lot", f"L-{boot}"), ("seq", f"{boot}-{number}"))
        yield Message(every_s, encode(rng, image), "image/jpeg", properties)


def _surfaces(rng: np.random.Generator, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    texture = TEXTURES[seed % len(TEXTURES)]
    for kind in itertools.cycle(CAMERA_TURNS):
        yield frame(rng, texture, kind, "test", (480, 480))[0]


def _belts(rng: np.random.Generator, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    belt = BELTS[seed % len(BELTS)]
    for count in itertools.cycle(BELT_TURNS):
        yield scene(rng, count, "test", (480, 640), belt)[0]


def plc(seed: int, boot: str) -> Iterator[Message]:
    """JSON readings of three axes in g, in real time: SAMPLES_PER_MESSAGE rows a message."""
    pause_s = SAMPLES_PER_MESSAGE / RATE_HZ
    machine = Machine(UNSEEN_SEED_MIN + seed)
    numbers = itertools.count(1)
    played_s = 0.0
    for condition, seconds in itertools.cycle(PLC_TURNS):
        machine.become(condition, SEVERITIES_G["severe"])
        for _ in range(round(seconds / pause_s)):
            number = next(numbers)
            played_s += pause_s
            content = {
                "seq": f"{boot}-{number}",
                "part": f"M-{int(played_s / _PART_S) + 1:06d}",
                "values": machine.read(SAMPLES_PER_MESSAGE).round(4).tolist(),
            }
            yield Message(pause_s, json.dumps(content, separators=(",", ":")).encode(), "application/json")


def publish(
    messages: Iterator[Message], host: str, port: int, topic: str, client_id: str, stop: threading.Event
) -> int:
    """Publish at the messages' pace until they end or `stop` is set; returns how many were acknowledged.

    The session outlives a lost connection, and what was not acknowledged is sent again. Raises OSError when the first
    connection fails.
    """
    sent = acknowledged = 0

    def count(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1

    client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(_IN_FLIGHT_MAX)
    client.reconnect_delay_set(1, 5)
    client.on_publish = count
    connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    connect.SessionExpiryInterval = 3600
    client.connect(host, port, keepalive=15, clean_start=False, properties=connect)
    client.loop_start()
    due = time.monotonic()
    try:
        for message in messages:
            due = max(due + message.pause_s, time.monotonic() - 1.0)
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            # A device has little memory: with too much unacknowledged it waits.
            while sent - acknowledged >= _IN_FLIGHT_MAX and not stop.wait(0.02):
                pass
            client.publish(topic, message.payload, qos=1, properties=_properties(message))
            sent += 1
        ends_at = time.monotonic() + _FAREWELL_S
        while acknowledged < sent and client.is_connected() and time.monotonic() < ends_at:
            time.sleep(0.02)
    finally:
        client.disconnect()
        client.loop_stop()
    return acknowledged


def _properties(message: Message) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ContentType = message.content_type
    if message.properties:
        properties.UserProperty = list(message.properties)
    return properties
