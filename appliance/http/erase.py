"""`DELETE /v1/results`: what one source gave in a stretch of time, erased for good."""

from __future__ import annotations

from concurrent.futures import TimeoutError as TookLong
from typing import Any

import msgspec
from litestar import Request, delete
from litestar.di import NamedDependency

from appliance.core.moments import parse_moment
from appliance.erasing import Erased, Erasure
from appliance.errors import FieldError, StoreUnavailable
from appliance.http.query import query
from appliance.store import Store

_WAIT_S = 300.0


class EraseOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """from, to: ISO 8601 or seconds since 1970, by the clock of the box; `to` is not included."""

    source: str
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")


@delete("/v1/results", status_code=200, sync_to_thread=True)
def erase_results(request: Request[Any, Any, Any], store: NamedDependency[Store]) -> Erased:
    """Results, pictures and readings of a source; answered when nothing of them is left."""
    wanted = query(request, EraseOptions)
    try:
        return store.erase(erasure(wanted.source, wanted.since, wanted.until)).result(_WAIT_S)
    except TookLong as error:
        raise StoreUnavailable(f"erasing takes longer than {_WAIT_S:.0f} s and goes on; ask again later") from error


def erasure(source: str, since: str, until: str) -> Erasure:
    """Raises FieldError for what is no time, or an end that is not after the beginning."""
    try:
        wanted = Erasure(source, parse_moment(since), parse_moment(until))
    except ValueError as error:
        raise FieldError(f"from, to: {error}") from error
    if not wanted.since < wanted.until:
        raise FieldError(f"from is {since}, to is {until}: nothing lies between; give an end after the beginning")
    return wanted
