"""The child process of `apart`: reads a request on standard input, writes its outcome to a file.

Runtimes print what they like to standard output and error; both end with the process.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from appliance.authoring.apart import Outcome, Probe, Range, Request, Seen, TensorInfo
from appliance.authoring.files import ZIP_FAULTS, FileFormat
from appliance.core.tensors import Array
from appliance.errors import ApplianceError, ImportRefused

_DTYPES = {
    "boolean": "bool",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
}
_METADATA_BYTES_MAX = 1 << 20
_METADATA_FILES_MAX = 32
_NOISE_NUMBERS_MAX = 64 << 20


def main() -> None:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        outcome = Outcome(value=msgspec.Raw(msgspec.json.encode(_do(request))))
    except ApplianceError as error:
        outcome = Outcome(error=str(error))
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        # What a runtime says of a file it cannot take.
        outcome = Outcome(error=_in_plain_words(str(error)))
    Path(request.answer).write_bytes(msgspec.json.encode(outcome))


def _do(request: Request) -> object:
    if request.probe is not None:
        form, files = request.probe
        contents = {name: Path(path).read_bytes() for name, path in files.items()}
        return _probe_tflite(contents["model.tflite"]) if form == "tflite" else _probe_openvino(form, contents)
    from appliance.authoring.answering import answer, prove

    if request.task == "prove":
        return prove(Path(request.folder), request.variant)
    return answer(Path(request.folder), request.variant, [Path(each) for each in request.inputs])


def _probe_openvino(form: FileFormat, files: dict[str, bytes]) -> Probe:
    from appliance.runtimes.openvino import core

    runtime = core()
    if form == "onnx":
        model = runtime.read_model(files["model.onnx"], b"")
    else:
        model = runtime.read_model(files["model.xml"], files["model.bin"])
    inputs = tuple(_port(port) for port in model.inputs)
    outputs = tuple(_port(port) for port in model.outputs)
    found = Probe(inputs, outputs, _runtime_info(model), int8=_is_int8(model))
    shapes = _noise_shapes(inputs)
    if shapes is None or not _named(inputs, outputs):
        return found
    model.reshape(dict(zip(model.inputs, shapes.values(), strict=True)))
    request = runtime.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()

    def infer(tensors: dict[str, Array]) -> dict[str, Array]:
        given = request.infer(list(tensors.values()))
        return {info.name: np.asarray(given[index]) for index, info in enumerate(outputs)}

    return msgspec.structs.replace(found, seen=_look(infer, inputs, shapes))


def _port(port: Any) -> TensorInfo:
    names = sorted(port.get_names(), key=lambda name: (len(name), name))
    shape = port.get_partial_shape()
    kind = port.get_element_type().get_type_name()
    return TensorInfo(
        names[0] if names else "",
        _DTYPES.get(kind, kind),
        tuple(axis.get_length() if axis.is_static else -1 for axis in shape) if shape.rank.is_static else None,
    )


def _runtime_info(model: Any) -> dict[str, str]:
    """What the exporter wrote beside the network: ONNX metadata are in `framework`, OpenVINO's in `model_info`."""
    found: dict[str, str] = {}
    for section in ("framework", "model_info"):
        if model.has_rt_info([section]):
            values = model.get_rt_info([section]).value
            if isinstance(values, dict):
                found |= {str(key): str(getattr(value, "value", value)) for key, value in values.items()}
    return {key: value for key, value in found.items() if len(value) <= _METADATA_BYTES_MAX}


def _is_int8(model: Any) -> bool:
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return True
        if kind == "Constant" and node.get_output_size() and node.output(0).get_element_type().get_type_name() == "i8":
            return True
    return False


def _probe_tflite(content: bytes) -> Probe:
    try:
        interpreter = _interpreter(content)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError, SystemError) as error:
        raise ImportRefused(_in_plain_words(str(error))) from error
    given, taken = interpreter.get_input_details(), interpreter.get_output_details()
    inputs, outputs = tuple(_detail(each) for each in given), tuple(_detail(each) for each in taken)
    found = Probe(
        inputs,
        outputs,
        _appended(content),
        int8=any(each["dtype"] in (np.int8, np.uint8) for each in interpreter.get_tensor_details()),
    )
    shapes = _noise_shapes(inputs)
    if shapes is None or not _named(inputs, outputs):
        return found

    def infer(tensors: dict[str, Array]) -> dict[str, Array]:
        for detail, tensor in zip(given, tensors.values(), strict=True):
            scale, zero = detail["quantization"]
            if scale:
                limits = np.iinfo(detail["dtype"])
                tensor = np.clip(np.rint(tensor / scale) + zero, limits.min, limits.max)
            interpreter.set_tensor(detail["index"], tensor.astype(detail["dtype"]))
        interpreter.invoke()
        return {detail["name"]: _real(interpreter.get_tensor(detail["index"]), detail) for detail in taken}

    return msgspec.structs.replace(found, seen=_look(infer, inputs, shapes))


