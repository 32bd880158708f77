"""QoS 2 on its way in: committed before PUBREC, delivered once, over lost connections and restarts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from mqtt5 import DisconnectPacket, PubAckPacket, PubCompPacket, PublishPacket, PubRecPacket, PubRelPacket, QoS

from tests.support.listener import BOTH, Box, Client, Raw

TWO = QoS.EXACTLY_ONCE


class Ids:
    """Keeps packet ids as a disk would; answers at once, or when `done` is called."""

    def __init__(self, *, slow: bool = False) -> None:
        self.held: set[tuple[str, int]] = set()
        self.slow = slow
        self.waiting: list[Callable[[], None]] = []

    def hold(self, client: str, packet_id: int, done: Callable[[], None]) -> None:
        self.held.add((client, packet_id))
        self._answer(done)

    def release(self, client: str, packet_id: int, done: Callable[[], None]) -> None:
        self.held.discard((client, packet_id))
        self._answer(done)

    def _answer(self, done: Callable[[], None]) -> None:
        if self.slow:
            self.waiting.append(done)
        else:
            done()


def lasting(box: Box, version: int = 5, **fields: object) -> Raw:
    return box.raw(version, "plc", **{"clean_start": False, "session_expiry_interval": 100, **fields})


@BOTH
def test_pubrec_comes_after_the_commit_and_pubcomp_after_the_release(
    make_box: Callable[..., Box], version: int
) -> None:
    box = make_box(hold=True)
    client = box.raw(version)
    client.publish("a", packet_id=7, qos=TWO)
    message, acknowledge = box.next()
    assert (message.qos, message.packet_id) == (2, 7)
    client.in_step()
    acknowledge()
    assert client.expect(PubRecPacket).packet_id == 7
    client.send(PubRelPacket(7))
    assert client.expect(PubCompPacket).packet_id == 7
    client.publish("a", packet_id=7, qos=TWO)
    box.next()


@BOTH
def test_a_repeat_before_the_release_is_answered_and_not_delivered(box: Box, version: int) -> None:
    client = box.raw(version)
    client.publish("a", packet_id=7, qos=TWO)
    client.expect(PubRecPacket)
    for duplicate in (True, False):
        client.publish("a", packet_id=7, qos=TWO, duplicate=duplicate)
        assert client.expect(PubRecPacket).packet_id == 7
    client.send(PubRelPacket(7))
    client.expect(PubCompPacket)
    assert box.inbound.qsize() == 1


@BOTH
def test_a_repeat_on_the_next_connection_waits_for_the_same_commit(make_box: Callable[..., Box], version: int) -> None:
    box = make_box(hold=True)
    first = lasting(box, version)
    first.publish("a", packet_id=7, qos=TWO)
    _, acknowledge = box.next()
    first.drop()
    second = lasting(box, version)
    second.publish("a", packet_id=7, qos=TWO, duplicate=True)
    second.in_step()
    acknowledge()
    acknowledge()
    assert second.expect(PubRecPacket).packet_id == 7
    second.in_step()
    assert box.inbound.empty()


def test_pubrec_is_sent_only_where_the_message_was_sent(make_box: Callable[..., Box]) -> None:
    box = make_box(hold=True)
    first = lasting(box)
    first.publish("a", packet_id=7, qos=TWO)
    _, acknowledge = box.next()
    first.drop()
    second = lasting(box)
    acknowledge()
    second.in_step()
    second.publish("a", packet_id=7, qos=TWO, duplicate=True)
    assert second.expect(PubRecPacket).packet_id == 7
    assert box.inbound.empty()


@BOTH
def test_packet_ids_survive_the_process(make_box: Callable[..., Box], version: int) -> None:
    ids = Ids()
    before = make_box(keep_ids=ids)
    client = lasting(before, version)
    client.publish("a", packet_id=7, qos=TWO)
    client.expect(PubRecPacket)
    before.listener.stop()
    assert ids.held == {("plc", 7)}
    after = make_box(keep_ids=ids, sessions=before.saved.values(), unreleased={"plc": {7}})
    client = lasting(after, version)
    client.publish("a", packet_id=7, qos=TWO, duplicate=True)
    client.expect(PubRecPacket)
    client.send(PubRelPacket(7))
    client.expect(PubCompPacket)
    assert after.inbound.empty()
    assert ids.held == set()


def test_answers_wait_for_the_disk(make_box: Callable[..., Box]) -> None:
    ids = Ids(slow=True)
    box = make_box(keep_ids=ids)
    client = lasting(box)
    client.publish("a", packet_id=7, qos=TWO)
    box.next()
    client.in_step()
    client.in_step()
    ids.waiting.pop()()
    client.expect(PubRecPacket)
    client.send(PubRelPacket(7))
    client.in_step()
    ids.waiting.pop()()
    client.expect(PubCompPacket)


def test_a_session_that_ends_with_its_connection_needs_no_disk(make_box: Callable[..., Box]) -> None:
    ids = Ids(slow=True)
    client = make_box(keep_ids=ids).raw()
    client.publish("a", packet_id=7, qos=TWO)
    client.expect(PubRecPacket)
    client.send(PubRelPacket(7))
    client.expect(PubCompPacket)
    assert ids.waiting == []


def test_a_release_of_nothing_is_answered_so(box: Box) -> None:
    client = box.raw()
    client.send(PubRelPacket(9))
    assert int(client.expect(PubCompPacket).reason_code) == 0x92
    old = box.raw(4, "old")
    old.send(PubRelPacket(9))
    assert old.expect(PubCompPacket).packet_id == 9


@BOTH
def test_a_release_before_its_pubrec_ends_the_connection(make_box: Callable[..., Box], version: int) -> None:
    client = make_box(hold=True).raw(version)
    client.publish("a", packet_id=7, qos=TWO)
    client.send(PubRelPacket(7))
    client.expect_end(0x82)


@BOTH
def test_a_packet_id_of_qos_2_is_not_free_for_qos_1(box: Box, version: int) -> None:
    client = box.raw(version)
    client.publish("a", packet_id=7, qos=TWO)
    client.expect(PubRecPacket)
    client.publish("a", packet_id=7)
    client.expect_end(0x82)


def test_unreleased_messages_fill_the_window(make_box: Callable[..., Box]) -> None:
    box = make_box(receive_max=2)
    client = box.raw()
    for packet_id in (1, 2):
        client.publish("a", packet_id=packet_id, qos=TWO)
        client.expect(PubRecPacket)
    client.publish("a", packet_id=3, qos=TWO)
    client.expect_end(0x93)


def test_3_1_1_is_read_on_while_releases_are_due(make_box: Callable[..., Box]) -> None:
    client = make_box(receive_max=2).raw(4)
    for packet_id in range(1, 8):
        client.publish("a", packet_id=packet_id, qos=TWO)
    assert [client.expect(PubRecPacket).packet_id for _ in range(7)] == list(range(1, 8))
    for packet_id in range(1, 8):
        client.send(PubRelPacket(packet_id))
        assert client.expect(PubCompPacket).packet_id == packet_id


@BOTH
def test_a_forbidden_topic_is_refused_with_pubrec(box: Box, version: int) -> None:
    client = box.raw(version)
    client.publish("appliance/box/status", packet_id=7, qos=TWO)
    answer = client.expect(PubRecPacket)
    assert int(answer.reason_code) == (0x87 if version == 5 else 0)
    client.publish("a", packet_id=7, qos=TWO)
    client.expect(PubRecPacket)
    assert box.next()[0].topic == "a"


def test_a_clean_start_forgets_packet_ids(box: Box) -> None:
    client = lasting(box)
    client.publish("a", packet_id=7, qos=TWO)
    client.expect(PubRecPacket)
    client.send(DisconnectPacket())
    assert client.packet() is None
    again = lasting(box, clean_start=True)
    again.publish("a", packet_id=7, qos=TWO)
    again.expect(PubRecPacket)
    assert box.inbound.qsize() == 2


def test_subscribers_get_qos_2_as_qos_1(box: Box) -> None:
    watching = box.raw(client_id="hmi")
    watching.subscribe("a")
    box.raw(client_id="plc").publish("a", packet_id=7, qos=TWO)
    assert watching.expect(PublishPacket).qos == 1
    watching.send(PubAckPacket(1))


@pytest.mark.parametrize("version", [4, 5])
def test_paho_publishes_at_qos_2(box: Box, make_client: Callable[..., Client], version: int) -> None:
    client = make_client(box.port, version)
    for number in range(50):
        client.publish("a", b"%d" % number, qos=2)
    assert [box.next()[0].payload for _ in range(50)] == [b"%d" % number for number in range(50)]
    assert box.inbound.empty()


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_publishes_at_qos_2(box: Box, version: str) -> None:
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "-V", version, "-q", "2", "-t", "a", "-l"]
    lines = "".join(f"{number}\n" for number in range(300))
    subprocess.run(command, input=lines, text=True, check=True, timeout=20)
    assert [int(box.next()[0].payload) for _ in range(300)] == list(range(300))
    assert box.inbound.empty()
