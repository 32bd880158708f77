"""Several inputs in one call: judged in order, a few at a time, so that one call does not fill the lanes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from appliance.codecs import sniff
from appliance.core.protocol import InferenceRequest
from appliance.errors import ApplianceError, Expired, ShapeError
from appliance.pipeline import Answer, Pipeline, Recording

PICTURES_MAX = 256
"""In one call; as many parts a form may have."""

_AT_ONCE = 4
_NOTHING = Recording()

_Asked = tuple[InferenceRequest, Recording] | ApplianceError


async def judge_all(
    pipeline: Pipeline, asked: Sequence[_Asked], began: float | None = None
) -> list[Answer | ApplianceError]:
    """An answer or an error for each, in order; what is an error already stays one.

    began: when the call came, by the monotonic clock, or else now; deadlines count from there for all of them.
    """
    began = time.monotonic() if began is None else began
    outcomes: list[Answer | ApplianceError] = []
    for start in range(0, len(asked), _AT_ONCE):
        begun = [_begin(pipeline, each, began) for each in asked[start : start + _AT_ONCE]]
        outcomes += [await _end(each) for each in begun]
    return outcomes


async def judge_pictures(
    pipeline: Pipeline, request: InferenceRequest, pictures: Sequence[bytes], began: float | None = None
) -> list[Answer]:
    """Each decoded as the model wants it. One that cannot be judged fails the call. Raises ApplianceError."""
    if len(pictures) > PICTURES_MAX:
        raise ShapeError(f"there are {len(pictures)} pictures; send at most {PICTURES_MAX} in a call")
    requests = [msgspec.structs.replace(request, body=each, media_type=sniff(each)) for each in pictures]
    answers: list[Answer] = []
    for outcome in await judge_all(pipeline, [(each, _NOTHING) for each in requests], began):
        if isinstance(outcome, ApplianceError):
            raise outcome
        answers.append(outcome)
    return answers


def hurried(request: InferenceRequest, began: float) -> InferenceRequest:
    """The request with what is left of its deadline since `began`. Raises Expired when nothing is."""
    if request.deadline_s is None:
        return request
    left_s = request.deadline_s - (time.monotonic() - began)
    if left_s <= 0:
        raise Expired(f"its deadline of {request.deadline_s * 1000:g} ms passed before it was begun")
    return msgspec.structs.replace(request, deadline_s=left_s)


def _begin(pipeline: Pipeline, each: _Asked, began: float) -> Future[Answer] | ApplianceError:
    if isinstance(each, ApplianceError):
        return each
    request, recording = each
    try:
        return pipeline.submit(hurried(request, began), recording)
    except ApplianceError as error:
        return error


async def _end(begun: Future[Answer] | ApplianceError) -> Answer | ApplianceError:
    if isinstance(begun, ApplianceError):
        return begun
    try:
        return await asyncio.wrap_future(begun)
    except ApplianceError as error:
        return error
