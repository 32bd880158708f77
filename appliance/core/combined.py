"""One verdict from several cameras: the worst of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.core.verdict import Verdict

RANK: Mapping[Verdict, int] = {"ok": 0, "none": 1, "review": 2, "error": 3, "ng": 4}
"""A part that one camera saw to be bad is bad, whatever the others could not see. A part that no camera saw to be bad,
but one could not judge, is an error: it is never `ok`. So it is with a model that judges nothing (`none`)."""


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst; `error` when there is none at all."""
    return max(verdicts, key=RANK.__getitem__, default="error")


def deciding(verdicts: Iterable[Verdict]) -> int:
    """The place of the first camera with the worst verdict."""
    ranks = [RANK[verdict] for verdict in verdicts]
    return ranks.index(max(ranks))
