"""Several cameras, one verdict: the worst."""

from __future__ import annotations

import pytest

from appliance.core.combined import combine, deciding
from appliance.core.verdict import Verdict


@pytest.mark.parametrize(
    ("verdicts", "worst", "place"),
    [
        (["ok", "ok"], "ok", 0),
        (["ok", "review"], "review", 1),
        (["ok", "none"], "none", 1),
        (["review", "error", "ok"], "error", 1),
        (["error", "ng", "ng"], "ng", 1),
    ],
)
def test_worst_camera_decides(verdicts: list[Verdict], worst: Verdict, place: int) -> None:
    assert combine(verdicts) == worst
    assert deciding(verdicts) == place


def test_no_camera_at_all_is_an_error() -> None:
    assert combine([]) == "error"
