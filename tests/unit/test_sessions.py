from collections.abc import Callable

import pytest

from appliance.config import ListenerConfig
from appliance.mqtt.exchange import Exchange
from appliance.mqtt.message import InboundMessage
from appliance.mqtt.sessions import Budget, Delivery, Message, SavedSession, Session, Subscription, Will


class FakeLink:
    """A connection that takes all its session has for it, or nothing while `stuck`."""

    def __init__(self, stuck: bool = False) -> None:
        self.session: Session | None = None
        self.stuck = stuck
        self.got: list[tuple[int | None, Delivery, bool]] = []
        self.was_taken_over = False
        self.on_taken_over: Callable[[], None] = lambda: None
        self.answers: list[tuple[str, int]] = []

    def pump(self) -> None:
        while not self.stuck and self.session is not None and (taken := self.session.take(10)) is not None:
            self.got.append(taken)

    def taken_over(self) -> None:
        self.was_taken_over = True
        self.on_taken_over()

    def received(self, packet_id: int) -> None:
        self.answers.append(("received", packet_id))

    def released(self, packet_id: int, found: bool) -> None:
        self.answers.append(("released" if found else "unknown", packet_id))

    @property
    def topics(self) -> list[str]:
        return [delivery.message.topic for _, delivery, _ in self.got]


class Box:
    """An exchange with what it delivered and saved."""

    def __init__(self, **config: int) -> None:
        self.delivered: list[InboundMessage] = []
        self.saved: list[SavedSession] = []
        self.exchange = Exchange(
            ListenerConfig(**config),  # type: ignore[arg-type]
            deliver=lambda message, _: self.delivered.append(message),
            save=self.saved.append,
        )

    def connect(
        self, client_id: str, *, clean_start: bool = False, expiry_s: int = 100, now: float = 0.0, stuck: bool = False
    ) -> tuple[FakeLink, Session, bool]:
        link = FakeLink(stuck)
        session, present = self.exchange.open(client_id, 5, link, clean_start=clean_start, expiry_s=expiry_s, now=now)
        link.session = session
        link.on_taken_over = lambda: self.exchange.leave(session, None, now)
        return link, session, present

    def subscribe(self, session: Session, topic_filter: str, *, retained: bool = True, **changes: object) -> None:
        subscription = Subscription(topic_filter=topic_filter, **{"qos": 1, **changes})  # type: ignore[arg-type]
        self.exchange.subscribe(session, subscription)
        if retained:
            self.exchange.offer_retained(session, subscription, 0.0)
        self.exchange.keep(session)

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        self.exchange.unsubscribe(session, topic_filter)
        self.exchange.keep(session)


def make_delivery(number: int = 0, qos: int = 1, size: int = 0) -> Delivery:
    return Delivery(Message(topic=f"t/{number}", payload=bytes(size), qos=qos), qos)


def make_session(waiting_max: int = 3, bytes_max: int = 1 << 20, budget: Budget | None = None) -> Session:
    session = Session(
        "client",
        5,
        expiry_s=10,
        waiting_max=waiting_max,
        bytes_max=bytes_max,
        budget=budget or Budget(1 << 20),
    )
    session.link = FakeLink()
    return session


def test_the_oldest_waiting_message_gives_way_and_is_counted() -> None:
    session = make_session(waiting_max=3)
    assert [session.offer(make_delivery(number)) for number in range(5)] == [0, 0, 0, 1, 1]
    taken = [session.take(10) for _ in range(4)]
    assert [one and one[1].message.topic for one in taken] == ["t/2", "t/3", "t/4", None]


def test_waiting_messages_are_bounded_in_bytes_too() -> None:
    session = make_session(waiting_max=1000, bytes_max=100)
    assert sum(session.offer(make_delivery(number, size=40)) for number in range(10)) == 8
    assert session.offer(make_delivery(size=1000)) == 2
    taken = session.take(1)
    assert taken is not None
    assert len(taken[1].message.payload) == 1000


