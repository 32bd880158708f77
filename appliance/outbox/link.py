"""The way to one destination, as a lane sees it; an upstream broker and an HTTPS server are its two forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

REFUSED_AT_ONCE = 10
"""Rows that a destination may refuse for ever, one after the other, before it is taken to refuse everything."""


class Row(msgspec.Struct, frozen=True):
    """A row of the table, or a picture whose payload was fetched for it. key: the same whenever it is sent."""

    queue: str
    number: int
    topic: str
    media: str
    payload: bytes
    size: int
    result: int | None
    key: str


class Away(msgspec.Struct, frozen=True):
    """Nothing can be sent now. retry_after_s: as the destination asks. fault: somebody has to put something right."""

    reason: str
    retry_after_s: float | None = None
    fault: bool = False


class Sent(msgspec.Struct, frozen=True):
    """What became of rows: taken, refused for ever and why, or to be sent again. away: why no more can go now."""

    taken: tuple[Row, ...] = ()
    refused: tuple[tuple[Row, str], ...] = ()
    again: tuple[Row, ...] = ()
    away: Away | None = None


class Link(Protocol):
    """May be used by several lanes at once."""

    def room(self, *, late: bool) -> int:
        """How many rows may be given to it now; 0 while it is not connected or has enough on its way."""

    def send(self, rows: Sequence[Row], *, late: bool) -> Sent:
        """Send rows in their order. What is in no part of the answer is on its way, and `settled` will tell."""

    def settled(self, queue: str) -> Sent:
        """What became, since it was last asked, of rows of a queue that were on their way."""

    def state(self) -> str | None:
        """What keeps it from its destination, as far as it knows; None while nothing does."""

    def close(self) -> None: ...
