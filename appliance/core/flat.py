"""An answer as one flat JSON object that fits into a PLC's string buffer: the same keys always, at most 256 bytes.

Texts that would make it longer are shortened, the least needed first, and end in `~` then. A part of up to
PART_BYTES_KEPT bytes (letters, digits and the like count one) always comes back whole.
"""

from __future__ import annotations

import msgspec

from appliance.core.brief import Brief, finite

FLAT_BYTES_MAX = 256
PART_BYTES_KEPT = 40

_GIVE_WAY = (("label", 6), ("source", 8), ("recipe", 6), ("lot", 6), ("part", PART_BYTES_KEPT), ("code", 24))
"""Who is shortened first, and to how many bytes at least: with all of them at the least, everything fits."""

_FINDINGS_MAX = 65_535
_MS_MAX = 9_999_999


def flat(brief: Brief) -> bytes:
    """UTF-8 JSON: id, source, verdict, code, part, lot, recipe, label, score, findings, ms, in this order.

    Whatever the texts and numbers (an id is below 2^64), it is at most FLAT_BYTES_MAX bytes; findings and ms stay at
    65,535 and 9,999,999.
    """
    fields = msgspec.structs.asdict(brief) | {
        "score": finite(brief.score),
        "findings": min(brief.findings, _FINDINGS_MAX),
        "ms": min(brief.ms, _MS_MAX),
    }
    for name, least in _GIVE_WAY:
        over = len(msgspec.json.encode(fields)) - FLAT_BYTES_MAX
        if over <= 0:
            break
        fields[name] = shorten(fields[name], max(least, _size(fields[name]) - over))
    return msgspec.json.encode(fields)


def shorten(text: str, bytes_max: int) -> str:
    """The text, or as much of its beginning as takes `bytes_max` bytes in JSON together with a `~` at its end."""
    if _size(text) <= bytes_max:
        return text
    room = bytes_max - 1
    kept = 0
    for letter in text:
        room -= _size(letter)
        if room < 0:
            break
        kept += 1
    return f"{text[:kept]}~"


def _size(text: str) -> int:
    """Bytes of the text inside a JSON string."""
    return len(msgspec.json.encode(text)) - 2
