"""Plain values -> TOML, for manifests and configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_toml(content: Mapping[str, Any]) -> str:
    """One line per key, tables inline; a key whose value is None is left out."""
    return "".join(f"{_key(name)} = {_value(value)}\n" for name, value in content.items() if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        fields = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items() if each is not None)
        return f"{{{fields}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    # Text, numbers and booleans are written as in JSON.
    return json.dumps(value)


def _key(name: str) -> str:
    return json.dumps(name)
