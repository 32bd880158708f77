"""From model files to a model folder: `<into>/<name>/<version>/` with manifest, files and golden cases.

Rules: a file is judged by its content; unknown files run in a child process only; what cannot be known is asked, never
guessed in silence; the folder appears whole, by one rename, after every variant has passed its golden cases.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from appliance import site_key
from appliance.authoring import apart
from appliance.authoring.apart import Probe
from appliance.authoring.files import ModelSource, read_source
from appliance.authoring.golden_cases import golden_cases, save
from appliance.authoring.manifest_text import good_label, to_text
from appliance.authoring.recognise import Kind, Layout, Recognised, recognise
from appliance.core.manifest import (
    Boxes,
    ImagePreprocess,
    ModelFile,
    ModelManifest,
    Name,
    Postprocess,
    Precision,
    TensorPreprocess,
    Variant,
    Version,
    parse_manifest,
)
from appliance.core.tensors import DType, TensorSpec
from appliance.core.verdict import VerdictRule
from appliance.errors import ImportRefused, ManifestError
from appliance.repository import MANIFEST
from appliance.synced import sync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Scale = Literal["0..1", "-1..1", "imagenet", "0..255"]
Colour = Literal["rgb", "bgr", "gray"]
Resize = Literal["stretch", "crop", "letterbox"]

SCALES: dict[Scale, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation in 0..255 units, red first; torchvision's networks are trained with `imagenet`."""

_DETECTORS = ("yolov8", "yolov5", "yolov10")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the author said; None: not said."""

    into: Path
    name: str | None = None
    version: str | None = None
    labels: tuple[str, ...] | None = None
    kind: Kind | None = None
    scale: Scale | None = None
    colour: Colour | None = None
    layout: Layout | None = None
    resize: Resize | None = None
    output: str | None = None
    golden: tuple[Path, ...] = ()
    licence: str | None = None


class Question(msgspec.Struct, frozen=True):
    """What only the author knows. option: how to say it on the command line."""

    text: str
    option: str
    choices: tuple[str, ...] = ()


Ask = Callable[[Question], str]
"""Returns the answer, or raises ImportRefused naming the option."""


class Imported(msgspec.Struct, frozen=True):
    """assumed: what nobody said and what is usual for such a network was taken."""

    folder: Path
    name: str
    version: str
    kind: Kind
    labels: tuple[str, ...]
    variants: tuple[str, ...]
    golden: tuple[str, ...]
    assumed: tuple[str, ...]


class _Form(msgspec.Struct, frozen=True):
    source: ModelSource
    probe: Probe
    found: Recognised


def import_model(paths: Sequence[Path], options: Options, ask: Ask, key: Ed25519PrivateKey | None = None) -> Imported:
    """Bundle files of one model as variants of a new version. Raises ImportRefused; then nothing is left behind.

    key: of the site, that signs it.
    """
    first = _form(paths[0], options, options.output)
    forms = [first, *(_form(path, options, None) for path in paths[1:])]
    for other in forms[1:]:
        _check_same(first, other)
    assumed: list[str] = []
    labels = _labels(first.found, options, ask)
    preprocess = _preprocess(first, options, ask, assumed)
    name = options.name or _slug(first.source.path)
    if options.name is None:
        assumed.append(f"name {name}, after the file (--name)")
    _check_identity(name, options.version)
    version = options.version or _next_version(options.into / name)
    if (options.into / name / version).exists():
        raise ImportRefused(f"{options.into / name / version} exists already; versions never change: give --version")
    manifest = _manifest(forms, name, version, labels, preprocess, options)
    if manifest.postprocess.boxes is not None:
        assumed.append("any finding sends the part to a person (verdict.count_review_min in the manifest)")
    if options.licence is None:
        assumed.append("licence unknown (--licence)")
    folder = _write(forms, manifest, options, key)
    golden = tuple(case.file for case in _read_manifest(folder).golden)
    if not options.golden and first.found.kind != "tensor":
        assumed.append("golden cases are made here, not pictures of your line (--golden PICTURE)")
    variants = tuple(variant.name for variant in manifest.variants)
    return Imported(folder, name, version, first.found.kind, labels, variants, golden, tuple(assumed))


def _form(path: Path, options: Options, output: str | None) -> _Form:
    """output: the author's name of it, which is that of the first file only: formats rename tensors."""
    source = read_source(path)
    probe = apart.probe(source)
    count = None if options.labels is None else len(options.labels)
    try:
        found = recognise(probe, kind=options.kind, layout=options.layout, output=output, labels=count)
    except ImportRefused as error:
        raise ImportRefused(f"{path}: {error}") from error
    return _Form(source, probe, found)


