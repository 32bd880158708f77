"""`/v1/sources`: who sends, and the last answer of each in a form that a simple screen can poll."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.core.brief import brief_of
from appliance.core.forms import MEDIA_TYPES, write
from appliance.core.protocol import Result
from appliance.history import History, Source
from appliance.http.query import query
from appliance.http.results import PictureOptions, picture
from appliance.live import Live


class SourceList(msgspec.Struct, frozen=True):
    sources: list[Source]


class Latest(msgspec.Struct, frozen=True):
    """One flat object. age_s: since the result, by the clock of the box."""

    id: int
    at: float
    age_s: float
    source: str
    model: str
    version: str
    verdict: str
    label: str | None
    label_score: float | None
    score: float | None
    part: str | None
    lot: str | None
    recipe: str | None
    regions: int
    has_image: bool


class LatestOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """wait_s: how long to wait for a result newer than the one in If-None-Match. form: for PLCs."""

    form: Literal["flat", "packed"] | None = None
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0


@get("/v1/sources", sync_to_thread=True)
def list_sources(history: NamedDependency[History]) -> SourceList:
    return SourceList(history.sources())


@get("/v1/sources/{source:str}/latest")
async def latest(
    request: Request[Any, Any, Any],
    source: FromPath[str],
    history: NamedDependency[History],
    live: NamedDependency[Live],
) -> Response[Latest | bytes | None]:
    """The last answer. With `If-None-Match` it answers 304 when nothing is newer, after waiting `wait_s`."""
    options = query(request, LatestOptions)
    wait_s = options.wait_s
    seen = request.headers.get("if-none-match", "").strip('"W/ ')
    result = await _newest(source, history, live)
    if str(result.id) == seen and wait_s:
        result = await _newer(source, result, wait_s, live)
    headers = {"ETag": f'"{result.id}"', "Cache-Control": "no-cache"}
    if str(result.id) == seen:
        return Response(None, status_code=304, headers=headers)
    if options.form is not None:
        body = write(brief_of(result), options.form)
        return Response(body, media_type=MEDIA_TYPES[options.form], headers=headers)
    return Response(_latest(result, time.time()), headers=headers)


@get("/v1/sources/{source:str}/image", sync_to_thread=True)
def latest_image(
    request: Request[Any, Any, Any], source: FromPath[str], history: NamedDependency[History]
) -> Response[bytes]:
    """The last picture of a source, with `?drawn=1` its findings drawn."""
    response = picture(history, history.last_image_of(source), query(request, PictureOptions).drawn)
    response.headers["Cache-Control"] = "no-cache"
    return response


async def _newest(source: str, history: History, live: Live) -> Result:
    event = live.latest(source)
    return event.result if event is not None else await asyncio.to_thread(history.last_of, source)


async def _newer(source: str, than: Result, wait_s: float, live: Live) -> Result:
    """The next result of the source, or `than` when none comes in time."""
    follower = live.follow()
    ends_at = time.monotonic() + wait_s
    try:
        newest = live.latest(source)
        if newest is not None and newest.result.id != than.id:
            return newest.result
        while True:
            event = await follower.next(ends_at - time.monotonic())
            if event is None:
                return than
            if event.result.source == source:
                return event.result
    except TimeoutError:
        return than
    finally:
        live.leave(follower)


def _latest(result: Result, now: float) -> Latest:
    prediction = result.prediction
    top = prediction.classes[0] if prediction is not None and prediction.classes else None
    return Latest(
        id=result.id,
        at=result.at,
        age_s=round(max(0.0, now - result.at), 3),
        source=result.source,
        model=result.model,
        version=result.version,
        verdict=result.verdict,
        label=None if top is None else top.label,
        label_score=None if top is None else top.score,
        score=None if prediction is None else prediction.score,
        part=result.part,
        lot=result.lot,
        recipe=result.recipe,
        regions=0 if prediction is None or prediction.regions is None else len(prediction.regions),
        has_image=result.has_image,
    )
