"""What a trigger's payload says: a JSON object, or, from a PLC that knows no JSON, the part as plain text. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from appliance.errors import DecodeError, FieldError

KEY_MAX = 128


class Said(msgspec.Struct, frozen=True):
    """As it came, not yet checked, but for the key: 1 to 128 printable characters, or None."""

    part: object = None
    lot: object = None
    recipe: object = None
    key: str | None = None


def read_trigger(payload: bytes, named: Mapping[str, str] | None = None) -> Said:
    """payload: empty, a JSON object with `part`, `lot`, `recipe`, `key`, a JSON string, or the bare part as text.

    Bare text is taken as it stands, so that a number keeps its leading zeros; NULs and blanks around it, as fixed
    strings of PLCs have, are left out. named: the same fields as user properties or headers; the payload goes before
    them. Raises DecodeError, FieldError.
    """
    named = named or {}
    fields: Mapping[str, object] = {}
    try:
        text = payload.decode().strip(" \t\r\n\0")
    except UnicodeDecodeError as error:
        raise DecodeError(f"the trigger is not UTF-8 text ({error}); send the part as text or a JSON object") from error
    if text.startswith(("{", '"')):
        try:
            content = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise DecodeError(f"the trigger is not JSON: {error}") from error
        fields = content if isinstance(content, dict) else {"part": content}
    elif text:
        fields = {"part": text}
    part, lot, recipe, key = (fields.get(name, named.get(name)) for name in ("part", "lot", "recipe", "key"))
    return Said(part, lot, recipe, _key(key))


def _key(key: object) -> str | None:
    if key is None or key == "":
        return None
    text = str(key)
    whole = isinstance(key, str | int) and not isinstance(key, bool)
    if not whole or len(text) > KEY_MAX or not text.isprintable():
        raise FieldError(f"key {text[:40]!r}: expected a whole number or at most {KEY_MAX} printable characters")
    return text
