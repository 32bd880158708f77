"""Whether an answer is the one that a golden case expects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from appliance.core.manifest import GoldenCase, GoldenRegion, ModelManifest
from appliance.core.prediction import Prediction, Region
from appliance.core.tensors import Array
from appliance.core.verdict import judge

IOU_MIN = 0.7
"""How much a finding must overlap the expected one."""


def check_answer(
    case: GoldenCase,
    manifest: ModelManifest,
    variant: str,
    prediction: Prediction,
    outputs: Mapping[str, Array] | None = None,
    expected: Mapping[str, Array] | None = None,
) -> float:
    """Return how far the score, or the most different number of `outputs`, is from the expected one.

    expected: what the network must give, of a tensor model. Raises ValueError with what was expected and what came.
    """
    tolerance = case.tolerances[variant]
    verdict = judge(prediction, manifest.verdict)
    if verdict != case.verdict:
        raise ValueError(f"expected verdict {case.verdict}, got {verdict} ({_brief(prediction)})")
    if expected is not None:
        off = _outputs_off(outputs or {}, expected)
        if not off <= tolerance:
            raise ValueError(f"an output is off by {off:.4g}, at most {tolerance:g} is allowed")
        return off
    label, score = _best(prediction)
    if case.label is not None and label != case.label:
        raise ValueError(f"expected {case.label}, got {label} ({_brief(prediction)})")
    off = 0.0
    if case.score is not None:
        if score is None:
            raise ValueError(f"expected score {case.score:.3f}, got none")
        off = abs(score - case.score)
        if not off <= tolerance:
            raise ValueError(f"expected score {case.score:.3f}, got {score:.3f}; at most {tolerance:g} off is allowed")
    if case.regions is not None:
        _check_regions(case.regions, prediction.regions or ())
    return off


def answer_of(prediction: Prediction) -> str:
    """What a check set compares: the best class, or all findings of a detector, sorted."""
    if prediction.classes:
        return prediction.classes[0].label
    return " ".join(sorted(region.label for region in prediction.regions or ()))


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), 0..1."""
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = across * down
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0


def _best(prediction: Prediction) -> tuple[str | None, float | None]:
    if prediction.classes:
        best = prediction.classes[0]
        return best.label, prediction.score if prediction.score is not None else best.score
    if prediction.regions:
        found = max(prediction.regions, key=lambda region: region.score)
        return found.label, prediction.score if prediction.score is not None else found.score
    return None, prediction.score


def _outputs_off(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    off = 0.0
    for name, want in expected.items():
        got = outputs.get(name)
        if got is None or got.size != want.size:
            raise ValueError(
                f"expected output {name!r} of {want.size} numbers, got {None if got is None else got.size}"
            )
        off = max(off, float(np.abs(got.reshape(-1).astype(np.float64) - want.reshape(-1)).max(initial=0.0)))
    return off


def _check_regions(expected: tuple[GoldenRegion, ...], found: tuple[Region, ...]) -> None:
    left = list(found)
    for want in expected:
        match = next(
            (each for each in left if each.label == want.label and overlap(each.box, want.box) >= IOU_MIN), None
        )
        if match is None:
            raise ValueError(f"expected a {want.label} at {list(want.box)}; found {[(r.label, r.box) for r in left]}")
        left.remove(match)
    if left:
        raise ValueError(f"found {[(r.label, r.box) for r in left]}, which nobody expected")


def _brief(prediction: Prediction) -> str:
    label, score = _best(prediction)
    return f"{label}, score {score}"
