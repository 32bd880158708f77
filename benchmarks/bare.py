"""The same model with nothing around it: decode, preprocess, infer and postprocess in a loop, in this process.

    python -m benchmarks.bare PICTURE CALLERS SECONDS

Prints one line of JSON: calls per second, p50 and p99 in milliseconds. This is the limit that the box is compared with.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from appliance.codecs import sniff
from appliance.config import shipped_models_dir
from appliance.repository import read_version
from appliance.runtimes import default_loaders
from appliance.served import load


def measure(picture: Path, callers: int, seconds: float) -> dict[str, float]:
    """Threads call `predict` as fast as they can, one infer request each."""
    body = picture.read_bytes()
    media_type = sniff(body)
    served = load(read_version(shipped_models_dir() / "surface" / "1"), None, default_loaders(), 2, 1 << 30)
    times: list[list[float]] = [[] for _ in range(callers)]
    start = threading.Barrier(callers)

    def call(mine: list[float]) -> None:
        served.predict(body, media_type, time.monotonic())
        start.wait()
        ends_at = time.monotonic() + seconds
        while (began := time.monotonic()) < ends_at:
            served.predict(body, media_type, began)
            mine.append(time.monotonic() - began)

    threads = [threading.Thread(target=call, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(each for mine in times for each in mine)
    return {
        "per_s": len(every) / seconds,
        "p50_ms": every[len(every) // 2] * 1000,
        "p99_ms": every[int(len(every) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
