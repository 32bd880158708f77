"""`/v1/events`: results as they are committed and the state of the box, as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.response import Stream

from appliance.http.status import Status
from appliance.live import Event, Follower, Live

STATUS_EVERY_S = 2.0


@get("/v1/events")
async def events(live: NamedDependency[Live], status: NamedDependency[Status]) -> Stream:
    """`result` events with the result and the curve of its window; a `status` event every two seconds.

    The first is a status, followed by the last result of each source as `latest` events.
    """
    return Stream(
        _events(live, live.follow(), status),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(live: Live, follower: Follower, status: Status) -> AsyncGenerator[bytes, None]:
    try:
        yield await _status_frame(status)
        # A screen that has just been switched on need not wait for every source to speak.
        for latest in live.all_latest():
            yield _result_frame("latest", latest)
        next_status = time.monotonic() + STATUS_EVERY_S
        while True:
            wait_s = next_status - time.monotonic()
            if wait_s <= 0:
                next_status = time.monotonic() + STATUS_EVERY_S
                yield await _status_frame(status)
                continue
            try:
                event = await follower.next(wait_s)
            except TimeoutError:
                continue
            if event is None:
                return
            yield _result_frame("result", event)
    finally:
        live.leave(follower)


async def _status_frame(status: Status) -> bytes:
    return _frame("status", msgspec.json.encode(await asyncio.to_thread(status.report)))


def _result_frame(name: str, event: Event) -> bytes:
    trace = msgspec.json.encode(event.trace)
    body = b'{"result":' + event.body + b',"trace":' + trace + b"}"
    return f"id: {event.result.id}\n".encode() + _frame(name, body)


def _frame(name: str, body: bytes) -> bytes:
    """Wire format: HTML standard, section 9.2.6. JSON has no line breaks of its own."""
    return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"
