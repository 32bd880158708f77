"""FastAPI with an infer request a thread, in every form worth comparing.

/upload, /infer, /tiny: `def` endpoints in the framework's thread pool, bodies as the framework reads them (a form, a
declared model). /raw, /infer-orjson, /tiny-orjson: the body read as bytes, the work in a pool of our own, orjson.
/tiny-loop: the tiny network on the event loop, without a thread.
"""

# mypy: ignore-errors

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import anyio.to_thread
import engine
import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response, UploadFile
from pydantic import BaseModel

image, tiny = engine.image_network(), engine.tiny_network()
pool = ThreadPoolExecutor(engine.THREADS)


@asynccontextmanager
async def limited(app: FastAPI):
    # More threads than infer requests would only wait inside the runtime.
    anyio.to_thread.current_default_thread_limiter().total_tokens = engine.THREADS
    yield


app = FastAPI(lifespan=limited)


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Tensors(BaseModel):
    inputs: list[Tensor]


class Answer(Response):
    media_type = "application/json"

    def render(self, content) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def infer(network: engine.Network, data: list[float]) -> Answer:
    row = network(np.array(data, np.float32).reshape(network.shape))
    output = {"name": "probabilities", "shape": [1, row.size], "datatype": "FP32", "data": row}
    return Answer({"outputs": [output]})


def infer_bytes(network: engine.Network, body: bytes) -> Answer:
    return infer(network, orjson.loads(body)["inputs"][0]["data"])


def predict(body: bytes) -> Answer:
    return Answer(engine.best(image(engine.prepare(body))))


@app.post("/upload")
def upload(file: UploadFile) -> Response:
    return predict(file.file.read())


@app.post("/infer")
def infer_declared(body: Tensors) -> Response:
    return infer(image, body.inputs[0].data)


@app.post("/tiny")
def tiny_declared(body: Tensors) -> Response:
    return infer(tiny, body.inputs[0].data)


@app.post("/raw")
async def raw(request: Request) -> Response:
    return await asyncio.get_running_loop().run_in_executor(pool, predict, await request.body())


@app.post("/infer-orjson")
async def infer_orjson(request: Request) -> Response:
    return await asyncio.get_running_loop().run_in_executor(pool, infer_bytes, image, await request.body())


@app.post("/tiny-orjson")
async def tiny_orjson(request: Request) -> Response:
    return await asyncio.get_running_loop().run_in_executor(pool, infer_bytes, tiny, await request.body())


@app.post("/tiny-loop")
async def tiny_loop(request: Request) -> Response:
    return infer_bytes(tiny, await request.body())


if __name__ == "__main__":
    options = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
    uvicorn.run(app, host="127.0.0.1", port=engine.PORT, **options)
