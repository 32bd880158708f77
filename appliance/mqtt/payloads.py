"""From the payload of a message to an input that is judged by itself, with key and part. Pure.

A picture is raw JPEG or PNG, base64 text of one, or JSON or CBOR with `image`, in base64 or as bytes. Tensors are JSON
with `inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from appliance.cbor import decode_cbor
from appliance.codecs import TENSORS, decode_json, sniff
from appliance.config import RouteConfig
from appliance.core.manifest import Kind
from appliance.core.protocol import Part
from appliance.errors import ConfigError, DecodeError, FieldError
from appliance.fields import MISSING, at_path, base64_bytes, check_part
from appliance.mqtt.message import InboundMessage
from appliance.readings_config import Form

_PART_FIELDS = frozenset(("part", "lot", "recipe"))
KEY_MAX = 128

_BASE64 = (b"/9j/", b"iVBORw0KGgo", b"data:image/")
"""How JPEG and PNG begin in base64 (RFC 4648), and a data URL (RFC 2397)."""


class WholeInput(msgspec.Struct, frozen=True):
    """What one message has to be judged: an encoded picture, or tensors, as bytes in `media_type`."""

    body: bytes
    media_type: str
    part: Part
    key: str | None


def parse_input(message: InboundMessage, route: RouteConfig, kind: Kind) -> WholeInput:
    """kind: `image` or `tensor`. Raises InputError, and ConfigError for a payload that the route should not ask for."""
    return _tensors(message, route) if kind == "tensor" else _picture(message, route)


def _tensors(message: InboundMessage, route: RouteConfig) -> WholeInput:
    if route.payload not in ("auto", "json"):
        raise ConfigError(
            f"route {route.name} has payload {route.payload!r}, but model {route.model} takes tensors as JSON"
        )
    content = decode_json(message.payload)
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), dict):
        raise DecodeError('expected a JSON object with "inputs": {name: nested numbers}')
    return WholeInput(message.payload, TENSORS, part_of(message, content), key_of(message, route, content))


def _picture(message: InboundMessage, route: RouteConfig) -> WholeInput:
    form, body = route.payload, message.payload
    fields: Mapping[str, object] = {}
    if form in ("csv", "raw"):
        raise ConfigError(f"route {route.name} has payload {form!r}, but model {route.model} takes pictures")
    if form == "auto":
        form = _form_of(message)
    if form in ("json", "cbor"):
        content = decode_cbor(body) if form == "cbor" else decode_json(body)
        if not isinstance(content, dict) or "image" not in content:
            raise DecodeError('expected a JSON object with "image" in base64')
        fields = content
        image = content["image"]
        body = image if isinstance(image, bytes) else base64_bytes(image, "image")
    elif form == "base64":
        body = base64_bytes(body.decode("ascii", "replace").strip(), "payload")
    media_type = sniff(body)
    return WholeInput(body, media_type, part_of(message, fields), key_of(message, route, fields))


def _form_of(message: InboundMessage) -> Form:
    body = message.payload
    if body[:1] == b"{":
        return "json"
    if body.startswith(_BASE64):
        return "base64"
    return "cbor" if message.content_type == "application/cbor" else "image"


def part_of(message: InboundMessage, fields: Mapping[str, object]) -> Part:
    """Part, lot and recipe: in the payload, else as user properties. Raises FieldError."""
    if not message.user_properties and _PART_FIELDS.isdisjoint(fields):
        return Part()
    given = dict(message.user_properties)
    part, lot, recipe = (fields.get(name, given.get(name)) for name in ("part", "lot", "recipe"))
    return check_part(part, lot, recipe)


def key_of(message: InboundMessage, route: RouteConfig, fields: Mapping[str, object]) -> str | None:
    """The publisher's key; a route that names one demands it. Raises FieldError."""
    if route.key_field is not None:
        key, where = at_path(fields, route.key_field), f"field {route.key_field!r}"
    elif route.key_property is not None:
        key, where = (
            dict(message.user_properties).get(route.key_property, MISSING),
            f"user property {route.key_property!r}",
        )
    else:
        return None
    if key is MISSING or key is None:
        raise FieldError(f"route {route.name} expects its key in {where}, which is missing")
    if isinstance(key, bool) or not isinstance(key, str | int) or not 0 < len(str(key)) <= KEY_MAX:
        raise FieldError(f"key {str(key)[:40]!r} in {where}: expected a whole number or 1 to {KEY_MAX} characters")
    return str(key)
