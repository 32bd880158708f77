"""Following results on a loop, while they come from another thread."""

from __future__ import annotations

import asyncio
import gc

import pytest

from appliance.core.protocol import RESULT_SCHEMA, Result
from appliance.errors import Overloaded
from appliance.live import Event, Live


def make_event(number: int, source: str = "camera-1") -> Event:
    result = Result(
        schema=RESULT_SCHEMA,
        id=number,
        at=0.0,
        device="box",
        door="http",
        source=source,
        verdict="ok",
        model="tiny",
        version="1",
        variant="v",
        digest="",
        signed=False,
    )
    return Event(result, b"{}", None)


async def publish(live: Live, *events: Event) -> None:
    """As the store does: from another thread."""
    for event in events:
        await asyncio.to_thread(live.publish, event)


def test_follower_gets_every_result_in_order() -> None:
    async def follow() -> list[int]:
        live = Live(10)
        follower = live.follow()
        await publish(live, make_event(1), make_event(2), make_event(3))
        events = [await follower.next(30) for _ in range(3)]
        return [event.result.id for event in events if event is not None]

    assert asyncio.run(follow()) == [1, 2, 3]


def test_laggard_skips_the_oldest_and_holds_up_nobody() -> None:
    async def follow() -> tuple[list[int], int, list[int]]:
        live = Live(10)
        laggard, prompt = live.follow(), live.follow()
        seen = []
        for number in range(200):
            await publish(live, make_event(number))
            event = await prompt.next(30)
            assert event is not None
            seen.append(event.result.id)
        left: list[int] = []
        while len(left) + laggard.skipped < 200:
            event = await laggard.next(30)
            assert event is not None
            left.append(event.result.id)
        return seen, laggard.skipped, left

    seen, skipped, left = asyncio.run(follow())
    assert seen == list(range(200))
    assert skipped > 0
    assert left == list(range(skipped, 200))


def test_nothing_new_is_a_timeout() -> None:
    async def follow() -> None:
        await Live(10).follow().next(0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(follow())


def test_last_result_of_each_source_is_remembered() -> None:
    live = Live(10)
    for number, source in enumerate(["a", "b", "a"]):
        live.publish(make_event(number, source))
    assert [live.latest(source) and live.latest(source).result.id for source in "ab"] == [2, 1]  # type: ignore[union-attr]
    assert live.latest("c") is None


def test_memory_does_not_grow_with_the_sources() -> None:
    live = Live(10)
    live.publish(make_event(0, "early"))
    for number in range(5000):
        live.publish(make_event(number, f"source-{number}"))
    assert live.latest("early") is None
    assert live.latest("source-4999") is not None


def test_too_many_followers_are_refused_and_one_that_leaves_makes_room() -> None:
    async def follow() -> None:
        live = Live(1)
        follower = live.follow()
        with pytest.raises(Overloaded, match="1 clients follow already"):
            live.follow()
        live.leave(follower)
        live.follow()

    asyncio.run(follow())


def test_follower_that_is_forgotten_makes_room() -> None:
    async def follow() -> None:
        live = Live(1)
        live.follow()
        gc.collect()
        live.follow()

    asyncio.run(follow())


def test_close_ends_every_stream_those_that_come_later_too() -> None:
    async def follow() -> list[Event | None]:
        live = Live(10)
        before = live.follow()
        live.close()
        live.close()
        after = live.follow()
        await publish(live, make_event(1))
        return [await before.next(30), await after.next(30)]

    assert asyncio.run(follow()) == [None, None]


def test_result_that_comes_after_the_loop_is_gone_harms_nobody() -> None:
    live = Live(10)

    async def follow() -> object:
        return live.follow()

    follower = asyncio.run(follow())
    live.close()
    live.publish(make_event(1))
    assert follower is not None
