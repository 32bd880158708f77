"""One trigger from its message to the commit of its answer: what each camera has come to. Belongs to one thread."""

from __future__ import annotations

from collections.abc import Callable

from appliance.config import TriggerConfig
from appliance.errors import ApplianceError
from appliance.plant.answer import CameraAnswer, TriggerAnswer, answer
from appliance.plant.asked import Asked, ReplyTo
from appliance.plant.cameras import Give

MARGIN_S = 0.05
"""An answer has to be committed and sent: so long before its time is over, or a quarter of it, no more is waited."""


class Shot:
    """One camera's share. give: set while its picture is waited for. age_ms: of the picture. done: what came of it."""

    __slots__ = ("age_ms", "done", "give")

    def __init__(self) -> None:
        self.give: Give | None = None
        self.age_ms: float | None = None
        self.done: CameraAnswer | None = None


class OpenTrigger:
    """answer: set once, when it is decided; replies and waits get it when it is committed. refused: by the store."""

    def __init__(self, number: int, asked: Asked, config: TriggerConfig) -> None:
        within_s = config.answer_within_ms / 1000
        self.number = number
        self.asked = asked
        self.config = config
        self.ends_at = asked.received + within_s - min(MARGIN_S, within_s / 4)
        self.oldest = asked.received - config.frame_age_ms_max / 1000
        self.shots = {camera: Shot() for camera in config.cameras}
        self.answer: TriggerAnswer | None = None
        self.refused = False
        self.replies: list[tuple[ReplyTo, bool]] = []
        self.waits: list[tuple[Callable[[TriggerAnswer | ApplianceError], None], bool]] = []
        self.add(asked, duplicate=False)

    def add(self, asked: Asked, *, duplicate: bool) -> None:
        """Whoever asked gets the answer. Of several that listen to the same topic, one answer is for all."""
        if asked.reply is not None and all(asked.reply != reply for reply, _ in self.replies):
            self.replies.append((asked.reply, duplicate))
        if asked.waits is not None:
            self.waits.append((asked.waits, duplicate))

    def is_same(self, asked: Asked) -> bool:
        """Whether `asked` is this one again: by its key, or by its part while this one has no answer yet."""
        mine = self.asked
        if asked.trigger != mine.trigger:
            return False
        if asked.key is not None and asked.key == mine.key:
            return True
        return self.answer is None and asked.part.part is not None and asked.part.part == mine.part.part

    @property
    def judged(self) -> bool:
        return all(shot.done is not None for shot in self.shots.values())

    def decide(self, device: str, now: float, error: ApplianceError | None = None) -> TriggerAnswer:
        """Every camera has come to something. now: monotonic. error: instead of all cameras."""
        cameras = [] if error is not None else [shot.done for shot in self.shots.values() if shot.done is not None]
        self.answer = answer(
            number=self.number,
            at=self.asked.at,
            device=device,
            trigger=self.config.name,
            part=self.asked.part,
            key=self.asked.key,
            model=self.config.model,
            ms=(now - self.asked.received) * 1000,
            cameras=cameras,
            error=error,
        )
        return self.answer
