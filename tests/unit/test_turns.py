"""Whose turn it is among what waits for the models."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from appliance.mqtt.turns import Turns, Waiter


class Named(Waiter):
    def __init__(
        self,
        name: str,
        model: str = "a",
        priority: Literal["live", "backlog"] = "live",
        *,
        alone: bool = False,
        expires_at: float | None = None,
    ) -> None:
        super().__init__(model, priority, alone=alone, expires_at=expires_at)
        self.name = name


def turns(*waiters: Named, at_once: int = 2) -> Turns[Named]:
    made: Turns[Named] = Turns(at_once)
    for each in waiters:
        made.join(each)
    return made


def taken(made: Turns[Named]) -> list[Named]:
    found = []
    while (each := made.take()) is not None:
        found.append(each)
    return found


def names(waiters: list[Named]) -> list[str]:
    return [each.name for each in waiters]


def test_model_that_never_answers_fills_no_other() -> None:
    made = turns(*(Named(f"dead {number}", "dead") for number in range(10)), Named("b", "b"))
    assert names(taken(made)) == ["dead 0", "b", "dead 1"]
    made.join(Named("b again", "b"))
    assert names(taken(made)) == ["b again"]


def test_models_take_turns() -> None:
    made = turns(*(Named(f"{model}{number}", model) for model in "ab" for number in range(3)), at_once=9)
    assert names(taken(made)) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_live_passes_a_thousand_of_the_backlog() -> None:
    made = turns(*(Named(str(number), priority="backlog") for number in range(1000)), at_once=1)
    (first,) = taken(made)
    made.join(Named("live"))
    made.leave(first)
    (second,) = taken(made)
    assert (first.name, second.name) == ("0", "live")
    made.leave(second)
    assert names(taken(made)) == ["1"]


def test_full_model_is_left_out_until_it_is_resumed() -> None:
    made = turns(Named("a0"), Named("a1"), Named("b0", "b"), at_once=1)
    first = made.take()
    assert first is not None
    made.put_back(first)
    assert names(taken(made)) == ["b0"]
    made.resume()
    assert names(taken(made)) == ["a0"]


def test_what_was_put_back_has_its_old_place_again() -> None:
    made = turns(*(Named(str(number)) for number in range(4)), at_once=3)
    for each in taken(made):
        made.put_back(each)
    made.resume()
    assert names(taken(made)) == ["0", "1", "2"]


def test_suspect_waits_for_all_others_and_then_runs_alone() -> None:
    made = turns(Named("a0"), Named("suspect", "b", alone=True), Named("c0", "c"))
    (first,) = taken(made)
    assert first.name == "a0"
    made.leave(first)
    (suspect,) = taken(made)
    assert suspect.name == "suspect"
    made.leave(suspect)
    assert names(taken(made)) == ["c0"]


def test_suspect_whose_model_is_not_there_keeps_nobody_waiting() -> None:
    made = turns(Named("suspect", "b", alone=True), Named("c0", "c"))
    suspect = made.take()
    assert suspect is not None
    made.put_back(suspect)
    assert names(taken(made)) == ["c0"]


def test_what_is_too_late_is_taken_out_wherever_it_waits() -> None:
    made = turns(
        Named("a0", expires_at=5.0),
        Named("a1"),
        Named("a2", expires_at=7.0),
        Named("b0", "b", "backlog", expires_at=6.0),
        at_once=1,
    )
    first = made.take()
    assert first is not None
    made.put_back(first)
    assert sorted(names(made.take_expired(6.0))) == ["a0", "b0"]
    assert len(made) == 2
    made.resume()
    assert names(taken(made)) == ["a1"]


def test_waiting_is_counted_by_model_and_priority() -> None:
    made = turns(Named("0"), Named("1", priority="backlog"), Named("2", priority="backlog"), Named("3", "b"))
    assert [made.waiting("a", "live"), made.waiting("a", "backlog"), made.waiting("c", "live")] == [1, 2, 0]
    made.take()
    assert (made.waiting("a", "live"), len(made)) == (0, 4)


STEPS = st.lists(st.tuples(st.sampled_from(["join", "alone", "take", "leave", "back", "resume"]), st.integers(0, 3)))


@given(STEPS)
def test_bounds_hold_and_nobody_is_lost(steps: list[tuple[str, int]]) -> None:
    made: Turns[Named] = Turns(2)
    running: list[Named] = []
    joined = left = 0
    for step, number in steps:
        if step in ("join", "alone"):
            made.join(Named("", "abcd"[number], ("live", "backlog")[number % 2], alone=step == "alone"))
            joined += 1
        elif step == "take":
            running += [each for each in [made.take()] if each is not None]
        elif step == "resume":
            made.resume()
        elif running:
            waiter = running.pop(number % len(running))
            left += step == "leave"
            (made.leave if step == "leave" else made.put_back)(waiter)
        assert len(made) == joined - left
        assert all(sum(each.model == model for each in running) <= 2 for model in "abcd")
        assert len(running) <= 1 or not any(each.alone for each in running)
    made.resume()
    for each in running:
        made.leave(each)
        left += 1
    while (waiting := made.take()) is not None:
        made.leave(waiting)
        left += 1
    assert left == joined