def _check_same(first: _Form, other: _Form) -> None:
    """One manifest describes one input and one output, whatever the file format."""
    for what in ("kind", "layout", "classes"):
        ours, theirs = getattr(first.found, what), getattr(other.found, what)
        if ours != theirs:
            raise ImportRefused(
                f"{first.source.path.name} has {what} {ours}, {other.source.path.name} has {what} {theirs}; variants "
                "of one model take and give the same tensors: export them alike, or import them under two names"
            )
    ours_shape, theirs_shape = first.probe.inputs[0].shape, other.probe.inputs[0].shape
    if (ours_shape or ())[1:] != (theirs_shape or ())[1:]:
        raise ImportRefused(
            f"{first.source.path.name} takes {list(ours_shape or ())}, {other.source.path.name} takes "
            f"{list(theirs_shape or ())}; variants of one model take the same input"
        )


def _labels(found: Recognised, options: Options, ask: Ask) -> tuple[str, ...]:
    """As many as the head has classes; raises ImportRefused otherwise."""
    if found.kind == "tensor":
        return options.labels or ()
    labels = options.labels or found.labels
    if labels is None:
        which = "classes" if found.classes is None else f"{found.classes} classes"
        given = ask(Question(f"labels of its {which}, in the network's order", "--labels a,b,c"))
        labels = tuple(part.strip() for part in given.split(","))
    if found.classes is not None and len(labels) != found.classes:
        raise ImportRefused(
            f"output {found.output!r} has {found.classes} classes, there are {len(labels)} labels "
            f"({', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}); give as many with --labels"
        )
    if len(set(labels)) != len(labels) or not all(label.strip() and label.isprintable() for label in labels):
        raise ImportRefused("every label needs a text of its own without control characters; correct --labels")
    return labels


def _preprocess(form: _Form, options: Options, ask: Ask, assumed: list[str]) -> ImagePreprocess | TensorPreprocess:
    found = form.found
    if found.kind == "tensor" or found.layout is None:
        return TensorPreprocess()
    usual = found.kind in _DETECTORS or found.exporter is not None
    colour = options.colour or ("gray" if found.channels == 1 else "rgb")
    if (colour == "gray") != (found.channels == 1):
        raise ImportRefused(f"--colour {colour} does not fit an input of {found.channels} channel(s)")
    if options.colour is None and found.channels == 3:
        assumed.append("colour rgb (--colour)")
    resize: Resize = options.resize or (
        "letterbox" if found.kind in _DETECTORS else "crop" if found.exporter else "stretch"
    )
    if options.resize is None:
        assumed.append(f"resize {resize} (--resize)")
    scale: Scale = "0..255"
    if form.probe.inputs[0].dtype != "uint8":
        if options.scale is not None:
            scale = options.scale
        elif usual:
            scale = "0..1"
            assumed.append("scale 0..1 (--scale)")
        else:
            choices = tuple(SCALES)
            scale = cast("Scale", ask(Question("scale that its pixels need", "--scale " + "|".join(choices), choices)))
    if scale == "imagenet" and colour == "gray":
        raise ImportRefused("--scale imagenet is for three channels; give 0..1, -1..1 or 0..255")
    mean, std = (values[:1] if colour == "gray" else values for values in SCALES[scale])
    if colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    return ImagePreprocess(colour=colour, resize=resize, layout=found.layout, mean=mean, std=std)


def _slug(path: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64]
    if not name:
        raise ImportRefused(f"{path.name} gives no name for the model; give --name")
    return name


def _check_identity(name: str, version: str | None) -> None:
    """Both become folders. Raises ImportRefused."""
    for option, value, kind in (("--name", name, Name), ("--version", version, Version | None)):
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ImportRefused(f"{option} {value!r}: {error}") from error


def _next_version(folder: Path) -> str:
    taken = [int(each.name) for each in folder.glob("*/") if each.name.isdecimal()]
    return str(max(taken, default=0) + 1)


