"""Shared subscriptions: one member of a group gets each message."""

from appliance.mqtt.sessions import Message, Session
from appliance.mqtt.topics import shared_filter
from tests.unit.test_sessions import Box, FakeLink

SHARE = "$share/boxes/line/#"


def publish(box: Box, *payloads: bytes, qos: int = 1) -> None:
    for payload in payloads:
        box.exchange.publish(Message(topic="line/1", payload=payload, qos=qos), None)


def member(box: Box, name: str, topic_filter: str = SHARE, *, stuck: bool = False) -> tuple[FakeLink, Session]:
    link, session, _ = box.connect(name, stuck=stuck)
    box.subscribe(session, topic_filter, retained=False)
    return link, session


def payloads(link: FakeLink) -> list[bytes]:
    return [delivery.message.payload for _, delivery, _ in link.got]


def test_a_filter_is_taken_apart() -> None:
    assert shared_filter("$share/group/a/#") == ("group", "a/#")
    assert shared_filter("$share/group") == ("group", "")
    assert shared_filter("a/$share/b") is None


def test_members_take_turns() -> None:
    box = Box()
    (one, _), (two, _) = member(box, "one"), member(box, "two")
    publish(box, b"1", b"2", b"3", b"4")
    assert (payloads(one), payloads(two)) == ([b"1", b"3"], [b"2", b"4"])


def test_each_group_gets_each_message_and_so_do_those_who_do_not_share() -> None:
    box = Box()
    links = [
        member(box, "one")[0],
        member(box, "two", "$share/others/line/#")[0],
        member(box, "three", "line/#")[0],
    ]
    publish(box, b"1")
    assert [payloads(link) for link in links] == [[b"1"]] * 3
    assert box.exchange.subscriptions == 3


def test_who_is_away_is_passed_over() -> None:
    box = Box()
    (one, _), (_, session) = member(box, "one"), member(box, "two")
    box.exchange.leave(session, None, 1.0)
    publish(box, b"1", b"2", b"3")
    assert payloads(one) == [b"1", b"2", b"3"]


def test_with_all_away_a_message_waits_for_one() -> None:
    box = Box()
    _, session = member(box, "one")
    box.exchange.leave(session, None, 1.0)
    publish(box, b"1")
    publish(box, b"lost", qos=0)
    link, _, _ = box.connect("one", now=2.0)
    link.pump()
    assert payloads(link) == [b"1"]


def test_what_a_lost_member_did_not_acknowledge_goes_to_another() -> None:
    box = Box()
    (one, session), (two, _) = member(box, "one"), member(box, "two")
    publish(box, b"1", b"2")
    assert session.acknowledge(one.got[0][0] or 0)
    publish(box, b"3", b"4", b"5")
    box.exchange.leave(session, None, 1.0)
    assert payloads(two) == [b"2", b"4", b"3", b"5"]
    back, _, _ = box.connect("one", now=2.0)
    back.pump()
    assert payloads(back) == []


def test_what_waits_for_a_session_that_ends_goes_to_one_that_is_away() -> None:
    box = Box()
    (_, first), (_, second) = member(box, "one"), member(box, "two")
    for session in (second, first):
        box.exchange.leave(session, None, 1.0)
    publish(box, b"1", b"2")
    box.connect("one", clean_start=True, now=2.0)
    link, _, _ = box.connect("two", now=2.0)
    link.pump()
    assert sorted(payloads(link)) == [b"1", b"2"]


def test_who_unsubscribes_leaves_the_group() -> None:
    box = Box()
    (one, _), (two, session) = member(box, "one"), member(box, "two")
    box.unsubscribe(session, SHARE)
    publish(box, b"1", b"2")
    assert (payloads(one), payloads(two)) == ([b"1", b"2"], [])
    assert box.exchange.subscriptions == 1


def test_a_saved_member_is_one_again_after_a_restart() -> None:
    box = Box()
    member(box, "one")
    after = Box()
    after.exchange.restore([box.saved[-1]], 0.0)
    publish(after, b"1")
    link, _, _ = after.connect("one")
    link.pump()
    assert payloads(link) == [b"1"]
