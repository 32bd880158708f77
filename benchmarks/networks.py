"""The networks that are measured, made from a seed: MobileNetV2 with 1000 classes, and an MLP of 131 numbers.

    python -m benchmarks.networks FOLDER

writes them as the model folders that a box serves. Each network is OpenVINO IR with a free batch axis. The golden
answers are measured from the runtime alone, at f32.

Weights drawn at random give a deep network that says the same to every picture. So each convolution is normalised as
batch normalisation does, with the statistics of pictures drawn from the same seed, folded into weights and bias.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from appliance.core.tensors import Array
from provisioning.textures import KINDS, TEXTURES, frame

SIDE = 224
CLASSES = 1000
MEAN = STD = 127.5
FEATURES, HIDDEN, TINY_CLASSES = 4, 16, 3
PICTURE_SIZE = (480, 640)
JPEG_QUALITY = 90
TINY_INPUT = (0.2, -1.3, 0.7, 2.1)

IMAGE_TOLERANCE = 0.05
"""On the probability of the best class: bf16 stays within it, a picture that was prepared otherwise does not."""
TINY_TOLERANCE = 0.02

_SEED = 2
# Expansion, channels, repeats, stride: table 2 of "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018).
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _LAST = 32, 1280
_CALIBRATION_PICTURES = 16
_LOGITS_STD = 2.5
_EPSILON = 1e-5
_GOLDEN, _CANDIDATES = 2, 60

Picture = npt.NDArray[np.uint8]
Convolve = Callable[[ov.Node, int, int, int, bool, bool], ov.Node]
"""(given, filters, kernel, stride, depthwise, whether ReLU6 follows) -> node, (batch, channels, rows, columns)."""


class Layer(NamedTuple):
    """A convolution with batch normalisation folded in: weights in OpenVINO's layout, one bias a filter."""

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


class Case(NamedTuple):
    """An encoded picture, the class that the network finds surest, and its probability."""

    jpeg: bytes
    best: int
    probability: float


def picture(number: int = 0) -> Picture:
    """(480, 640, 3) uint8 RGB: what a camera above a surface sees."""
    rng = np.random.default_rng(1000 + number)
    texture, kind = TEXTURES[number % len(TEXTURES)], KINDS[(number + 1) % len(KINDS)]
    return frame(rng, texture, kind, "test", PICTURE_SIZE)[0]


def jpeg(image: Picture) -> bytes:
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert done
    return content.tobytes()


