"""The work of every peer: the two networks on OpenVINO, one infer request a thread, the same preparation of a picture.

Settings come from the environment: IMAGE_MODEL and TINY_MODEL (paths of .xml files), PRECISION (`f32`, or `default` for
the runtime's choice), HINT (`LATENCY` or `THROUGHPUT`), THREADS (of the pool that infers), CACHE (folder for compiled
models), PORT. This file knows nothing of the appliance: it is what an engineer writes who serves the networks himself.
"""

# mypy: ignore-errors
# Checked in no environment: each peer has one of its own.

import os
import threading

import cv2
import numpy as np
import openvino as ov

SIDE = 224
MEAN = np.float32(127.5)
SCALE = np.float32(1 / 127.5)
PORT = int(os.environ.get("PORT", "8080"))
THREADS = int(os.environ.get("THREADS", "4"))
TOP = 5

cv2.setNumThreads(1)


class Network:
    """A compiled network of one input and one output with a batch of one; any thread may call it."""

    def __init__(self, path: str, shape: tuple[int, ...], options: dict) -> None:
        if os.environ.get("PRECISION", "f32") != "default":
            options = options | {"INFERENCE_PRECISION_HINT": os.environ.get("PRECISION", "f32")}
        core = ov.Core()
        if cache := os.environ.get("CACHE"):
            core.set_property({"CACHE_DIR": cache})
        model = core.read_model(path)
        model.reshape(shape)
        self._compiled = core.compile_model(model, "CPU", options)
        self._requests = threading.local()
        self.shape = shape
        # Warm before it serves; and OpenVINO's first tensor must not be made by two threads at once.
        self(np.zeros(shape, np.float32))

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """tensor: float32 of the input's shape. Returns the output's only row; valid until the thread's next call."""
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        return request.infer(tensor, share_inputs=True, share_outputs=True)[0][0]


def image_network() -> Network:
    hint = os.environ.get("HINT", "THROUGHPUT")
    return Network(os.environ["IMAGE_MODEL"], (1, SIDE, SIDE, 3), {"PERFORMANCE_HINT": hint})


def tiny_network() -> Network | None:
    """One thread: handing a few hundred multiplications to another core costs more than they do."""
    path = os.environ.get("TINY_MODEL")
    return Network(path, (1, 4), {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}) if path else None


def prepare(jpeg: bytes) -> np.ndarray:
    """JPEG of any size -> (1, 224, 224, 3) float32 RGB in -1..1, averaged by area."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    tensor = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    tensor -= MEAN
    tensor *= SCALE
    return tensor[np.newaxis]


def best(row: np.ndarray) -> dict:
    """The five surest classes of a row of probabilities."""
    indices = np.argpartition(row, -TOP)[-TOP:]
    indices = indices[np.argsort(-row[indices])]
    return {"classes": [{"label": f"class-{index:03d}", "score": round(float(row[index]), 6)} for index in indices]}
