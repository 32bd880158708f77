"""The seam to the inference runtimes: load verified bytes, then infer. Nothing else crosses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from appliance.core.manifest import Format, ModelManifest, Variant
from appliance.core.tensors import Array

Infer = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Logical name -> tensor, both ways. Belongs to the thread that made it."""


class LoadedModel(Protocol):
    """A compiled model. `session` makes the means to infer of one thread; sessions run at the same time."""

    @property
    def runtime(self) -> str:
        """Name and version, as shown in the status."""

    @property
    def device(self) -> str:
        """Where it runs, e.g. CPU."""

    def session(self) -> Infer:
        """Raises InferenceError from its calls when the runtime refuses an input."""


Load = Callable[[ModelManifest, Variant, Mapping[str, bytes], int], LoadedModel]
"""manifest, variant, path -> content of the variant's files (hashes already checked), lanes. Raises ModelLoadError."""

Loaders = Mapping[Format, Load]


def default_loaders() -> Loaders:
    """The runtimes of this box; each is imported when its first model is loaded."""

    def openvino(manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], lanes: int) -> LoadedModel:
        from appliance.runtimes.openvino import load_openvino

        return load_openvino(manifest, variant, files, lanes)

    def tflite(manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], lanes: int) -> LoadedModel:
        from appliance.runtimes.tflite import load_tflite

        return load_tflite(manifest, variant, files, lanes)

    return {"openvino": openvino, "tflite": tflite}