def test_no_more_messages_are_in_flight_than_the_window_allows() -> None:
    session = make_session(waiting_max=10)
    for number in range(4):
        session.offer(make_delivery(number))
    first, second = session.take(2), session.take(2)
    assert session.take(2) is None
    assert first is not None
    assert second is not None
    assert session.acknowledge(first[0] or 0)
    assert not session.acknowledge(first[0] or 0)
    third = session.take(2)
    assert third is not None
    assert third[1].message.topic == "t/2"


def test_qos_0_needs_no_place_in_the_window_and_keeps_its_order() -> None:
    session = make_session(waiting_max=10)
    session.offer(make_delivery(0, qos=1))
    session.offer(make_delivery(1, qos=0))
    session.offer(make_delivery(2, qos=1))
    taken = [session.take(1) for _ in range(3)]
    assert [one and one[0] for one in taken] == [1, None, None]
    assert taken[2] is None


def test_what_was_in_flight_is_sent_again_first_with_its_packet_id_as_duplicate() -> None:
    session = make_session(waiting_max=10)
    for number in range(3):
        session.offer(make_delivery(number))
    session.take(2)
    session.take(2)
    session.detach()
    session.link = FakeLink()
    taken = [session.take(10) for _ in range(3)]
    assert [(one[0], one[1].message.topic, one[2]) for one in taken if one] == [
        (1, "t/0", True),
        (2, "t/1", True),
        (3, "t/2", False),
    ]


def test_a_second_lost_connection_keeps_the_order_of_what_was_in_flight() -> None:
    session = make_session(waiting_max=10)
    for number in range(3):
        session.offer(make_delivery(number))
        session.take(10)
    session.detach()
    session.take(1)
    session.detach()
    taken = [session.take(10) for _ in range(3)]
    assert [one[0] for one in taken if one] == [1, 2, 3]


def test_qos_0_does_not_wait_for_a_client_that_is_away() -> None:
    session = make_session()
    session.offer(make_delivery(0, qos=0))
    session.detach()
    session.offer(make_delivery(1, qos=0))
    assert session.take(10) is None


def test_packet_ids_wrap_round_and_skip_those_in_flight() -> None:
    session = make_session(waiting_max=70_000)
    session.offer(make_delivery())
    assert session.take(10) is not None  # id 1 stays in flight
    for _ in range(65_534):
        session.offer(make_delivery())
        taken = session.take(10)
        assert taken is not None
        session.acknowledge(taken[0] or 0)
    session.offer(make_delivery())
    again = session.take(10)
    assert again is not None
    assert again[0] == 2


def test_a_message_reaches_each_subscriber_once_at_the_highest_qos_with_all_identifiers() -> None:
    box = Box()
    link, session, _ = box.connect("hmi")
    box.subscribe(session, "line/#", qos=0, identifier=1)
    box.subscribe(session, "line/+", qos=1, identifier=2)
    box.exchange.publish(Message(topic="line/1", payload=b"x", qos=1), None)
    assert len(link.got) == 1
    assert link.got[0][1].qos == 1
    assert sorted(link.got[0][1].identifiers) == [1, 2]


def test_no_local_keeps_a_message_from_its_own_publisher_only() -> None:
    box = Box()
    one, first, _ = box.connect("one")
    two, second, _ = box.connect("two")
    box.subscribe(first, "a", no_local=True)
    box.subscribe(second, "a", no_local=True)
    box.exchange.publish(Message(topic="a", payload=b"x"), "one")
    assert (one.topics, two.topics) == ([], ["a"])


def test_a_retained_message_comes_with_the_flag_on_subscribe_and_without_it_live() -> None:
    box = Box()
    link, session, _ = box.connect("hmi")
    box.exchange.publish(Message(topic="state", payload=b"on", retain=True), None)
    box.subscribe(session, "state", qos=1)
    link.pump()
    box.exchange.publish(Message(topic="state", payload=b"off", retain=True), None)
    assert [(delivery.retain, delivery.message.payload) for _, delivery, _ in link.got] == [
        (True, b"on"),
        (False, b"off"),
    ]


def test_retain_as_published_keeps_the_flag() -> None:
    box = Box()
    link, session, _ = box.connect("bridge")
    box.subscribe(session, "state", retain_as_published=True)
    box.exchange.publish(Message(topic="state", payload=b"on", retain=True), None)
    assert link.got[0][1].retain


