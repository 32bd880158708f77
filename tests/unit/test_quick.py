"""The quick decoder of readings: where it says something, it says what the careful one says."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Part
from appliance.errors import InputError
from appliance.mqtt.message import InboundMessage
from appliance.mqtt.quick import QuickReadings, quick_readings
from appliance.mqtt.readings import Reader

STEPS = WindowPreprocess(channels=("x", "y"), unit="g", rate_hz=1.0, size=4)
SINGLE = WindowPreprocess(channels=("x",), unit="g", rate_hz=1.0, size=4)


def make_route(**fields: Any) -> RouteConfig:
    return RouteConfig(name="r", topic="in/+", model="m", **fields)


def quick(steps: WindowPreprocess = STEPS, **fields: Any) -> QuickReadings:
    made = quick_readings(make_route(**fields), len(steps.channels))
    assert made is not None
    return made


def numbers(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_rows_and_a_single_row_are_read_whichever_comes_next() -> None:
    reader = quick()
    for _ in range(2):
        assert reader.read(b'{"values": [[1, 2.5], [3, -4e2]]}') == (numbers(1, 2.5, 3, -400), Part(), None)
        assert reader.read(b'{"values": [1, 2]}') == (numbers(1, 2), Part(), None)


def test_one_channel_takes_plain_numbers() -> None:
    assert quick(SINGLE).read(b'{"values": [1, 2, 3]}') == (numbers(1, 2, 3), Part(), None)


def test_key_and_part_come_along() -> None:
    reader = quick(key_field="seq", values="data")
    assert reader.read(b'{"seq": 7, "data": [1, 2], "part": 4711, "lot": "L", "recipe": null}') == (
        numbers(1, 2),
        Part("4711", "L"),
        "7",
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[[1, 2]]",
        b'{"seq": 1, "values": []}',
        b'{"seq": 1, "values": [[1]]}',
        b'{"seq": 1, "values": [[1, 2], [3]]}',
        b'{"seq": 1, "values": [[1, true]]}',
        b'{"seq": 1, "values": [[1, "2"]]}',
        b'{"seq": 1, "values": [[1, 1e39]]}',
        b'{"seq": 1, "values": [[1, 1e999]]}',
        b'{"seq": 1, "values": "QUJD"}',
        b'{"seq": true, "values": [[1, 2]]}',
        b'{"seq": "", "values": [[1, 2]]}',
        b'{"values": [[1, 2]]}',
        b'{"seq": 1, "values": [[1, 2]], "part": ["a"]}',
        b'{"seq": 1, "values": [[1, 2]], "part": "\\u0007"}',
        b'{"seq": 1, "values": [[1, 2]]',
        b"\xff",
    ],
)
def test_the_rest_is_left_to_the_careful_one(payload: bytes) -> None:
    assert quick(key_field="seq").read(payload) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"values": "data.rows"},
        {"key_field": "a.b"},
        {"key_property": "seq"},
        {"key_field": "part"},
        {"values": "lot"},
        {"values": "same", "key_field": "same"},
        {"payload": "csv"},
        {"time_field": "t"},
    ],
)
def test_routes_that_say_more_have_no_quick_decoder(fields: dict[str, Any]) -> None:
    assert quick_readings(make_route(**fields), 2) is None


_number = st.one_of(st.integers(-(2**70), 2**70), st.floats(width=64), st.booleans(), st.text(max_size=2))
_values = st.one_of(_number, st.lists(_number, max_size=4), st.lists(st.lists(_number, max_size=3), max_size=3))
_payload = st.fixed_dictionaries(
    {"values": _values}, optional={"seq": st.one_of(_number, st.none()), "part": st.one_of(_number, st.none())}
)


@given(_payload, st.booleans())
def test_what_it_says_is_what_the_careful_one_says(content: dict[str, Any], keyed: bool) -> None:
    fields: dict[str, Any] = {"key_field": "seq"} if keyed else {}
    payload = msgspec.json.encode(content)
    found = quick(**fields).read(payload)
    if found is None:
        return
    message = InboundMessage(client="c", topic="in/a", payload=payload, qos=1, packet_id=1)
    try:
        careful = Reader(make_route(**fields), STEPS).read(message, "a", 0.0)
    except InputError as error:
        raise AssertionError(f"the careful one refuses {payload!r}: {error}") from error
    assert found == (careful.samples.tobytes(), careful.part, careful.key)
