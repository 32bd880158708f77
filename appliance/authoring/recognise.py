"""What a network is for, from its shapes, from what it did with noise, and from what its exporter wrote beside it.

Pure. What the shapes leave open is not guessed: it comes back as a question, and the caller asks its author.
"""

from __future__ import annotations

import ast
import json
from typing import Literal, cast

import msgspec

from appliance.authoring.apart import Probe, Seen, TensorInfo
from appliance.errors import ImportRefused

Kind = Literal["classifier", "yolov8", "yolov5", "yolov10", "tensor"]
Layout = Literal["nhwc", "nchw"]
Activation = Literal["none", "softmax", "sigmoid"]

LABELS_MAX = 100_000

_CHANNELS = (1, 3)
_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32), (8,))
"""Cells of a detector's head: three sizes as a rule; with one more, or the tiny forms."""

_ENDED_HEAD_MAX = 1000
"""Rows of an output that went through suppression in the network already; 300 as a rule."""

_SHARES_MAX = 2.0
"""Boxes of a head in pixels spread over the whole input, whatever it is shown; in shares of it they end near 1."""


class Recognised(msgspec.Struct, frozen=True, kw_only=True):
    """layout: None where both would do, or there is no picture. classes: C of the head, None where it is not in its
    shape. labels: as the exporter wrote them. exporter: `ultralytics` when its metadata are there, with its habits.
    """

    kind: Kind
    layout: Layout | None = None
    channels: int | None = None
    output: str
    classes: int | None = None
    activation: Activation = "none"
    labels: tuple[str, ...] | None = None
    exporter: str | None = None


def recognise(
    probe: Probe,
    *,
    kind: Kind | None = None,
    layout: Layout | None = None,
    output: str | None = None,
    labels: int | None = None,
) -> Recognised:
    """kind, layout, output: what the author said. labels: how many there are, when that is known.

    Raises ImportRefused, naming the option or export flag that helps.
    """
    _check_tensors(probe)
    exporter = "ultralytics" if {"stride", "task", "names"} <= probe.metadata.keys() else None
    task = probe.metadata.get("task", "")
    if exporter and task not in ("detect", "classify") and kind != "tensor":
        raise ImportRefused(
            f"a network for the task {task!r} has outputs that are not decoded here, only `detect` and `classify`; "
            "import it with --kind tensor to get its tensors as they are"
        )
    names = _labels(probe.metadata)
    known = labels if labels is not None else len(names) if names else None
    picture = _picture(probe, layout)
    if kind == "tensor" or (kind is None and picture is None):
        return Recognised(kind="tensor", output=_named_output(probe, output).name, labels=names, exporter=exporter)
    if picture is None:
        shape = list(probe.inputs[0].shape or ())
        raise ImportRefused(
            f"input {probe.inputs[0].name!r} has shape {shape}, which is no picture ([1, 3, rows, columns] or "
            f"[1, rows, columns, 3]); --kind {kind} needs one; --kind tensor does not"
        )
    found_layout, channels, size = picture
    info = _head(probe, output, size, known)
    found_kind = kind or _kind_of(info, size, known)
    recognised = Recognised(
        kind=found_kind,
        layout=found_layout,
        channels=channels,
        output=info.name,
        classes=_classes(found_kind, info),
        activation=_activation(found_kind, probe.seen.get(info.name)),
        labels=names,
        exporter=exporter,
    )
    _check_boxes(recognised, info, probe.seen.get(info.name), size)
    return recognised


def _check_tensors(probe: Probe) -> None:
    known = ("uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool")
    for role, infos in (("input", probe.inputs), ("output", probe.outputs)):
        if not infos:
            raise ImportRefused(f"the network has no {role}; export the part that is used for inference")
        for info in infos:
            if not info.name:
                raise ImportRefused(
                    f"an {role} of the network has no name; name them at export (input_names, output_names)"
                )
            if info.dtype not in known:
                raise ImportRefused(
                    f"{role} {info.name!r} holds {info.dtype}, which no door carries; it must be numbers"
                )
    for info in probe.inputs:
        if info.shape is None or -1 in info.shape[1:] or not info.shape:
            shape = "free in every axis" if info.shape is None else str(list(info.shape)).replace("-1", "?")
            raise ImportRefused(
                f"input {info.name!r} has shape {shape}; only the batch may be free: pin the others at export "
                "(dynamic=False for a YOLO, no dynamic_axes beyond 0 for torch.onnx.export, --input-shape elsewhere)"
            )
    for info in probe.outputs:
        if info.shape is None or 0 in info.shape:
            raise ImportRefused(f"output {info.name!r} has no fixed number of axes; export it with fixed shapes")


def _picture(probe: Probe, layout: Layout | None) -> tuple[Layout, int, tuple[int, int]] | None:
    """Layout, channels, (rows, columns) when the one input can be a picture."""
    shape = probe.inputs[0].shape
    if len(probe.inputs) != 1 or shape is None or len(shape) != 4 or shape[0] not in (-1, 1):
        return None
    fits: list[Layout] = []
    if shape[1] in _CHANNELS:
        fits.append("nchw")
    if shape[3] in _CHANNELS:
        fits.append("nhwc")
    if layout is not None:
        fits = [each for each in fits if each == layout]
        if not fits:
            raise ImportRefused(f"input {probe.inputs[0].name!r} has shape {list(shape)}, which is not {layout}")
    if not fits:
        return None
    if len(fits) > 1:
        raise ImportRefused(f"input {probe.inputs[0].name!r} has shape {list(shape)}; say --layout nchw or nhwc")
    if fits[0] == "nchw":
        return "nchw", shape[1], (shape[2], shape[3])
    return "nhwc", shape[3], (shape[1], shape[2])


