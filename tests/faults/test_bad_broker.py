"""A site broker that breaks the rules: what it gets acknowledged is right all the same, and nothing it says ends us."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    PingRespPacket,
    PubAckPacket,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
)

from tests.support.box import Box, running_box, write_config
from tests.support.faults import tally, times
from tests.support.models import picture
from tests.support.raw_broker import Link, RawBroker, raw_broker
from tests.support.records import letters, query, readings, results
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 30.0
FUZZ = times(6, 500)
LOST_SESSIONS = times(2, 100)
READINGS = 1000
"""As many as the box takes before it acknowledges the first."""

PARTS = ("1", "2", "3")


class Site:
    """A box and the broker that a test plays for it. gate: while this file is there, no inference ends."""

    def __init__(self, broker: RawBroker, box: Box) -> None:
        self.broker = broker
        self.box = box
        self.gate = box.config.parent / "gate"

    def connected(self, *, session_present: bool = False) -> Link:
        link = self.broker.accept()
        link.welcome(session_present=session_present)
        return link

    def received(self) -> int:
        """Messages from the broker since the start of the box."""
        count: int = self.box.status()["mqtt"]["broker"]["received"]
        return count

    def under_way(self, link: Link, source: str, *, duplicate: bool = False) -> None:
        """Publish three pictures of a source with the ids 1 to 3, and wait until the box has them."""
        enough = self.received() + len(PARTS)
        for part in PARTS:
            content = picture(200 + int(part))
            link.publish(int(part), f"line/{source}/camera", content, duplicate=duplicate, user={"part": part})
        until(lambda: self.received() >= enough, WAIT_S, "the pictures being with the box")

    def parts(self, source: str) -> list[str]:
        return sorted(each["part"] for each in results(self.box.data_dir, source))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Site]:
    with (
        raw_broker() as broker,
        running_box(
            tmp_path_factory.mktemp("box"),
            models,
            module="tests.support.odd_box",
            broker=at(broker),
            routes=ROUTES,
            lanes={"lanes": 2, "timeout_s": 30.0},
        ) as box,
    ):
        yield Site(broker, box)


def at(broker: RawBroker) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": broker.port, "reconnect_s_max": 0.2}


def test_late_acknowledgement_neither_goes_before_connect_nor_to_another_session(site: Site) -> None:
    link = site.connected()
    site.gate.touch()
    site.under_way(link, "late")
    link.cut()
    again = site.broker.accept()
    again.await_connect()
    site.gate.unlink()
    until(lambda: site.parts("late") == list(PARTS), WAIT_S, "the results")
    assert again.acknowledged == []
    again.welcome()
    # This session has its own message with one of those ids; of the others it knows nothing.
    again.publish(2, "plc/late/wave", "[1, 0, 0]")
    again.await_acknowledged(2)
    again.publish(9, "plc/late/wave", "[2, 0, 0]")
    again.await_acknowledged(9)
    assert again.acknowledged == [2, 9]
    assert isinstance(again.heard[0], ConnectPacket)
    assert not any(isinstance(packet, ConnectPacket) for packet in again.heard[1:])
    again.cut()
    assert [int(each[0, 0]) for each in readings(site.box.data_dir, "late")] == [1, 2]


def test_what_comes_again_while_it_is_under_way_is_acknowledged_once_on_the_connection_that_is(site: Site) -> None:
    link = site.connected()
    site.gate.touch()
    site.under_way(link, "again")
    link.cut()
    again = site.connected(session_present=True)
    site.under_way(again, "again", duplicate=True)
    assert again.acknowledged == []
    site.gate.unlink()
    again.await_acknowledged(1, 2, 3)
    again.publish(9, "plc/again/wave", "[1, 0, 0]")
    again.await_acknowledged(9)
    assert sorted(again.acknowledged) == [1, 2, 3, 9]
    assert site.parts("again") == list(PARTS)
    again.cut()


def test_topic_that_is_no_utf_8_is_a_dead_letter(site: Site) -> None:
    link = site.connected()
    topic = b"plc/\xff\xfe/wave"
    body = len(topic).to_bytes(2, "big") + topic + b"\0\7" + b"\0" + b"[1, 0, 0]"
    link.send(bytes((0x32, len(body))) + body)
    link.await_acknowledged(7)
    assert [code for code, _ in letters(site.box.data_dir, r"plc/\xff\xfe/wave")] == ["field_invalid"]
    link.publish(8, "plc/after/wave", "[1, 0, 0]")
    link.await_acknowledged(8)
    assert len(readings(site.box.data_dir, "after")) == 1
    link.cut()


def test_garbage_ends_its_connection_and_no_more(site: Site) -> None:
    chance = random.Random(11)
    random_bytes = [chance.randbytes(chance.randint(1, 400)) for _ in range(FUZZ)]
    instead_of_connack = [*random_bytes[: FUZZ // 3], *NO_CONNACK]
    afterwards = [*random_bytes[FUZZ // 3 :], *(spoiled(chance) for _ in range(FUZZ)), *WRONG]
    line = tally("garbage from a broker", len(instead_of_connack) + len(afterwards))
    for content in instead_of_connack:
        link = site.broker.accept()
        link.await_connect()
        link.send(content)
        link.cut()
        line.step()
    for number, content in enumerate(afterwards):
        link = site.connected()
        link.publish(1, "plc/sane/wave", f"[{number}, 0, 0]")
        link.await_acknowledged(1)
        link.send(content)
        link.cut()
        line.step()
    link = site.connected()
    link.publish(1, "plc/sane/wave", f"[{len(afterwards)}, 0, 0]")
    link.await_acknowledged(1)
    link.cut()
    found = [int(each[0, 0]) for each in readings(site.box.data_dir, "sane")]
    line.compare(range(len(afterwards) + 1), found)
    assert (line.lost, line.doubled) == (0, 0)
    assert site.box.http.get("/v2/health/live").status_code == 200


def test_what_is_acknowledged_is_committed_whatever_becomes_of_the_session(tmp_path: Path, models: Path) -> None:
    """kill -9, and a broker that has lost its session: all that it has no PUBACK for comes again under other ids."""
    chance = random.Random(5)
    line = tally("box killed and the broker's session lost", LOST_SESSIONS)
    acknowledged: set[int] = set()
    with raw_broker() as broker:
        box = Box(write_config(tmp_path, models, broker=at(broker), routes=ROUTES, log_level="warning"))
        try:
            for loss in range(LOST_SESSIONS + 1):
                box.start(ready=False)
                link = broker.accept()
                link.welcome()
                numbers = dict(enumerate((each for each in range(READINGS) if each not in acknowledged), 1))
                for packet_id, number in numbers.items():
                    body = json.dumps({"seq": number, "values": [number, 0, 0]})
                    link.publish(packet_id, "keyed/plc/wave", body)
                last = loss == LOST_SESSIONS
                enough = len(numbers) if last else min(len(numbers), chance.randint(1, READINGS // 10))
                until(partial(has_acknowledged, link, enough), WAIT_S, "PUBACKs")
                box.kill()
                link.ended()
                acknowledged |= {numbers[packet_id] for packet_id in link.acknowledged}
                keys = [int(key) for (key,) in query(box.data_dir, "SELECT key FROM readings WHERE source = 'plc'")]
                assert acknowledged <= set(keys)
                assert len(keys) == len(set(keys))
                line.step(0 if last else 1)
            line.compare(range(READINGS), keys)
            assert sorted(keys) == list(range(READINGS))
        finally:
            box.kill()


def has_acknowledged(link: Link, count: int) -> bool:
    return len(link.acknowledged) >= count


def spoiled(chance: random.Random) -> bytes:
    """A good PUBLISH in which a byte or two are others, to a topic that no route takes."""
    packet = PublishPacket("nobody/reads/this", b"[1, 0, 0]", qos=QoS.AT_LEAST_ONCE, packet_id=77)
    content = bytearray(packet.write())
    for _ in range(chance.randint(1, 2)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


NO_CONNACK = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x20\x00",
    b"\x20\xff\xff\xff\xff\x7f",
    PubAckPacket(1).write(),
    PublishPacket("plc/early/wave", b"[1, 0, 0]", qos=QoS.AT_LEAST_ONCE, packet_id=1).write(),
    ConnAckPacket(reason_code=ConnAckReasonCode.SERVER_BUSY).write(),
)
"""What comes in the place of a CONNACK."""

WRONG = (
    b"\x32\x04\xff\xff\x00\x01",  # a topic that is longer than its packet
    b"\x36\x0a\x00\x03plc\x00\x01\x00[]]",  # QoS 3
    b"\x32\x07\x00\x03plc\x00\x00",  # packet id 0, and no properties
    b"\x32\x0b\x00\x03plc\x00\x01\xff\xff\xff\xff\xff",  # properties without an end
    b"\x32\xff\xff\xff\x7f\x00\x03",  # 256 MiB that never come
    b"\x40\x00",
    b"\x90\x02\x00\x01",
    b"\xf0\x00",
    PubAckPacket(4711).write() + SubAckPacket(4711, [SubAckReasonCode.UNSPECIFIED_ERROR]).write(),
    ConnAckPacket().write() + PingRespPacket().write(),
    ConnectPacket("who").write(),
    DisconnectPacket().write(),
)
"""What no broker may send to a client that is connected."""
