"""`/v1/triggers/<name>`: ask for the verdict of one part and wait for it; `/v1/beat`: the counter that PLCs watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.core.asking import read_trigger
from appliance.core.packed import packed_beat
from appliance.errors import AnswerLate, ApplianceError
from appliance.fields import check_part
from appliance.http.query import query
from appliance.plant.answer import TriggerAnswer, encode, media_type
from appliance.plant.asked import Asked
from appliance.plant.beat import Beat
from appliance.plant.triggers import Triggers

_COMMIT_S_MAX = 5.0
"""How much later than in time an answer may come before the caller is told that the box cannot record it."""

_NO_CACHE = {"Cache-Control": "no-cache"}


class TriggerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """form: of the answer; the trigger's own `answer_format` unless given."""

    form: Literal["json", "flat", "packed"] | None = None


class BeatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    form: Literal["packed"] | None = None


@post("/v1/triggers/{trigger:str}", status_code=200)
async def pull(
    request: Request[Any, Any, Any], trigger: FromPath[str], triggers: NamedDependency[Triggers]
) -> Response[bytes]:
    """One picture of each camera, one verdict. An answer `error` is an answer too: status 200."""
    received, at = time.monotonic(), round(time.time(), 6)
    config = triggers.config(trigger)
    form = query(request, TriggerOptions).form or config.answer_format
    said = read_trigger(await request.body(), _named(request.headers))
    waiting: Future[TriggerAnswer] = Future()

    def told(answer: TriggerAnswer | ApplianceError) -> None:
        if waiting.set_running_or_notify_cancel():
            if isinstance(answer, ApplianceError):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

    part = check_part(said.part, said.lot, said.recipe)
    triggers.ask(Asked(trigger=config.name, part=part, key=said.key, at=at, received=received, waits=told))
    try:
        answer = await asyncio.wait_for(asyncio.wrap_future(waiting), config.answer_within_ms / 1000 + _COMMIT_S_MAX)
    except TimeoutError as error:
        raise AnswerLate(
            "the answer could not be committed; GET /v1/status says what is wrong with the disk"
        ) from error
    return Response(encode(answer, form), media_type=media_type(form), headers=_NO_CACHE)


@get("/v1/beat")
async def show_beat(request: Request[Any, Any, Any], beat: NamedDependency[Beat]) -> Response[bytes]:
    """The count as a plain number, with `?form=packed` as a little-endian UINT32."""
    if query(request, BeatOptions).form == "packed":
        return Response(packed_beat(beat.count), media_type="application/octet-stream", headers=_NO_CACHE)
    return Response(str(beat.count).encode(), media_type="application/json", headers=_NO_CACHE)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    """The part as headers, for callers that send no body."""
    names = {"part": "x-part", "lot": "x-lot", "recipe": "x-recipe", "key": "idempotency-key"}
    return {name: headers[header] for name, header in names.items() if header in headers}
