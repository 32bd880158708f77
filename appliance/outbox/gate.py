"""When a destination is tried again: shared by its lanes, so that not each of them knocks at a closed door."""

from __future__ import annotations

import random
import threading

from appliance.core.upstream import pause_s
from appliance.outbox.link import Away


class Gate:
    """now: monotonic seconds."""

    def __init__(self, retry_s_max: float) -> None:
        self._retry_s_max = retry_s_max
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self._failures = 0
        self.away: Away | None = None

    def wait_s(self, now: float) -> float:
        """Until a try is due; 0 when it is."""
        return max(0.0, self._closed_until - now)

    def passed(self) -> None:
        with self._lock:
            self._failures, self._closed_until, self.away = 0, 0.0, None

    def failed(self, away: Away, now: float) -> None:
        """A second lane that fails while the gate is closed makes the pause no longer."""
        with self._lock:
            self.away = away
            if now < self._closed_until:
                return
            # Whoever asks for time gets it, and the jitter on top of it.
            pause = pause_s(self._failures, self._retry_s_max, random.random()) + (away.retry_after_s or 0.0)
            self._failures += 1
            self._closed_until = now + pause
