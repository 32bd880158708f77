"""What the store is asked to write, and what it answers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from appliance.core.manifest import Kind
from appliance.core.protocol import Part, Result
from appliance.errors import StoreError


class NewReading(msgspec.Struct, frozen=True, kw_only=True):
    """samples: little-endian float32, sample by sample, `channels` values each."""

    route: str
    source: str
    at: float
    key: str | None = None
    part: Part = Part()
    flags: tuple[str, ...] = ()
    channels: int
    samples: bytes


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
    """Where the next window of a stream begins: a reading and a sample in it."""

    route: str
    source: str
    reading: int
    offset: int


class Receipt(msgspec.Struct, frozen=True):
    """By which delivery a message came, to recognise it when it comes again. seq: counts up."""

    client: str
    route: str
    packet_id: int
    hash: bytes
    seq: int


class Written(msgspec.Struct, frozen=True):
    """duplicate: the publisher's key was there already, so nothing was added."""

    duplicate: bool = False
    reading_id: int | None = None


Done = Callable[[Written | StoreError], None]
"""Told once what became of a write, in the store's thread."""


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """What is committed together.

    more: further results of the same input, which come with the first or, if that is a duplicate, not at all.
    also: SQL statements with their values, for the tables of other rooms; left out with a duplicate.
    must: keep and try again for as long as the disk refuses. awaited: somebody waits for the commit.
    """

    reading: NewReading | None = None
    result: NewResult | None = None
    more: tuple[NewResult, ...] = ()
    dead_letter: DeadLetter | None = None
    cursor: Cursor | None = None
    receipt: Receipt | None = None
    suspect: bytes | None = None
    cleared: bytes | None = None
    session: tuple[str, bytes | None] | None = None
    outbox: tuple[tuple[str, bytes], ...] = ()
    sent: tuple[int, ...] = ()
    also: tuple[tuple[str, tuple[object, ...]], ...] = ()
    must: bool = False
    awaited: bool = True
    done: Done | None = None

    def weight(self) -> int:
        """Bytes it holds in memory, roughly."""
        frame = self.result.frame if self.result is not None else None
        return (
            500 * (1 + len(self.more))
            + (len(frame) if frame else 0)
            + (len(self.reading.samples) if self.reading is not None else 0)
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
