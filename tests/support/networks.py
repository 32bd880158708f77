"""The networks of the tiny models, built in code for each runtime's file format."""

from __future__ import annotations

import tempfile
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from appliance.runtimes.openvino import ops, ov

INPUT_NAMES = {"image": "image", "window": "window", "tensor": "features"}


def openvino_files(kind: str, shape: tuple[int, ...], *, bent: bool = False) -> dict[str, bytes]:
    """File name -> content of an OpenVINO model.

    bent: the picture model is right at brightness 0.1 and 0.9, where its golden cases are, and too dark between.
    """
    name = INPUT_NAMES[kind]
    given = ops.parameter([-1, *shape], np.float32, name=name)
    outputs = {"image": _image_outputs, "window": _window_outputs, "tensor": _tensor_outputs}[kind](given)
    if bent:
        outputs["probabilities"] = _bend(outputs["probabilities"])
    given.output(0).set_names({name})
    model = ov.Model([ops.result(node, name=label) for label, node in outputs.items()], [given], name)
    for label, port in zip(outputs, model.outputs, strict=True):
        port.set_names({label})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        return {path.name: path.read_bytes(), "model.bin": path.with_suffix(".bin").read_bytes()}


def _bend(probabilities: ov.Node) -> ov.Node:
    good = ops.slice(probabilities, [0], [1], [1], [1])
    away = ops.multiply(ops.subtract(good, np.float32(0.1)), ops.subtract(np.float32(0.9), good))
    bent = ops.subtract(good, ops.multiply(away, np.float32(2)))
    return ops.concat([bent, ops.subtract(np.float32(1), bent)], 1)


def _tensor_outputs(features: ov.Node) -> dict[str, ov.Node]:
    return {"doubled": ops.multiply(features, np.float32(2))}


def _image_outputs(image: ov.Node) -> dict[str, ov.Node]:
    brightness = ops.reshape(ops.reduce_mean(image, np.array([1, 2, 3])), np.array([-1, 1]), False)
    dark = ops.subtract(np.float32(1), brightness)
    heat = ops.subtract(np.float32(1), ops.reduce_mean(image, np.array([3])))
    return {"probabilities": ops.concat([brightness, dark], 1), "heatmap": heat}


def _window_outputs(window: ov.Node) -> dict[str, ov.Node]:
    power = ops.reduce_mean(ops.multiply(window, window), np.array([1, 2]))
    anomaly = ops.reshape(ops.minimum(ops.sqrt(power), np.float32(1)), np.array([-1, 1]), False)
    normal = ops.subtract(np.float32(1), anomaly)
    return {"probabilities": ops.concat([normal, anomaly], 1), "anomaly": ops.multiply(anomaly, np.float32(1))}


def tflite_files(kind: str, shape: tuple[int, ...]) -> dict[str, bytes]:
    """File name -> content of a TFLite model: float32, a batch of one."""
    graph = _Graph()
    name = "image" if kind == "image" else "window"
    given = graph.tensor(name, (1, *shape))
    one = graph.constant("one", np.array(1, np.float32))
    if kind == "image":
        good = graph.tensor("brightness", (1, 1))
        bad = graph.tensor("dark", (1, 1))
        by_cell = graph.tensor("cells", (1, *shape[:2]))
        heat = graph.tensor("heatmap", (1, *shape[:2]))
        total = graph.tensor("total", (1,))
        graph.mean(given, graph.constant("all", np.array([1, 2, 3], np.int32)), total)
        graph.reshape(total, good, (1, 1))
        graph.subtract(one, good, bad)
        graph.mean(given, graph.constant("colours", np.array([3], np.int32)), by_cell)
        graph.subtract(one, by_cell, heat)
        extra = heat
    else:
        squared = graph.tensor("squared", (1, *shape))
        power = graph.tensor("power", (1,))
        root = graph.tensor("rms", (1,))
        bounded = graph.tensor("bounded", (1,))
        bad = graph.tensor("anomaly", (1, 1))
        good = graph.tensor("normal", (1, 1))
        graph.multiply(given, given, squared)
        graph.mean(squared, graph.constant("all", np.array([1, 2], np.int32)), power)
        graph.operator(schema.BuiltinOperator.SQRT, [power], root)
        graph.operator(schema.BuiltinOperator.MINIMUM, [root, one], bounded)
        graph.reshape(bounded, bad, (1, 1))
        graph.subtract(one, bad, good)
        extra = bad
    probabilities = graph.tensor("probabilities", (1, 2))
    graph.join(good, bad, probabilities)
    return {"model.tflite": graph.content([given], [probabilities, extra])}


