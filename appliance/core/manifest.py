"""The manifest of one model version: `manifest.toml` beside its files.

It names every file with its SHA-256, the logical tensors, the steps before and after inference, the labels, the
verdict rule and the golden cases. Its own SHA-256 is the *manifest digest* that every result carries.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec

from appliance.core.tensors import TensorSpec
from appliance.core.verdict import Verdict, VerdictRule
from appliance.errors import ManifestError

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Length = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Format = Literal["openvino", "onnx", "tflite", "remote"]
Kind = Literal["image", "window", "tensor"]
"""What one input of a model is."""

Precision = Literal["f32", "f16", "bf16", "int8"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ImagePreprocess(_Part, frozen=True, kw_only=True, tag_field="kind", tag="image"):
    """Picture -> one input tensor: resize, order the channels, then (pixel - mean) / std.

    colour: what the channels hold. layout: `nhwc` (1, rows, columns, channels) or `nchw` (1, channels, rows, columns).
    resize: `stretch` to the input's size; `crop` the middle after scaling the shorter side to it; `letterbox` keeps the
    whole picture in its proportions, centred, and fills the rest with `pad`.
    mean, std: in 0..255 units, one per channel. An input of uint8 takes the pixels as they are.
    """

    colour: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Literal["stretch", "crop", "letterbox"] = "stretch"
    layout: Literal["nhwc", "nchw"] = "nhwc"
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = 1 if self.colour == "gray" else 3
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} value(s) for colour {self.colour!r}")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be above 0")


class WindowPreprocess(_Part, frozen=True, kw_only=True, tag_field="kind", tag="window"):
    """Window of readings, (size, channels) float32 in `unit` sampled at `rate_hz`, -> the network's input."""

    channels: tuple[str, ...]
    unit: str
    rate_hz: Annotated[float, msgspec.Meta(gt=0)]
    size: Annotated[int, msgspec.Meta(ge=2, le=1_048_576)]
    transform: str = "none"


class TensorPreprocess(_Part, frozen=True, kw_only=True, tag_field="kind", tag="tensor"):
    """The input is tensors already, as `inputs` describes them: rows of a table, features, embeddings."""


Preprocess = ImagePreprocess | WindowPreprocess | TensorPreprocess


class Boxes(_Part, frozen=True, kw_only=True):
    """The head of a detector, n candidates, boxes in pixels of the network's input, C = number of labels.

    form: `yolov8` (1, 4 + C, n): centre x, centre y, width, height, then the score of each class;
    `yolov5` (1, n, 5 + C): the same, with an objectness before the classes that multiplies them;
    `yolov10` (1, n, 6): left, top, right, bottom, score, class; needs no suppression.
    score_min: candidates below are dropped. iou_max: of two boxes of a class that overlap more, the weaker is dropped.
    """

    output: str
    form: Literal["yolov8", "yolov5", "yolov10"]
    score_min: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    iou_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.45
    boxes_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 300

    def shape(self, labels: int) -> tuple[int, int, int]:
        """Of the output, with -1 for n."""
        return {"yolov8": (1, 4 + labels, -1), "yolov5": (1, -1, 5 + labels), "yolov10": (1, -1, 6)}[self.form]


class Postprocess(_Part, frozen=True, kw_only=True):
    """Which outputs hold what. Without `score`, the score is 1 - p(normal_label).

    activation: what makes probabilities of the `classes` output, when the network does not.
    """

    classes: str | None = None
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    boxes: Boxes | None = None
    heatmap: str | None = None
    heatmap_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    score: str | None = None
    normal_label: str | None = None
    score_unit: str | None = None


class ModelFile(_Part, frozen=True, kw_only=True):
    """A file of a variant, relative to the manifest. bytes: its length; a published model says it of every file."""

    path: str
    sha256: Sha256
    bytes: Length | None = None

    def __post_init__(self) -> None:
        check_relative(self.path)


class RemoteModel(_Part, frozen=True, kw_only=True):
    """A model on another server: `endpoint` is a name under `[endpoints]` of appliance.toml, which has the address."""

    endpoint: str
    model: str
    version: str | None = None


class Variant(_Part, frozen=True, kw_only=True):
    """One form of the model. `tensors` maps a logical name to the name in the file, where they differ.

    Every format but `remote` has files; `remote` has the place instead.
    """

    name: Name
    format: Format
    precision: Precision
    files: tuple[ModelFile, ...] = ()
    remote: RemoteModel | None = None
    tensors: dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.format == "remote") != (self.remote is not None) or (self.format == "remote") == bool(self.files):
            raise ValueError(
                f"variant {self.name!r}: format `remote` needs `remote` and no files, any other needs files"
            )


class GoldenRegion(_Part, frozen=True, kw_only=True):
    """A finding that must be there, and overlap this box (left, top, right, bottom in pixels) with an IoU of 0.7."""

    label: str
    box: tuple[int, int, int, int]


class GoldenCase(_Part, frozen=True, kw_only=True):
    """An input with the answer every variant must give.

    label: of the best class, or of the best finding of a detector. score: the prediction's; without one, the best
    class's or finding's. tolerances: on the score, per variant. regions: all the findings, of a detector.
    The file of a tensor model is JSON with `inputs` and `outputs` (name -> nested numbers); there the tolerance is on
    the greatest difference of any number.
    """

    file: str
    sha256: Sha256
    media_type: str
    label: str | None = None
    score: float | None = None
    verdict: Verdict
    regions: tuple[GoldenRegion, ...] | None = None
    tolerances: dict[str, float]
    bytes: Length | None = None

    def __post_init__(self) -> None:
        check_relative(self.file)


