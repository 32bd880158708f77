from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Part
from appliance.errors import (
    ApplianceError,
    DecodeError,
    EmptyBody,
    FieldError,
    InputError,
    MediaTypeError,
    ShapeError,
    ValueRangeError,
)
from appliance.mqtt.message import InboundMessage
from appliance.mqtt.payloads import KEY_MAX, parse_input, part_of
from appliance.mqtt.readings import Reader, Readings

XYZ = ("x", "y", "z")
ROW = [[1.0, 2.0, 3.0]]
PNG = b"\x89PNG\r\n\x1a\n rest of a picture"
JPEG = b"\xff\xd8\xff rest of a picture"


def make_route(**fields: object) -> RouteConfig:
    return RouteConfig(name="route", topic="in/+", model="model", **fields)  # type: ignore[arg-type]


def make_message(payload: object, user: Mapping[str, str] | None = None) -> InboundMessage:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return InboundMessage(
        client="client", topic="in/a", payload=body, qos=1, user_properties=tuple((user or {}).items())
    )


def parse_readings(message: InboundMessage, route: RouteConfig, channels: tuple[str, ...]) -> Readings:
    steps = WindowPreprocess(channels=channels, unit="g", rate_hz=1000.0, size=4)
    return Reader(route, steps).read(message, "source", 1e9)


def values_of(payload: object, channels: tuple[str, ...] = XYZ, **route: object) -> list[list[float]]:
    rows: list[list[float]] = parse_readings(make_message(payload), make_route(**route), channels).samples.tolist()
    return rows


@pytest.mark.parametrize(
    ("payload", "channels", "expected"),
    [
        (5, ("x",), [[5.0]]),
        ([5, 6.5], ("x",), [[5.0], [6.5]]),
        ([[5], [6]], ("x",), [[5.0], [6.0]]),
        ([1, 2, 3], XYZ, ROW),
        ([[1, 2, 3], [4, 5, 6]], XYZ, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        ({"values": [1, 2, 3]}, XYZ, ROW),
        ({"values": 7}, ("x",), [[7.0]]),
        ({"x": 1, "y": 2, "z": 3}, XYZ, ROW),
        ({"z": [3, 6], "x": [1, 4], "y": [2, 5]}, XYZ, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        ({"values": [1, 2, 3], "x": 9, "y": 9, "z": 9}, XYZ, ROW),
    ],
)
def test_readings_come_in_these_forms(payload: object, channels: tuple[str, ...], expected: object) -> None:
    assert values_of(payload, channels) == expected


def test_values_path_leads_into_objects() -> None:
    assert values_of({"data": {"accel": [1, 2, 3]}}, values="data.accel") == ROW


def test_channels_are_found_when_the_path_leads_nowhere() -> None:
    assert values_of({"data": 5, "x": 1, "y": 2, "z": 3}, values="data.accel") == ROW


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", EmptyBody),
        (b"{", DecodeError),
        (b"[NaN]", DecodeError),
        (b"[1e400]", DecodeError),
        (b"\xff\xfe", DecodeError),
        (b"[" * 100_000, DecodeError),
        ({"other": 1}, DecodeError),
        ({"x": 1, "y": 2}, DecodeError),
        ([], ShapeError),
        ([[]], ShapeError),
        ([1, 2], ShapeError),
        ([[1, 2, 3], [4, 5]], ShapeError),
        ([[[1, 2, 3]]], ShapeError),
        (["1", "2", "3"], ShapeError),
        ([None, 1, 2], ShapeError),
        ([True, False, True], ShapeError),
        ("123", ShapeError),
        ({"values": {"x": 1}}, ShapeError),
        ({"x": [1, 2], "y": [1], "z": [1]}, ShapeError),
        ([1e39, 0, 0], ValueRangeError),
        ([-1e39, 0, 0], ValueRangeError),
    ],
)
def test_readings_that_cannot_be_used_are_refused(payload: object, error: type[ApplianceError]) -> None:
    with pytest.raises(error):
        values_of(payload)


def test_error_names_the_channels_that_were_expected() -> None:
    with pytest.raises(ShapeError, match=r"expected rows of 3 \(x, y, z\)"):
        values_of([1, 2])


@given(st.binary(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr).map(str.encode))
def test_any_payload_is_finite_readings_or_an_input_error(payload: bytes) -> None:
    try:
        samples = parse_readings(make_message(payload), make_route(), XYZ).samples
    except InputError:
        return
    assert samples.shape[1] == 3
    assert np.isfinite(samples).all()


@pytest.mark.parametrize(("body", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
def test_picture_comes_raw_or_in_base64(body: bytes, media_type: str) -> None:
    text = base64.b64encode(body).decode()
    for payload in (body, {"image": text}, {"image": f"data:{media_type};base64,{text}"}):
        picture = parse_input(make_message(payload), make_route(), "image")
        assert (picture.body, picture.media_type) == (body, media_type)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", EmptyBody),
        (b"GIF89a", MediaTypeError),
        (b"{", DecodeError),
        ({"picture": ""}, DecodeError),
        ({"image": 5}, DecodeError),
        ({"image": ""}, EmptyBody),
        ({"image": "%%%%"}, DecodeError),
        ({"image": base64.b64encode(b"text").decode()}, MediaTypeError),
    ],
)
def test_picture_that_cannot_be_used_is_refused(payload: object, error: type[ApplianceError]) -> None:
    with pytest.raises(error):
        parse_input(make_message(payload), make_route(), "image")


def test_part_is_taken_from_the_payload_then_from_user_properties() -> None:
    message = make_message({"values": [1, 2, 3], "part": 7}, {"part": "outside", "lot": "L", "recipe": "R"})
    assert parse_readings(message, make_route(), XYZ).part == Part("7", "L", "R")


def test_raw_picture_has_the_part_of_its_user_properties() -> None:
    assert parse_input(make_message(PNG, {"part": "P"}), make_route(), "image").part == Part("P")


def test_part_of_no_text_is_refused() -> None:
    with pytest.raises(FieldError, match="part"):
        part_of(make_message(b""), {"part": ["P"]})


def test_key_is_found_in_the_payload() -> None:
    route = make_route(key_field="cycle.seq")
    body = {"values": [1, 2, 3], "cycle": {"seq": 12}}
    assert parse_readings(make_message(body), route, XYZ).key == "12"
    assert parse_input(make_message({"image": base64.b64encode(PNG).decode(), **body}), route, "image").key == "12"


def test_key_is_found_in_a_user_property() -> None:
    message = make_message(PNG, {"seq": "a-1"})
    assert parse_input(message, make_route(key_property="seq"), "image").key == "a-1"


def test_route_without_a_key_has_none() -> None:
    assert parse_input(make_message(PNG, {"seq": "1"}), make_route(), "image").key is None


@pytest.mark.parametrize("key", [None, "", True, 1.5, ["a"], "x" * (KEY_MAX + 1)])
def test_key_that_is_none_is_refused(key: object) -> None:
    with pytest.raises(FieldError):
        parse_readings(make_message({"values": [1, 2, 3], "seq": key}), make_route(key_field="seq"), XYZ)


def test_route_with_a_key_demands_it() -> None:
    with pytest.raises(FieldError, match="which is missing"):
        parse_readings(make_message([1, 2, 3]), make_route(key_field="seq"), XYZ)
    with pytest.raises(FieldError, match="which is missing"):
        parse_input(make_message(PNG), make_route(key_property="seq"), "image")