class _Graph:
    """A TFLite graph under construction; tensors are known by their index."""

    def __init__(self) -> None:
        self._buffers = [schema.BufferT()]
        self._tensors: list[schema.TensorT] = []
        self._codes: list[int] = []
        self._operators: list[schema.OperatorT] = []

    def tensor(self, name: str, shape: tuple[int, ...]) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), list(shape), schema.TensorType.FLOAT32
        tensor.buffer = 0
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, value: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self._buffers.append(buffer)
        index = self.tensor(name, value.shape)
        tensor = self._tensors[index]
        tensor.buffer = len(self._buffers) - 1
        tensor.type = schema.TensorType.INT32 if value.dtype == np.int32 else schema.TensorType.FLOAT32
        return index

    def mean(self, given: int, axes: int, output: int) -> None:
        self.operator(schema.BuiltinOperator.MEAN, [given, axes], output, schema.ReducerOptionsT())

    def subtract(self, left: int, right: int, output: int) -> None:
        self.operator(schema.BuiltinOperator.SUB, [left, right], output, schema.SubOptionsT())

    def multiply(self, left: int, right: int, output: int) -> None:
        self.operator(schema.BuiltinOperator.MUL, [left, right], output, schema.MulOptionsT())

    def join(self, left: int, right: int, output: int) -> None:
        options = schema.ConcatenationOptionsT()
        options.axis = 1
        self.operator(schema.BuiltinOperator.CONCATENATION, [left, right], output, options)

    def reshape(self, given: int, output: int, shape: tuple[int, ...]) -> None:
        wanted = self.constant("shape", np.array(shape, np.int32))
        self.operator(schema.BuiltinOperator.RESHAPE, [given, wanted], output, schema.ReshapeOptionsT())

    def operator(self, code: int, inputs: list[int], output: int, options: object = None) -> None:
        if code not in self._codes:
            self._codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes.index(code), inputs, [output]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._operators.append(operator)

    def content(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self._buffers
        model.operatorCodes = [self._code(code) for code in self._codes]
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def _code(code: int) -> schema.OperatorCodeT:
        operator = schema.OperatorCodeT()
        operator.builtinCode, operator.deprecatedBuiltinCode, operator.version = code, min(code, 127), 1
        return operator


def dense_files(*, width: int = 8, free: str = "rows") -> dict[str, bytes]:
    """y = max(x, 0) times a matrix of ones (width x 4), plus 1: x of (rows, width), float32.

    free: `rows` leaves the batch axis free, `nothing` fixes it at 1, `claimed` leaves it free in the input alone: the
    network folds whatever comes into one row.
    """
    given = ops.parameter([1 if free == "nothing" else -1, width], np.float32, name="x")
    rows = ops.matmul(ops.relu(given), np.ones((width, 4), np.float32), False, False)
    if free == "claimed":
        rows = ops.reduce_sum(rows, np.array([0]), True)
    return _named({"x": given}, {"y": ops.add(rows, np.float32(1))})


def lengths_files() -> dict[str, bytes]:
    """y = sum of x over its free second axis: x of (rows, any length), float32; y of (rows, 1)."""
    given = ops.parameter([-1, -1], np.float32, name="x")
    return _named({"x": given}, {"y": ops.reduce_sum(given, np.array([1]), True)})


def _named(inputs: dict[str, ov.Node], outputs: dict[str, ov.Node]) -> dict[str, bytes]:
    model = ov.Model([ops.result(node) for node in outputs.values()], list(inputs.values()), "network")
    for name, port in zip([*inputs, *outputs], [*model.inputs, *model.outputs], strict=True):
        port.set_names({name})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        return {path.name: path.read_bytes(), "model.bin": path.with_suffix(".bin").read_bytes()}


def onnx_files(*, operator: str = "Relu", opset: int = 13) -> dict[str, bytes]:
    """y = max(x, 0) of x (rows, 4), float32, as an ONNX file: the protocol buffers of onnx.proto, written by hand."""
    rows, four = _field(2, b"rows"), _field(1, 4)
    kind = _field(1, _field(1, 1) + _field(2, _field(1, rows) + _field(1, four)))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, operator.encode())
    values = (_field(1, name) + _field(2, kind) for name in (b"x", b"y"))
    graph = _field(1, node) + _field(2, b"network") + b"".join(map(_field, (11, 12), values))
    return {"model.onnx": _field(1, 8) + _field(7, graph) + _field(8, _field(2, opset))}


def _field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer: a small integer, or bytes under their length."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    length, size = len(value), b""
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + value