def _manifest(
    forms: Sequence[_Form],
    name: str,
    version: str,
    labels: tuple[str, ...],
    preprocess: ImagePreprocess | TensorPreprocess,
    options: Options,
) -> ModelManifest:
    """Without golden cases, which come after it can be loaded."""
    first = forms[0]
    found = first.found
    free = all(
        info.shape is not None and info.shape[0] == -1
        for form in forms
        for info in (*form.probe.inputs, *(each for each in form.probe.outputs if each.name == form.found.output))
    )
    if isinstance(preprocess, TensorPreprocess):
        inputs = tuple(_spec(info, info.name, free) for info in first.probe.inputs)
        outputs = tuple(_spec(info, info.name, free) for info in first.probe.outputs)
        postprocess, rule = Postprocess(), VerdictRule()
        title = "Takes and gives tensors"
    else:
        logical = "boxes" if found.kind in _DETECTORS else "scores"
        inputs = (_spec(first.probe.inputs[0], "image", free),)
        outputs = (_spec(next(each for each in first.probe.outputs if each.name == found.output), logical, free),)
        if found.kind in _DETECTORS:
            form = cast('Literal["yolov8", "yolov5", "yolov10"]', found.kind)
            postprocess = Postprocess(boxes=Boxes(output=logical, form=form))
            rule = VerdictRule(count_review_min=1)
            title = f"Finds {_listed(labels)} in a picture"
        else:
            good = good_label(labels)
            postprocess = Postprocess(
                classes=logical,
                activation=found.activation,
                normal_label=good,
                score_unit=None if good is None else "probability that the part is not good, 0..1",
            )
            rule = VerdictRule()
            if good is not None:
                meaning: dict[str, Any] = {label: "ok" if label == good else "ng" for label in labels}
                rule = VerdictRule(classes=meaning, class_score_min=0.6)
            title = f"Tells {_listed(labels)} apart"
    try:
        return ModelManifest(
            schema=1,
            name=name,
            version=version,
            title=title,
            licence=options.licence or "unknown",
            provenance="imported from " + ", ".join(form.source.path.name for form in forms),
            labels=labels,
            inputs=inputs,
            outputs=outputs,
            preprocess=preprocess,
            postprocess=postprocess,
            verdict=rule,
            variants=_variants(forms, inputs, outputs),
        )
    except ValueError as error:
        raise ImportRefused(f"{first.source.path}: {error}") from error


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")


def _spec(info: apart.TensorInfo, name: str, free: bool) -> TensorSpec:
    shape = info.shape or ()
    if shape and shape[0] in (-1, 1):
        shape = (-1 if free else 1, *shape[1:])
    return TensorSpec(name, cast("DType", info.dtype), shape)


def _variants(
    forms: Sequence[_Form], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Variant, ...]:
    variants: list[Variant] = []
    for form in forms:
        precision: Precision = "int8" if form.probe.int8 else "f32"
        name = f"{form.source.format}-{precision}"
        if any(variant.name == name for variant in variants):
            raise ImportRefused(f"{form.source.path.name} is a second {name} file; a model has one file of each form")
        files = tuple(
            ModelFile(path=f"{name}/{file}", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            for file, content in form.source.files.items()
        )
        tensors = _inside(inputs, form.probe.inputs) | _inside(
            outputs, [each for each in form.probe.outputs if len(outputs) > 1 or each.name == form.found.output]
        )
        variants.append(
            Variant(name=name, format=form.source.format, precision=precision, files=files, tensors=tensors)
        )
    return tuple(variants)


def _inside(specs: Sequence[TensorSpec], infos: Sequence[apart.TensorInfo]) -> dict[str, str]:
    """Logical name -> the file's name, where they differ: by name, or else in order."""
    names = [info.name for info in infos]
    if len(names) != len(specs):
        raise ImportRefused(f"the files have different tensors: {[spec.name for spec in specs]} and {names}")
    if {spec.name for spec in specs} == set(names):
        return {}
    return {spec.name: name for spec, name in zip(specs, names, strict=True)}


def _write(forms: Sequence[_Form], manifest: ModelManifest, options: Options, key: Ed25519PrivateKey | None) -> Path:
    """Build the folder beside its place, prove it, and rename it. Raises ImportRefused."""
    place = options.into / manifest.name / manifest.version
    try:
        options.into.mkdir(parents=True, exist_ok=True)
        # Hidden, so that a box which scans this folder meanwhile does not see it.
        with tempfile.TemporaryDirectory(dir=options.into, prefix=".import-") as scratch:
            folder = Path(scratch) / manifest.name / manifest.version
            for form, variant in zip(forms, manifest.variants, strict=True):
                for file, content in zip(variant.files, form.source.files.values(), strict=True):
                    save(folder / file.path, content)
            save(folder / MANIFEST, to_text(manifest).encode())
            manifest = msgspec.structs.replace(manifest, golden=golden_cases(folder, manifest, options.golden))
            save(folder / MANIFEST, to_text(manifest).encode())
            if _read_manifest(folder) != manifest:
                raise ImportRefused("the manifest does not read back as it was written")
            for variant in manifest.variants:
                apart.prove(folder, variant.name)
            if key is not None:
                site_key.sign(folder, key, MANIFEST)
            place.parent.mkdir(exist_ok=True)
            folder.rename(place)
            for above in (place.parent, options.into):
                sync_folder(above)
    except OSError as error:
        raise ImportRefused(
            f"{error.filename or options.into}: {error.strerror}; give --into a writable folder"
        ) from error
    return place


def _read_manifest(folder: Path) -> ModelManifest:
    try:
        return parse_manifest((folder / MANIFEST).read_bytes(), MANIFEST)
    except ManifestError as error:
        raise ImportRefused(str(error)) from error
