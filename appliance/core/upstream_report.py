"""What waits for central, and what became of the rest, in numbers."""

from __future__ import annotations

from typing import Literal

import msgspec


class QueueReport(msgspec.Struct, frozen=True, kw_only=True):
    """What waits, and what became of the rest over all starts. refused: never queued, since the queue was full.

    gone: pictures that were no longer kept, or too large, when it was their turn.
    """

    rows: int = 0
    bytes: int = 0
    bytes_max: int = 0
    sent: int = 0
    dropped: int = 0
    refused: int = 0
    dead_lettered: int = 0
    gone: int = 0


class UpstreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """state `unknown`: rows wait for a destination that the configuration no longer has. images: null when none are
    sent there.
    """

    name: str
    kind: Literal["mqtt", "https", "unknown"]
    state: Literal["ok", "away", "refuses", "full", "unknown"]
    reason: str | None
    waiting: QueueReport
    images: QueueReport | None
