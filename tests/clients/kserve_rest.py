"""`python kserve_rest.py URL`: what KServe's inference client sees of a box; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig  # type: ignore[import-not-found]
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]


def request(binary_in: bool, binary_out: bool | None) -> Any:
    """binary_out None: the request says nothing of its outputs."""
    tensor = InferInput("image", [1, 8, 8, 3], "FP32")
    tensor.set_data_from_numpy(np.full((1, 8, 8, 3), 0.25, np.float32), binary_data=binary_in)
    outputs = None if binary_out is None else [RequestedOutput("probabilities", {"binary_data": binary_out})]
    return InferRequest("tiny", [tensor], request_id="id-7", parameters={"part": "P-1"}, request_outputs=outputs)


async def main(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    answers = {
        f"{binary_in} {binary_out}": await client.infer(url, request(binary_in, binary_out), model_name="tiny")
        for binary_in in (False, True)
        for binary_out in (None, False, True)
    }
    try:
        await client.infer(url, request(True, None), model_name="nothing")
    except httpx.HTTPStatusError as error:
        unknown = str(error)
    seen = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "tiny"),
        "probabilities": {name: each.outputs[0].as_numpy().tolist() for name, each in answers.items()},
        "outputs": [output.name for output in answers["True None"].outputs],
        "id": answers["False False"].id,
        "unknown": unknown,
    }
    await client.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
