from __future__ import annotations

from collections.abc import Iterable

from appliance.mqtt.message import InboundMessage
from appliance.mqtt.receipts import Acceptance, Receipts, hash_of
from appliance.writes import Receipt


class Acks:
    """Counts acknowledgements by name."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def named(self, name: str) -> _Ack:
        return _Ack(self.given, name)


class _Ack:
    def __init__(self, given: list[str], name: str) -> None:
        self._given = given
        self._name = name

    def __call__(self) -> None:
        self._given.append(self._name)


def make_receipts(known: Iterable[Receipt] = (), *, window: int = 10, lasting: bool = True) -> Receipts:
    receipts = Receipts(window, known)
    if lasting:
        receipts.remember("client")
    return receipts


def make_message(
    packet_id: int | None = 1,
    payload: bytes = b"1",
    *,
    duplicate: bool = False,
    resumed: bool = True,
    user: tuple[tuple[str, str], ...] = (),
) -> InboundMessage:
    return InboundMessage(
        client="client",
        topic="in/a",
        payload=payload,
        qos=0 if packet_id is None else 1,
        packet_id=packet_id,
        duplicate=duplicate,
        session_resumed=resumed,
        user_properties=user,
    )


def accept(receipts: Receipts, message: InboundMessage, route: str = "route", *, commit: bool = True) -> Acceptance:
    answer = receipts.accept(message, route, lambda: None)
    if commit and answer.delivery is not None:
        receipts.committed(answer.delivery)
    return answer


def is_new(answer: Acceptance) -> bool:
    return not answer.known and not answer.doubtful


def test_redelivery_of_a_committed_message_is_known_and_acknowledged_at_once() -> None:
    receipts, acks = make_receipts(), Acks()
    assert is_new(accept(receipts, make_message()))
    assert receipts.accept(make_message(duplicate=True), "route", acks.named("again")).known
    assert acks.given == ["again"]


def test_redelivery_of_an_open_message_is_acknowledged_with_its_commit() -> None:
    receipts, acks = make_receipts(), Acks()
    first = receipts.accept(make_message(), "route", acks.named("first"))
    assert receipts.accept(make_message(duplicate=True), "route", acks.named("second")).known
    assert receipts.accept(make_message(duplicate=True), "route", acks.named("third")).known
    assert acks.given == ["second"]  # its connection is gone, so this only lets go of what it holds
    assert first.delivery is not None
    receipts.committed(first.delivery)
    assert acks.given == ["second", "third"]


def test_equal_messages_without_the_dup_flag_are_new() -> None:
    receipts = make_receipts()
    assert is_new(accept(receipts, make_message()))
    assert is_new(accept(receipts, make_message()))


def test_redelivery_is_new_when_packet_id_content_or_route_differ() -> None:
    receipts = make_receipts()
    accept(receipts, make_message(1, b"1"))
    assert is_new(accept(receipts, make_message(2, b"1", duplicate=True)))
    assert is_new(accept(receipts, make_message(1, b"1", duplicate=True), "other"))
    assert is_new(accept(receipts, make_message(1, b"2", duplicate=True)))


def test_user_properties_are_part_of_the_content() -> None:
    receipts = make_receipts()
    accept(receipts, make_message(user=(("seq", "1"),)))
    assert is_new(accept(receipts, make_message(user=(("seq", "2"),), duplicate=True)))


def test_packet_id_that_was_used_again_stands_for_the_later_message() -> None:
    receipts = make_receipts()
    accept(receipts, make_message(1, b"1"))
    accept(receipts, make_message(1, b"2"))
    assert is_new(accept(receipts, make_message(1, b"1", duplicate=True)))


def test_repeat_in_a_new_session_is_doubtful_and_kept() -> None:
    receipts = make_receipts()
    accept(receipts, make_message())
    answer = accept(receipts, make_message(duplicate=True, resumed=False))
    assert answer.doubtful
    assert not answer.known


def test_client_whose_session_ends_with_its_connection_leaves_nothing_behind() -> None:
    receipts = make_receipts(lasting=False)
    answer = accept(receipts, make_message(resumed=False))
    assert is_new(answer)
    assert answer.delivery is None
    assert accept(receipts, make_message(duplicate=True, resumed=False)).doubtful


def test_ended_session_is_forgotten() -> None:
    receipts = make_receipts()
    accept(receipts, make_message())
    receipts.forget("client")
    receipts.remember("client")
    assert is_new(accept(receipts, make_message(duplicate=True)))


def test_qos_0_has_no_receipt() -> None:
    answer = accept(make_receipts(), make_message(None))
    assert is_new(answer)
    assert answer.delivery is None


def test_last_messages_of_a_window_are_remembered() -> None:
    receipts = make_receipts(window=3)
    for packet_id in range(1, 6):
        accept(receipts, make_message(packet_id))
    known = [accept(receipts, make_message(packet_id, duplicate=True)).known for packet_id in range(5, 0, -1)]
    assert known[:3] == [True, True, True]
    assert known[4] is False


def test_open_message_is_remembered_however_many_overtake_it() -> None:
    receipts = make_receipts(window=3)
    slow = accept(receipts, make_message(1), commit=False)
    for packet_id in range(2, 50):
        accept(receipts, make_message(packet_id))
    assert accept(receipts, make_message(1, duplicate=True)).known
    assert slow.delivery is not None
    receipts.committed(slow.delivery)
    accept(receipts, make_message(50))
    assert is_new(accept(receipts, make_message(2, duplicate=True)))


def test_receipts_of_the_last_run_are_known() -> None:
    known = Receipt("client", "route", 7, hash_of(make_message(7)), 41)
    receipts = make_receipts([known])
    assert accept(receipts, make_message(7, duplicate=True)).known
    answer = accept(receipts, make_message(8))
    assert answer.delivery is not None
    assert answer.delivery.receipt.seq == 42


def test_repeats_of_an_open_message_hold_nothing_once_it_is_committed() -> None:
    receipts, acks = make_receipts(), Acks()
    first = receipts.accept(make_message(), "route", acks.named("first"))
    for number in range(5):
        assert receipts.accept(make_message(duplicate=True), "route", acks.named(f"repeat {number}")).known
    assert first.delivery is not None
    receipts.committed(first.delivery)
    assert sorted(acks.given) == [f"repeat {number}" for number in range(5)]


def test_client_may_have_a_window_of_its_own() -> None:
    receipts = Receipts(2, [], {"client": 5})
    receipts.remember("client")
    for number in range(1, 6):
        accept(receipts, make_message(number, b"%d" % number))
    assert all(accept(receipts, make_message(n, b"%d" % n, duplicate=True)).known for n in range(1, 6))
    narrow = make_receipts(window=2)
    for number in range(1, 6):
        accept(narrow, make_message(number, b"%d" % number))
    assert not accept(narrow, make_message(1, b"1", duplicate=True)).known
