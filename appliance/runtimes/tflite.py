"""TFLite behind the `LoadedModel` seam: ai-edge-litert, or tflite-runtime where the extra of that name is installed.

The network may take and give int8; the seam speaks the manifest's logical tensors, so values are quantised on the way
in and dequantised on the way out: real = scale * (quantised - zero point).

Delegates run (parts of) a network elsewhere than on the CPU. They are shared libraries with all rights of this process,
so that only the configuration of the box names them, never a model.
"""

from __future__ import annotations

import base64
import ctypes
import zlib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from appliance.config import DelegateConfig, TfliteConfig
from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.errors import InferenceError, ModelLoadError
from appliance.runtimes import Infer, LoadOptions
from appliance.runtimes.row_by_row import free_rows, row_by_row

# tflite-runtime is there only where somebody asked for it, so it comes first.
_PACKAGES = (
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
)


def _package() -> tuple[Any, str]:
    """The module of the interpreter, and its package and version. Raises ModelLoadError when there is none."""
    for module, package in _PACKAGES:
        try:
            return import_module(module), f"{package} {version(package)}"
        except ModuleNotFoundError:
            continue
    raise ModelLoadError("no TFLite interpreter is installed; pip install ai-edge-litert")


class TfliteModel:
    """The bytes of a model; every session has an interpreter of its own, and its threads."""

    gears: tuple[Gear, ...] = ("throughput",)
    batches = False

    def __init__(
        self, content: bytes, manifest: ModelManifest, variant: Variant, threads: int, delegate: DelegateConfig | None
    ) -> None:
        """Load and infer once of zeros. Raises ModelLoadError when either fails, or when a tensor is missing."""
        self._module, self.runtime = _package()
        self.device = "CPU" if delegate is None else f"delegate:{Path(delegate.path).name}"
        self.note: str | None = None
        self._content = content
        self._threads = threads
        self._delegate = delegate
        self._free = free_rows(manifest.inputs)
        self._inputs = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in manifest.inputs}
        self._outputs = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in manifest.outputs}
        zeros = {spec.name: np.zeros(tuple(map(abs, spec.shape)), spec.dtype) for spec in manifest.inputs}
        try:
            self.session("throughput")(zeros)
        except InferenceError as error:
            raise ModelLoadError(f"{self.runtime} cannot run the model: {error}") from error

    def session(self, gear: Gear) -> Infer:
        try:
            interpreter = _interpreter(self._module, self._content, self._threads, self._delegate)
        except (ValueError, RuntimeError, SystemError, OSError) as error:
            raise ModelLoadError(f"{self.runtime} cannot load the model: {_one_line(error)}") from error
        inputs = _details(interpreter.get_input_details(), self._inputs)
        outputs = _details(interpreter.get_output_details(), self._outputs)

        def one(tensors: Mapping[str, Array]) -> dict[str, Array]:
            try:
                for name, detail in inputs.items():
                    interpreter.set_tensor(detail["index"], _quantise(tensors[name], detail))
                interpreter.invoke()
                return {
                    name: _dequantise(interpreter.get_tensor(detail["index"]), detail)
                    for name, detail in outputs.items()
                }
            except (ValueError, RuntimeError) as error:
                raise InferenceError(f"{self.runtime} refused the input: {_one_line(error)}") from error

        return row_by_row(one, self._free)


def load_tflite(
    manifest: ModelManifest,
    variant: Variant,
    files: Mapping[str, bytes],
    options: LoadOptions,
    config: TfliteConfig | None = None,
) -> TfliteModel:
    """Take the first delegate that runs the model, else the CPU with XNNPACK; `note` says which ones did not and why.

    Raises ModelLoadError. Of `options` nothing matters here: an interpreter is one lane's, and compiles nothing.
    """
    config = config or TfliteConfig()
    content = next((content for path, content in files.items() if path.endswith(".tflite")), None)
    if content is None:
        raise ModelLoadError(f"variant {variant.name!r} names no .tflite file")
    threads = max(1, config.threads)
    notes: list[str] = []
    for delegate in config.delegates:
        try:
            model = TfliteModel(content, manifest, variant, threads, delegate)
            break
        except ModelLoadError as error:
            notes.append(f"delegate {delegate.path} is not used: {error}")
    else:
        model = TfliteModel(content, manifest, variant, threads, None)
        if notes:
            notes.append("the model runs on the CPU")
    model.note = "; ".join(notes) or None
    return model


def prove(delegate: DelegateConfig | None = None) -> str:
    """Run a small network, on the CPU or with a delegate; returns package and version of the interpreter.

    Raises ModelLoadError with the reason when it does not load, run, or give the right answer.
    """
    module, package = _package()
    try:
        interpreter = _interpreter(module, zlib.decompress(base64.b85decode(_PROOF)), 1, delegate)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.array([[-1, 0, 1, 2]], np.float32))
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    except (ValueError, RuntimeError, SystemError, OSError) as error:
        raise ModelLoadError(f"{package} cannot run a small network: {_one_line(error)}") from error
    if not np.allclose(found, [[0, 0, 1, 2]], atol=0.01):
        raise ModelLoadError(f"{package}: a small network gave {found.tolist()} instead of [[0, 0, 1, 2]]")
    return package


# max(x, 0) of four numbers, as a TFLite file.
_PROOF = (
    "c-oU-U|<Mw^D$;%;A0SB5Mbb8-~fuS0C@~R9s`365Z?e|W*}w+Vu&mVLiivxJaC;XKoTNm1H=wM?1H3@fq@Gw4^qbkHH!x-55o*t_)I`-"
    "0=Acd;lcm^|B>}oLgg8u@;p!<FhJdcthNG8EyDdg4BSY1gdx@n0{{VN3Jd"
)


def _interpreter(module: Any, content: bytes, threads: int, delegate: DelegateConfig | None) -> Any:
    """Ready to be fed. Raises ValueError, RuntimeError, SystemError or OSError."""
    delegates = None if delegate is None else [_open(module, delegate)]
    interpreter = module.Interpreter(model_content=content, num_threads=threads, experimental_delegates=delegates)
    interpreter.allocate_tensors()
    return interpreter


def _open(module: Any, delegate: DelegateConfig) -> Any:
    # The interpreter's package leaves a half-made object behind when the library cannot be opened, so try it first.
    library = ctypes.CDLL(delegate.path)
    for function in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
        if not hasattr(library, function):
            raise OSError(f"{delegate.path} is no TFLite delegate: it has no {function}")
    return module.load_delegate(delegate.path, dict(delegate.options))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or "the interpreter refused, without a reason"


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
