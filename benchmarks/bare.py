"""The runtime with nothing around it, in a process of its own: the limit that everything else is compared with.

    python -m benchmarks.bare MODEL.xml PICTURE.jpg PRECISION

It reads one JSON object a line and answers each with one: {"work": "jpeg", "gear": "throughput", "threads": 4,
"seconds": 2} gives calls per second, p50 and p99 in milliseconds, and milliseconds of CPU a call. Work is `jpeg`
(decode, prepare with the appliance's own steps, infer), `tensor` (infer) or `queue` (infer through AsyncInferQueue).
{"work": "answer"} gives the row of probabilities.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import openvino as ov

from appliance.core.manifest import ImagePreprocess
from appliance.core.preprocess import preprocess_image
from appliance.core.tensors import Array, TensorSpec
from benchmarks.networks import MEAN, SIDE, STD
from benchmarks.ratios import Measured, measured

_STEPS = ImagePreprocess(mean=(MEAN,) * 3, std=(STD,) * 3)
_SPEC = TensorSpec("image", "float32", (-1, SIDE, SIDE, 3))
_QUEUED_AT_ONCE = 64


class Bare:
    """The network compiled for each gear when it is first asked for. precision: `f32`, or `default` for OpenVINO's."""

    def __init__(self, model: Path, picture: bytes, precision: str) -> None:
        self._model = model
        self._picture = picture
        self._precision = precision
        self._compiled = lru_cache(maxsize=None)(self._compile)
        self._tensor = self._prepare()
        # OpenVINO's first tensor must not be made by two threads at once.
        ov.Tensor(self._tensor, shared_memory=True)

    def row(self) -> Array:
        """The probabilities of the picture, (1000,) float32."""
        return np.array(self._compiled("latency")(self._tensor)[0][0])

    def jpeg(self, gear: str, threads: int, seconds: float) -> Measured:
        compiled = self._compiled(gear)

        def calls() -> Callable[[], object]:
            request = compiled.create_infer_request()
            return lambda: request.infer(self._prepare(), share_inputs=True, share_outputs=True)

        return self._in_threads(calls, threads, seconds)

    def tensor(self, gear: str, threads: int, seconds: float) -> Measured:
        compiled = self._compiled(gear)

        def calls() -> Callable[[], object]:
            request = compiled.create_infer_request()
            return lambda: request.infer(self._tensor, share_inputs=True, share_outputs=True)

        return self._in_threads(calls, threads, seconds)

    def queue(self, seconds: float) -> Measured:
        """As many inferences in flight as the runtime asks for; its latencies are not taken."""
        queue = ov.AsyncInferQueue(self._compiled("throughput"))
        done = 0
        cpu, began = time.process_time(), time.monotonic()
        while time.monotonic() - began < seconds:
            for _ in range(_QUEUED_AT_ONCE):
                queue.start_async(self._tensor, share_inputs=True)
            done += _QUEUED_AT_ONCE
        queue.wait_all()
        return measured([], done, time.monotonic() - began, time.process_time() - cpu)

    def _in_threads(self, calls: Callable[[], Callable[[], object]], threads: int, seconds: float) -> Measured:
        times: list[list[float]] = [[] for _ in range(threads)]
        start = threading.Barrier(threads + 1)

        def work(mine: list[float]) -> None:
            call = calls()
            call()
            start.wait()
            ends_at = time.monotonic() + seconds
            while (began := time.monotonic()) < ends_at:
                call()
                mine.append(time.monotonic() - began)

        workers = [threading.Thread(target=work, args=(mine,)) for mine in times]
        for worker in workers:
            worker.start()
        start.wait()
        cpu, began = time.process_time(), time.monotonic()
        for worker in workers:
            worker.join()
        every = [each for mine in times for each in mine]
        return measured(every, len(every), time.monotonic() - began, time.process_time() - cpu)

    def _prepare(self) -> Array:
        image = cv2.imdecode(np.frombuffer(self._picture, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        return preprocess_image(np.asarray(image, np.uint8), _STEPS, _SPEC)

    def _compile(self, gear: str) -> ov.CompiledModel:
        core = ov.Core()
        model = core.read_model(self._model)
        model.reshape([1, SIDE, SIDE, 3])
        options = {"PERFORMANCE_HINT": gear.upper()}
        if self._precision != "default":
            options["INFERENCE_PRECISION_HINT"] = self._precision
        return core.compile_model(model, "CPU", options)


def main() -> None:
    model, picture, precision = sys.argv[1:]
    cv2.setNumThreads(1)
    bare = Bare(Path(model), Path(picture).read_bytes(), precision)
    for line in sys.stdin:
        asked = json.loads(line)
        work = asked.pop("work")
        answer = {"row": bare.row().tolist()} if work == "answer" else getattr(bare, work)(**asked)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
