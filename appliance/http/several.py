"""Several inputs in one call: judged in order, a few at a time, so that one call does not fill the lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from appliance.core.protocol import InferenceRequest
from appliance.errors import ApplianceError
from appliance.pipeline import Answer, Pipeline, Recording

_AT_ONCE = 4


async def judge_all(
    pipeline: Pipeline, asked: Sequence[tuple[InferenceRequest, Recording] | ApplianceError]
) -> list[Answer | ApplianceError]:
    """An answer or an error for each, in order; what is an error already stays one."""
    outcomes: list[Answer | ApplianceError] = []
    for start in range(0, len(asked), _AT_ONCE):
        begun = [_begin(pipeline, each) for each in asked[start : start + _AT_ONCE]]
        outcomes += [await _end(each) for each in begun]
    return outcomes


def _begin(
    pipeline: Pipeline, each: tuple[InferenceRequest, Recording] | ApplianceError
) -> Future[Answer] | ApplianceError:
    if isinstance(each, ApplianceError):
        return each
    try:
        return pipeline.submit(*each)
    except ApplianceError as error:
        return error


async def _end(begun: Future[Answer] | ApplianceError) -> Answer | ApplianceError:
    if isinstance(begun, ApplianceError):
        return begun
    try:
        return await asyncio.wrap_future(begun)
    except ApplianceError as error:
        return error
