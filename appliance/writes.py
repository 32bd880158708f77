"""What the store is asked to write, and what it answers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from appliance.core.manifest import Kind
from appliance.core.protocol import Part, Result
from appliance.errors import StoreError


class NewReading(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """samples: little-endian float32, sample by sample, `channels` values each; times: as `core.sample_times` packs."""

    route: str
    source: str
    at: float
    key: str | None = None
    part: Part = Part()
    flags: tuple[str, ...] = ()
    channels: int
    samples: bytes
    times: bytes | None = None


class NewResult(msgspec.Struct, frozen=True, kw_only=True):
    """body: the result as JSON. window: (last reading id, end offset in it) of the window it judges."""

    result: Result
    kind: Kind
    body: bytes
    frame: bytes | None = None
    key: str | None = None
    window: tuple[int, int] | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that cannot become a result, with the reason; its payload is kept as a frame."""

    at: float
    topic: str
    client: str
    code: str
    reason: str
    payload: bytes


class Cursor(msgspec.Struct, frozen=True):
    """Where the next window of a stream begins: a reading and a sample in it; `next_ns` with windows of time."""

    route: str
    source: str
    reading: int
    offset: int
    next_ns: int | None = None


class Receipt(msgspec.Struct, frozen=True):
    """By which delivery a message came, to recognise it when it comes again. seq: counts up."""

    client: str
    route: str
    packet_id: int
    hash: bytes
    seq: int


class Outgoing(msgspec.Struct, frozen=True):
    """A row for central, final as it is: no later change of a route or a model touches it.

    queue: whom it waits for. result: whose picture is to be sent, in place of a payload. size: bytes that will be sent.
    """

    queue: str
    topic: str
    media: str
    payload: bytes
    size: int
    result: int | None = None


class Written(msgspec.Struct, frozen=True):
    """duplicate: the result was there already, by its key or its window, so nothing was added.

    reading_ids: of each reading in its order; None where the publisher's key was there already.
    """

    duplicate: bool = False
    reading_ids: tuple[int | None, ...] = ()


Done = Callable[[Written | StoreError], None]
"""Told once what became of a write, in the store's thread."""


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """What is committed together.

    readings: of any streams, each in its order; `receipts` are theirs. receipt: of an input.
    more: further results of the same input, which come with the first or, if that is a duplicate, not at all.
    also: SQL statements with their values, for the tables of other rooms; left out with a duplicate.
    must: keep and try again for as long as the disk refuses. awaited: somebody waits for the commit.
    """

    readings: tuple[NewReading, ...] = ()
    result: NewResult | None = None
    more: tuple[NewResult, ...] = ()
    dead_letter: DeadLetter | None = None
    cursor: Cursor | None = None
    receipt: Receipt | None = None
    receipts: tuple[Receipt, ...] = ()
    suspect: bytes | None = None
    cleared: bytes | None = None
    session: tuple[str, bytes | None] | None = None
    outbox: tuple[Outgoing, ...] = ()
    sent: tuple[int, ...] = ()
    also: tuple[tuple[str, tuple[object, ...]], ...] = ()
    must: bool = False
    awaited: bool = True
    done: Done | None = None

    def weight(self) -> int:
        """Bytes it holds in memory, roughly."""
        frame = self.result.frame if self.result is not None else None
        return (
            500 * (1 + len(self.more) + len(self.readings))
            + (len(frame) if frame else 0)
            + sum([len(each.samples) for each in self.readings])
            + (len(self.dead_letter.payload) if self.dead_letter is not None else 0)
        )


def both(first: Done | None, second: Done) -> Done:
    """One after the other."""

    def done(outcome: Written | StoreError) -> None:
        if first is not None:
            first(outcome)
        second(outcome)

    return done


def when_added(act: Callable[[], None]) -> Done:
    """Act when the write is committed and was no duplicate."""

    def done(outcome: Written | StoreError) -> None:
        if isinstance(outcome, Written) and not outcome.duplicate:
            act()

    return done