def _named_output(probe: Probe, output: str | None) -> TensorInfo:
    if output is None:
        return probe.outputs[0]
    for info in probe.outputs:
        if info.name == output:
            return info
    raise ImportRefused(f"there is no output {output!r}; the network has {[info.name for info in probe.outputs]}")


def _head(probe: Probe, output: str | None, size: tuple[int, int], labels: int | None) -> TensorInfo:
    """The output that is judged by: the named one, the only one, or the only one whose shape says what it is."""
    if output is not None or len(probe.outputs) == 1:
        return _named_output(probe, output)
    fit = [info for info in probe.outputs if _shape_says(info, size, labels) is not None]
    if len(fit) == 1:
        return fit[0]
    shapes = ", ".join(f"{info.name} {list(info.shape or ())}" for info in probe.outputs)
    raise ImportRefused(f"the network has several outputs ({shapes}); say which one is judged by with --output NAME")


def _kind_of(info: TensorInfo, size: tuple[int, int], labels: int | None) -> Kind:
    kind = _shape_says(info, size, labels)
    if kind is None:
        raise ImportRefused(
            f"output {info.name!r} has shape {list(info.shape or ())}, neither classes [1, C] nor the boxes of a "
            f"detector ([1, 4 + C, n], [1, n, 5 + C], [1, n, 6]) for an input of {size[0]}x{size[1]}; say what it is "
            "with --kind"
        )
    return kind


def _shape_says(info: TensorInfo, size: tuple[int, int], labels: int | None) -> Kind | None:
    """n of a detector follows from the size of its input; n that does not needs the number of labels to fit."""
    shape = info.shape or ()
    if len(shape) == 2 and shape[0] in (-1, 1) and shape[1] >= 2:
        return "classifier"
    if len(shape) == 3 and shape[0] in (-1, 1) and -1 not in shape[1:]:
        _, rows, columns = shape
        cells = _cells(size)
        if columns in cells and rows > 4:
            return "yolov8"
        if rows in {3 * count for count in cells} and columns > 5:
            return "yolov5"
        if columns == 6 and rows <= _ENDED_HEAD_MAX:
            return "yolov10"
        if labels is not None and rows == 4 + labels and columns > rows:
            return "yolov8"
        if labels is not None and columns == 5 + labels and rows > columns:
            return "yolov5"
    return None


def _cells(size: tuple[int, int]) -> set[int]:
    rows, columns = size
    return {sum((rows // stride) * (columns // stride) for stride in strides) for strides in _STRIDES} - {0}


def _classes(kind: Kind, info: TensorInfo) -> int | None:
    shape = info.shape or ()
    axes = {"classifier": 2, "yolov8": 3, "yolov5": 3, "yolov10": 3}
    if len(shape) != axes[kind] or -1 in shape[1:]:
        raise ImportRefused(f"output {info.name!r} has shape {list(shape)}, which is not the shape of a {kind}")
    if kind == "yolov10":
        if shape[2] != 6:
            raise ImportRefused(f"output {info.name!r} has shape {list(shape)}, a yolov10 gives [1, n, 6]")
        return None
    count = {"classifier": shape[-1], "yolov8": shape[1] - 4, "yolov5": shape[-1] - 5}[kind]
    if count < 1:
        raise ImportRefused(f"output {info.name!r} has shape {list(shape)}, which leaves no class for a {kind}")
    return count


def _activation(kind: Kind, seen: Seen | None) -> Activation:
    """Scores that stay within 0..1 whatever is shown are probabilities already, of one class or of several."""
    if kind != "classifier" or seen is None:
        return "none"
    return "none" if seen.all.low >= -1e-6 and seen.all.high <= 1 + 1e-3 else "softmax"


def _check_boxes(recognised: Recognised, info: TensorInfo, seen: Seen | None, size: tuple[int, int]) -> None:
    """A head whose boxes are not in pixels would find everything in the first corner."""
    if recognised.kind not in ("yolov8", "yolov5") or seen is None:
        return
    places = seen.first_rows if recognised.kind == "yolov8" else seen.first_columns
    if places is not None and places.high <= _SHARES_MAX < min(size):
        raise ImportRefused(
            f"the boxes of output {info.name!r} are shares of the input (up to {places.high:.2f}), not pixels; import "
            "the ONNX or OpenVINO export of the same network, which has pixels"
        )


def _labels(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """`names` as ultralytics writes it, {0: 'a', 1: 'b'}; `labels` of an OpenVINO export; a file of lines in TFLite."""
    names = metadata.get("names")
    if names is not None:
        for read in (json.loads, ast.literal_eval):
            try:
                content = read(names)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(content, dict) and all(str(key).isdigit() for key in content):
                numbered = {int(key): str(value) for key, value in content.items()}
                if sorted(numbered) == list(range(len(numbered))) and numbered:
                    return tuple(numbered[index] for index in range(len(numbered)))
            if isinstance(content, list) and content:
                return tuple(str(each) for each in cast("list[object]", content))
    if metadata.get("labels_file"):
        return tuple(line.strip() for line in metadata["labels_file"].splitlines() if line.strip())[:LABELS_MAX]
    if metadata.get("labels"):
        # OpenVINO's exporters join with spaces, and write a space within a label as an underscore.
        return tuple(metadata["labels"].split())
    return None
