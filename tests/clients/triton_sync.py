"""`python triton_sync.py HOST:PORT PICTURE`: what tritonclient's synchronous client sees of a box; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton  # type: ignore[import-not-found]
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]


def main(address: str, picture: bytes) -> None:
    """The model `tiny` judges by brightness: p(good) = mean of the input."""
    client = triton.InferenceServerClient(address)
    image = np.stack([np.full((8, 8, 3), value, np.float32) for value in (0.25, 0.75)])

    def infer(binary: bool, outputs: Any = None, **more: Any) -> Any:
        tensor = triton.InferInput("image", list(image.shape), "FP32")
        tensor.set_data_from_numpy(image, binary_data=binary)
        return client.infer("tiny", [tensor], outputs=outputs, **more)

    def wanted(binary: bool, **more: Any) -> Any:
        return [triton.InferRequestedOutput("probabilities", binary_data=binary, **more)]

    def refused(**more: Any) -> str:
        try:
            infer(True, **more)
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return "accepted"

    pictures = triton.InferInput("image", [2], "BYTES")
    pictures.set_data_from_numpy(np.array([picture, picture], object))
    answers = {
        "default": infer(True),
        "json": infer(False, wanted(False)),
        "json in, binary out": infer(False, wanted(True)),
        "binary in, json out": infer(True, wanted(False)),
        "gzip": infer(True, wanted(True), request_compression_algorithm="gzip", response_compression_algorithm="gzip"),
        "deflate": infer(
            False, wanted(False), request_compression_algorithm="deflate", response_compression_algorithm="deflate"
        ),
        "whole, gzip": infer(True, response_compression_algorithm="gzip"),
        "version": infer(True, model_version="1"),
        "options": infer(
            True, request_id="id-7", timeout=5_000_000, priority=1, parameters={"part": "P-1", "source": "cell-3"}
        ),
        "pictures": client.infer("tiny", [pictures]),
    }
    asynchronous = client.async_infer("tiny", [pictures]).get_result()
    classes = infer(True, wanted(True, class_count=2)).as_numpy("probabilities")
    classes_json = infer(True, wanted(False, class_count=1)).as_numpy("probabilities")
    seen = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("tiny", "1"),
        "unknown ready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata("tiny"),
        "config": client.get_model_config("tiny"),
        "index": client.get_model_repository_index(),
        "probabilities": {name: each.as_numpy("probabilities").tolist() for name, each in answers.items()},
        "heatmap": answers["whole, gzip"].as_numpy("heatmap").shape,
        "async": asynchronous.as_numpy("probabilities").tolist(),
        "classes": [[text.decode() for text in row] for row in classes],
        "classes as json": classes_json.tolist(),
        "id": answers["options"].get_response()["id"],
        "parameters": answers["options"].get_response()["parameters"],
        "unknown output": refused(outputs=[triton.InferRequestedOutput("nothing")]),
        "unknown version": refused(model_version="9"),
    }
    client.unload_model("tiny")
    seen["unloaded ready"] = client.is_model_ready("tiny")
    seen["unloaded"] = refused()
    client.load_model("tiny")
    seen["again"] = infer(True).as_numpy("probabilities").tolist()
    seen["stats"] = client.get_inference_statistics("tiny")
    seen["all stats"] = client.get_inference_statistics()
    client.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).read_bytes())