def prepare(image: Picture) -> npt.NDArray[np.float32]:
    """A picture of any size -> (1, 224, 224, 3) float32 in -1..1, averaged by area."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return ((small.astype(np.float32) - MEAN) / STD)[np.newaxis].astype(np.float32)


def mobilenet() -> ov.Model:
    """Input `image` (-1, 224, 224, 3) float32 in -1..1, output `probabilities` (-1, 1000)."""
    weights = _draw_weights()
    pictures = np.concatenate([prepare(picture(index)) for index in range(_CALIBRATION_PICTURES)])
    layers = _fold(weights, pictures)

    folded = iter(layers)

    def convolve(given: ov.Node, filters: int, kernel: int, stride: int, depthwise: bool, relu6: bool) -> ov.Node:
        layer = next(folded)
        node = _convolution(given, layer.weights, kernel, stride, depthwise)
        node = ops.add(node, layer.bias.reshape(1, -1, 1, 1))
        return ops.clamp(node, 0.0, 6.0) if relu6 else node

    image = ops.parameter([-1, SIDE, SIDE, 3], np.float32, name="image")
    features = _trunk(image, convolve)
    matrix, bias = _head(image, features, pictures)
    logits = ops.add(ops.matmul(features, matrix, False, False), bias)
    return _model("mobilenet", image, ops.softmax(logits, 1))


def tiny() -> ov.Model:
    """Input `features` (-1, 4) float32, output `probabilities` (-1, 3)."""
    rng = np.random.default_rng(_SEED)
    features = ops.parameter([-1, FEATURES], np.float32, name="features")
    node: ov.Node = features
    for inputs, outputs in ((FEATURES, HIDDEN), (HIDDEN, TINY_CLASSES)):
        matrix = rng.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)
        bias = rng.normal(0, 0.1, (1, outputs)).astype(np.float32)
        node = ops.add(ops.matmul(node, matrix, False, False), bias)
        if outputs == HIDDEN:
            node = ops.relu(node)
    return _model("tiny", features, ops.softmax(node, 1))


def write(root: Path) -> None:
    """Write the model folders `mobilenet`, `mobilenet-auto` (the same network under a name whose precision nobody
    pins) and `tiny`, each below a root of its own: ROOT/<name>/<name>/1.
    """
    model = mobilenet()
    cases = golden_pictures(model)
    for name in ("mobilenet", "mobilenet-auto"):
        _write_image_model(root / name / name / "1", model, cases)
    _write_tensor_model(root / "tiny" / "tiny" / "1")


def _trunk(image: ov.Node, convolve: Convolve) -> ov.Node:
    """The network up to its 1280 features, (batch, 1280)."""
    node = ops.transpose(image, np.array([0, 3, 1, 2]))
    node = convolve(node, _STEM, 3, 2, False, True)
    channels = _STEM
    for expansion, filters, repeats, first_stride in _BLOCKS:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            inner = node
            if expansion != 1:
                inner = convolve(inner, channels * expansion, 1, 1, False, True)
            inner = convolve(inner, channels * expansion, 3, stride, True, True)
            inner = convolve(inner, filters, 1, 1, False, False)
            node = ops.add(node, inner) if stride == 1 and channels == filters else inner
            channels = filters
    node = convolve(node, _LAST, 1, 1, False, True)
    return ops.reduce_mean(node, np.array([2, 3]))


def _draw_weights() -> list[npt.NDArray[np.float32]]:
    """Weights of every convolution in the order of the trunk."""
    rng = np.random.default_rng(_SEED)
    drawn: list[npt.NDArray[np.float32]] = []

    def draw(given: ov.Node, filters: int, kernel: int, stride: int, depthwise: bool, relu6: bool) -> ov.Node:
        channels = given.output(0).partial_shape[1].get_length()
        shape = (channels, 1, 1, kernel, kernel) if depthwise else (filters, channels, kernel, kernel)
        inputs = kernel * kernel * (1 if depthwise else channels)
        weights = rng.normal(0, (2 / inputs) ** 0.5, shape).astype(np.float32)
        # Averages rather than edges: a chain of random edge filters would make noise of every picture.
        drawn.append(np.abs(weights) if depthwise else weights)
        return _convolution(given, drawn[-1], kernel, stride, depthwise)

    _trunk(ops.parameter([-1, SIDE, SIDE, 3], np.float32), draw)
    return drawn


def _fold(weights: list[npt.NDArray[np.float32]], pictures: Array) -> list[Layer]:
    """Normalise each convolution by its mean and variance over `pictures`, measured with all before it normalised."""
    statistics: list[ov.Node] = []
    gains: list[tuple[float, float]] = []
    drawn = iter(weights)

    def normalised(given: ov.Node, filters: int, kernel: int, stride: int, depthwise: bool, relu6: bool) -> ov.Node:
        node = _convolution(given, next(drawn), kernel, stride, depthwise)
        axes = np.array([0, 2, 3])
        mean = ops.reduce_mean(node, axes, keep_dims=True)
        centred = ops.subtract(node, mean)
        variance = ops.reduce_mean(ops.multiply(centred, centred), axes, keep_dims=True)
        statistics.extend((mean, variance))
        node = ops.divide(centred, ops.sqrt(ops.add(variance, np.float32(_EPSILON))))
        gain, shift = _gain_and_shift(relu6)
        gains.append((gain, shift))
        node = ops.add(ops.multiply(node, np.float32(gain)), np.float32(shift))
        return ops.clamp(node, 0.0, 6.0) if relu6 else node

    image = ops.parameter(pictures.shape, np.float32)
    _trunk(image, normalised)
    found = _run_all(ov.Model([ops.result(node) for node in statistics], [image], "calibration"), pictures)
    layers = []
    for weight, mean, variance, (gain, shift) in zip(weights, found[::2], found[1::2], gains, strict=True):
        scale = gain / np.sqrt(variance.reshape(-1) + _EPSILON)
        across = scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = shift - mean.reshape(-1) * scale
        layers.append(Layer((weight * across).astype(np.float32), bias.astype(np.float32)))
    return layers


def _gain_and_shift(relu6: bool) -> tuple[float, float]:
    """What batch normalisation would have learnt: residual branches that add a little, activations seldom at 0."""
    return (1.0, 0.5) if relu6 else (0.3, 0.0)


def _head(image: ov.Node, features: ov.Node, pictures: Array) -> tuple[Array, Array]:
    """Matrix (1280, 1000) and bias (1, 1000) that give each class logits of mean 0 and one spread over `pictures`."""
    (found,) = _run_all(ov.Model([ops.result(features)], [image], "features"), pictures)
    matrix = np.random.default_rng(_SEED + 1).normal(0, 1, (_LAST, CLASSES))
    logits = found @ matrix
    matrix *= _LOGITS_STD / logits.std(axis=0)
    bias = -(found @ matrix).mean(axis=0, keepdims=True)
    return matrix.astype(np.float32), bias.astype(np.float32)


def _convolution(given: ov.Node, weights: Array, kernel: int, stride: int, depthwise: bool) -> ov.Node:
    make = ops.group_convolution if depthwise else ops.convolution
    pads = [kernel // 2, kernel // 2]
    return make(given, weights, [stride, stride], pads, pads, [1, 1])


def _run_all(model: ov.Model, tensor: Array) -> list[Array]:
    network = compiled(model)
    answer = network(tensor)
    return [np.array(answer[port]) for port in network.outputs]


def _model(name: str, given: ov.Node, probabilities: ov.Node) -> ov.Model:
    model = ov.Model([ops.result(probabilities)], [given], name)
    model.inputs[0].set_names({given.get_friendly_name()})
    model.outputs[0].set_names({"probabilities"})
    return model


def golden_pictures(model: ov.Model) -> list[Case]:
    """JPEGs with a clear answer, that bf16 keeps and a picture decoded at half its size does not.

    So a golden case admits the faster arithmetic, and nothing that prepares the picture otherwise.
    """
    full, fast = compiled(model), compiled(model, "bf16")
    cases = []
    for number in range(100, 100 + _CANDIDATES):
        content = jpeg(picture(number))
        row = full(prepare(_decode(content, cv2.IMREAD_COLOR_RGB)))[0][0]
        best = int(row.argmax())
        kept = fast(prepare(_decode(content, cv2.IMREAD_COLOR_RGB)))[0][0][best]
        halved = full(prepare(_decode(content, cv2.IMREAD_REDUCED_COLOR_2)[..., ::-1]))[0][0][best]
        clear = row[best] >= 2 * np.sort(row)[-2] and row[best] >= 4 * IMAGE_TOLERANCE
        if clear and abs(kept - row[best]) <= IMAGE_TOLERANCE / 2 and abs(halved - row[best]) >= 2 * IMAGE_TOLERANCE:
            cases.append(Case(content, best, float(row[best])))
        if len(cases) == _GOLDEN:
            return cases
    raise RuntimeError(f"{len(cases)} of {_CANDIDATES} pictures have an answer that is clear enough, {_GOLDEN} needed")


def compiled(model: ov.Model | Path, precision: str = "f32") -> ov.CompiledModel:
    """The runtime alone; `precision` "default" leaves the choice to it."""
    options = {} if precision == "default" else {"INFERENCE_PRECISION_HINT": precision}
    return ov.Core().compile_model(model, "CPU", options)


def _decode(content: bytes, flags: int) -> Picture:
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    assert decoded is not None
    return np.ascontiguousarray(decoded, np.uint8)


def _write_image_model(folder: Path, model: ov.Model, cases: list[Case]) -> None:
    files = _save(folder, model)
    golden = [
        {
            "file": _put(folder, f"golden/{number}.jpg", case.jpeg),
            "sha256": hashlib.sha256(case.jpeg).hexdigest(),
            "media_type": "image/jpeg",
            "label": label(case.best),
            "score": round(case.probability, 6),
            "verdict": "none",
            "tolerances": {"openvino-f32": IMAGE_TOLERANCE},
        }
        for number, case in enumerate(cases)
    ]
    _write_manifest(
        folder,
        {
            "title": "A network of MobileNetV2's size with random weights",
            "labels": [label(index) for index in range(CLASSES)],
            "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, SIDE, SIDE, 3]}],
            "outputs": [{"name": "probabilities", "dtype": "float32", "shape": [-1, CLASSES]}],
            "preprocess": {"kind": "image", "mean": [MEAN] * 3, "std": [STD] * 3},
            "postprocess": {"classes": "probabilities"},
            "variants": [{"name": "openvino-f32", "format": "openvino", "precision": "f32", "files": files}],
            "golden": golden,
        },
    )


def _write_tensor_model(folder: Path) -> None:
    model = tiny()
    files = _save(folder, model)
    row = compiled(model)(np.array([TINY_INPUT], np.float32))[0]
    content = json.dumps({"inputs": {"features": [TINY_INPUT]}, "outputs": {"probabilities": row.tolist()}}).encode()
    golden = {
        "file": _put(folder, "golden/0.json", content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "media_type": "application/json",
        "verdict": "none",
        "tolerances": {"openvino-f32": TINY_TOLERANCE},
    }
    _write_manifest(
        folder,
        {
            "title": "A multilayer perceptron of 4, 16 and 3 with random weights",
            "labels": [f"tiny-{index}" for index in range(TINY_CLASSES)],
            "inputs": [{"name": "features", "dtype": "float32", "shape": [-1, FEATURES]}],
            "outputs": [{"name": "probabilities", "dtype": "float32", "shape": [-1, TINY_CLASSES]}],
            "preprocess": {"kind": "tensor"},
            "postprocess": {"classes": "probabilities"},
            "variants": [{"name": "openvino-f32", "format": "openvino", "precision": "f32", "files": files}],
            "golden": [golden],
        },
    )


def label(index: int) -> str:
    """The name of a class of the picture model."""
    return f"class-{index:03d}"


def _save(folder: Path, model: ov.Model) -> list[dict[str, str]]:
    (folder / "openvino").mkdir(parents=True)
    ov.save_model(model, folder / "openvino/model.xml", compress_to_fp16=False)
    paths = [folder / "openvino/model.xml", folder / "openvino/model.bin"]
    return [
        {"path": f"openvino/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths
    ]


def _put(folder: Path, path: str, content: bytes) -> str:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(content)
    return path


def _write_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """TOML: every value inline. JSON's strings, numbers and arrays are TOML's; tables differ in `=` alone."""
    head = {
        "schema": 1,
        "name": folder.parent.name,
        "version": folder.name,
        "licence": "CC0-1.0",
        "provenance": "random weights, written by benchmarks/networks.py",
    }
    lines = [f"{name} = {_toml(value)}" for name, value in (head | fields).items()]
    (folder / "manifest.toml").write_text("\n".join(lines) + "\n")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(inside)}" for name, inside in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inside) for inside in value) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
