"""MLServer with a runtime of our own: tensors over its protocol, pictures as base64 in it or to a custom handler."""

# mypy: ignore-errors

import asyncio
import base64
import os
from concurrent.futures import ThreadPoolExecutor

import engine
import numpy as np
import orjson
from fastapi import Request, Response
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse

pool = ThreadPoolExecutor(engine.THREADS)


class _Model(MLModel):
    async def load(self) -> bool:
        self.network = self.make()
        return True

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        given = request.inputs[0]
        if given.datatype == "BYTES":
            tensor = engine.prepare(base64.b64decode(given.data[0]))
        else:
            tensor = NumpyCodec.decode_input(given).astype(np.float32, copy=False)
        row = self.network(tensor)
        output = NumpyCodec.encode_output("probabilities", np.array(row)[np.newaxis])
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await asyncio.get_running_loop().run_in_executor(pool, self.infer, payload)


class Picture(_Model):
    def make(self) -> engine.Network:
        return engine.image_network()

    def answer(self, body: bytes) -> bytes:
        return orjson.dumps(engine.best(self.network(engine.prepare(body))))

    @custom_handler(rest_path="/raw")
    async def raw(self, request: Request) -> Response:
        content = await asyncio.get_running_loop().run_in_executor(pool, self.answer, await request.body())
        return Response(content, media_type="application/json")


class Tiny(_Model):
    def make(self) -> engine.Network:
        return engine.tiny_network()


def folder(path: str, port: int, tiny: bool) -> None:
    """Write the settings that `mlserver start PATH` reads."""
    os.makedirs(path, exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": int(os.environ["GRPC_PORT"]),
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    with open(f"{path}/settings.json", "wb") as file:
        file.write(orjson.dumps(settings))
    for name in ("Picture", "Tiny") if tiny else ("Picture",):
        os.makedirs(f"{path}/{name.lower()}", exist_ok=True)
        with open(f"{path}/{name.lower()}/model-settings.json", "wb") as file:
            file.write(orjson.dumps({"name": name.lower(), "implementation": f"runtime.{name}"}))
