"""The Open Inference Protocol v2 door. For now its health part; inference follows."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.http.status import Status


class Live(msgspec.Struct, frozen=True):
    live: bool


class Ready(msgspec.Struct, frozen=True):
    ready: bool


@get("/v2/health/live", sync_to_thread=False)
def health_live() -> Live:
    return Live(True)


@get("/v2/health/ready", sync_to_thread=False)
def health_ready(status: NamedDependency[Status]) -> Response[Ready]:
    """200 once each model is warm or failed and the required ones are warm; 503 before."""
    return _ready(status.ready())


@get("/v2/models/{model:str}/ready", sync_to_thread=False)
def model_ready(model: FromPath[str], status: NamedDependency[Status]) -> Response[Ready]:
    return _ready(status.model_ready(model))


def _ready(ready: bool) -> Response[Ready]:
    return Response(Ready(ready), status_code=200 if ready else 503)
