"""The answer to a trigger: one verdict for one part, from one picture of each of its cameras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from appliance.core import forms
from appliance.core.brief import Brief, finite
from appliance.core.combined import combine, deciding
from appliance.core.protocol import Part, Result
from appliance.core.verdict import Verdict
from appliance.errors import ApplianceError

ANSWER_SCHEMA = 1

AnswerForm = Literal["json", "flat", "packed"]


class CameraAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one camera's picture gave. result: its id, at `/v1/results/<id>`; None when there is no result of it.

    frame_age_ms: how long before the trigger the picture came, 0 for one that came after it.
    """

    camera: str
    verdict: Verdict
    result: int | None = None
    error: dict[str, str] | None = None
    frame_age_ms: float | None = None
    label: str | None = None
    score: float | None = None
    findings: int = 0


class TriggerAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """id: of the trigger, counting up on this box. at: when it came, by the box's clock. ms: from then to the answer.

    verdict: the worst of the cameras. error: code and message of the camera that decided, when that is `error`.
    duplicate: this trigger came before, and this is what it was answered then.
    """

    schema: int
    id: int
    at: float
    device: str
    trigger: str
    part: str | None = None
    lot: str | None = None
    recipe: str | None = None
    key: str | None = None
    verdict: Verdict
    error: dict[str, str] | None = None
    ms: float
    model: str
    cameras: tuple[CameraAnswer, ...] = ()
    duplicate: bool = False


def of_result(camera: str, result: Result, frame_age_ms: float) -> CameraAnswer:
    prediction = result.prediction
    top = prediction.classes[0] if prediction is not None and prediction.classes else None
    return CameraAnswer(
        camera=camera,
        verdict=result.verdict,
        result=result.id,
        error=result.error,
        frame_age_ms=frame_age_ms,
        label=None if top is None else top.label,
        score=None if prediction is None else prediction.score,
        findings=0 if prediction is None or prediction.regions is None else len(prediction.regions),
    )


def of_error(camera: str, error: ApplianceError, frame_age_ms: float | None = None) -> CameraAnswer:
    return CameraAnswer(camera=camera, verdict="error", error=said(error), frame_age_ms=frame_age_ms)


def answer(
    *,
    number: int,
    at: float,
    device: str,
    trigger: str,
    part: Part,
    key: str | None,
    model: str,
    ms: float,
    cameras: Sequence[CameraAnswer],
    error: ApplianceError | None = None,
) -> TriggerAnswer:
    """Put together what the cameras gave. error: of the trigger itself, which then was never shown to a camera."""
    verdict = combine(each.verdict for each in cameras)
    why = said(error) if error is not None else None
    if why is None and verdict == "error":
        why = cameras[deciding(each.verdict for each in cameras)].error
    return TriggerAnswer(
        schema=ANSWER_SCHEMA,
        id=number,
        at=at,
        device=device,
        trigger=trigger,
        part=part.part,
        lot=part.lot,
        recipe=part.recipe,
        key=key,
        verdict=verdict,
        error=why,
        ms=round(ms, 1),
        model=model,
        cameras=tuple(cameras),
    )


def encode(given: TriggerAnswer, form: AnswerForm) -> bytes:
    return msgspec.json.encode(given) if form == "json" else forms.write(brief_of_answer(given), form)


def media_type(form: AnswerForm) -> str:
    return "application/json" if form == "json" else forms.MEDIA_TYPES[form]


def brief_of_answer(given: TriggerAnswer) -> Brief:
    """`id`, label, score and findings are those of the camera that decided; `source` is the trigger's name."""
    worst = given.cameras[deciding(each.verdict for each in given.cameras)] if given.cameras else None
    return Brief(
        id=0 if worst is None else worst.result or 0,
        source=given.trigger,
        verdict=given.verdict,
        code="" if given.error is None else given.error["code"],
        part=given.part or "",
        lot=given.lot or "",
        recipe=given.recipe or "",
        label="" if worst is None else worst.label or "",
        score=0.0 if worst is None else finite(worst.score or 0.0),
        findings=0 if worst is None else worst.findings,
        ms=round(given.ms),
    )


def said(error: ApplianceError) -> dict[str, str]:
    return {"code": error.code, "message": str(error)}
