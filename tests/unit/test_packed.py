"""The packed answer is laid out as its table says, whatever it holds."""

from __future__ import annotations

import re
import struct

from hypothesis import given

from appliance.core import packed as module
from appliance.core.brief import Brief
from appliance.core.packed import (
    PACKED_BYTES,
    PACKED_FORMAT,
    PART_CUT,
    TEXT_CUT,
    VERDICT_NUMBERS,
    packed,
    packed_beat,
)
from tests.unit.test_flat import briefs


@given(briefs())
def test_packed_answer_has_one_size_and_whole_letters(brief: Brief) -> None:
    body = packed(brief)
    assert len(body) == PACKED_BYTES == 192
    layout, verdict, flags, _, number, _, _, *texts = struct.unpack(PACKED_FORMAT, body)
    assert (layout, verdict, number) == (1, VERDICT_NUMBERS[brief.verdict], brief.id)
    whole = [brief.part, brief.lot, brief.recipe, brief.label, brief.source, brief.code]
    for text, given_text in zip(texts, whole, strict=True):
        assert given_text.encode().rstrip(b"\0").startswith(text.decode().encode().rstrip(b"\0"))
    cut = [len(text.encode()) > room for text, room in zip(whole, (40, 24, 24, 24, 32, 24), strict=True)]
    assert bool(flags & TEXT_CUT) == any(cut)
    assert bool(flags & PART_CUT) == cut[0]


def test_fields_stand_where_the_table_says() -> None:
    """As a PLC reads them: byte by byte, little-endian."""
    brief = Brief(
        id=258, source="end", verdict="ng", code="c", part="P-1", lot="L", recipe="r", label="x", score=0.5, findings=3,
        ms=513,
    )  # fmt: skip
    body = packed(brief)
    assert body[0:8] == bytes([1, 0, 3, 0, 1, 2, 0, 0])
    assert body[8:16] == bytes([2, 1, 0, 0, 0, 0, 0, 0])
    assert body[16:24] == bytes([0, 0, 0, 0x3F, 3, 0, 0, 0])
    places = {24: "P-1", 64: "L", 88: "r", 112: "x", 136: "end", 168: "c"}
    for offset, text in places.items():
        assert body[offset : offset + len(text) + 1] == text.encode() + b"\0"


def test_table_of_the_layout_adds_up() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", module.__doc__ or "", re.M)
    end = 0
    for offset, size in rows:
        assert int(offset) == end
        end += int(size)
    assert end == PACKED_BYTES


def test_beat_is_four_bytes_and_begins_again() -> None:
    assert packed_beat(258) == bytes([2, 1, 0, 0])
    assert packed_beat(2**32 + 1) == bytes([1, 0, 0, 0])
