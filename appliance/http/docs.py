"""The box described by itself: `/docs` to read, `/openapi.json` and `/asyncapi.yaml` for tools."""

from __future__ import annotations

from pathlib import Path

from litestar import Response, get

from appliance.http import openapi

_PACKAGE = Path(__file__).resolve().parent.parent
_FRESH = {"Cache-Control": "no-cache"}


@get("/docs", sync_to_thread=True)
def docs_page() -> Response[bytes]:
    body = (_PACKAGE / "hmi" / "docs" / "index.html").read_bytes()
    return Response(body, media_type="text/html", headers=_FRESH)


@get("/openapi.json", sync_to_thread=True)
def openapi_document() -> Response[bytes]:
    """What the HTTP doors take and answer."""
    return Response(openapi.encoded(), media_type="application/json", headers=_FRESH)


@get("/asyncapi.yaml", sync_to_thread=True)
def asyncapi_document() -> Response[bytes]:
    """What the box publishes over MQTT, and what it listens to."""
    return Response((_PACKAGE / "asyncapi.yaml").read_bytes(), media_type="application/yaml", headers=_FRESH)
