"""A model here against its author's own numbers, step by step: where do they part, and what would make them meet.

Each step is fed with what the author's step was fed with, where the reference has it, so that one difference does not
show in every step after it. When pictures are prepared in another way, the usual other ways are tried, and the one that
fits is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from appliance.authoring.importer import SCALES, Colour, Resize
from appliance.authoring.reference import Box, Reference, read_reference
from appliance.codecs import decode_image, sniff
from appliance.config import Config
from appliance.core.manifest import ImagePreprocess
from appliance.core.postprocess import activate
from appliance.core.prediction import Prediction, Region
from appliance.core.preprocess import Placement, input_size, place, preprocess_image
from appliance.core.tensors import Array
from appliance.errors import ConfigError
from appliance.repository import ModelVersion
from appliance.runtimes import LoadOptions, default_loaders
from appliance.served import Prepared, ServedModel, load

LEVELS_MAX = 2.0
"""Mean difference of pixels, of 255, that decoders and ways of resizing make."""

_RESIZED_LEVELS_MAX = 8.0
"""With fine detail, when everything else is alike: another interpolation."""

_OUTPUT_OFF_MAX = {"f32": 0.01, "f16": 0.03, "bf16": 0.05, "int8": 0.15}
"""Of the largest number in the output, when the network was fed with the author's own tensor."""

_ANSWER_OFF_MAX = 0.05
_IOU_MIN = 0.6
_PADS = (114, 0, 128)

Distance = Callable[[Prepared], float]
"""How far the numbers are from the author's when the network is fed with this; 1 is the most that is allowed."""


class Step(msgspec.Struct, frozen=True):
    """ok: the numbers agree. off, allowed: in the unit that `found` names."""

    name: str
    ok: bool
    off: float
    allowed: float
    found: str


class Report(msgspec.Struct, frozen=True):
    """Every step that could be compared, in order. advice: about the first that differs."""

    model: str
    variant: str
    ok: bool
    steps: tuple[Step, ...]
    advice: str | None = None


def check(version: ModelVersion, variant: str | None, reference: Path, config: Config) -> Report:
    """Raises ConfigError for a reference that cannot be read or does not fit, ModelError when the model cannot load."""
    given = read_reference(reference, version.manifest.labels)
    served = load(version, variant, default_loaders(config), LoadOptions(), config.pixels_max)
    comparison = _Comparison(served, given, config.pixels_max)
    steps, advice = [], None
    for step, why in comparison.steps():
        steps.append(step)
        if not step.ok and advice is None:
            advice = why
    if not steps:
        raise ConfigError(f"--reference {reference} holds nothing that this model gives; see docs/own-model.md")
    return Report(str(served), served.variant.name, all(step.ok for step in steps), tuple(steps), advice)


