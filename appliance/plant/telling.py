"""Committed answers on their way to the MQTT doors, and again for a while when nobody could be reached.

That an answer was handed over is noted on disk a moment later: a box that goes down between the two tells it once
more, with the same number. An answer is worth nothing for long, so none is kept for more than a minute.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from appliance.errors import Overloaded, StoreError
from appliance.plant import book
from appliance.plant.answer import AnswerForm, TriggerAnswer
from appliance.plant.asked import ReplyTo
from appliance.store import Store
from appliance.writes import Write

log = structlog.get_logger("triggers")

UNTOLD_S_MAX = 60.0
UNTOLD_MAX = 1000
_RETRY_S = 1.0

Tell = Callable[[TriggerAnswer, AnswerForm, ReplyTo], bool]
"""Publish an answer; False when nobody could be reached just now."""


class Untold(msgspec.Struct, frozen=True):
    """since: monotonic."""

    number: int
    answer: TriggerAnswer
    form: AnswerForm
    reply: ReplyTo
    since: float


class Telling:
    """Belongs to one thread. gave_up: told the trigger's name when an answer stays untold."""

    def __init__(self, store: Store, tell: Tell, gave_up: Callable[[str], None]) -> None:
        self._store = store
        self.tell = tell
        self._gave_up = gave_up
        self._waiting: list[Untold] = []
        self._again_at = 0.0

    def hand_over(self, untold: Untold) -> None:
        if self.tell(untold.answer, untold.form, untold.reply):
            self.write_later(book.handed_over(untold.number))
            return
        self._waiting.append(untold)
        if len(self._waiting) > UNTOLD_MAX:
            self._give_up(self._waiting.pop(0))

    def again(self, now: float) -> None:
        """now: monotonic."""
        if not self._waiting or now < self._again_at:
            return
        self._again_at = now + _RETRY_S
        waiting, self._waiting = self._waiting, []
        for untold in waiting:
            if now - untold.since > UNTOLD_S_MAX:
                self._give_up(untold)
            else:
                self.hand_over(untold)

    def write_later(self, statement: book.Statement) -> None:
        """What nobody waits for, and what a full disk may leave out."""
        try:
            self._store.submit(Write(also=(statement,), awaited=False))
        except (StoreError, Overloaded):
            return

    def _give_up(self, untold: Untold) -> None:
        log.warning("answer_untold", trigger=untold.answer.trigger, number=untold.number)
        self._gave_up(untold.answer.trigger)
        self.write_later(book.handed_over(untold.number))
