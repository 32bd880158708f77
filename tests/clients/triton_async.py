"""`python triton_async.py HOST:PORT PICTURE`: what tritonclient's asyncio client sees of a box; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http.aio as triton  # type: ignore[import-not-found]
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]


async def main(address: str, picture: bytes) -> None:
    """32 calls at once, beside what the synchronous client is asked."""
    async with triton.InferenceServerClient(address) as client:
        values = np.linspace(0, 1, 32)
        tensors = [triton.InferInput("image", [1, 8, 8, 3], "FP32") for _ in values]
        for index, (tensor, value) in enumerate(zip(tensors, values, strict=True)):
            tensor.set_data_from_numpy(np.full((1, 8, 8, 3), value, np.float32), binary_data=index % 2 == 0)
        pictures = triton.InferInput("image", [1], "BYTES")
        pictures.set_data_from_numpy(np.array([picture], object))
        many = await asyncio.gather(*(client.infer("tiny", [tensor]) for tensor in tensors))
        packed = await client.infer(
            "tiny", [tensors[31]], request_compression_algorithm="gzip", response_compression_algorithm="deflate"
        )
        try:
            await client.infer("nothing", [tensors[0]])
        except InferenceServerException as error:
            unknown = f"{error.status()} {error.message()}"
        seen = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("tiny"),
            "server": await client.get_server_metadata(),
            "model": await client.get_model_metadata("tiny", "1"),
            "config": await client.get_model_config("tiny"),
            "index": await client.get_model_repository_index(),
            "stats": await client.get_inference_statistics("tiny"),
            "many": [float(answer.as_numpy("probabilities")[0, 0]) for answer in many],
            "packed": packed.as_numpy("probabilities").tolist(),
            "pictures": (await client.infer("tiny", [pictures])).as_numpy("probabilities").tolist(),
            "unknown": unknown,
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
