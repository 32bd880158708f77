"""The page for local screens: static files, served from the package."""

from __future__ import annotations

from pathlib import Path

from litestar import Response, Router, get
from litestar.static_files import create_static_files_router

HMI = Path(__file__).resolve().parent.parent / "hmi"


@get("/", sync_to_thread=True, include_in_schema=False)
def index() -> Response[bytes]:
    return Response((HMI / "index.html").read_bytes(), media_type="text/html", headers={"Cache-Control": "no-cache"})


@get("/favicon.ico", sync_to_thread=True, include_in_schema=False)
def favicon() -> Response[bytes]:
    return Response((HMI / "icon.svg").read_bytes(), media_type="image/svg+xml")


def static_files() -> Router:
    return create_static_files_router(path="/hmi", directories=[HMI], include_in_schema=False, name="hmi")
