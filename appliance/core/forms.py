"""The forms in which a PLC can have an answer, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from appliance.core.brief import Brief
from appliance.core.flat import flat
from appliance.core.packed import packed

Form = Literal["flat", "packed"]

MEDIA_TYPES: Mapping[Form, str] = {"flat": "application/json", "packed": "application/octet-stream"}


def write(brief: Brief, form: Form) -> bytes:
    return flat(brief) if form == "flat" else packed(brief)
