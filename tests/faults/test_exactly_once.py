"""QoS 2 and kill -9: what was taken is neither lost nor recorded twice, whatever the client repeats afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mqtt5 import ConnectPacket, PubCompPacket, PublishPacket, PubRecPacket, PubRelPacket, QoS

from tests.support.box import Box, write_config
from tests.support.listener import BOTH, Raw
from tests.support.records import query, readings
from tests.support.routes import ROUTES, write_models

COUNT = 40


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(write_config(tmp_path, write_models(tmp_path / "models"), routes=ROUTES, log_level="warning"))
    box.start(ready=False)
    yield box
    while Raw.opened:
        Raw.opened.pop().drop()
    box.kill()


def connect(box: Box, version: int) -> Raw:
    client = Raw(box.mqtt_port, version)
    client.send(ConnectPacket("bare", clean_start=False, session_expiry_interval=3600))
    client.packet()
    return client


def publish(client: Raw, packet_id: int, number: int, *, duplicate: bool = False) -> None:
    body = f"[{number}, 0, 0]".encode()
    client.send(PublishPacket("plc/bare/wave", body, qos=QoS.EXACTLY_ONCE, packet_id=packet_id, duplicate=duplicate))


@BOTH
def test_packet_ids_survive_a_kill_in_every_state(box: Box, version: int) -> None:
    client = connect(box, version)
    for number in range(1, COUNT + 1):
        publish(client, number, number)
    assert {client.expect(PubRecPacket).packet_id for _ in range(COUNT)} == set(range(1, COUNT + 1))
    released = range(1, COUNT // 2)
    for packet_id in released:
        client.send(PubRelPacket(packet_id))
        assert client.expect(PubCompPacket).packet_id == packet_id
    # These may or may not be on disk.
    for number in range(COUNT + 1, COUNT + 11):
        publish(client, number, number)
    box.kill()
    box.start(ready=False)
    client = connect(box, version)
    for number in range(COUNT // 2, COUNT + 11):
        publish(client, number, number, duplicate=True)
        assert client.expect(PubRecPacket).packet_id == number
        client.send(PubRelPacket(number))
        assert client.expect(PubCompPacket).packet_id == number
    # A released id stands for a new message, though its content is an old one's, and its first delivery was lost.
    publish(client, 1, 1, duplicate=True)
    client.expect(PubRecPacket)
    numbers = [int(each[0, 0]) for each in readings(box.data_dir, "bare")]
    assert sorted(numbers) == [1, *range(1, COUNT + 11)]
    assert query(box.data_dir, "SELECT client, packet_id FROM unreleased") == [("bare", 1)]
