"""The figures as a picture: requests per second in horizontal bars, one panel a work. Plain SVG, light background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 920
_COLUMNS, _MARGIN, _GAP = 2, 24, 36
_LABEL, _VALUE = 172, 64
_BAR, _STEP, _HEAD = 16, 24, 34
_OURS, _LIMIT, _PEER = "#0b6e4f", "#9aa5b1", "#5b7fb5"
_INK, _FAINT, _PAPER = "#1f2933", "#616e7c", "#ffffff"


class Bar(NamedTuple):
    """label, value in requests per second, and the ends of its interval."""

    label: str
    value: float
    low: float
    high: float


class Panel(NamedTuple):
    title: str
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel], heading: str, note: str, ours: str, limit: str) -> str:
    """Panels in two columns; each has its own scale, from 0. ours, limit: labels that get a colour of their own."""
    width = (WIDTH - 2 * _MARGIN - _GAP) // _COLUMNS
    parts: list[str] = []
    top = 74
    for start in range(0, len(panels), _COLUMNS):
        row = panels[start : start + _COLUMNS]
        for column, panel in enumerate(row):
            parts += _panel(panel, _MARGIN + column * (width + _GAP), top, width, ours, limit)
        top += _HEAD + _STEP * max(len(panel.bars) for panel in row) + 20
    height = top + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" role="img" aria-label="{escape(heading)}">',
            f'<rect width="{WIDTH}" height="{height}" fill="{_PAPER}"/>',
            _text(_MARGIN, 34, heading, 19, _INK, weight=600),
            _text(_MARGIN, 54, "Requests per second, more is better. The thin line is the 95% interval.", 12, _FAINT),
            *parts,
            _text(_MARGIN, height - 12, note, 11, _FAINT),
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, left: int, top: int, width: int, ours: str, limit: str) -> list[str]:
    lines = [_text(left, top + 14, panel.title, 14, _INK, weight=600)]
    room = width - _LABEL - _VALUE
    most = max((bar.high for bar in panel.bars), default=1.0)
    for index, bar in enumerate(panel.bars):
        y = top + _HEAD + index * _STEP
        x, middle = left + _LABEL, y + _BAR / 2
        colour = _OURS if bar.label == ours else _LIMIT if bar.label == limit else _PEER
        weight = 600 if bar.label == ours else 400
        lines += [
            _text(x - 8, y + 12, bar.label, 12, _INK, weight=weight, anchor="end"),
            f'<rect x="{x}" y="{y}" width="{room * bar.value / most:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>',
            f'<line x1="{x + room * bar.low / most:.1f}" x2="{x + room * bar.high / most:.1f}" y1="{middle}" '
            f'y2="{middle}" stroke="{_INK}" stroke-width="1.5"/>',
            _text(x + room * bar.high / most + 6, y + 12, f"{bar.value:,.0f}", 12, _INK, weight=weight),
        ]
    return lines


def _text(x: float, y: float, content: str, size: int, colour: str, *, weight: int = 400, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(content)}</text>'
    )
