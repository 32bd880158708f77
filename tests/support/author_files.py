"""Model files as somebody else's training would leave them: ONNX networks whose answers are obvious, and bad files.

The detector finds bright squares. Cells of 8, 16 and 32 pixels stand side by side over an input of 64 x 64, as in a
YOLO: 64 + 16 + 4 candidates. The score of a class is how much brighter its colour is in a cell than in the three by
three cells around it: a red square that fills a cell of 16 pixels is found there, as `red`, and nowhere else.

The classifier tells by the mean of each colour: logits are ten times the means.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
COLOURS = ("red", "green", "blue")
YOLO_METADATA = {
    "names": "{0: 'red', 1: 'green', 2: 'blue'}",
    "task": "detect",
    "stride": "32",
    "imgsz": "[64, 64]",
}


def write_detector(path: Path, form: str = "yolov8", metadata: Mapping[str, str] | None = None) -> Path:
    """form: `yolov8` (1, 7, 84), `yolov5` (1, 252, 8) or `shares` (as yolov8, with boxes in shares of the input)."""
    graph = _Graph()
    scores, boxes = [], []
    for stride in (8, 16, 32):
        cells = graph.add("AveragePool", ["images"], kernel_shape=[stride] * 2, strides=[stride] * 2)
        around = graph.add("AveragePool", [cells], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
        contrast = graph.add("Sub", [cells, around])
        steep = graph.add("Add", [graph.add("Mul", [contrast, graph.constant(3.0)]), graph.constant(-1.7)])
        score = graph.add("Clip", [steep, graph.constant(0.0), graph.constant(1.0)])
        scores.append(graph.add("Reshape", [score, graph.constant([1, 3, -1], np.int64)]))
        middles = np.arange(stride / 2, SIDE, stride)
        y, x = np.meshgrid(middles, middles, indexing="ij")
        boxes.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride), np.full(x.size, stride)]))
    where = np.concatenate(boxes, axis=1)[None]
    if form == "shares":
        where = where / SIDE
    each = graph.add("Concat", scores, axis=2)
    parts = [graph.constant(where), each]
    if form == "yolov5":
        parts.insert(1, graph.constant(np.ones((1, 1, 84))))
    head = graph.add("Concat", parts, axis=1)
    shape = [1, 7, 84]
    if form == "yolov5":
        rows = graph.add("Transpose", [head], perm=[0, 2, 1])
        head, shape = graph.add("Concat", [rows, rows, rows], axis=1), [1, 252, 8]
    return graph.save(path, ("images", [1, 3, SIDE, SIDE]), {head: ("output0", shape)}, metadata or {})


def write_classifier(
    path: Path, *, softmax: bool = False, shape: Sequence[Any] = (1, 3, 32, 32), gain: float = 10.0
) -> Path:
    """Logits, or probabilities, of red, green and blue. shape: of the input; a text is a free axis."""
    graph = _Graph()
    means = graph.add("ReduceMean", ["pixels"], axes=[2, 3], keepdims=0)
    logits = graph.add("Mul", [means, graph.constant(gain)])
    last = graph.add("Softmax", [logits], axis=1) if softmax else logits
    return graph.save(path, ("pixels", list(shape)), {last: ("scores", [shape[0], 3])}, {})


def write_table_model(path: Path) -> Path:
    """Two features in, their sum out."""
    graph = _Graph()
    total = graph.add("ReduceSum", ["features", graph.constant([1], np.int64)], keepdims=1)
    return graph.save(path, ("features", ["n", 2]), {total: ("total", ["n", 1])}, {})


def write_odd(path: Path, *, operator: str = "Relu", domain: str = "", opset: int = 13, external: bool = False) -> Path:
    """A network of one layer that may be unknown, in an operator set that may be unknown."""
    graph = _Graph()
    out = graph.add(operator, ["pixels"], domain=domain)
    if external:
        weights = numpy_helper.from_array(np.ones((1, 3), np.float32), "weights")
        onnx.external_data_helper.set_external_data(weights, "weights.data")
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        graph.initialisers.append(weights)
    return graph.save(path, ("pixels", [1, 3, 8, 8]), {out: ("out", [1, 3, 8, 8])}, {}, opset=opset, domain=domain)


def as_openvino(onnx_file: Path, path: Path) -> Path:
    """The same network as an OpenVINO .xml, with its .bin beside it."""
    ov.save_model(ov.Core().read_model(onnx_file), path, compress_to_fp16=False)
    return path


def picture_of_squares(
    squares: Sequence[tuple[str, int, int, int]], height: int = SIDE, width: int = SIDE
) -> npt.NDArray[np.uint8]:
    """Black RGB picture with (colour, left, top, side) squares."""
    image = np.zeros((height, width, 3), np.uint8)
    for colour, left, top, side in squares:
        image[top : top + side, left : left + side, COLOURS.index(colour)] = 255
    return image


def save_picture(path: Path, image: npt.NDArray[np.uint8]) -> Path:
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def main(folder: str) -> None:
    """`python -m tests.support.author_files FOLDER`: what docs/own-model.md walks through."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_detector(place / "squares.onnx", metadata=YOLO_METADATA)
    image = picture_of_squares([("red", 64, 64, 64), ("blue", 128, 0, 64)], 128, 256)
    save_picture(place / "part.png", image)


class _Graph:
    """An ONNX graph under construction; a tensor is known by its name."""

    def __init__(self) -> None:
        self.initialisers: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], **settings: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **settings))
        return name

    def save(
        self,
        path: Path,
        given: tuple[str, list[Any]],
        results: Mapping[str, tuple[str, list[Any]]],
        metadata: Mapping[str, str],
        *,
        opset: int = 13,
        domain: str = "",
    ) -> Path:
        for inside, (name, _) in results.items():
            self._nodes.append(helper.make_node("Identity", [inside], [name]))
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results.values()],
            self.initialisers,
        )
        sets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        model = helper.make_model(graph, opset_imports=sets, ir_version=8)
        helper.set_model_props(model, dict(metadata))
        path.write_bytes(model.SerializeToString())
        return path


if __name__ == "__main__":
    main(sys.argv[1])
