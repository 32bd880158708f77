"""What came on a route and what became of it, in numbers."""

from __future__ import annotations

import msgspec


class StreamCounts(msgspec.Struct):
    """Of one route since the start, what a start rebuilt from kept readings included. Belongs to one thread.

    bytes: on disk, about. windows: judged, or answered with an error. skipped: not judged, since there was a gap or
    nothing in them. filled: judged over a gap. gaps: stretches without a sample longer than the route allows.
    late: samples dropped because they came out of order or too late. reordered: samples put where they belong.
    duplicates: samples dropped because their time was there already. clock_steps: how often the publisher's clock was
    taken as set back. not_joined: readings whose channels are not the model's.
    """

    readings: int = 0
    samples: int = 0
    bytes: int = 0
    windows: int = 0
    skipped: int = 0
    filled: int = 0
    gaps: int = 0
    late: int = 0
    reordered: int = 0
    duplicates: int = 0
    clock_steps: int = 0
    not_joined: int = 0


class RouteReport(msgspec.Struct, frozen=True, kw_only=True):
    """windows: how readings become windows, null for other inputs. kept_hours: how long readings stay on disk.

    bytes_per_day: of readings, at the rate at which they came since the start; null before the first minute is over.
    problem: why its messages cannot be used.
    """

    name: str
    topic: str
    model: str
    sources: int
    windows: str | None
    kept_hours: float | None
    bytes_per_day: int | None
    counts: StreamCounts
    problem: str | None
