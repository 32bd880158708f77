"""The HTTP side put together: routes, limits, headers and error forms.

The doors that carry inference are plain ASGI applications, mounted by path; everything else are Litestar's handlers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, asgi
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler

from appliance.config import HttpConfig
from appliance.errors import ApplianceError
from appliance.history import History
from appliance.http import docs, events, pages, problems, results, security, sources, status
from appliance.http.call import Door
from appliance.http.oip import oip_door
from appliance.http.predict import predict_door
from appliance.http.tfs import tfs_door
from appliance.http.vision import vision_door
from appliance.live import Live
from appliance.pipeline import Pipeline
from appliance.slots import Slots


def create_app(
    config: HttpConfig,
    pipeline: Pipeline,
    slots: Slots,
    history: History,
    live: Live,
    box_status: status.Status,
    database: Path,
) -> Litestar:
    """Everything that answers HTTP. Starts and stops nothing. database: of the store, to read."""
    parts: dict[str, Any] = {"history": history, "live": live, "status": box_status}
    return Litestar(
        route_handlers=[
            _mount("/v1/predict", predict_door(pipeline, slots, history, database, config)),
            _mount("/v1/models", tfs_door(pipeline, slots, config)),
            _mount("/v1/vision", vision_door(pipeline, slots, config)),
            _mount("/v2", oip_door(pipeline, slots, box_status, config)),
            results.list_results,
            results.show_result,
            results.show_image,
            sources.list_sources,
            sources.latest,
            sources.latest_image,
            events.events,
            status.show_status,
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


def _mount(path: str, door: Door) -> ASGIRouteHandler:
    async def handle(scope: Any, receive: Any, send: Any) -> None:
        await door(scope, receive, send)

    return asgi(path, is_mount=True)(handle)


def _provide(part: object) -> Provide:
    return Provide(lambda: part, sync_to_thread=False, use_cache=True)


# Both are coroutines, since Litestar would run plain functions in another thread: three times the work of a request.
async def _before_request(request: Request[Any, Any, Any]) -> None:
    security.check_request(request)


async def _after_request(response: Response[Any]) -> Response[Any]:
    for name, value in security.HEADERS.items():
        response.headers.setdefault(name, value)
    return response
