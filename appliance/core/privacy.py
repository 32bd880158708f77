"""Whose pictures are kept."""

from __future__ import annotations

from typing import Literal

from appliance.core.prediction import Prediction
from appliance.core.verdict import Verdict

Images = Literal["all", "findings", "none"]


def keeps_picture(images: Images, verdict: Verdict, prediction: Prediction | None) -> bool:
    """A finding is what was judged `ng` or `review`; without a rule to judge by, whatever a detector found."""
    if images != "findings":
        return images == "all"
    if verdict == "none":
        return prediction is not None and bool(prediction.regions)
    return verdict in ("ng", "review")
