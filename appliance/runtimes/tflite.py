"""TFLite behind the `LoadedModel` seam: ai-edge-litert, or tflite-runtime where the extra of that name is installed.

The network may take and give int8; the seam speaks the manifest's logical tensors, so values are quantised on the way
in and dequantised on the way out: real = scale * (quantised - zero point).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from appliance.core.manifest import ModelManifest, Variant
from appliance.core.tensors import Array
from appliance.errors import InferenceError, ModelLoadError
from appliance.runtimes import Infer

# tflite-runtime is there only where somebody asked for it, so it comes first.
_PACKAGES = (
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
)


def _interpreter() -> tuple[Any, str]:
    for module, package in _PACKAGES:
        try:
            return import_module(module).Interpreter, f"{package} {version(package)}"
        except ModuleNotFoundError:
            continue
    raise ModelLoadError("no TFLite interpreter is installed; pip install ai-edge-litert")


class TfliteModel:
    """The bytes of a model; every session has an interpreter of its own."""

    def __init__(self, content: bytes, manifest: ModelManifest, variant: Variant) -> None:
        self._content = content
        self._interpreter, self._runtime = _interpreter()
        self._inputs = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in manifest.inputs}
        self._outputs = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in manifest.outputs}
        self.session()

    @property
    def runtime(self) -> str:
        return self._runtime

    @property
    def device(self) -> str:
        return "CPU"

    def session(self) -> Infer:
        try:
            interpreter = self._interpreter(model_content=self._content, num_threads=1)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError, SystemError) as error:
            raise ModelLoadError(f"{self._runtime} cannot load the model: {error}") from error
        inputs = _details(interpreter.get_input_details(), self._inputs)
        outputs = _details(interpreter.get_output_details(), self._outputs)

        def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
            try:
                for name, detail in inputs.items():
                    interpreter.set_tensor(detail["index"], _quantise(tensors[name], detail))
                interpreter.invoke()
                return {
                    name: _dequantise(interpreter.get_tensor(detail["index"]), detail)
                    for name, detail in outputs.items()
                }
            except (ValueError, RuntimeError) as error:
                raise InferenceError(f"{self._runtime} refused the input: {error}") from error

        return infer


def load_tflite(manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], lanes: int) -> TfliteModel:
    """Raises ModelLoadError. `lanes` needs no preparation: each lane makes its interpreter when it starts."""
    content = next((content for path, content in files.items() if path.endswith(".tflite")), None)
    if content is None:
        raise ModelLoadError(f"variant {variant.name!r} names no .tflite file")
    return TfliteModel(content, manifest, variant)


def _details(found: list[dict[str, Any]], wanted: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    by_name = {detail["name"]: detail for detail in found}
    missing = sorted(set(wanted.values()) - set(by_name))
    if missing:
        raise ModelLoadError(f"the file has no tensor {missing}; it has {sorted(by_name)}; correct the manifest")
    return {name: by_name[inside] for name, inside in wanted.items()}


def _quantise(tensor: Array, detail: dict[str, Any]) -> Array:
    dtype = detail["dtype"]
    scale, zero_point = detail["quantization"]
    if scale == 0.0:
        return np.asarray(tensor, dtype)
    limits = np.iinfo(dtype)
    quantised: Array = np.clip(np.rint(tensor / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return quantised


def _dequantise(tensor: Array, detail: dict[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    if scale == 0.0:
        return tensor
    real: Array = (tensor.astype(np.float32) - zero_point) * np.float32(scale)
    return real
