"""The HTTP side put together: routes, limits, headers and error forms."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException

from appliance.config import HttpConfig
from appliance.errors import ApplianceError
from appliance.history import History
from appliance.http import events, oip, pages, predict, problems, results, security, sources, status
from appliance.live import Live
from appliance.pipeline import Pipeline


def create_app(
    config: HttpConfig, pipeline: Pipeline, history: History, live: Live, box_status: status.Status
) -> Litestar:
    """Everything that answers HTTP. Starts and stops nothing."""
    parts: dict[str, Any] = {"pipeline": pipeline, "history": history, "live": live, "status": box_status}
    return Litestar(
        route_handlers=[
            predict.predict,
            predict.predict_version,
            results.list_results,
            results.show_result,
            results.show_image,
            sources.list_sources,
            sources.latest,
            sources.latest_image,
            events.events,
            status.show_status,
            oip.health_live,
            oip.health_ready,
            oip.model_ready,
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
        # Its pages load from a CDN; a page without one comes with the OpenAPI document.
        openapi_config=None,
    )


def _provide(part: object) -> Provide:
    return Provide(lambda: part, sync_to_thread=False, use_cache=True)


# Both are coroutines, since Litestar would run plain functions in another thread: three times the work of a request.
async def _before_request(request: Request[Any, Any, Any]) -> None:
    security.check_request(request)


async def _after_request(response: Response[Any]) -> Response[Any]:
    for name, value in security.HEADERS.items():
        response.headers.setdefault(name, value)
    return response
