"""An answer as a little-endian struct of fixed size, for PLCs that map bytes onto a structure and parse no text.

| offset | bytes | type | field |
|---|---|---|---|
| 0 | 2 | UINT16 | layout, 1 |
| 2 | 1 | UINT8 | verdict: 0 none, 1 ok, 2 review, 3 ng, 4 error |
| 3 | 1 | UINT8 | flags: bit 0 a text was cut, bit 1 that text is the part |
| 4 | 4 | UINT32 | ms: how long it took |
| 8 | 8 | UINT64 | id of the result, 0 when there is none |
| 16 | 4 | REAL (IEEE 754, 32 bits) | score |
| 20 | 4 | UINT32 | findings |
| 24 | 40 | text | part |
| 64 | 24 | text | lot |
| 88 | 24 | text | recipe |
| 112 | 24 | text | label |
| 136 | 32 | text | source |
| 168 | 24 | text | code |

Texts are UTF-8, filled up with NULs; a letter is never cut in half. Every number stands at a multiple of its size.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from appliance.core.brief import Brief, finite
from appliance.core.verdict import Verdict

PACKED_FORMAT = "<HBBIQfI40s24s24s24s32s24s"
"""As Python's `struct` writes it; nothing is padded."""

PACKED_BYTES = struct.calcsize(PACKED_FORMAT)
LAYOUT = 1
TEXT_CUT, PART_CUT = 1, 2

VERDICT_NUMBERS: Mapping[Verdict, int] = {"none": 0, "ok": 1, "review": 2, "ng": 3, "error": 4}

BEAT_FORMAT = "<I"
"""The counter that beats every second, begun again at 0 after 2^32 - 1."""

_TEXTS = (("part", 40), ("lot", 24), ("recipe", 24), ("label", 24), ("source", 32), ("code", 24))
_UINT32_MAX = 0xFFFF_FFFF
_REAL_MAX = 3.4028234663852886e38


def packed(brief: Brief) -> bytes:
    """PACKED_BYTES bytes. Numbers beyond their field stay at its largest value."""
    flags = 0
    texts: list[bytes] = []
    for name, room in _TEXTS:
        whole: bytes = getattr(brief, name).encode()
        # A letter that was cut in half decodes to nothing.
        text = whole[:room].decode(errors="ignore").encode()
        if len(text) < len(whole):
            flags |= TEXT_CUT | (PART_CUT if name == "part" else 0)
        texts.append(text)
    return struct.pack(
        PACKED_FORMAT,
        LAYOUT,
        VERDICT_NUMBERS[brief.verdict],
        flags,
        min(brief.ms, _UINT32_MAX),
        brief.id,
        max(-_REAL_MAX, min(_REAL_MAX, finite(brief.score))),
        min(brief.findings, _UINT32_MAX),
        *texts,
    )


def packed_beat(beat: int) -> bytes:
    """Four bytes."""
    return struct.pack(BEAT_FORMAT, beat & _UINT32_MAX)
