"""From the payload of a message to an input: a picture or readings, with key and part. Pure.

A picture is raw JPEG or PNG, or JSON with `image` in base64. Tensors are JSON with `inputs`. Readings are JSON: a
number, an array of numbers, an array of rows, or an object that holds one of these under the route's `values` path, or
one array per channel under the channels' names.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.codecs import TENSORS, decode_json, sniff
from appliance.config import RouteConfig
from appliance.core.manifest import Kind
from appliance.core.protocol import Part
from appliance.errors import DecodeError, EmptyBody, FieldError, ShapeError, ValueRangeError
from appliance.fields import base64_bytes, check_part
from appliance.mqtt.message import InboundMessage

_MISSING = object()
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_PART_FIELDS = frozenset(("part", "lot", "recipe"))
KEY_MAX = 128


class WholeInput(msgspec.Struct, frozen=True):
    """What one message has to be judged: an encoded picture, or tensors, as bytes in `media_type`."""

    body: bytes
    media_type: str
    part: Part
    key: str | None


class Readings(msgspec.Struct, frozen=True):
    """samples: (n, channels) float32, oldest first."""

    samples: npt.NDArray[np.float32]
    part: Part
    key: str | None


def parse_input(message: InboundMessage, route: RouteConfig, kind: Kind) -> WholeInput:
    """kind: `image` or `tensor`. Raises InputError."""
    return _tensors(message, route) if kind == "tensor" else _picture(message, route)


def _tensors(message: InboundMessage, route: RouteConfig) -> WholeInput:
    content = decode_json(message.payload)
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), dict):
        raise DecodeError('expected a JSON object with "inputs": {name: nested numbers}')
    return WholeInput(message.payload, TENSORS, part_of(message, content), _key(message, route, content))


def _picture(message: InboundMessage, route: RouteConfig) -> WholeInput:
    body = message.payload
    fields: Mapping[str, object] = {}
    if body[:1] == b"{":
        content = decode_json(body)
        if not isinstance(content, dict) or "image" not in content:
            raise DecodeError('expected a JSON object with "image" in base64')
        fields = content
        body = base64_bytes(content["image"], "image")
    media_type = sniff(body)
    return WholeInput(body, media_type, part_of(message, fields), _key(message, route, fields))


def parse_readings(message: InboundMessage, route: RouteConfig, channels: tuple[str, ...]) -> Readings:
    """Raises InputError."""
    if not message.payload:
        raise EmptyBody("the payload is empty; send JSON readings")
    content = decode_json(message.payload)
    fields = content if isinstance(content, dict) else {}
    values = content
    if isinstance(content, dict):
        values = _at(content, route.values)
        if values is _MISSING:
            values = _by_channel(content, channels, route.values)
    samples = _samples(values, channels)
    return Readings(samples, part_of(message, fields), _key(message, route, fields))


def _samples(values: object, channels: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """A number, numbers or rows of numbers -> (n, channels)."""
    count = len(channels)
    wrong = f"readings are not numbers in rows of equal length; expected rows of {count} ({', '.join(channels)})"
    try:
        wide = np.asarray(values)
    except ValueError as error:
        raise ShapeError(wrong) from error
    if wide.dtype.kind not in "iuf":
        raise ShapeError(wrong)
    if wide.ndim == 0:
        wide = wide.reshape(1, 1)
    elif wide.ndim == 1:
        wide = wide.reshape(-1, 1) if count == 1 else wide.reshape(1, -1)
    if wide.ndim != 2 or wide.shape[1] != count or not len(wide):
        raise ShapeError(
            f"readings have shape {list(np.shape(wide))}; expected rows of {count} ({', '.join(channels)})"
        )
    # The largest one is NaN if any is; `max` as a method would cost a reading more than its parsing.
    if not np.maximum.reduce(np.abs(wide), axis=None) <= _FLOAT32_MAX:
        raise ValueRangeError("readings contain NaN, infinity or a number beyond float32; send finite numbers only")
    return wide.astype(np.float32)


def _by_channel(content: Mapping[str, object], channels: tuple[str, ...], path: str) -> object:
    found = [content.get(name, _MISSING) for name in channels]
    if any(value is _MISSING for value in found):
        raise DecodeError(
            f"the JSON object has no {path!r} and not each of {list(channels)}; set the route's values path"
        )
    columns = [value if isinstance(value, list) else [value] for value in found]
    if len({len(column) for column in columns}) != 1:
        raise ShapeError(f"the channels {list(channels)} differ in length")
    return [list(row) for row in zip(*columns, strict=True)]


def _at(content: object, path: str) -> object:
    """What a dotted path leads to, or _MISSING."""
    for step in path.split("."):
        if not isinstance(content, dict) or step not in content:
            return _MISSING
        content = content[step]
    return content


def part_of(message: InboundMessage, fields: Mapping[str, object]) -> Part:
    """Part, lot and recipe: in the payload, else as user properties. Raises FieldError."""
    if not message.user_properties and _PART_FIELDS.isdisjoint(fields):
        return Part()
    given = dict(message.user_properties)
    part, lot, recipe = (fields.get(name, given.get(name)) for name in ("part", "lot", "recipe"))
    return check_part(part, lot, recipe)


def _key(message: InboundMessage, route: RouteConfig, fields: Mapping[str, object]) -> str | None:
    """The publisher's key; a route that names one demands it."""
    if route.key_field is not None:
        key, where = _at(fields, route.key_field), f"field {route.key_field!r}"
    elif route.key_property is not None:
        key, where = (
            dict(message.user_properties).get(route.key_property, _MISSING),
            f"user property {route.key_property!r}",
        )
    else:
        return None
    if key is _MISSING or key is None:
        raise FieldError(f"route {route.name} expects its key in {where}, which is missing")
    if isinstance(key, bool) or not isinstance(key, str | int) or not 0 < len(str(key)) <= KEY_MAX:
        raise FieldError(f"key {str(key)[:40]!r} in {where}: expected a whole number or 1 to {KEY_MAX} characters")
    return str(key)