class _Comparison:
    """The author's numbers beside ours, for one picture."""

    def __init__(self, served: ServedModel, given: Reference, pixels_max: int) -> None:
        self._served, self._given = served, given
        self._manifest = served.manifest
        self._spec = served.manifest.inputs[0]
        steps = served.manifest.preprocess
        self._image = None
        if isinstance(steps, ImagePreprocess) and given.picture is not None:
            self._image = decode_image(given.picture, pixels_max)
            self._ours = served.prepare(given.picture, sniff(given.picture))
        elif given.input is not None and len(self._manifest.inputs) == 1:
            self._ours = served.prepare(b"", "", {self._spec.name: self._fed(given.input)})
        else:
            raise ConfigError("the reference needs a `picture`, or, for a model of one tensor, its `input`")

    def steps(self) -> Iterator[tuple[Step, str | None]]:
        """Step, and what to do if it differs."""
        fed = self._ours
        if self._given.input is not None:
            fed = msgspec.structs.replace(self._ours, tensors={self._spec.name: self._fed(self._given.input)})
            if self._image is not None:
                yield self._preprocess(fed.tensors[self._spec.name])
        outputs = self._served.infer(fed.tensors)
        theirs = self._their_outputs(outputs)
        if theirs:
            yield self._inference(outputs, theirs)
        prediction = self._served.conclude({**outputs, **theirs}, fed)[0]
        alone = bool(theirs) or self._given.input is not None
        if self._given.classes is not None:
            yield self._classes(prediction, self._given.classes, alone)
        if self._given.boxes is not None and prediction.regions is not None:
            yield self._boxes(prediction.regions, self._given.boxes, alone)

    def _preprocess(self, theirs: Array) -> tuple[Step, str | None]:
        steps = self._manifest.preprocess
        assert isinstance(steps, ImagePreprocess)
        levels = float(np.mean(steps.std)) if self._spec.dtype != "uint8" else 1.0

        def off(prepared: Prepared) -> float:
            return float(np.abs(prepared.tensors[self._spec.name].astype(np.float64) - theirs).mean()) * levels

        ours = off(self._ours)
        best, best_off = self._other_way(off)
        fits_better = best is not None and best_off < 0.6 * ours and ours > 0.5
        allowed = LEVELS_MAX if fits_better else _RESIZED_LEVELS_MAX
        found = f"pixels differ by {ours:.2f} of 255 on average, {allowed:g} are allowed"
        if ours <= allowed:
            return Step("preprocess", True, ours, allowed, found), None
        if best is not None and fits_better:
            why = f"It fits with {_changes(steps, best)} (then {best_off:.2f} of 255): correct [preprocess]."
        else:
            why = _no_other_way("a crop, a mean and std, or an order of channels of its own")
        return Step("preprocess", False, ours, allowed, found), why

    def _inference(self, ours: dict[str, Array], theirs: dict[str, Array]) -> tuple[Step, str | None]:
        allowed = _OUTPUT_OFF_MAX[self._served.variant.precision]
        if self._given.input is None:
            # Their decoder and their way of resizing had a part in it.
            allowed = max(allowed, _ANSWER_OFF_MAX)
        off, name = max((self._off(name, ours[name], each), name) for name, each in theirs.items())
        found = f"output {name} differs by {off:.1%} of its largest number, {allowed:.0%} are allowed"
        if off <= allowed:
            return Step("inference", True, off, allowed, found), None

        def distance(prepared: Prepared) -> float:
            outputs = self._served.infer(prepared.tensors)
            return max(self._off(each, outputs[each], array) for each, array in theirs.items())

        if self._given.input is not None:
            why = (
                f"The same input gives other numbers: {name} is another output, the file is another training, or its "
                f"precision ({self._served.variant.precision}) costs this much; compare another variant with --variant."
            )
        else:
            why = self._other_way_in_words(distance, allowed)
        return Step("inference", False, off, allowed, found), why

    def _off(self, name: str, ours: Array, theirs: Array) -> float:
        """Of the largest number; a detector's scores apart from its boxes, beside which they would not be seen."""
        boxes = self._manifest.postprocess.boxes
        if boxes is None or boxes.output != name:
            return _relative(ours, theirs)
        axis = 1 if boxes.form == "yolov8" else 2
        return max(map(_relative, np.split(ours, [4], axis), np.split(theirs, [4], axis)))

    def _classes(self, prediction: Prediction, theirs: Array, alone: bool) -> tuple[Step, str | None]:
        labels = self._manifest.labels
        if theirs.size != len(labels) or not prediction.classes:
            raise ConfigError(f"classes has {theirs.size} numbers, the model has {len(labels)} classes")
        want = theirs.reshape(-1).astype(np.float64)
        got = _in_order(prediction, labels)
        off = float(np.abs(got - want).max())
        found = f"a probability differs by {off:.3f}, {_ANSWER_OFF_MAX:g} are allowed"
        if off <= _ANSWER_OFF_MAX:
            return Step("postprocess", True, off, _ANSWER_OFF_MAX, found), None

        def distance(prepared: Prepared) -> float:
            other = self._served.conclude(self._served.infer(prepared.tensors), prepared)[0]
            return float(np.abs(_in_order(other, labels) - want).max())

        why = None
        if np.abs(np.sort(got) - np.sort(want)).max() <= _ANSWER_OFF_MAX:
            why = "The same numbers in another order: correct `labels` in the manifest."
        elif want.min() < -1e-3 or want.max() > 1 + 1e-3:
            if np.abs(activate(want, "softmax") - got).max() <= _ANSWER_OFF_MAX:
                why = "The reference has the numbers before the softmax: they agree after it. Nothing to correct."
        elif np.abs(activate(got, "softmax") - want).max() <= _ANSWER_OFF_MAX:
            why = 'It fits after a softmax: set activation = "softmax" in [postprocess].'
        if why is None:
            why = (
                "The author makes another answer of the same outputs: an activation or labels of its own."
                if alone
                else self._other_way_in_words(distance, _ANSWER_OFF_MAX)
            )
        return Step("postprocess", False, off, _ANSWER_OFF_MAX, found), why

    def _boxes(self, ours: tuple[Region, ...], theirs: tuple[Box, ...], alone: bool) -> tuple[Step, str | None]:
        off = _unmatched(ours, theirs)
        found = f"{len(ours)} findings here, {len(theirs)} there, {off} without a counterpart (IoU {_IOU_MIN:g})"
        if off == 0:
            return Step("postprocess", True, 0.0, 0.0, found), None

        def distance(prepared: Prepared) -> float:
            other = self._served.conclude(self._served.infer(prepared.tensors), prepared)[0]
            return float(_unmatched(other.regions or (), theirs))

        for what, boxes in self._other_boxes(theirs):
            if _unmatched(ours, boxes) == 0:
                return Step("postprocess", False, float(off), 0.0, found), f"The places agree when {what}."
        relabelled = _unmatched([_renamed(each) for each in ours], [_unnamed(each) for each in theirs]) == 0
        if alone:
            why = "The same outputs give other findings: compare score_min and iou_max in [postprocess.boxes]."
        else:
            why = self._other_way_in_words(distance, 0.0)
        if relabelled:
            why = "The places agree, the labels do not: correct the order of `labels` in the manifest." + (
                "" if alone else f" Or: {why}"
            )
        return Step("postprocess", False, float(off), 0.0, found), why

    def _other_boxes(self, boxes: tuple[Box, ...]) -> Iterator[tuple[str, tuple[Box, ...]]]:
        """The reference's boxes, if they were in one of the other usual forms."""
        height, width = self._ours.size or input_size_of(self._served)
        shift = self._ours.placement or Placement(1.0, 1.0, 0.0, 0.0)
        forms: dict[str, Callable[[float, float, float, float], tuple[float, float, float, float]]] = {
            "the reference's boxes are taken as centre x, centre y, width, height": lambda a, b, c, d: (
                a - c / 2,
                b - d / 2,
                a + c / 2,
                b + d / 2,
            ),
            "the reference's boxes are taken as left, top, width, height": lambda a, b, c, d: (a, b, a + c, b + d),
            "the reference's boxes are taken as shares of the picture": lambda a, b, c, d: (
                a * width,
                b * height,
                c * width,
                d * height,
            ),
            "the reference's boxes are taken as pixels of the network's input": lambda a, b, c, d: (
                (a - shift.left) / shift.scale_x,
                (b - shift.top) / shift.scale_y,
                (c - shift.left) / shift.scale_x,
                (d - shift.top) / shift.scale_y,
            ),
        }
        for what, form in forms.items():
            yield what, tuple(msgspec.structs.replace(each, corners=form(*each.corners)) for each in boxes)

    def _other_way_in_words(self, distance: Distance, allowed: float) -> str:
        best, off = self._other_way(distance)
        steps = self._manifest.preprocess
        if best is not None and isinstance(steps, ImagePreprocess) and off <= allowed:
            return f"It fits with {_changes(steps, best)}: correct [preprocess]."
        return _no_other_way("give `input` in the reference to see which step it is")

    def _other_way(self, distance: Distance) -> tuple[ImagePreprocess | None, float]:
        """The usual way to prepare a picture, other than the manifest's, that comes closest."""
        best: tuple[ImagePreprocess | None, float] = (None, float("inf"))
        if self._image is None:
            return best
        size = (self._image.shape[0], self._image.shape[1])
        for steps in self._ways():
            tensors = {self._spec.name: preprocess_image(self._image, steps, self._spec)}
            off = distance(Prepared(tensors, 1, size, place(size, steps, self._spec)))
            if off < best[1]:
                best = (steps, off)
        return best

    def _ways(self) -> Iterator[ImagePreprocess]:
        """Those that differ in one thing come first, so that of two that fit the smaller change is named."""
        now = self._manifest.preprocess
        assert isinstance(now, ImagePreprocess)
        colours: tuple[Colour, ...] = ("gray",) if now.colour == "gray" else ("rgb", "bgr")
        resizes: tuple[Resize, ...] = ("stretch", "crop", "letterbox")
        scales: list[tuple[tuple[float, ...], tuple[float, ...]]] = [(now.mean, now.std)]
        if self._spec.dtype != "uint8":
            channels = len(now.mean)
            scales += [(means[:channels], stds[:channels]) for means, stds in SCALES.values()]
        found: dict[ImagePreprocess, int] = {}
        for colour, resize, pad, (mean, std) in itertools.product(colours, resizes, (now.pad, *_PADS), scales):
            turn = (colour == "bgr") != (now.colour == "bgr") if (mean, std) == scales[0] else colour == "bgr"
            steps = ImagePreprocess(
                colour=colour,
                resize=resize,
                layout=now.layout,
                pad=pad if resize == "letterbox" else now.pad,
                mean=mean[::-1] if turn else mean,
                std=std[::-1] if turn else std,
            )
            if steps != now:
                found[steps] = sum(
                    getattr(steps, field) != getattr(now, field) for field in ("colour", "resize", "mean")
                )
        return iter(sorted(found, key=lambda steps: found[steps]))

    def _fed(self, given: Array) -> Array:
        """The author's tensor in our shape: a missing batch axis is added, the other layout turned."""
        wanted = tuple(1 if size == -1 else size for size in self._spec.shape)
        array = given[None] if given.ndim == len(wanted) - 1 else given
        if array.shape[1:] != wanted[1:] and array.ndim == 4:
            turned = array.transpose(0, 2, 3, 1) if wanted[3] in (1, 3) else array.transpose(0, 3, 1, 2)
            array = turned if turned.shape[1:] == wanted[1:] else array
        if array.shape[1:] != wanted[1:] or len(array) != 1:
            raise ConfigError(f"input has shape {list(given.shape)}, the model takes {list(self._spec.shape)}")
        return np.ascontiguousarray(array, dtype=self._spec.dtype)

    def _their_outputs(self, ours: dict[str, Array]) -> dict[str, Array]:
        """By our names, in our shapes. Raises ConfigError for one that we do not have."""
        inside = {theirs: name for name, theirs in self._served.variant.tensors.items()}
        found = {}
        for name, array in self._given.outputs.items():
            known = inside.get(name, name)
            if known not in ours:
                raise ConfigError(f"the model has no output {name!r}; it has {[*ours, *(n for n in inside)]}")
            if array.size != ours[known].size:
                raise ConfigError(f"outputs/{name} has shape {list(array.shape)}, here {list(ours[known].shape)}")
            found[known] = array.reshape(ours[known].shape).astype(ours[known].dtype)
        return found


