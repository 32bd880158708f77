"""`/v1/alarms`: what is wrong now, and what was."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency

from appliance.http.query import query
from appliance.plant.alarms import AlarmList, Alarms, PastAlarm


class AlarmReport(AlarmList, frozen=True):
    """history: what was raised, the newest first, and when it was over."""

    history: list[PastAlarm]


class AlarmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """limit: rows of history."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=500)] = 50


@get("/v1/alarms", sync_to_thread=True)
def list_alarms(request: Request[Any, Any, Any], alarms: NamedDependency[Alarms]) -> AlarmReport:
    history = alarms.history(query(request, AlarmOptions).limit)
    now = alarms.report()
    return AlarmReport(now.at, now.alarms, history)
