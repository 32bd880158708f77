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
Format = Literal["openvino", "tflite"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ImagePreprocess(_Part, frozen=True, kw_only=True, tag_field="kind", tag="image"):
    """Picture -> (1, height, width, channels) float32: resize, then (pixel - mean) / std.

    mean, std: in 0..255 units, one per channel of `colour`.
    """

    colour: Literal["rgb", "gray"] = "rgb"
    resize: Literal["stretch"] = "stretch"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = 3 if self.colour == "rgb" else 1
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


class Postprocess(_Part, frozen=True, kw_only=True):
    """Which outputs hold what. Without `score`, the score is 1 - p(normal_label)."""

    classes: str | None = None
    heatmap: str | None = None
    heatmap_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    score: str | None = None
    normal_label: str | None = None
    score_unit: str | None = None


class ModelFile(_Part, frozen=True, kw_only=True):
    """A file of a variant, relative to the manifest."""

    path: str
    sha256: Sha256

    def __post_init__(self) -> None:
        check_relative(self.path)


class Variant(_Part, frozen=True, kw_only=True):
    """One form of the model. `tensors` maps a logical name to the name in the file, where they differ."""

    name: Name
    format: Format
    precision: Literal["f32", "f16", "bf16", "int8"]
    files: Annotated[tuple[ModelFile, ...], msgspec.Meta(min_length=1)]
    tensors: dict[str, str] = {}


class GoldenCase(_Part, frozen=True, kw_only=True):
    """An input with the answer every variant must give, within its tolerance on the score."""

    file: str
    sha256: Sha256
    media_type: str
    label: str
    score: float
    verdict: Verdict
    tolerances: dict[str, float]

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
    preprocess: ImagePreprocess | WindowPreprocess
    postprocess: Postprocess
    verdict: VerdictRule = VerdictRule()
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1)]
    golden: tuple[GoldenCase, ...] = ()

    def __post_init__(self) -> None:
        outputs = {spec.name for spec in self.outputs}
        for field in ("classes", "heatmap", "score"):
            name = getattr(self.postprocess, field)
            if name is not None and name not in outputs:
                raise ValueError(f"postprocess.{field} names {name!r}, which is not an output ({sorted(outputs)})")
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

    def _check_sizes(self) -> None:
        """What the steps hand over and take back must fit the tensors."""
        axes = self.inputs[0].shape
        if isinstance(self.preprocess, ImagePreprocess):
            channels = len(self.preprocess.mean)
            if len(axes) != 4 or axes[0] not in (-1, 1) or min(axes[1:]) < 1 or axes[3] != channels:
                raise ValueError(
                    f"input {self.inputs[0].name!r} has shape {list(axes)}, a picture needs "
                    f"[-1, rows, columns, {channels}]"
                )
        if self.postprocess.classes is not None:
            shape = next(spec.shape for spec in self.outputs if spec.name == self.postprocess.classes)
            if not self.labels or shape[-1] != len(self.labels):
                raise ValueError(
                    f"postprocess.classes: output {self.postprocess.classes!r} has shape {list(shape)}, which does not "
                    f"fit {len(self.labels)} labels"
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
