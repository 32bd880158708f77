"""From a prediction and a rule to the verdict of a part.

The rule names up to four parts: the class, bands of the score, the number of findings, their area. Every configured
part is judged alone and the worst one wins: ng before review before ok. A rule with no part gives `none`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from appliance.core.prediction import Prediction

Verdict = Literal["ok", "ng", "review", "error", "none"]
Ruled = Literal["ok", "ng", "review"]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

_RANK: dict[Verdict, int] = {"ok": 0, "review": 1, "ng": 2}


class VerdictRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A verdict rule, or a partial override of one: fields left out keep the value of the rule below.

    classes: top label -> verdict; a label not named here is `review`.
    class_score_min: 0..1, a top class less sure than this is `review`.
    score_*: in the manifest's score unit; area_*: share of the image, 0..1; count_*: number of regions.
    """

    classes: dict[str, Ruled] | None = None
    class_score_min: Share | None = None
    score_review_min: float | None = None
    score_ng_min: float | None = None
    count_review_min: Count | None = None
    count_ng_min: Count | None = None
    area_review_min: Share | None = None
    area_ng_min: Share | None = None

    def override(self, other: VerdictRule | None) -> VerdictRule:
        """Return this rule with the fields that `other` sets."""
        if other is None:
            return self
        changes = {name: value for name in other.__struct_fields__ if (value := getattr(other, name)) is not None}
        return msgspec.structs.replace(self, **changes)


def judge(prediction: Prediction, rule: VerdictRule) -> Verdict:
    """Decide from the prediction alone; pure and total."""
    parts: list[Verdict] = list(_parts(prediction, rule))
    return max(parts, key=_RANK.__getitem__, default="none")


def _parts(prediction: Prediction, rule: VerdictRule) -> Iterator[Ruled]:
    if rule.classes is not None and prediction.classes:
        top = prediction.classes[0]
        yield rule.classes.get(top.label, "review")
        if rule.class_score_min is not None and top.score < rule.class_score_min:
            yield "review"
    if prediction.score is not None:
        yield from _band(prediction.score, rule.score_review_min, rule.score_ng_min)
    if prediction.regions is not None:
        yield from _band(len(prediction.regions), rule.count_review_min, rule.count_ng_min)
        area = sum(region.area for region in prediction.regions)
        yield from _band(area, rule.area_review_min, rule.area_ng_min)


def _band(value: float, review_min: float | None, ng_min: float | None) -> Iterator[Ruled]:
    if review_min is None and ng_min is None:
        return
    if ng_min is not None and value >= ng_min:
        yield "ng"
    elif review_min is not None and value >= review_min:
        yield "review"
    else:
        yield "ok"
