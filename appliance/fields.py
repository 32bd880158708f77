"""What publishers say about an input: part, lot, recipe, source. Checked alike at every door."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from appliance.core.protocol import Part
from appliance.errors import DecodeError, EmptyBody, FieldError

TEXT_MAX = 128

MISSING: Final = object()
"""What a path leads to when there is nothing."""

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_source(source: object) -> str:
    """Raises FieldError unless it is 1 to 64 letters, digits, '.', '_', '-'."""
    if not isinstance(source, str) or not _SOURCE.fullmatch(source):
        raise FieldError(f"source {str(source)[:80]!r}: expected 1 to 64 letters, digits, '.', '_' or '-'")
    return source


def check_part(part: object, lot: object, recipe: object) -> Part:
    """Numbers become text. Raises FieldError for other types, control characters or more than 128 characters."""
    return Part(_text("part", part), _text("lot", lot), _text("recipe", recipe))


def at_path(content: object, path: str) -> object:
    """What a dotted path leads to in nested objects, or MISSING."""
    for step in path.split("."):
        if not isinstance(content, dict) or step not in content:
            return MISSING
        content = content[step]
    return content


def base64_bytes(value: object, field: str) -> bytes:
    """Raises DecodeError, EmptyBody."""
    if not isinstance(value, str):
        raise DecodeError(f"{field!r} is not text; send the picture in base64")
    if not value:
        raise EmptyBody(f"{field!r} is empty; send the picture in base64")
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"{field!r} is not base64: {error}") from error


def _text(name: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if not isinstance(value, str) or len(value) > TEXT_MAX or not value.isprintable():
        raise FieldError(f"{name} {str(value)[:40]!r}: expected at most {TEXT_MAX} printable characters")
    return value
