"""`/v1/updates` and `/v1/rollouts`: what comes, what is tried, what became of it, and who may say otherwise."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, delete, get, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.errors import DecodeError
from appliance.http.query import query
from appliance.rollouts.board import (
    Board,
    HoldOrder,
    OrderKind,
    OrderReport,
    PollAsked,
    Released,
    RolloutList,
    RolloutReport,
    UpdatesReport,
    VersionList,
    Who,
)
from appliance.rollouts.records import Hold

T = TypeVar("T")


class RolloutsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 20


@get("/v1/updates", sync_to_thread=True)
def show_updates(updates: NamedDependency[Board]) -> UpdatesReport:
    return updates.updates()


@get("/v1/updates/versions", sync_to_thread=True)
def list_versions(updates: NamedDependency[Board]) -> VersionList:
    return updates.versions()


@post("/v1/updates/poll", status_code=202, sync_to_thread=True)
def poll_now(updates: NamedDependency[Board]) -> PollAsked:
    return updates.poll_now()


@post("/v1/updates/hold", status_code=200)
async def hold(request: Request[Any, Any, Any], updates: NamedDependency[Board]) -> Hold:
    asked = _read(await request.body(), HoldOrder, '{"by": "Anna", "reason": "audit", "for_s": 3600}')
    return await sync_to_thread(updates.hold, asked)


@delete("/v1/updates/hold", status_code=200, sync_to_thread=True)
def release(updates: NamedDependency[Board]) -> Released:
    return updates.release()


@get("/v1/rollouts", sync_to_thread=True)
def list_rollouts(request: Request[Any, Any, Any], updates: NamedDependency[Board]) -> RolloutList:
    return updates.rollouts(query(request, RolloutsOptions).limit)


@get("/v1/rollouts/{number:int}", sync_to_thread=True)
def show_rollout(number: FromPath[int], updates: NamedDependency[Board]) -> RolloutReport:
    return updates.rollout(number)


@post("/v1/rollouts/{number:int}/promote", status_code=200)
async def promote(
    request: Request[Any, Any, Any], number: FromPath[int], updates: NamedDependency[Board]
) -> OrderReport:
    return await _order(request, updates, "promote", number)


@post("/v1/rollouts/{number:int}/reject", status_code=200)
async def reject(
    request: Request[Any, Any, Any], number: FromPath[int], updates: NamedDependency[Board]
) -> OrderReport:
    return await _order(request, updates, "reject", number)


@post("/v1/rollouts/{number:int}/roll-back", status_code=200)
async def roll_back(
    request: Request[Any, Any, Any], number: FromPath[int], updates: NamedDependency[Board]
) -> OrderReport:
    return await _order(request, updates, "roll_back", number)


HANDLERS = (
    show_updates,
    list_versions,
    poll_now,
    hold,
    release,
    list_rollouts,
    show_rollout,
    promote,
    reject,
    roll_back,
)


async def _order(request: Request[Any, Any, Any], updates: Board, kind: OrderKind, number: int) -> OrderReport:
    """Answers when it is carried out."""
    client = "unknown" if request.client is None else request.client.host
    who = _read(await request.body() or b"{}", Who, '{"by": "Anna"}, or nothing')
    return await sync_to_thread(updates.order, kind, number, who.by or client)


def _read(body: bytes, kind: type[T], example: str) -> T:
    """Raises DecodeError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"the body is not as expected: {error}; send {example}") from error
