"""What is counted of each trigger, for the status."""

from __future__ import annotations

import msgspec


class TriggerReport(msgspec.Struct, kw_only=True):
    """Since the start of the box. errors: answers `error`. late: verdicts that came after their answer. overlaps: came
    while another one was open. untold: answers that nobody could be told in time. reused_frames: pictures that an
    earlier trigger had already. open: not answered yet. last_ms: from the last trigger to its answer.
    """

    name: str
    asked: int = 0
    answered: int = 0
    errors: int = 0
    late: int = 0
    duplicates: int = 0
    overlaps: int = 0
    interrupted: int = 0
    untold: int = 0
    reused_frames: int = 0
    open: int = 0
    last_ms: float | None = None
