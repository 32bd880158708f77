"""The state of one stream: its readings from the cursor on, and the windows that they make."""

from __future__ import annotations

import time
from collections import deque
from itertools import takewhile

import msgspec

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Part
from appliance.core.route_report import StreamCounts
from appliance.core.sample_times import NS, Times, even_times, unpack_times
from appliance.core.time_windows import TimePolicy, TimeWindows
from appliance.core.windows import Samples, Window, WindowBuffer
from appliance.mqtt.message import Acknowledge
from appliance.mqtt.route_time import time_policy
from appliance.writes import Cursor

_LAG_WINDOWS_MAX = 16
_PASSED_MAX = 1000
"""Readings that may be passed without a window before the cursor is written all the same: the store keeps them."""

StreamId = tuple[str, str]
"""Route and source."""


class Reading(msgspec.Struct, frozen=True):
    """A committed reading. samples: (n, channels) float32. came_at: monotonic; of a restored one, when it was read.

    times: of the samples, packed; None: nobody said.
    """

    number: int
    samples: Samples
    at: float
    part: Part
    flags: tuple[str, ...]
    came_at: float = msgspec.field(default_factory=time.monotonic)
    times: bytes | None = None


class Stream:
    """Only the windows thread touches it. readings: from the cursor on.

    restored: the last one from before the start; 0 once the window is done that may have been under way then.

    Raises ConfigError when the route's windows are not the model's.
    """

    def __init__(
        self, route: RouteConfig, source: str, steps: WindowPreprocess, counts: StreamCounts, cursor: Cursor | None
    ) -> None:
        self.name: StreamId = (route.name, source)
        self.route = route
        self.source = source
        self.counts = counts
        self.cursor = cursor
        self.readings: deque[Reading] = deque()
        self.busy = False
        self.held: list[Acknowledge] = []
        self.restored = 0
        self._steps, self._cut_for = steps, route
        self.channels = len(steps.channels)
        self.cut(steps)

    def fits(self, steps: WindowPreprocess) -> bool:
        """Whether its windows are those of its route and of a model with these steps. Raises ConfigError."""
        if steps is not self._steps or self.route is not self._cut_for:
            if (self._steps.size, self.channels, self._cut_for.hop, self._policy) != (
                steps.size,
                len(steps.channels),
                self.route.hop,
                time_policy(self.route, steps),
            ):
                return False
            self._steps, self._cut_for = steps, self.route
        return True

    def cut(self, steps: WindowPreprocess) -> int:
        """Begin anew at the cursor, with windows for these steps. Returns how many readings have other channels.

        Not while a window is under way, which would be judged twice. Raises ConfigError, and changes nothing.
        """
        self._policy = time_policy(self.route, steps)
        self._steps, self._cut_for = steps, self.route
        self.channels = len(steps.channels)
        self.buffer, self.lag_max = self._buffer(steps, self._policy)
        self.waiting: Window | None = None
        kept = deque(reading for reading in self.readings if reading.samples.shape[1] == self.channels)
        left_out = len(self.readings) - len(kept)
        self.readings = kept
        for reading in kept:
            self._join(reading)
        return left_out

    def add(self, reading: Reading) -> None:
        """A reading with the channels of windows to come waits until these can be cut."""
        self.readings.append(reading)
        if reading.samples.shape[1] == self.channels:
            self._join(reading)

    def covered(self, window: Window) -> list[Reading]:
        """The readings of a window, or of one by count up to its last one. Many more may wait behind them."""
        upto = takewhile(lambda reading: reading.number <= window.last_reading, self.readings)
        return [reading for reading in upto if window.readings is None or reading.number in window.readings]

    def left_s(self, window: Window) -> float | None:
        """Seconds until nobody waits for a window any more, from when it was complete; None: never."""
        if self.route.expires_ms is None:
            return None
        return self.covered(window)[-1].came_at + self.route.expires_ms / 1000 - time.monotonic()

    def cursor_after(self, window: Window) -> Cursor:
        return Cursor(*self.name, *window.next, window.next_ns)

    def passed(self) -> Cursor | None:
        """Where the next window begins, if the cursor is far behind, since many readings made no window."""
        if not isinstance(self.buffer, TimeWindows):
            return None
        reading, next_ns = self.buffer.position
        first = self.readings[0].number if self.readings else reading
        return Cursor(*self.name, reading, 0, next_ns) if reading - first >= _PASSED_MAX else None

    def move_to(self, cursor: Cursor) -> None:
        """Forget the readings that no window needs any more."""
        self.cursor = cursor
        while self.readings and self.readings[0].number < cursor.reading:
            self.readings.popleft()

    def _buffer(self, steps: WindowPreprocess, policy: TimePolicy | None) -> tuple[WindowBuffer | TimeWindows, int]:
        """And how many samples may wait in it."""
        cursor = self.cursor
        if policy is None:
            hop = self.route.hop or steps.size
            start = None if cursor is None else (cursor.reading, 0 if cursor.next_ns is not None else cursor.offset)
            return WindowBuffer(steps.size, hop, start), steps.size + _LAG_WINDOWS_MAX * hop
        windows = TimeWindows(policy, self.counts, None if cursor is None else cursor.next_ns)
        waiting = _LAG_WINDOWS_MAX * policy.hop + policy.late_max + policy.gap_max
        return windows, steps.size + round(waiting / policy.step)

    def _join(self, reading: Reading) -> None:
        if isinstance(self.buffer, TimeWindows):
            self.buffer.add(reading.number, reading.at, reading.samples, self._times(reading))
        else:
            self.buffer.add(reading.number, reading.samples)

    def _times(self, reading: Reading) -> Times:
        count = len(reading.samples)
        if reading.times is not None:
            return unpack_times(reading.times, count)
        # It came while the route said nothing about time.
        assert self._policy is not None
        step = self._policy.step
        return even_times(round(reading.at * NS) - round((count - 1) * step), step, count)
