"""A trigger as a door hands it over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from appliance.core.protocol import Part
from appliance.errors import ApplianceError
from appliance.plant.answer import TriggerAnswer
from appliance.writes import Done, Receipt


class ReplyTo(msgspec.Struct, frozen=True):
    """Where an answer goes over MQTT. topic: None for `appliance/<device>/answers/<trigger>`, at both doors."""

    via: Literal["listener", "broker"]
    topic: str | None = None
    correlation: bytes | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """at: wall clock; received: monotonic. must: its acknowledgement waits for the commit, so that it is kept.

    error: it was understood so little that it can only be answered with this. taken: told when it is committed.
    waits: told the answer (HTTP), or why there is none. reply: where else it goes.
    """

    trigger: str
    part: Part = Part()
    key: str | None = None
    at: float
    received: float
    must: bool = False
    error: ApplianceError | None = None
    receipt: Receipt | None = None
    taken: Done | None = None
    waits: Callable[[TriggerAnswer | ApplianceError], None] | None = None
    reply: ReplyTo | None = None
