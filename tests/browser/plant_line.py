"""A line with recipes, and with cameras that are watched and private."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, Any] = {
    "brackets": {"surface": {"score_ng_min": 0.6}},
    "covers": {"surface": {"score_ng_min": 0.02, "score_review_min": 0.01}, "sources": {}},
}
SOURCES: dict[str, Any] = {
    "camera-1": {"dark_below": 0.1},
    "camera-2": {"images": "none"},
    "camera-7": {"expected_every_s": 1.0},
}