def _interpreter(content: bytes) -> Any:
    for module in ("tflite_runtime.interpreter", "ai_edge_litert.interpreter"):
        try:
            return import_module(module).Interpreter(model_content=content, num_threads=1)
        except ModuleNotFoundError:
            continue
    raise ImportRefused("no TFLite interpreter is installed; pip install ai-edge-litert")


def _detail(detail: Any) -> TensorInfo:
    dtype = "float32" if detail["quantization"][0] else np.dtype(detail["dtype"]).name
    shape = tuple(int(size) for size in detail["shape_signature"])
    return TensorInfo(detail["name"], dtype, shape or tuple(int(size) for size in detail["shape"]))


def _real(tensor: Array, detail: Any) -> Array:
    scale, zero = detail["quantization"]
    return (tensor.astype(np.float32) - zero) * np.float32(scale) if scale else tensor


def _appended(content: bytes) -> dict[str, str]:
    """A TFLite file may carry a ZIP archive behind the network, with labels and what else its exporter knew."""
    found: dict[str, str] = {}
    try:
        archive = zipfile.ZipFile(BytesIO(content))
        for entry in archive.infolist()[:_METADATA_FILES_MAX]:
            if entry.file_size > _METADATA_BYTES_MAX:
                continue
            text = archive.read(entry).decode()
            if entry.filename.endswith(".txt") and "label" in entry.filename:
                found["labels_file"] = text
            elif entry.filename.endswith((".json", ".txt")):
                found |= _as_dict(text)
    except ZIP_FAULTS:
        return found
    return found


def _as_dict(text: str) -> dict[str, str]:
    """JSON, or a Python literal as some exporters write it; never evaluated."""
    for read in (json.loads, ast.literal_eval):
        try:
            content = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(content, dict):
            return {str(key): str(value) for key, value in content.items()}
    return {}


def _named(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> bool:
    return all(info.name for info in (*inputs, *outputs))


def _noise_shapes(inputs: tuple[TensorInfo, ...]) -> dict[str, tuple[int, ...]] | None:
    """A batch of one for each input; None when more than the batch is free or the type has no noise."""
    shapes = {}
    for info in inputs:
        if not info.shape or min(info.shape[1:], default=1) < 1 or info.dtype not in _DTYPES.values():
            return None
        shapes[info.name] = (1 if info.shape[0] == -1 else info.shape[0], *info.shape[1:])
        if np.prod(shapes[info.name], dtype=np.float64) > _NOISE_NUMBERS_MAX:
            return None
    return shapes


def _look(infer: Any, inputs: tuple[TensorInfo, ...], shapes: dict[str, tuple[int, ...]]) -> dict[str, Seen]:
    """Run on noise of three strengths; whole numbers stay small, as they may be indices."""
    random = np.random.default_rng(0)
    found: dict[str, list[Array]] = {}
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        tensors = {}
        for info in inputs:
            shape = shapes[info.name]
            if np.dtype(info.dtype).kind == "f":
                tensors[info.name] = random.uniform(low, high, shape).astype(info.dtype)
            else:
                most = 256 if info.dtype == "uint8" else 2
                tensors[info.name] = random.integers(0, most, shape).astype(info.dtype)
        for name, array in infer(tensors).items():
            found.setdefault(name, []).append(np.array(array, np.float64))
    return {name: _seen(np.stack(arrays)) for name, arrays in found.items() if arrays[0].ndim and arrays[0].size}


def _seen(runs: Array) -> Seen:
    """runs: (3, ...), one output of every run."""
    if runs.ndim != 4:
        return Seen(_range(runs))
    return Seen(_range(runs), _range(runs[:, :, :2]), _range(runs[..., :2]))


def _range(values: Array) -> Range:
    """Not-a-number and infinity become a range that nothing accepts."""
    if not np.isfinite(values).all():
        return Range(-1e300, 1e300)
    return Range(float(values.min()), float(values.max()))


def _in_plain_words(text: str) -> str:
    """One line from what a runtime says over several."""
    missing = re.search(r"No conversion rule found for operations: (.+)", text)
    custom = re.search(r"[Uu]nresolved custom op: ([\w.]+)", text) or re.search(r"[Cc]ustom op[:' ]+([\w.]+)", text)
    layer = missing.group(1).strip() if missing else custom.group(1) if custom else None
    if layer is not None:
        return (
            f"the network has a layer that no runtime here knows: {layer}; export it without custom layers "
            "(operators of the standard set only)"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Exception from")]
    last = lines[-1] if lines else "it gave no reason"
    return f"the runtime cannot read it: {last[:300]}; it may be damaged or cut off: copy or export it again"


if __name__ == "__main__":
    main()
