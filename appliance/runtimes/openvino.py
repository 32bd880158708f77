"""OpenVINO behind the `LoadedModel` seam."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov

from appliance.core.manifest import ModelManifest, Variant
from appliance.core.tensors import Array
from appliance.errors import InferenceError, ModelLoadError
from appliance.runtimes import Infer

_CORE = ov.Core()


class OpenVinoModel:
    """One compiled model; each session has an infer request of its own, so threads never wait for each other."""

    def __init__(self, compiled: ov.CompiledModel, manifest: ModelManifest, variant: Variant) -> None:
        self._compiled = compiled
        self._inputs = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in manifest.inputs}
        self._outputs = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in manifest.outputs}
        for wanted, ports in ((self._inputs, compiled.inputs), (self._outputs, compiled.outputs)):
            names = set().union(*(port.get_names() for port in ports))
            missing = sorted(set(wanted.values()) - names)
            if missing:
                raise ModelLoadError(f"the file has no tensor {missing}; it has {sorted(names)}; correct the manifest")

    @property
    def runtime(self) -> str:
        return f"openvino {ov.__version__.split('-')[0]}"

    @property
    def device(self) -> str:
        return "CPU"

    def session(self) -> Infer:
        request = self._compiled.create_infer_request()
        outputs = [(name, self._compiled.output(inside)) for name, inside in self._outputs.items()]

        def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
            try:
                found = request.infer(
                    {inside: tensors[name] for name, inside in self._inputs.items()}, share_inputs=True
                )
            except RuntimeError as error:
                raise InferenceError(f"OpenVINO refused the input: {_first_line(error)}") from error
            return {name: np.asarray(found[port]) for name, port in outputs}

        return infer


def load_openvino(manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], lanes: int) -> OpenVinoModel:
    """Compile for the CPU with one stream per lane, so that lanes run beside each other. Raises ModelLoadError."""
    graph = next((content for path, content in files.items() if path.endswith(".xml")), None)
    weights = next((content for path, content in files.items() if path.endswith(".bin")), b"")
    if graph is None:
        raise ModelLoadError(f"variant {variant.name!r} names no .xml file; an OpenVINO variant has an .xml and a .bin")
    precision = {"f32": "f32", "f16": "f16", "bf16": "bf16"}.get(variant.precision)
    options: dict[str, str | int] = {"NUM_STREAMS": lanes, "INFERENCE_NUM_THREADS": lanes}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    try:
        model = _CORE.read_model(graph, weights)
        compiled = _CORE.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise ModelLoadError(f"OpenVINO cannot load variant {variant.name!r}: {_first_line(error)}") from error
    return OpenVinoModel(compiled, manifest, variant)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