def test_an_empty_retained_message_clears_the_topic() -> None:
    box = Box()
    box.exchange.publish(Message(topic="state", payload=b"on", retain=True), None)
    assert box.exchange.retained == 1
    box.exchange.publish(Message(topic="state", payload=b"", retain=True), None)
    assert box.exchange.retained == 0


def test_retained_messages_are_bounded_in_number_and_bytes() -> None:
    box = Box(retained_max=2, retained_bytes_max=12)
    for topic in ("a", "b", "c"):
        box.exchange.publish(Message(topic=topic, payload=b"1234", retain=True), "plc")
    assert (box.exchange.retained, box.exchange.counters.dropped) == (2, 1)
    box.exchange.publish(Message(topic="b", payload=b"1234567", retain=True), "plc")
    assert (box.exchange.retained, box.exchange.counters.dropped) == (1, 2)
    box.exchange.publish(Message(topic="b", payload=b"123456", retain=True), "plc")
    assert (box.exchange.retained, box.exchange.counters.dropped) == (2, 2)


def test_clients_cannot_take_the_room_for_what_the_appliance_retains() -> None:
    box = Box(retained_max=1)
    box.exchange.publish(Message(topic="a", payload=b"x", retain=True), "plc")
    box.exchange.publish(Message(topic="appliance/box/status", payload=b"on", retain=True), None)
    assert (box.exchange.retained, box.exchange.counters.dropped) == (2, 0)


def test_an_expired_retained_message_is_not_sent() -> None:
    box = Box()
    link, session, _ = box.connect("hmi")
    box.exchange.publish(Message(topic="state", payload=b"on", retain=True, expires_at=-1.0), None)
    box.subscribe(session, "#")
    link.pump()
    assert link.got == []


def test_a_session_keeps_its_subscriptions_and_messages_while_its_client_is_away() -> None:
    box = Box()
    _, session, present = box.connect("hmi")
    assert not present
    box.subscribe(session, "a")
    box.exchange.leave(session, None, 1.0)
    box.exchange.publish(Message(topic="a", payload=b"x", qos=1), None)
    box.exchange.publish(Message(topic="a", payload=b"x", qos=0), None)
    link, _, present = box.connect("hmi", now=50.0)
    link.pump()
    assert present
    assert link.topics == ["a"]


def test_a_session_without_expiry_ends_with_its_connection() -> None:
    box = Box()
    _, session, _ = box.connect("hmi", expiry_s=0)
    box.subscribe(session, "a")
    box.exchange.leave(session, None, 1.0)
    assert (len(box.exchange.sessions), box.exchange.subscriptions) == (0, 0)
    assert box.saved == []
    assert not box.connect("hmi")[2]


def test_a_session_ends_when_its_time_is_over() -> None:
    box = Box()
    _, session, _ = box.connect("hmi", expiry_s=100)
    box.exchange.leave(session, None, 1.0)
    box.exchange.expire(100.9)
    assert "hmi" in box.exchange.sessions
    box.exchange.expire(101.0)
    assert "hmi" not in box.exchange.sessions
    assert box.saved[-1].expires_at == 0


def test_a_clean_start_forgets_the_old_session() -> None:
    box = Box()
    _, session, _ = box.connect("hmi")
    box.subscribe(session, "a")
    box.exchange.leave(session, None, 1.0)
    _, _, present = box.connect("hmi", clean_start=True)
    assert not present
    assert box.exchange.subscriptions == 0


def test_a_second_connection_takes_the_session_over() -> None:
    box = Box()
    link, session, _ = box.connect("hmi")
    box.subscribe(session, "a")
    _, same, present = box.connect("hmi")
    assert link.was_taken_over
    assert present
    assert same is session
    assert box.exchange.clients == 1


def test_sessions_away_are_bounded_and_those_nearest_their_end_go_first() -> None:
    box = Box(clients_max=1)
    for number in range(12):
        _, session, _ = box.connect(f"client-{number}")
        box.exchange.leave(session, None, float(number))
    assert sorted(box.exchange.sessions) == sorted(f"client-{number}" for number in range(2, 12))


