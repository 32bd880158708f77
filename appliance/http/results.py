"""What has been judged: `/v1/results` and its pictures."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.codecs import decode_image, encode_jpeg, sniff
from appliance.core.draw import draw
from appliance.core.protocol import Result
from appliance.history import History, ResultFilter
from appliance.http.query import query


class ResultPage(msgspec.Struct, frozen=True):
    """Newest first; `next_before_id` asks for the next page, null when this was the last."""

    results: list[Result]
    next_before_id: int | None


@get("/v1/results", sync_to_thread=True)
def list_results(request: Request[Any, Any, Any], history: NamedDependency[History]) -> ResultPage:
    """Filter by model, source, verdict, part, lot, recipe, since and until."""
    wanted = query(request, ResultFilter)
    results = history.results(msgspec.structs.replace(wanted, limit=wanted.limit + 1))
    more = len(results) > wanted.limit
    return ResultPage(results[: wanted.limit], results[wanted.limit - 1].id if more else None)


@get("/v1/results/{number:int}", sync_to_thread=True)
def show_result(number: FromPath[int], history: NamedDependency[History]) -> Result:
    return history.result(number)


@get("/v1/results/{number:int}/image", sync_to_thread=True)
def show_image(
    request: Request[Any, Any, Any], number: FromPath[int], history: NamedDependency[History]
) -> Response[bytes]:
    """The picture as it was sent, or with `?drawn=1` as a JPEG with the findings."""
    return picture(history, history.result(number), query(request, PictureOptions).drawn)


class PictureOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    drawn: bool = False


def picture(history: History, result: Result, drawn: bool) -> Response[bytes]:
    """The reply with a result's picture; raises ResultNotFound when it has none."""
    body = history.image(result.id)
    headers = {"X-Verdict": result.verdict, "X-Result-Id": str(result.id), "Cache-Control": "no-cache"}
    if drawn and result.prediction is not None:
        image = decode_image(body, 1 << 30)
        drawn_body = encode_jpeg(draw(image, result.prediction, result.verdict))
        return Response(drawn_body, media_type="image/jpeg", headers=headers)
    return Response(body, media_type=sniff(body), headers=headers)
