"""The last result of each source, and everybody who waits for the next one.

Results come from the store's thread after their commit; followers live on the HTTP loop. One bounded queue per
follower: a laggard skips results, it never holds up the box.
"""

from __future__ import annotations

import asyncio
import threading
import weakref

import msgspec

from appliance.core.protocol import Result, Trace
from appliance.errors import Overloaded

_QUEUE_MAX = 64
_SOURCES_MAX = 2000
"""Sources whose last result is kept in memory; of the others it is read from disk."""


class Event(msgspec.Struct, frozen=True):
    """A committed result, its JSON, and the curve of its window."""

    result: Result
    body: bytes
    trace: Trace | None


class Follower:
    """A bounded queue on the loop. `None` in it ends the stream."""

    __slots__ = ("__weakref__", "_queue", "skipped")

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUE_MAX)
        self.skipped = 0

    def put(self, event: Event | None) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self.skipped += 1
        self._queue.put_nowait(event)

    async def next(self, timeout_s: float) -> Event | None:
        """The next event; raises TimeoutError when none comes in time."""
        async with asyncio.timeout(timeout_s):
            return await self._queue.get()


class Live:
    """`publish` may be called from any thread; everything else from the HTTP loop."""

    def __init__(self, followers_max: int) -> None:
        self._followers_max = followers_max
        # Weak, since a stream that ends before its first event never comes to `leave`.
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._latest: dict[str, Event] = {}
        self._fresh: list[Event] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def latest(self, source: str) -> Event | None:
        return self._latest.get(source)

    def all_latest(self) -> list[Event]:
        """The last event of each source, the oldest first."""
        return list(self._latest.values())

    def publish(self, event: Event) -> None:
        self._latest.pop(event.result.source, None)
        self._latest[event.result.source] = event
        if len(self._latest) > _SOURCES_MAX:
            del self._latest[next(iter(self._latest))]
        loop = self._loop
        if loop is None or not self._followers or self._closed:
            return
        with self._lock:
            self._fresh.append(event)
            first = len(self._fresh) == 1
        if first:
            # One wake-up for a whole group commit: waking the loop per result would cost it more than the results.
            loop.call_soon_threadsafe(self._hand_out)

    def follow(self) -> Follower:
        """Raises Overloaded when too many follow."""
        if len(self._followers) >= self._followers_max:
            raise Overloaded(f"{self._followers_max} clients follow already; close one or raise http.sse_clients_max")
        self._loop = asyncio.get_running_loop()
        follower = Follower()
        if self._closed:
            follower.put(None)
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        self._followers.discard(follower)

    def close(self) -> None:
        """End every stream, so that a stopping server need not wait for them."""
        if self._closed:
            return
        self._closed = True
        for follower in self._followers:
            follower.put(None)

    def _hand_out(self) -> None:
        with self._lock:
            events, self._fresh = self._fresh, []
        for follower in self._followers:
            for event in events:
                follower.put(event)
