"""A counter that grows every second for as long as the box is well, so that a PLC sees when it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger("beat")

BEAT_EVERY_S = 1.0


class Beat:
    """publish: told each new count. well: while it says no, the counter stands still."""

    def __init__(self, publish: Callable[[int], None], well: Callable[[], bool]) -> None:
        self.count = 0
        self._publish = publish
        self._well = well
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            # A box that was held up does not make up for the beats that it missed.
            due = max(due + BEAT_EVERY_S, time.monotonic())
            try:
                if self._well():
                    self.count += 1
                    self._publish(self.count)
            except Exception:
                log.exception("beat_failed")