def input_size_of(served: ServedModel) -> tuple[int, int]:
    """Rows and columns of a picture model's input."""
    steps = served.manifest.preprocess
    assert isinstance(steps, ImagePreprocess)
    return input_size(steps, served.manifest.inputs[0])


def _relative(ours: Array, theirs: Array) -> float:
    largest = float(np.abs(theirs).max())
    return float(np.abs(ours.astype(np.float64) - theirs).max()) / (largest or 1.0)


def _in_order(prediction: Prediction, labels: tuple[str, ...]) -> Array:
    """Of a great many labels a prediction holds the best only: the others are as good as 0."""
    scores = {each.label: each.score for each in prediction.classes}
    return np.array([scores.get(label, 0.0) for label in labels], np.float64)


def _changes(now: ImagePreprocess, other: ImagePreprocess) -> str:
    """The fields that differ, as they would be written."""
    names = []
    for field in ("colour", "resize", "pad", "mean", "std"):
        value = getattr(other, field)
        if value != getattr(now, field):
            text = f'"{value}"' if isinstance(value, str) else list(value) if isinstance(value, tuple) else value
            names.append(f"{field} = {text}")
    return ", ".join(names)


def _no_other_way(guess: str) -> str:
    return f"None of the usual colour orders, scales and ways of resizing fits; {guess}."


def _renamed(region: Region) -> Region:
    return Region("", region.score, region.box, region.area)


def _unnamed(box: Box) -> Box:
    return Box(box.corners, box.score, "")


def _unmatched(ours: tuple[Region, ...] | list[Region], theirs: tuple[Box, ...] | list[Box]) -> int:
    """Findings of either side that the other one does not have."""
    left = list(theirs)
    alone = 0
    for region in ours:
        same = [each for each in left if each.label == region.label]
        best = max(same, key=lambda each: _iou(region.box, each.corners), default=None)
        if best is None or _iou(region.box, best.corners) < _IOU_MIN:
            alone += 1
        else:
            left.remove(best)
    return alone + len(left)


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    return across * down / either if either > 0 else 0.0