def test_a_will_is_delivered_and_relayed() -> None:
    box = Box()
    hmi, watching, _ = box.connect("hmi")
    box.subscribe(watching, "plc/status")
    _, session, _ = box.connect("plc")
    box.exchange.leave(session, Will(Message(topic="plc/status", payload=b"gone", qos=1)), 1.0)
    assert hmi.topics == ["plc/status"]
    assert [(one.client, one.payload, one.qos, one.packet_id) for one in box.delivered] == [("plc", b"gone", 0, None)]


def test_a_delayed_will_waits_and_is_forgotten_when_its_client_is_back_in_time() -> None:
    box = Box()
    will = Will(Message(topic="plc/status", payload=b"gone"), delay_s=10)
    _, session, _ = box.connect("plc")
    box.exchange.leave(session, will, 0.0)
    box.exchange.expire(9.0)
    assert box.delivered == []
    box.connect("plc", now=9.5)
    box.exchange.expire(20.0)
    assert box.delivered == []
    box.exchange.leave(session, will, 30.0)
    box.exchange.expire(40.0)
    assert len(box.delivered) == 1


def test_a_delayed_will_is_published_when_its_session_ends_first() -> None:
    box = Box()
    _, session, _ = box.connect("plc")
    box.exchange.leave(session, Will(Message(topic="plc/status", payload=b"gone"), delay_s=10), 0.0)
    box.connect("plc", clean_start=True)
    assert len(box.delivered) == 1


def test_a_lasting_session_is_saved_when_it_changes_and_only_then() -> None:
    box = Box()
    _, session, _ = box.connect("hmi")
    box.subscribe(session, "a")
    box.subscribe(session, "a")
    box.unsubscribe(session, "a")
    box.unsubscribe(session, "never")
    box.exchange.leave(session, None, 1.0)
    assert [len(one.subscriptions) for one in box.saved] == [0, 1, 0, 0]
    assert [one.expires_at is None for one in box.saved] == [True, True, True, False]


def test_a_saved_session_is_taken_up_by_the_next_process() -> None:
    box = Box()
    _, session, _ = box.connect("hmi")
    box.subscribe(session, "a")
    after = Box()
    after.exchange.restore([box.saved[-1]], 1000.0)
    after.exchange.publish(Message(topic="a", payload=b"x", qos=1), None)
    link, _, present = after.connect("hmi")
    link.pump()
    assert present
    assert link.topics == ["a"]


def test_a_saved_session_that_was_connected_gets_its_whole_time_after_a_restart_but_only_once() -> None:
    saved = SavedSession(client_id="hmi", version=5, subscriptions=(), expiry_s=100, expires_at=None)
    box = Box()
    box.exchange.restore([saved], 1000.0)
    assert box.exchange.sessions["hmi"].ends_at == 1100.0
    assert box.saved[-1].expires_at is not None


@pytest.mark.parametrize("expires_at", [0.0, 1.0])
def test_a_saved_session_whose_time_is_over_is_not_taken_up(expires_at: float) -> None:
    saved = SavedSession(client_id="hmi", version=5, subscriptions=(), expiry_s=100, expires_at=expires_at)
    box = Box()
    box.exchange.restore([saved], 1000.0)
    assert box.exchange.sessions == {}


def test_a_clock_that_was_far_ahead_does_not_make_a_session_last_longer_than_its_expiry() -> None:
    saved = SavedSession(client_id="hmi", version=5, subscriptions=(), expiry_s=100, expires_at=9e12)
    box = Box()
    box.exchange.restore([saved], 1000.0)
    assert box.exchange.sessions["hmi"].ends_at == 1100.0


def test_a_session_that_cannot_be_saved_goes_on() -> None:
    def fail(_: SavedSession) -> None:
        raise OSError("disk full")

    exchange = Exchange(ListenerConfig(), deliver=lambda *_: None, save=fail)
    _, present = exchange.open("hmi", 5, FakeLink(), clean_start=False, expiry_s=10, now=0.0)
    assert not present
    assert exchange.clients == 1
