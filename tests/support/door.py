"""A wire door alone, in the process of the test: what it asks of the pipeline, and what it does with an answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import httpx

from appliance.core.manifest import ModelManifest
from appliance.core.protocol import InferenceRequest
from appliance.errors import Overloaded
from appliance.http.call import Door
from appliance.pipeline import Answer, Pipeline, Recording
from appliance.slots import Slots


class Asked:
    """Stands for the pipeline: keeps what it was asked, and gives `answer`, or is full."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.requests: list[InferenceRequest] = []
        self._answer = answer

    def submit(self, request: InferenceRequest, recording: Recording | None = None) -> Future[Answer]:
        self.requests.append(request)
        if self._answer is None:
            raise Overloaded("full")
        future: Future[Answer] = Future()
        future.set_result(self._answer)
        return future

    @property
    def pipeline(self) -> Pipeline:
        return cast(Pipeline, self)


def slots_with(**fields: Any) -> Slots:
    """Slots where every name is a model whose manifest has these fields."""
    served = SimpleNamespace(manifest=cast(ModelManifest, SimpleNamespace(name="m", **fields)))
    return cast(Slots, SimpleNamespace(choose=lambda name, version=None: served, slots=list))


def post(door: Door, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=cast(Any, door))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, **options)

    return asyncio.run(send())
