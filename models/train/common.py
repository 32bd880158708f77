"""What the training scripts share: one seed for everything, export, running both formats, and the manifest file.

A script trains a Keras model whose inputs and outputs carry the manifest's logical names, and then calls
`export_openvino`, `export_tflite`, `run_openvino`, `run_tflite` and `write_manifest`, all on the folder
`models/<name>/<version>`.
"""

import csv
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter as litert
import keras  # type: ignore[import-not-found]
import numpy as np
import numpy.typing as npt
import openvino as ov
import tensorflow as tf  # type: ignore[import-untyped]

Tensors = Mapping[str, npt.NDArray[np.float32]]

OPENVINO_FILES = ("openvino/model.xml", "openvino/model.bin")
TFLITE_FILES = ("tflite/model.tflite",)
FILE_BYTES_MAX = 1 << 20


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and have every operation add up in the same order. Call first."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def export_openvino(model: keras.Model, folder: Path) -> None:
    """Write the model as OpenVINO IR with float32 weights under OPENVINO_FILES; tensors keep their logical names."""
    with tempfile.TemporaryDirectory() as scratch:
        model.export(scratch, format="tf_saved_model", verbose=False)
        converted = ov.convert_model(scratch)
    named = {name: port for port in converted.outputs for name in port.get_names()}
    for port, tensor in zip(converted.inputs, model.inputs, strict=True):
        port.tensor.set_names({tensor.name})
    for name in model.output_names:
        named[name].tensor.set_names({name})
    # The conversion leaves the temporary folder's name behind, which would change the file's hash at every run.
    converted.set_rt_info("", ["conversion_parameters", "input_model"])
    path = folder / OPENVINO_FILES[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(converted, path, compress_to_fp16=False)
    _check_sizes(folder, OPENVINO_FILES)


def export_tflite(
    model: keras.Model, folder: Path, representative: Iterable[Tensors], float_ops: Sequence[str] = ()
) -> dict[str, str]:
    """Write the model as TFLite with int8 weights, activations, inputs and outputs under TFLITE_FILES.

    representative: training examples of batch 1, from which the ranges of the activations are taken.
    float_ops: TFLite operations to leave in float32, wherever they occur; inputs and outputs are then float32 as well.
    Returns the map from logical name to the name of the tensor in the file.
    """
    examples_taken = list(representative)

    def examples() -> Iterable[dict[str, npt.NDArray[np.float32]]]:
        for example in examples_taken:
            yield dict(example)

    with tempfile.TemporaryDirectory() as scratch:
        model.export(scratch, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = examples
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if float_ops:
            # The only way that the converter offers to leave operations out goes through its debugger.
            options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(float_ops))
            debugger = tf.lite.experimental.QuantizationDebugger(
                converter=converter, debug_dataset=examples, debug_options=options
            )
            content = debugger.get_nondebug_quantized_model()
        else:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
            content = converter.convert()
    path = folder / TFLITE_FILES[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    _check_sizes(folder, TFLITE_FILES)
    runner = litert.Interpreter(model_path=str(path)).get_signature_runner()
    details = {**runner.get_input_details(), **runner.get_output_details()}
    return {name: str(detail["name"]) for name, detail in details.items()}


def run_openvino(folder: Path, inputs: Tensors) -> dict[str, npt.NDArray[np.float32]]:
    """Run the exported IR in float32 on a batch of any size; returns each output by its logical name."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = ov.Core().compile_model(folder / OPENVINO_FILES[0], "CPU", settings)
    outputs: dict[str, list[npt.NDArray[np.float32]]] = {port.get_any_name(): [] for port in compiled.outputs}
    for start in range(0, len(next(iter(inputs.values()))), 64):
        result = compiled({name: value[start : start + 64] for name, value in inputs.items()})
        for name, parts in outputs.items():
            parts.append(np.array(result[name], np.float32))
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def run_tflite(folder: Path, inputs: Tensors) -> dict[str, npt.NDArray[np.float32]]:
    """Run the exported int8 file one example at a time, quantising its inputs and dequantising its outputs."""
    runner = litert.Interpreter(model_path=str(folder / TFLITE_FILES[0]), num_threads=2).get_signature_runner()
    wanted, given = runner.get_input_details(), runner.get_output_details()
    outputs: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in given}
    for row in range(len(next(iter(inputs.values())))):
        result = runner(**{name: _quantise(value[row : row + 1], wanted[name]) for name, value in inputs.items()})
        for name, parts in outputs.items():
            parts.append(_dequantise(result[name], given[name]))
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def variants(folder: Path, tflite_tensors: Mapping[str, str]) -> list[dict[str, Any]]:
    """The manifest's `variants` for the two exported formats, the preferred one first."""

    def files(paths: tuple[str, ...]) -> list[dict[str, str]]:
        return [{"path": path, "sha256": sha256(folder / path)} for path in paths]

    return [
        {"name": "openvino-f32", "format": "openvino", "precision": "f32", "files": files(OPENVINO_FILES)},
        {
            "name": "tflite-int8",
            "format": "tflite",
            "precision": "int8",
            "files": files(TFLITE_FILES),
            "tensors": dict(tflite_tensors),
        },
    ]


def golden(
    folder: Path, file: str, media_type: str, label: str, score: float, verdict: str, tolerances: Mapping[str, float]
) -> dict[str, Any]:
    """One golden case of the manifest. score: of the float32 variant; tolerances: by name of the variant."""
    return {
        "file": file,
        "sha256": sha256(folder / file),
        "media_type": media_type,
        "label": label,
        "score": round(score, 6),
        "verdict": verdict,
        "tolerances": dict(tolerances),
    }


def write_check(folder: Path, samples: Iterable[tuple[str, bytes, str]]) -> dict[str, str]:
    """Write check.zip from (file, content, answer); returns the manifest's `check`. Equal samples give equal bytes."""
    answers = io.StringIO()
    rows = csv.writer(answers, lineterminator="\n")
    rows.writerow(["file", "answer"])
    with zipfile.ZipFile(folder / "check.zip", "w") as archive:
        for file, content, answer in samples:
            rows.writerow([file, answer])
            archive.writestr(zipfile.ZipInfo(file), content)
        archive.writestr(zipfile.ZipInfo("answers.csv"), answers.getvalue())
    return {"file": "check.zip", "sha256": sha256(folder / "check.zip")}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.toml. Values are strings, numbers, booleans, lists of those, tables, and lists of tables."""
    (folder / "manifest.toml").write_text("\n".join(_toml(manifest, "")).lstrip("\n") + "\n")


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json with floats of four decimals."""
    rounded = json.loads(json.dumps(metrics), parse_float=lambda text: round(float(text), 4))
    (folder / "metrics.json").write_text(json.dumps(rounded, indent=2) + "\n")


def _check_sizes(folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        size = (folder / path).stat().st_size
        if size >= FILE_BYTES_MAX:
            raise ValueError(f"{path} has {size} bytes, the limit is {FILE_BYTES_MAX}: make the network smaller")


def _quantise(values: npt.NDArray[np.float32], detail: Mapping[str, Any]) -> npt.NDArray[Any]:
    scale, zero = detail["quantization"]
    if scale == 0:
        return values
    return np.asarray(np.clip(np.round(values / scale) + zero, -128, 127), np.int8)


def _dequantise(values: npt.NDArray[Any], detail: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    scale, zero = detail["quantization"]
    if scale == 0:
        return np.array(values, np.float32)
    return np.asarray((values.astype(np.float32) - zero) * scale, np.float32)


def _toml(table: Mapping[str, Any], prefix: str) -> list[str]:
    """Lines of one table: plain values first, as TOML wants, then the tables within."""
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping) or _is_tables(value)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in table.items() if key not in nested]
    for key, value in nested.items():
        for item in [value] if isinstance(value, Mapping) else value:
            head = f"[{prefix}{key}]" if isinstance(value, Mapping) else f"[[{prefix}{key}]]"
            lines += ["", head, *_toml(item, f"{prefix}{key}.")]
    return lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON and TOML write strings, numbers and booleans alike.
    return json.dumps(value, ensure_ascii=False)
