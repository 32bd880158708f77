"""The little that a PLC wants to know of a result or of an answer, in fixed types: no nulls, no lists, no nesting.

`flat` and `packed` are its two forms.
"""

from __future__ import annotations

import math

import msgspec

from appliance.core.protocol import Result
from appliance.core.verdict import Verdict


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """id: of the result that decided, 0 when there is none. source: who was judged, or the name of the trigger.

    code: why the verdict is `error`, else empty. Texts that nobody gave are empty. score: in the model's unit, 0 when
    the model gives none. findings: places found in the picture. ms: how long it took, in whole milliseconds.
    """

    id: int
    source: str
    verdict: Verdict
    code: str = ""
    part: str = ""
    lot: str = ""
    recipe: str = ""
    label: str = ""
    score: float = 0.0
    findings: int = 0
    ms: int = 0


def brief_of(result: Result) -> Brief:
    """Of one result; `ms` is what its timing adds up to."""
    prediction = result.prediction
    timing = result.timing
    top = prediction.classes[0] if prediction is not None and prediction.classes else None
    score = None if prediction is None else prediction.score
    if score is None and top is not None:
        score = top.score
    took_ms = 0.0
    if timing is not None:
        took_ms = timing.queue_ms + timing.preprocess_ms + timing.infer_ms + timing.postprocess_ms
    return Brief(
        id=result.id,
        source=result.source,
        verdict=result.verdict,
        code="" if result.error is None else result.error["code"],
        part=result.part or "",
        lot=result.lot or "",
        recipe=result.recipe or "",
        label="" if top is None else top.label,
        score=finite(score or 0.0),
        findings=0 if prediction is None or prediction.regions is None else len(prediction.regions),
        ms=round(took_ms),
    )


def finite(value: float) -> float:
    """Four digits, which every PLC reads; 0 for what is no number, or is none any more when it is rounded."""
    rounded = float(f"{value:.4g}")
    return rounded if math.isfinite(rounded) else 0.0
