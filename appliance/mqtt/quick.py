"""Readings in the form that most devices send, read by a decoder made for their route.

{"values": [[x, y, z], ...]} or {"values": [x, y, z]}, with key and part beside it: for these JSON is checked and read
in one pass. Whatever the decoder does not take as it is, `readings.Reader` reads, and says what is wrong with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec

from appliance.config import RouteConfig
from appliance.core.protocol import Part
from appliance.errors import FieldError
from appliance.fields import check_part
from appliance.mqtt.payloads import KEY_MAX

QuickReading = tuple[bytes, Part, str | None]
"""Samples as little-endian float32, row by row; part; key."""

_NO_PART = Part()
_SAMPLES_MAX = 4096
_UNSET = msgspec.UNSET


class QuickReadings:
    """For one route and the channels of its model."""

    def __init__(self, route: RouteConfig, channels: int) -> None:
        row: Any = tuple.__class_getitem__((float,) * channels)
        self._channels = channels
        self._keyed = route.key_field is not None
        self._rows = _decoder(route, list[row])
        self._row = _decoder(route, list[float] if channels == 1 else row)
        self._several = True

    def read(self, payload: bytes) -> QuickReading | None:
        """None: it is not of this form, or something is wrong with it."""
        # A device sends what it sent before.
        found = self._read(payload, self._several)
        if found is None:
            found = self._read(payload, not self._several)
            if found is not None:
                self._several = not self._several
        return found

    def _read(self, payload: bytes, several: bool) -> QuickReading | None:
        try:
            content: Any = (self._rows if several else self._row).decode(payload)
            numbers = tuple(chain.from_iterable(content.values)) if several else content.values
            samples = _packer(len(numbers))(*numbers)
        except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError):
            return None
        if not samples or len(numbers) > _SAMPLES_MAX:
            return None
        key = None
        if self._keyed:
            key = str(content.key)
            if not 0 < len(key) <= KEY_MAX:
                return None
        if content.part is _UNSET and content.lot is _UNSET and content.recipe is _UNSET:
            return samples, _NO_PART, key
        try:
            return samples, check_part(*(_given(each) for each in (content.part, content.lot, content.recipe))), key
        except FieldError:
            return None


def quick_readings(route: RouteConfig, channels: int) -> QuickReadings | None:
    """None for a route whose fields lie deeper, whose key is not in the payload, or whose readings are not plain."""
    if not (route.plain_form and route.plain_time):
        return None
    paths = (route.values, route.key_field or "")
    named = {"part", "lot", "recipe"}
    if (
        route.key_property is not None
        or any("." in path for path in paths)
        or named & set(paths)
        or paths[0] == paths[1]
    ):
        return None
    return QuickReadings(route, channels)


def _decoder(route: RouteConfig, values: Any) -> msgspec.json.Decoder[Any]:
    text = (str | int | float | msgspec.UnsetType | None, _UNSET)
    fields: list[Any] = [("values", values, msgspec.field(name=route.values))]
    if route.key_field is not None:
        fields.append(("key", str | int, msgspec.field(name=route.key_field)))
    fields += [(name, *text) for name in ("part", "lot", "recipe")]
    return msgspec.json.Decoder(msgspec.defstruct("Reading", fields, gc=False))


def _given(value: object) -> object:
    return None if value is _UNSET else value


_packers: dict[int, Callable[..., bytes]] = {}


def _packer(count: int) -> Callable[..., bytes]:
    """Packing raises OverflowError for a number beyond float32."""
    packer = _packers.get(count)
    if packer is None:
        packer = struct.Struct(f"<{count}f").pack
        if count <= _SAMPLES_MAX:
            _packers[count] = packer
    return packer
