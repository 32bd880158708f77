"""When the updater looks again: at its own hours, and soon when somebody touches `<data-dir>/state/poll-now`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from appliance.config import Config
from appliance.core.polling import next_poll_s, phase
from appliance.errors import ApplianceError, RegistryUnavailable, UpdateBusy
from appliance.state import POLL_NOW

SPACE_S = 5.0
"""Between two looks at least: anybody who may send a command may ask, at any rate."""

_LOOK_S = 0.2


class PollNow:
    """Whether somebody has asked since this was made, or since it was asked last."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "state" / POLL_NOW
        self._seen = self._touched_at()

    def came(self) -> bool:
        touched_at = self._touched_at()
        came, self._seen = touched_at != self._seen, touched_at
        return came

    def _touched_at(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0


def stay(
    config: Config,
    look: Callable[[], None],
    told: Callable[[ApplianceError], None],
    *,
    asked: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> None:
    """Look for ever: first at this device's own moment, then after `every_s`, or as a registry in trouble wants.

    look: one look. told: of its error, and it goes on. asked: whether somebody wants a look now.
    """
    wait_s, failures = phase(config.device, config.updates.spread_s), 0
    began = now() - SPACE_S
    while True:
        due, may = now() + wait_s, began + SPACE_S
        is_asked = False
        while now() < max(may, 0.0 if is_asked else due):
            is_asked = asked() or is_asked
            sleep(_LOOK_S)
        began = now()
        again, retry_after_s = False, None
        try:
            look()
            failures = 0
        except ApplianceError as error:
            told(error)
            if isinstance(error, RegistryUnavailable):
                again, retry_after_s = error.again, error.retry_after_s
            again = again or isinstance(error, UpdateBusy)
            failures += 1
        wait_s = next_poll_s(config.updates.every_s, failures, again, retry_after_s, draw())
