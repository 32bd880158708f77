"""The HTTP side put together: routes, limits, headers and error forms.

The doors that carry inference are plain ASGI applications, which stand before Litestar: being mounted in it costs a
tenth of a small request. Everything else are Litestar's handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException

from appliance.config import HttpConfig
from appliance.errors import ApplianceError
from appliance.history import History
from appliance.http import (
    alarms,
    docs,
    erase,
    events,
    pages,
    problems,
    recipes,
    results,
    security,
    sources,
    status,
    triggers,
    updates,
)
from appliance.http.call import Bodies, Door
from appliance.http.oip import oip_door
from appliance.http.predict import predict_door
from appliance.http.tfs import tfs_door
from appliance.http.vision import vision_door
from appliance.live import Live
from appliance.pipeline import Pipeline
from appliance.slots import Slots


class Front:
    """An ASGI application: the doors that carry inference by the beginning of the path, all else by Litestar."""

    def __init__(self, doors: Mapping[str, Door], rest: Litestar) -> None:
        self.doors = tuple((path, f"{path}/", door) for path, door in doors.items())
        self.rest = rest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            for whole, beginning, door in self.doors:
                if path.startswith(beginning) or path == whole:
                    await door(scope, receive, send)
                    return
        await self.rest(scope, receive, send)


def create_app(
    config: HttpConfig,
    pipeline: Pipeline,
    slots: Slots,
    history: History,
    live: Live,
    box_status: status.Status,
    database: Path,
    plant: Mapping[str, object],
) -> Front:
    """Everything that answers HTTP. Starts and stops nothing.

    database: of the store, to read. plant: what handlers of the plant's job ask for, by name.
    """
    parts: dict[str, Any] = {"history": history, "live": live, "status": box_status, **plant}
    bodies = Bodies(config.body_bytes_max, config.bodies_bytes_max, config.body_s_max)
    doors = {
        "/v2": oip_door(pipeline, slots, box_status, bodies),
        "/v1/predict": predict_door(pipeline, slots, history, database, bodies),
        "/v1/models": tfs_door(pipeline, slots, bodies),
        "/v1/vision": vision_door(pipeline, slots, bodies),
    }
    rest = Litestar(
        route_handlers=[
            results.list_results,
            erase.erase_results,
            results.show_result,
            results.show_image,
            sources.list_sources,
            sources.latest,
            sources.latest_image,
            events.events,
            status.show_status,
            alarms.list_alarms,
            recipes.show_recipe,
            recipes.change_recipe,
            recipes.list_changes,
            triggers.pull,
            triggers.show_beat,
            *updates.HANDLERS,
            docs.docs_page,
            docs.openapi_document,
            docs.asyncapi_document,
            pages.index,
            pages.favicon,
            pages.static_files(),
        ],
        dependencies={name: _provide(part) for name, part in parts.items()},
        exception_handlers={
            ApplianceError: problems.appliance_error,
            HTTPException: problems.http_error,
            Exception: problems.unexpected_error,
        },
        before_request=_before_request,
        after_request=_after_request,
        request_max_body_size=config.body_bytes_max,
        logging_config=None,
        # Its pages load from a CDN and know only Litestar's handlers; ours are in docs.py.
        openapi_config=None,
    )
    return Front(doors, rest)


def _provide(part: object) -> Provide:
    return Provide(lambda: part, sync_to_thread=False, use_cache=True)


# Both are coroutines, since Litestar would run plain functions in another thread: three times the work of a request.
async def _before_request(request: Request[Any, Any, Any]) -> None:
    security.check_request(request)


async def _after_request(response: Response[Any]) -> Response[Any]:
    for name, value in security.HEADERS.items():
        response.headers.setdefault(name, value)
    return response
