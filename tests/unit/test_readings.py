"""The forms in which readings come, their channels, and the times of their samples."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.sample_times import NS, unpack_times
from appliance.errors import ApplianceError, ConfigError, DecodeError, FieldError, InputError, ShapeError
from appliance.mqtt.message import InboundMessage
from appliance.mqtt.payloads import parse_input
from appliance.mqtt.readings import Reader, Readings
from appliance.readings_config import ChannelConfig

ROWS = [[1.0, 2.0], [3.0, 4.0]]
AT = 1000.0


def make_steps(**changes: Any) -> WindowPreprocess:
    fields: dict[str, Any] = {"channels": ("x", "y"), "unit": "g", "rate_hz": 10.0, "size": 4, **changes}
    return WindowPreprocess(**fields)


def make_reader(steps: WindowPreprocess | None = None, **route: Any) -> Reader:
    return Reader(RouteConfig(name="route", topic="in/+", model="model", **route), steps or make_steps())


def make_message(payload: object, user: Mapping[str, str] | None = None, kind: str | None = None) -> InboundMessage:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    properties = tuple((user or {}).items())
    return InboundMessage(client="c", topic="in/a", payload=body, qos=1, user_properties=properties, content_type=kind)


def read(reader: Reader, payload: object, at: float = AT, **message: Any) -> Readings:
    return reader.read(make_message(payload, **message), "source", at)


def values(readings: Readings) -> list[list[float]]:
    rows: list[list[float]] = readings.samples.tolist()
    return rows


def seconds(readings: Readings) -> list[float]:
    assert readings.times is not None
    return [each / NS for each in unpack_times(readings.times, len(readings.samples)).tolist()]


def typed(tag: int, dtype: str) -> cbor2.CBORTag:
    return cbor2.CBORTag(tag, np.array(ROWS, dtype).tobytes())


@pytest.mark.parametrize(
    ("route", "payload"),
    [
        ({}, [{"x": 1, "y": 2}, {"y": 4, "x": 3}]),
        ({}, {"values": [{"x": 1, "y": 2, "note": "any"}, {"x": 3, "y": 4}]}),
        ({"payload": "csv"}, b"1,2\n3,4\n"),
        ({"payload": "csv"}, b"y;x\n2;1\n4;3\n"),
        ({"payload": "cbor"}, cbor2.dumps(ROWS)),
        ({"payload": "cbor"}, cbor2.dumps({"values": ROWS})),
        ({"payload": "cbor"}, cbor2.dumps({"x": [1, 3], "y": [2, 4]})),
        ({"payload": "cbor"}, cbor2.dumps({"values": cbor2.CBORTag(40, [[2, 2], typed(85, "<f4")])})),
        ({"payload": "cbor", "dtype": "int16"}, cbor2.dumps({"values": np.array(ROWS, "<i2").tobytes()})),
        ({"payload": "base64", "dtype": "int8"}, base64.b64encode(np.array(ROWS, "i1").tobytes())),
        ({"dtype": "float64"}, {"values": base64.b64encode(np.array(ROWS, "<f8").tobytes()).decode()}),
        ({"channels": [{"name": "y"}, {"name": "x"}]}, [[2, 1], [4, 3]]),
    ],
)
def test_readings_come_in_these_forms(route: dict[str, Any], payload: object) -> None:
    assert values(read(make_reader(**_converted(route)), payload)) == ROWS


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"],
)
def test_raw_numbers_are_little_endian_of_any_type(dtype: str) -> None:
    payload = np.array(ROWS).astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    assert values(read(make_reader(payload="raw", dtype=dtype), payload)) == ROWS


@pytest.mark.parametrize(
    ("tag", "dtype"), [(65, ">u2"), (77, "<i2"), (81, ">f4"), (86, "<f8"), (64, "u1"), (84, "<f2")]
)
def test_typed_arrays_of_cbor_are_numbers(tag: int, dtype: str) -> None:
    one = WindowPreprocess(channels=("x",), unit="g", rate_hz=1.0, size=4)
    reader = make_reader(one, payload="cbor")
    assert values(read(reader, cbor2.dumps(typed(tag, dtype)))) == [[1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("text/csv; charset=utf-8", b"1,2\n3,4"),
        ("application/cbor", cbor2.dumps(ROWS)),
        ("application/json", b"[[1,2],[3,4]]"),
        ("application/octet-stream", np.array(ROWS, "<f4").tobytes()),
    ],
)
def test_content_type_says_the_form(kind: str, payload: bytes) -> None:
    assert values(read(make_reader(dtype="float32"), payload, kind=kind)) == ROWS


@pytest.mark.parametrize(
    ("route", "payload", "error"),
    [
        ({"payload": "raw", "dtype": "int16"}, b"\0\0\0", ShapeError),
        ({"payload": "csv"}, b"1,2\n3\n", ShapeError),
        ({"payload": "csv"}, b"one,two\n1,2\n", FieldError),
        ({"payload": "csv"}, b"1,2\nthree,4\n", DecodeError),
        ({"payload": "cbor"}, b"\xff", DecodeError),
        ({"payload": "cbor"}, b"\x81" * 1000, DecodeError),
        ({"payload": "cbor"}, b"\xd8\x1c\x81\xd8\x1d\x00", DecodeError),
        ({"payload": "cbor"}, cbor2.dumps(cbor2.CBORTag(85, b"123")), DecodeError),
        ({"payload": "cbor"}, cbor2.dumps(cbor2.CBORTag(40, 7)), DecodeError),
        ({"payload": "cbor"}, cbor2.dumps(cbor2.CBORTag(999, 7)), ShapeError),
        ({"payload": "base64", "dtype": "int8"}, b"%%%", DecodeError),
        ({}, [{"x": 1}, {"x": 1, "y": 2}], DecodeError),
        ({}, [{"x": 1, "y": 2}, 5], ShapeError),
        ({"time_field": "t"}, {"values": [1, 2]}, FieldError),
        ({"time_field": "t"}, {"values": [1, 2], "t": None}, FieldError),
        ({"time_field": "t"}, {"values": [1, 2], "t": True}, FieldError),
        ({"time_field": "t"}, {"values": [1, 2], "t": -1}, FieldError),
        ({"time_field": "t"}, {"values": [1, 2], "t": 1e30}, FieldError),
        ({"time_field": "t"}, {"values": [1, 2], "t": [1, 2]}, ShapeError),
        ({"time_field": "t"}, {"values": [1, 2], "t": {}}, FieldError),
        ({"time_field": "t"}, [{"x": 1, "y": 2, "t": 1}, {"x": 1, "y": 2}], FieldError),
        ({"time_field": "t", "time_unit": "iso"}, {"values": [1, 2], "t": "noon"}, FieldError),
        ({"time_field": "t", "time_unit": "iso"}, {"values": [1, 2], "t": 5}, FieldError),
        ({"time_field": "t", "time_unit": "iso"}, {"values": [1, 2], "t": "1900-01-01"}, FieldError),
        ({"rate_field": "hz"}, {"values": [1, 2], "hz": 0}, FieldError),
    ],
)
def test_readings_that_cannot_be_used_are_refused(
    route: dict[str, Any], payload: object, error: type[ApplianceError]
) -> None:
    with pytest.raises(error):
        read(make_reader(**route), payload)


@given(st.binary(max_size=100), st.sampled_from(["auto", "csv", "cbor", "raw", "base64"]))
def test_any_payload_is_finite_readings_or_an_input_error(payload: bytes, form: str) -> None:
    reader = make_reader(
        payload=form, dtype="float16", time_field="t", channels=_channels({"x": {"scale": 1e30}, "y": {}})
    )
    try:
        samples = read(reader, payload, user={"t": "5"}).samples
    except InputError:
        return
    assert np.isfinite(samples).all()


def test_channels_are_scaled_and_converted_to_the_units_of_the_model() -> None:
    channels = _channels({"x": {"unit": "m/s2", "scale": 9.80665}, "y": {"unit": "mg", "offset": 1000.0}})
    found = read(make_reader(channels=channels), [[2, 500]]).samples
    assert found[0].tolist() == pytest.approx([2.0, 1.5])


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"channels": {"x": {"unit": "V"}, "y": {}}}, "V does not become g"),
        ({"channels": {"x": {}, "z": {}}}, "name the same"),
        ({"window_s": 1.0}, "window_s = 1"),
        ({"payload": "image"}, "takes readings"),
        ({"payload": "base64"}, "takes readings"),
    ],
)
def test_route_that_does_not_fit_its_model_is_refused(route: dict[str, Any], words: str) -> None:
    if "channels" in route:
        route = {"channels": _channels(route["channels"])}
    with pytest.raises(ConfigError, match=words):
        make_reader(**route)


@pytest.mark.parametrize(
    ("route", "payload", "user", "expected"),
    [
        ({}, {"values": ROWS, "t": 5}, {}, [5.0, 5.1]),
        ({"rate_hz": 2.0}, {"values": ROWS, "t": 5}, {}, [5.0, 5.5]),
        ({"rate_field": "hz"}, {"values": ROWS, "t": 5, "hz": 4}, {}, [5.0, 5.25]),
        ({}, {"values": ROWS, "t": [5, 7.5]}, {}, [5.0, 7.5]),
        ({}, [{"t": 5, "x": 1, "y": 2}, {"t": 6, "x": 1, "y": 2}, {"t": 8, "x": 1, "y": 2}], {}, [5.0, 6.0, 8.0]),
        ({"time_unit": "ms"}, {"values": [1, 2], "t": 1500}, {}, [1.5]),
        ({"time_unit": "iso"}, {"values": [1, 2], "t": "1970-01-01T00:01:00.5Z"}, {}, [60.5]),
        ({"time_unit": "iso"}, {"values": [1, 2], "t": "1970-01-01T01:00:00+01:00"}, {}, [0.0]),
        ({"payload": "csv"}, b"t,x,y\n5,1,2\n6,3,4\n", {}, [5.0, 6.0]),
        ({"payload": "csv"}, b"5,1,2\n6,3,4\n", {}, [5.0, 6.0]),
        ({"payload": "csv"}, b"1,2\n3,4\n", {"t": "5"}, [5.0, 5.1]),
        ({"payload": "raw", "dtype": "int8"}, b"\1\2\3\4", {"t": "5.5"}, [5.5, 5.6]),
        ({"payload": "cbor"}, cbor2.dumps({"values": [1, 2], "t": cbor2.CBORTag(1, 5)}), {}, [5.0]),
    ],
)
def test_time_is_where_the_route_says(
    route: dict[str, Any], payload: object, user: dict[str, str], expected: list[float]
) -> None:
    found = read(make_reader(time_field="t", **route), payload, user=user)
    assert seconds(found) == pytest.approx(expected, abs=1e-6)


def test_samples_without_a_time_were_taken_when_they_came_and_follow_one_another() -> None:
    reader = make_reader(rate_hz=10.0, gaps="break")
    first, second, after_a_gap = (read(reader, ROWS, at) for at in (AT, AT + 0.25, AT + 60))
    assert seconds(first) == pytest.approx([AT - 0.1, AT])
    assert seconds(second) == pytest.approx([AT + 0.1, AT + 0.2])
    assert seconds(after_a_gap) == pytest.approx([AT + 59.9, AT + 60])


def test_blocks_whose_time_is_rounded_follow_without_a_seam() -> None:
    reader = make_reader(time_field="t", time_unit="ms", rate_hz=300.0)
    times = [read(reader, {"values": ROWS, "t": stamp}) for stamp in (1000, 1006, 1013)]
    joined = [each for one in times for each in seconds(one)]
    assert np.diff(joined) == pytest.approx([1 / 300] * 5, abs=1e-8)


def test_missing_block_leaves_its_place_empty() -> None:
    reader = make_reader(time_field="t")
    assert seconds(read(reader, {"values": ROWS, "t": 5})) == pytest.approx([5.0, 5.1])
    assert seconds(read(reader, {"values": ROWS, "t": 5.4})) == pytest.approx([5.4, 5.5])


def test_route_that_says_nothing_about_time_keeps_none() -> None:
    assert read(make_reader(), ROWS).times is None
    assert read(make_reader(rate_hz=10.0), ROWS).times is None


PNG = b"\x89PNG\r\n\x1a\n rest of a picture"


@pytest.mark.parametrize(
    ("route", "payload"),
    [
        ({}, base64.b64encode(PNG)),
        ({"payload": "base64"}, base64.b64encode(PNG) + b"\n"),
        ({"payload": "image"}, PNG),
        ({"payload": "cbor"}, cbor2.dumps({"image": PNG})),
        ({"payload": "json"}, {"image": base64.b64encode(PNG).decode()}),
    ],
)
def test_picture_comes_in_these_forms(route: dict[str, Any], payload: object) -> None:
    found = parse_input(make_message(payload), RouteConfig(name="r", topic="t", model="m", **route), "image")
    assert (found.body, found.media_type) == (PNG, "image/png")


@pytest.mark.parametrize(("form", "kind"), [("csv", "image"), ("raw", "image"), ("cbor", "tensor")])
def test_form_that_the_model_cannot_take_is_refused(form: str, kind: Any) -> None:
    route = RouteConfig(name="r", topic="t", model="m", payload=form, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        parse_input(make_message(PNG), route, kind)


def _channels(given: Mapping[str, Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(ChannelConfig(name=name, **fields) for name, fields in given.items())


def _converted(route: dict[str, Any]) -> dict[str, Any]:
    if "channels" in route:
        return {**route, "channels": _channels({each["name"]: {} for each in route["channels"]})}
    return route
