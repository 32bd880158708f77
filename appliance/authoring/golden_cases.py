"""Golden cases of an imported model: pictures, and the answers that its variants give to them now, on this box."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import msgspec
import numpy as np

from appliance.authoring import apart
from appliance.authoring.apart import Answer
from appliance.authoring.samples import sample_pictures
from appliance.codecs import JPEG, sniff
from appliance.core.golden import check_answer
from appliance.core.manifest import GoldenCase, GoldenRegion, ModelManifest, TensorPreprocess
from appliance.errors import ImportRefused, InputError
from appliance.synced import write_synced

_SCORE_OFF_MAX = 0.25
"""Variants of one model that differ by more on the same picture are not one model."""


def golden_cases(folder: Path, manifest: ModelManifest, pictures: tuple[Path, ...]) -> tuple[GoldenCase, ...]:
    """Write the inputs under `folder`/golden and return the cases; `folder` has a manifest without any.

    pictures: of the author; without one a picture made here is taken. Raises ImportRefused.
    """
    if isinstance(manifest.preprocess, TensorPreprocess):
        if pictures:
            raise ImportRefused("a model that takes tensors has no use for --golden pictures; leave them out")
        return (_tensor_case(folder, manifest),)
    given = {re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem): _read_picture(path) for path in pictures}
    if len(given) != len(pictures):
        raise ImportRefused("two golden pictures have the same name; rename one")
    contents = given or {f"made-here-{index}": content for index, content in enumerate(sample_pictures(), 1)}
    paths = []
    for name, content in contents.items():
        paths.append(folder / "golden" / f"{name}{_suffix(content)}")
        save(paths[-1], content)
    answers = {variant.name: apart.answers(folder, variant.name, tuple(paths)) for variant in manifest.variants}
    first = answers[manifest.variants[0].name]
    if not given:
        # Of the pictures made here, the one whose answer is clearest.
        best = max(range(len(paths)), key=lambda index: _margin(first[index], manifest))
        for index, path in enumerate(paths):
            if index != best:
                path.unlink()
        paths, first = [paths[best]], [first[best]]
        answers = {name: [found[best]] for name, found in answers.items()}
    return tuple(
        _case(path, folder, manifest, {name: found[index] for name, found in answers.items()})
        for index, path in enumerate(paths)
    )


def _case(path: Path, folder: Path, manifest: ModelManifest, answers: dict[str, Answer]) -> GoldenCase:
    """What the first variant says, with a tolerance for each of the others that covers what it says."""
    content = path.read_bytes()
    expected = next(iter(answers.values()))
    prediction = expected.prediction
    best = prediction.classes[0] if prediction.classes else prediction.regions[0] if prediction.regions else None
    score = prediction.score if prediction.score is not None or best is None else best.score
    regions = None
    if manifest.postprocess.boxes is not None:
        regions = tuple(GoldenRegion(label=each.label, box=each.box) for each in prediction.regions or ())
    case = GoldenCase(
        file=path.relative_to(folder).as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=sniff(content),
        label=None if best is None else best.label,
        score=score,
        verdict=expected.verdict,
        regions=regions,
        tolerances=dict.fromkeys(answers, _SCORE_OFF_MAX),
        bytes=len(content),
    )
    tolerances = {}
    for name, answer in answers.items():
        try:
            off = check_answer(case, manifest, name, answer.prediction)
        except ValueError as error:
            raise ImportRefused(
                f"variant {name} does not say what {next(iter(answers))} says about {path.name}: {error}; are the "
                "files of one model? Otherwise import them under two names"
            ) from error
        tolerances[name] = min(_SCORE_OFF_MAX, 0.02 + math.ceil(off * 200) / 100)
    return msgspec.structs.replace(case, tolerances=tolerances)


def _margin(answer: Answer, manifest: ModelManifest) -> float:
    """How far the answer is from another one."""
    prediction = answer.prediction
    if prediction.classes:
        second = prediction.classes[1].score if len(prediction.classes) > 1 else 0.0
        return prediction.classes[0].score - second
    least = manifest.postprocess.boxes.score_min if manifest.postprocess.boxes else 0.0
    return min((region.score - least for region in prediction.regions or ()), default=0.05)


def _tensor_case(folder: Path, manifest: ModelManifest) -> GoldenCase:
    random = np.random.default_rng(0)
    inputs = {}
    for spec in manifest.inputs:
        shape = tuple(abs(size) for size in spec.shape)
        whole = np.dtype(spec.dtype).kind != "f"
        values = random.integers(0, 2, shape) if whole else random.uniform(0, 1, shape).round(4)
        inputs[spec.name] = values.tolist()
    path = folder / "golden" / "made-here.json"
    save(path, msgspec.json.encode({"inputs": inputs}))
    answers = {each.name: apart.answers(folder, each.name, (path,))[0] for each in manifest.variants}
    first = next(iter(answers.values()))
    tolerances = {}
    largest = max((abs(number) for numbers in first.outputs.values() for number in numbers), default=0.0)
    for name, answer in answers.items():
        off = max(
            float(np.abs(np.subtract(answer.outputs[each], numbers)).max()) for each, numbers in first.outputs.items()
        )
        tolerances[name] = round(2 * off + 0.01 * max(1.0, largest), 6)
    save(path, msgspec.json.encode({"inputs": inputs, "outputs": first.outputs}))
    return GoldenCase(
        file=path.relative_to(folder).as_posix(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        media_type="application/json",
        verdict=first.verdict,
        tolerances=tolerances,
        bytes=path.stat().st_size,
    )


def _read_picture(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        sniff(content)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; --golden names it") from error
    except InputError as error:
        raise ImportRefused(f"{path}: {error}") from error
    return content


def _suffix(content: bytes) -> str:
    return ".jpg" if sniff(content) == JPEG else ".png"


def save(path: Path, content: bytes) -> None:
    """Write to the end, as far as the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, content)