class CheckSet(_Part, frozen=True, kw_only=True):
    """Labelled samples that a choice which changes numbers is measured on, at least 200.

    file: a ZIP with `answers.csv` (header `file,answer`) and the files it names: pictures, or JSON as for an upload.
    answer: the label of the best class; of a detector, the labels of all findings, sorted and joined by spaces.
    """

    file: str
    sha256: Sha256
    bytes: Length | None = None

    def __post_init__(self) -> None:
        check_relative(self.file)


class ModelManifest(_Part, frozen=True, kw_only=True):
    """Raises nothing itself: use `parse_manifest`, which words what is wrong."""

    schema: Literal[1]
    name: Name
    version: Version
    title: str
    licence: str
    provenance: str
    labels: tuple[str, ...] = ()
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    preprocess: Preprocess
    postprocess: Postprocess = Postprocess()
    verdict: VerdictRule = VerdictRule()
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1)]
    golden: tuple[GoldenCase, ...] = ()
    check: CheckSet | None = None

    def __post_init__(self) -> None:
        outputs = {spec.name for spec in self.outputs}
        for field in ("classes", "heatmap", "score"):
            name = getattr(self.postprocess, field)
            if name is not None and name not in outputs:
                raise ValueError(f"postprocess.{field} names {name!r}, which is not an output ({sorted(outputs)})")
        boxes = self.postprocess.boxes
        if boxes is not None and boxes.output not in outputs:
            raise ValueError(f"postprocess.boxes names {boxes.output!r}, which is not an output ({sorted(outputs)})")
        if boxes is not None and not isinstance(self.preprocess, ImagePreprocess):
            raise ValueError("postprocess.boxes needs a picture to find something in")
        self._check_sizes()
        if self.postprocess.normal_label is not None and self.postprocess.normal_label not in self.labels:
            raise ValueError(f"postprocess.normal_label {self.postprocess.normal_label!r} is not one of the labels")
        unknown = set(self.verdict.classes or {}) - set(self.labels)
        if unknown:
            raise ValueError(f"verdict.classes names {sorted(unknown)}, not among the labels")
        if len({variant.name for variant in self.variants}) != len(self.variants):
            raise ValueError("two variants share a name")
        names = {variant.name for variant in self.variants}
        for case in self.golden:
            if set(case.tolerances) != names:
                raise ValueError(f"golden case {case.file} needs one tolerance per variant ({sorted(names)})")

    @property
    def kind(self) -> Kind:
        if isinstance(self.preprocess, ImagePreprocess):
            return "image"
        return "tensor" if isinstance(self.preprocess, TensorPreprocess) else "window"

    def files(self) -> dict[str, ModelFile]:
        """Every file that the manifest names, by its path: of all variants, the golden cases and the check set."""
        named = {file.path: file for variant in self.variants for file in variant.files}
        cases = (*self.golden, *((self.check,) if self.check is not None else ()))
        return named | {each.file: ModelFile(path=each.file, sha256=each.sha256, bytes=each.bytes) for each in cases}

    def _check_sizes(self) -> None:
        """What the steps hand over and take back must fit the tensors."""
        axes = self.inputs[0].shape
        if isinstance(self.preprocess, ImagePreprocess):
            channels, at = len(self.preprocess.mean), 1 if self.preprocess.layout == "nchw" else 3
            if len(axes) != 4 or axes[0] not in (-1, 1) or min(axes[1:]) < 1 or axes[at] != channels:
                wanted = ["rows", "columns"]
                wanted.insert(at - 1, str(channels))
                raise ValueError(
                    f"input {self.inputs[0].name!r} has shape {list(axes)}, a picture needs [-1, {', '.join(wanted)}]"
                )
        shapes = {spec.name: spec.shape for spec in self.outputs}
        boxes = self.postprocess.boxes
        if boxes is not None:
            if boxes.form != "yolov10" and not self.labels:
                raise ValueError(f"postprocess.boxes: {boxes.form} needs the labels, one per class of the head")
            if not _may_be(shapes[boxes.output], boxes.shape(len(self.labels))):
                raise ValueError(
                    f"postprocess.boxes: output {boxes.output!r} has shape {list(shapes[boxes.output])}, {boxes.form} "
                    f"with {len(self.labels)} labels is {list(boxes.shape(len(self.labels)))} (-1: any size)"
                )
        heatmap = self.postprocess.heatmap
        if heatmap is not None and not any(_may_be(shapes[heatmap], each) for each in ((1, -1, -1), (1, -1, -1, 1))):
            raise ValueError(
                f"postprocess.heatmap: output {heatmap!r} has shape {list(shapes[heatmap])}, a heat map is "
                "[-1, rows, columns] or [-1, rows, columns, 1]"
            )
        if self.postprocess.classes is not None:
            shape = shapes[self.postprocess.classes]
            if not self.labels or shape[-1] != len(self.labels):
                raise ValueError(
                    f"postprocess.classes: output {self.postprocess.classes!r} has shape {list(shape)}, which does not "
                    f"fit {len(self.labels)} labels"
                )


def _may_be(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Free axes (-1), on either side, may have any size."""
    return len(shape) == len(wanted) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(shape, wanted, strict=True)
    )


def parse_manifest(text: bytes, where: str) -> ModelManifest:
    """Read a manifest from the bytes of `manifest.toml`; `where` names the file in an error.

    Raises ManifestError with the field and the reason.
    """
    try:
        return msgspec.toml.decode(text, type=ModelManifest)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ManifestError(f"{where}: {error}; correct the manifest or publish the model again") from error


def digest(text: bytes) -> str:
    """The manifest digest: SHA-256 of its bytes, lower-case hexadecimal."""
    return hashlib.sha256(text).hexdigest()


def check_relative(path: str) -> None:
    """Raise ValueError unless `path` stays inside its folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"path {path!r} must be relative and stay inside the model's folder")
