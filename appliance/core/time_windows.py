"""Timed samples -> windows on a fixed grid of time: number k begins at k * hop after 1970, on every box and run.

So it does not matter where a stream began or broke off, and two sources of a route have windows of the same moments.
A window is cut when every sample that belongs into it has come or would be late: samples may come in any order within
the limit. What is in it depends on the samples alone, so that a restart changes none.

Positions that are kept: the first reading with a sample that is still needed, and the time at which the next window
begins. Source: the watermark of Akidau et al. 2015, "The Dataflow Model", section 2.3.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.core.resample import resample
from appliance.core.route_report import StreamCounts
from appliance.core.sample_times import NS, Times
from appliance.core.windows import Samples, Window

FILLED = "filled"
"""Flag of a window that was judged although samples were missing in it."""

SET_BACK_S = 10.0
"""A source that sent nothing but late samples for so long has had its clock set back: its windows begin anew."""

STOOD_STILL_S = 3600.0
"""So has one that repeated its newest sample for so long."""

_PENDING_MAX = 512
_EVEN = 0.01
"""Times may be off by this share of a step and still be taken as even."""


class TimePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """step: ns between the model's samples. hop: ns between the starts of windows. Times in ns.

    gap_max: samples further apart leave a gap; a window with one is left out (`break`), or the gap is bridged by a
    straight line with (`fill`) or without (`ignore`) a flag on the result.
    late_max: a sample that much older than the newest one is late, and dropped; with 0 all that come out of order are.
    duplicates: which of the samples with one time counts.
    """

    size: int
    step: float
    hop: int
    gap_max: int
    gaps: Literal["break", "fill", "ignore"] = "break"
    late_max: int = 0
    duplicates: Literal["first", "last"] = "first"

    @property
    def span(self) -> int:
        """ns that a window covers."""
        return round(self.size * self.step)


class TimeWindows:
    """Joins the readings of one stream. start: where the next window begins, None: with the first sample."""

    def __init__(self, policy: TimePolicy, counts: StreamCounts, start: int | None = None) -> None:
        self._policy = policy
        self._counts = counts
        self._start = start
        self._times: Times = np.empty(0, np.int64)
        self._values: Samples = np.empty((0, 0), np.float32)
        self._owners: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._pending: list[tuple[Times, Samples, int]] = []
        self._newest: int | None = None
        self._checked: int | None = None
        self._idle: tuple[int, float] | None = None
        self._last = 0
        self._ready: deque[Window] = deque()

    @property
    def samples(self) -> int:
        """How far the windows are behind the newest sample, in steps of the model."""
        if self._newest is None:
            return len(self._ready) * self._policy.size
        start = self._oldest() if self._start is None else self._start
        return round((self._newest - start) / self._policy.step) + len(self._ready) * self._policy.size

    @property
    def position(self) -> tuple[int, int | None]:
        """The first reading that is still needed, and where the next window begins."""
        needed = [int(self._owners.min())] if len(self._owners) else []
        needed += [owner for _, _, owner in self._pending]
        if self._idle is not None:
            needed.append(self._idle[0])
        return min(needed, default=self._last + 1), self._start

    def add(self, reading: int, at: float, samples: Samples, times: Times) -> None:
        """Take a reading; ids rise. at: when it came, in seconds. samples: (n, channels), times: (n,), n at least 1."""
        self._last = reading
        newest = int(times.max())
        if self._newest is not None and newest <= self._newest and self._set_back(reading, at, times):
            self._begin_anew()
        before = self._newest
        in_order = len(times) == 1 or bool((times[1:] > times[:-1]).all())
        if not in_order or (before is not None and times[0] <= before):
            samples, times = self._usable(samples, times, before)
        if before is None or newest > before:
            self._newest = newest
            self._idle = None
        if len(times):
            self._pending.append((times, samples, reading))
            if len(self._pending) >= _PENDING_MAX:
                self._merge()

    def next(self) -> Window | None:
        """The next full window, or None. Moves on by one hop, and over what cannot be judged."""
        return self._ready.popleft() if self._ready else self._cut()

    def _usable(self, samples: Samples, times: Times, before: int | None) -> tuple[Samples, Times]:
        """Drop what is late; put the rest in order."""
        policy, counts = self._policy, self._counts
        behind = np.maximum.accumulate(np.concatenate([[times[0] - 1 if before is None else before], times]))[:-1]
        if policy.late_max:
            usable = times > before - policy.late_max if before is not None else np.ones(len(times), bool)
        else:
            usable = times > behind
        if not usable.all():
            dropped = times[~usable]
            self._merge()
            repeated = int(np.isin(dropped, np.concatenate([self._times, times[usable]])).sum())
            counts.duplicates += repeated
            counts.late += len(dropped) - repeated
        counts.reordered += int((usable & (times < behind)).sum())
        order = np.argsort(times[usable], kind="stable")
        return samples[usable][order], times[usable][order]

    def _set_back(self, reading: int, at: float, times: Times) -> bool:
        """Whether nothing new has come for so long that the source's clock must have been set."""
        if self._idle is None or at < self._idle[1]:
            self._idle = (reading if self._idle is None else self._idle[0]), at
            return False
        waited_s = at - self._idle[1]
        if waited_s < SET_BACK_S + self._policy.late_max / NS:
            return False
        # Only the newest sample is sure to be known after a restart as well.
        return waited_s >= STOOD_STILL_S or int(times.max()) != self._newest

    def _begin_anew(self) -> None:
        """What is complete stays; the open window is given up."""
        while (window := self._cut()) is not None:
            self._ready.append(window)
        self._counts.clock_steps += 1
        self._start = self._newest = self._checked = self._idle = None
        self._pending.clear()
        self._keep(0, 0)

    def _oldest(self) -> int:
        times = [int(times[0]) for times, _, _ in self._pending]
        if len(self._times):
            times.append(int(self._times[0]))
        return min(times, default=self._newest or 0)

    def _merge(self) -> None:
        """Put what came into its place. Of samples with one time one stays."""
        if not self._pending:
            return
        arrays = [times for times, _, _ in self._pending]
        times = np.concatenate([self._times, *arrays])
        kept = [self._values] if len(self._values) else []
        values = np.concatenate([*kept, *(values for _, values, _ in self._pending)])
        owners = np.concatenate([self._owners, *(np.full(len(t), owner) for t, _, owner in self._pending)])
        self._pending.clear()
        if not (times[1:] > times[:-1]).all():
            order = np.argsort(times, kind="stable")
            times, values, owners = times[order], values[order], owners[order]
            first = np.concatenate([[True], times[1:] > times[:-1]])
            self._counts.duplicates += len(times) - int(first.sum())
            chosen = first if self._policy.duplicates == "first" else np.concatenate([first[1:], [True]])
            # A repeated sample belongs to the reading that brought its time first: a restart needs that one.
            times, values, owners = times[first], values[chosen], owners[first]
        self._times, self._values, self._owners = times, values, owners

    def _cut(self) -> Window | None:
        policy = self._policy
        while self._newest is not None:
            # All samples up to here have come, or are late.
            known = self._newest - policy.late_max
            tolerance = round(policy.step * _EVEN)
            length = round((policy.size - 1) * policy.step)
            if self._start is not None and known < self._start + length - tolerance:
                return None
            self._merge()
            if self._start is None:
                if not len(self._times) or self._times[0] > known:
                    return None
                self._start = _first_after(int(self._times[0]) - round(policy.step), policy.hop)
                continue
            self._count_gaps(known)
            start, times = self._start, self._times
            first, end = (int(each) for each in np.searchsorted(times, [start, start + policy.span]))
            # The grid is moved by less than a step, onto the first sample.
            aligned = first < len(times) and times[first] < start + policy.step
            origin = int(times[first]) if aligned else start
            goal = origin + length - tolerance
            beyond = int(np.searchsorted(times, goal))
            reached = beyond < len(times) and times[beyond] <= min(known, goal + policy.gap_max)
            if not reached and known < goal + policy.gap_max:
                return None
            if first == end:
                self._skip_to(self._next_with_samples(start, first, known))
                continue
            stop = beyond + 1 if reached else beyond
            around = times[first if aligned else max(0, first - 1) : stop]
            left = aligned or (first > 0 and times[first - 1] >= start - policy.gap_max)
            gap = not reached or not left or bool((np.diff(around) > policy.gap_max).any())
            if gap and policy.gaps == "break":
                self._skip_to(start + policy.hop)
                continue
            low = int(np.searchsorted(times, start - policy.gap_max))
            samples = resample(
                (times[low:stop] - origin).astype(np.float64), self._values[low:stop], policy.step, policy.size
            )
            own = frozenset(self._owners[first:end].tolist())
            filled = gap and policy.gaps == "fill"
            self._counts.filled += filled
            self._move_to(start + policy.hop)
            reading, following = self.position
            return Window(
                samples,
                max(own),
                start + policy.span,
                (reading, 0),
                next_ns=following,
                readings=own,
                flags=(FILLED,) if filled else (),
            )
        return None

    def _next_with_samples(self, start: int, following: int, known: int) -> int:
        """Behind an empty window: the start of the first one that has samples, or of which that is not known yet."""
        policy = self._policy
        certain = _first_after(known - policy.gap_max - round((policy.size - 1) * policy.step), policy.hop)
        if following < len(self._times):
            sample = int(self._times[following])
            holding = _first_after(sample - policy.span, policy.hop)
            certain = holding if sample <= known else min(holding, certain)
        return max(start + policy.hop, certain)

    def _count_gaps(self, known: int) -> None:
        """Each gap once, when it is certain."""
        low = 0 if self._checked is None else int(np.searchsorted(self._times, self._checked, side="right"))
        high = int(np.searchsorted(self._times, known, side="right"))
        if high <= low:
            return
        passed = self._times[low:high]
        if self._checked is not None:
            passed = np.concatenate([[self._checked], passed])
        self._counts.gaps += int((np.diff(passed) > self._policy.gap_max).sum())
        self._checked = int(passed[-1])

    def _skip_to(self, start: int) -> None:
        assert self._start is not None
        self._counts.skipped += (start - self._start) // self._policy.hop
        self._move_to(start)

    def _move_to(self, start: int) -> None:
        self._start = start
        # The newest sample stays in any case: a restart has to know what is late.
        low = int(np.searchsorted(self._times[:-1], start - self._policy.gap_max))
        self._keep(low, len(self._times))

    def _keep(self, low: int, high: int) -> None:
        self._times = self._times[low:high]
        self._values = self._values[low:high]
        self._owners = self._owners[low:high]


def _first_after(time: int, hop: int) -> int:
    """The first start of a window after a time."""
    return (time // hop + 1) * hop
