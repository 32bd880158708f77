"""Real models that take longer than they need: what a tuner measures is then no matter of luck."""

from __future__ import annotations

import time
from collections.abc import Mapping

from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.runtimes import Infer, LoadedModel, Loaders, LoadOptions, default_loaders


class Slowed:
    """Seconds a call, and by how much a second gear is slower."""

    def __init__(self, real: LoadedModel, seconds: float, slower: Mapping[Gear, float]) -> None:
        self._real = real
        self._seconds = seconds
        self._slower = slower
        self.runtime = real.runtime
        self.device = real.device
        self.note = real.note
        self.gears: tuple[Gear, ...] = ("latency", "throughput")
        self.batches = True

    def session(self, gear: Gear) -> Infer:
        infer = self._real.session("throughput")
        seconds = self._seconds * self._slower.get(gear, 1.0)

        def slowed(tensors: Mapping[str, Array]) -> dict[str, Array]:
            time.sleep(seconds)
            return infer(tensors)

        return slowed


def slowed_loaders(seconds: Mapping[str, float], slower: Mapping[Gear, float] | None = None) -> Loaders:
    """seconds: variant, or variant and precision joined by a space -> how long each call takes at least."""

    def load(
        manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        real = default_loaders()[variant.format](
            manifest, variant, files, LoadOptions(streams=options.streams, threads=options.threads)
        )
        name = variant.name if options.precision is None else f"{variant.name} {options.precision}"
        return Slowed(real, seconds.get(name, seconds.get(variant.name, 0.0)), slower or {})

    return {"openvino": load, "onnx": load, "tflite": load}
