"""The wire form of the Open Inference Protocol: what goes out comes back, and whatever comes in is answered."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from appliance.core import oip
from appliance.core.tensors import Array
from appliance.errors import (
    CompressionError,
    DecodeError,
    DTypeError,
    InputError,
    ShapeError,
    ValueRangeError,
)
from appliance.http.oip import decompress

DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
FAST, PLAIN = 0, 1 << 40
"""Bytes of JSON from where simdjson reads it: always, never."""

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
finite = {"allow_nan": False, "allow_infinity": False}
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, shapes, elements=finite if dtype.startswith("float") else None)
)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
wild_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | bodies,
        "datatype": st.sampled_from([*oip._DTYPES, "BYTES", "BF16", "FP128", ""]) | bodies,
        "shape": st.lists(st.integers(-1, 4) | st.just(1 << 60), max_size=4) | bodies,
        "data": st.lists(st.integers(-300, 300) | st.floats() | st.booleans() | st.text(max_size=3)) | bodies,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-2, 40)}) | bodies,
    },
)
wild_requests = st.fixed_dictionaries(
    {"inputs": st.lists(wild_tensors, max_size=3) | bodies},
    optional={"id": bodies, "outputs": st.lists(bodies, max_size=2) | bodies, "parameters": bodies},
)


@st.composite
def nested_data(draw: st.DrawFn) -> tuple[list[int], list[Any]]:
    """A shape, and whole numbers nested in it; perhaps with a number or a row moved, doubled or wrapped."""
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    numbers = iter(range(100))

    def build(sizes: list[int]) -> Any:
        return [build(sizes[1:]) for _ in range(sizes[0])] if sizes else next(numbers)

    data: list[Any] = build(shape)
    for _ in range(draw(st.integers(0, 2))):
        lists = all_lists(data)
        row = draw(st.sampled_from(lists))
        at = draw(st.integers(0, len(row)))
        match draw(st.sampled_from(["take", "move", "empty", "wrap", "spread"])):
            case "take":
                del row[at : at + 1]
            case "move":
                moved = row[at : at + 1]
                del row[at : at + 1]
                # Not into itself.
                draw(st.sampled_from(all_lists(data))).extend(moved)
            case "empty":
                row.insert(at, [])
            case "wrap":
                row[at : at + 1] = [row[at : at + 1]]
            case "spread":
                row[at : at + 1] = row[at] if at < len(row) and isinstance(row[at], list) else []
    return shape, data


def all_lists(data: list[Any]) -> list[list[Any]]:
    return [data, *(inner for each in data if isinstance(each, list) for inner in all_lists(each))]


def is_nested(data: Any, shape: list[int]) -> bool:
    if not shape:
        return not isinstance(data, list)
    return isinstance(data, list) and len(data) == shape[0] and all(is_nested(each, shape[1:]) for each in data)


def mapped(change: Any, data: Any) -> Any:
    return [mapped(change, each) for each in data] if isinstance(data, list) else change(data)


@contextmanager
def reading(simd_from: int) -> Iterator[None]:
    """Which parser reads JSON."""
    before, oip._SIMD_FROM = oip._SIMD_FROM, simd_from
    try:
        yield
    finally:
        oip._SIMD_FROM = before


def request(datatype: str = "FP32", shape: Any = (1, 2), data: Any = (1, 2), **more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more}).encode()


def parsed(body: bytes, simd_from: int, json_bytes: int | None = None) -> Array:
    with reading(simd_from):
        (tensor,) = oip.parse_request(body, json_bytes).inputs
    return tensor.array


def outcome(body: bytes, simd_from: int, json_bytes: int | None = None) -> Any:
    """The tensors as plain values, or that it was refused, which is all that may go wrong."""
    with reading(simd_from):
        try:
            asked = oip.parse_request(body, json_bytes)
        except InputError:
            return "refused"
    tensors = [(each.name, each.datatype, each.array.dtype.name, each.array.tolist()) for each in asked.inputs]
    return tensors, asked.outputs, asked.binary, asked.id, asked.parameters


@given(arrays, st.booleans(), st.sampled_from([FAST, PLAIN]))
def test_tensor_goes_out_and_comes_back(array: Array, binary: bool, simd_from: int) -> None:
    if array.dtype == np.float16 and not binary:
        with pytest.raises(DTypeError, match="JSON cannot hold"):
            oip.encode_request({"x": array}, ["y"], binary=False)
        return
    body, json_bytes = oip.encode_request({"x": array}, ["y"], binary=binary)
    found = parsed(body, simd_from, json_bytes)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@given(st.lists(arrays, min_size=1, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4))
def test_outputs_go_out_and_come_back(outputs: list[Array], binary: list[bool]) -> None:
    sent = [
        (str(index), array, flag or array.dtype == np.float16)
        for index, (array, flag) in enumerate(zip(outputs, binary, strict=False))
    ]
    body, json_bytes = oip.encode_response("m", "1", sent, id="7", parameters={"verdict": "ok"})
    assert (json_bytes is None) == (not any(flag for _, _, flag in sent))
    head = json.loads(body[:json_bytes])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "1", "7")
    for (name, array, _), tensor in zip(sent, oip.parse_response(body, json_bytes), strict=True):
        assert (tensor.name, tensor.array.dtype) == (name, array.dtype)
        assert np.array_equal(tensor.array, array)


@given(hnp.arrays(object, shapes, elements=st.binary(max_size=8)))
def test_bytes_go_out_and_come_back(array: Array) -> None:
    body, json_bytes = oip.encode_response("m", "1", [("x", array, True)])
    (tensor,) = oip.parse_response(body, json_bytes)
    assert tensor.datatype == "BYTES"
    assert tensor.array.tolist() == array.tolist()


@settings(max_examples=300)
@given(wild_requests, st.binary(max_size=40))
def test_both_parsers_say_the_same_of_any_request(content: dict[str, Any], tail: bytes) -> None:
    head = json.dumps(content).encode()
    assert outcome(head + tail, FAST, len(head)) == outcome(head + tail, PLAIN, len(head))
    assert outcome(head, FAST) == outcome(head, PLAIN)


@settings(max_examples=300)
@given(nested_data(), st.sampled_from(["FP32", "INT32", "BOOL", "BYTES"]))
def test_nested_data_is_taken_if_it_has_its_shape_and_by_both_parsers(found: tuple[Any, Any], datatype: str) -> None:
    shape, data = found
    value: Any = {"FP32": float, "INT32": int, "BOOL": lambda each: each % 2 == 1, "BYTES": str}[datatype]
    data = mapped(value, data)
    body = request(datatype, shape, data)
    fast = outcome(body, FAST)
    assert fast == outcome(body, PLAIN)
    if is_nested(data, shape):
        _, _, _, values = fast[0][0]
        assert values == (mapped(str.encode, data) if datatype == "BYTES" else data)
    elif any(isinstance(each, list) for each in data):
        assert fast == "refused"


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((4, 2), [[1, 2], [3], [4, 5, 6], [7, 8]]),
        ((4, 2), [[1, 2], [3, 4], [5, 6], 7, 8]),
        ((4,), [1, [2, 3], 4]),
        ((3,), [1, [], [2, 3]]),
        ((2, 2), [[1, []], [[2, 3], 4]]),
        ((1, 2, 2), [[1, 2], [3, 4]]),
    ],
)
def test_ragged_data_of_any_size_is_refused(shape: tuple[int, ...], data: Any) -> None:
    for size in (0, 5000):
        # As text of the same input, so that the body is small or large.
        body = request("FP32", shape, data, id="x" * size)
        with pytest.raises((ShapeError, DTypeError), match="'x'"):
            oip.parse_request(body)


@given(st.binary(max_size=200), st.none() | st.integers(0, 300), st.sampled_from([FAST, PLAIN]))
def test_any_bytes_are_answered(body: bytes, json_bytes: int | None, simd_from: int) -> None:
    if json_bytes is not None:
        json_bytes = min(json_bytes, len(body))
    outcome(body, simd_from, json_bytes)


@given(st.binary(max_size=40), st.data())
def test_request_with_bytes_changed_is_answered(noise: bytes, data: st.DataObject) -> None:
    body = bytearray(request(id="1", outputs=[{"name": "y", "parameters": {"binary_data": True}}]))
    at = data.draw(st.integers(0, len(body)))
    body[at : at + len(noise)] = noise
    outcome(bytes(body), FAST)
    outcome(bytes(body), PLAIN)


@given(arrays, st.integers(1, 20))
def test_missing_and_surplus_bytes_are_refused(array: Array, count: int) -> None:
    body, json_bytes = oip.encode_request({"x": array}, [], binary=True)
    assert json_bytes is not None
    for wrong in (body + bytes(count), body[: max(json_bytes, len(body) - count)]):
        with pytest.raises(ShapeError):
            oip.parse_request(wrong, json_bytes)


@pytest.mark.parametrize("simd_from", [FAST, PLAIN])
class TestJson:
    def test_flat_and_nested_data_are_the_same(self, simd_from: int) -> None:
        array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        for data in (array.ravel().tolist(), array.tolist()):
            assert np.array_equal(parsed(request("FP32", array.shape, data), simd_from), array)

    @pytest.mark.parametrize(
        ("shape", "data"),
        [((2, 3), [[1, 2], [3, 4], [5, 6]]), ((3,), [[1], [2, 3]]), ((2, 2), [[[1], [2]], [[3], [4]]]), ((1,), [[]])],
    )
    def test_other_nesting_is_refused(self, simd_from: int, shape: tuple[int, ...], data: Any) -> None:
        with pytest.raises((ShapeError, DTypeError)):
            parsed(request("FP32", shape, data), simd_from)

    @pytest.mark.parametrize(
        ("datatype", "value"),
        [
            *[("FP32", True), ("FP32", "1"), ("FP32", None), ("FP64", {}), ("INT32", 1.5), ("INT32", 1 << 31)],
            *[("UINT8", -1), ("UINT8", 256), ("INT64", 1 << 63), ("UINT64", -1), ("BOOL", 1), ("BYTES", 1)],
            *[("FP16", 1), ("BF16", 1), ("FP128", 1), ("fp32", 1), ("", 1)],
        ],
    )
    def test_value_of_another_type_is_refused_with_the_name_of_its_input(
        self, simd_from: int, datatype: str, value: Any
    ) -> None:
        with pytest.raises(DTypeError, match="'x'"):
            parsed(request(datatype, (1,), [value]), simd_from)

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_json_does_not_have_are_called_so(self, simd_from: int, value: str) -> None:
        with pytest.raises(ValueRangeError, match="NaN and infinity"):
            parsed(request().replace(b"[1, 2]}", b"[1, %s]}" % value.encode()), simd_from)

    def test_number_above_float32_becomes_infinite_for_the_check_that_follows(self, simd_from: int) -> None:
        assert parsed(request("FP32", (1,), [1e39]), simd_from).tolist() == [np.inf]

    @pytest.mark.parametrize("shape", [(-1,), (0,), (1, -1), (1 << 60, 1 << 60), (3,), (), (10**30,), (1, 2, 2)])
    def test_shape_that_does_not_fit_is_refused(self, simd_from: int, shape: tuple[int, ...]) -> None:
        with pytest.raises(ShapeError):
            parsed(request("FP32", shape, [1, 2]), simd_from)

    @pytest.mark.parametrize("shape", [None, 1, "1", [1.5], ["1"], [[1]], [True], [1] * 33])
    def test_what_is_no_shape_is_refused(self, simd_from: int, shape: Any) -> None:
        with pytest.raises(DecodeError):
            parsed(request("FP32", shape, [1]), simd_from)

    @pytest.mark.parametrize("levels", [40, 1000, 100_000])
    def test_deep_nesting_is_refused(self, simd_from: int, levels: int) -> None:
        deep = b"[" * levels + b"]" * levels
        for body in (deep, b'{"inputs": ' + deep + b"}", request().replace(b"[1, 2]}", deep + b"}")):
            assert outcome(body, simd_from) == "refused"

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"inputs": []}', b'{"inputs": [1]}', b"\xff", b"{}{}"]
    )
    def test_what_is_no_request_is_refused(self, simd_from: int, body: bytes) -> None:
        with reading(simd_from), pytest.raises(DecodeError):
            oip.parse_request(body)

    def test_large_whole_numbers_are_exact(self, simd_from: int) -> None:
        for datatype, value in (("INT64", -(1 << 63)), ("INT64", (1 << 53) + 1), ("UINT64", (1 << 64) - 1)):
            assert parsed(request(datatype, (1,), [value]), simd_from).tolist() == [value]

    def test_float_written_as_a_huge_whole_number_is_taken(self, simd_from: int) -> None:
        assert parsed(request("FP64", (1,), [10**25]), simd_from).tolist() == [1e25]

    def test_text_is_utf8(self, simd_from: int) -> None:
        assert parsed(request("BYTES", (2,), ["a", "ü"]), simd_from).tolist() == [b"a", "ü".encode()]

    def test_what_is_asked_of_outputs_is_read(self, simd_from: int) -> None:
        outputs = [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False, "classification": 3}}]
        body = request(outputs=outputs, parameters={"binary_data_output": True, "part": "P-1"}, id="abc")
        with reading(simd_from):
            asked = oip.parse_request(body)
        assert asked.outputs == (oip.AskedOutput("a", True, 0), oip.AskedOutput("b", False, 3))
        assert (asked.id, asked.binary, asked.parameters["part"]) == ("abc", True, "P-1")

    @pytest.mark.parametrize(
        "more",
        [
            {"id": 7},
            {"outputs": [{}]},
            {"outputs": [{"name": "a", "parameters": {"classification": -1}}]},
            {"outputs": [{"name": "a", "parameters": {"binary_data": "yes"}}]},
            {"parameters": {"binary_data_output": 1}},
            {"parameters": {"a": [1]}},
        ],
    )
    def test_wrong_options_are_refused(self, simd_from: int, more: dict[str, Any]) -> None:
        with reading(simd_from), pytest.raises(DecodeError):
            oip.parse_request(request(**more))


def test_missing_simdjson_changes_nothing_but_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oip, "simdjson", None)
    array = np.linspace(0, 1, 5000, dtype=np.float32)
    body, _ = oip.encode_request({"x": array}, [], binary=False)
    assert np.array_equal(oip.parse_request(body).inputs[0].array, array)


def test_binary_tensor_shares_the_memory_of_the_body() -> None:
    body, json_bytes = oip.encode_request({"x": np.ones((2, 3), np.float32)}, [], binary=True)
    (tensor,) = oip.parse_request(body, json_bytes).inputs
    assert np.shares_memory(tensor.array, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("spaces", range(8))
def test_binary_tensor_may_begin_anywhere(spaces: int) -> None:
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}
    )
    body = (head + " " * spaces).encode() + np.array([1, 2], "<f4").tobytes()
    (tensor,) = oip.parse_request(body, len(head) + spaces).inputs
    assert tensor.array.tolist() == [1, 2]
    assert tensor.array.flags.aligned


def test_bf16_is_widened_to_float32() -> None:
    values = np.array([1.0, -2.5, 0.15625, 3e38], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BF16", "shape": [4], "parameters": {"binary_data_size": 8}}]}
    ).encode()
    (tensor,) = oip.parse_request(head + halves.tobytes(), len(head)).inputs
    assert tensor.array.dtype == np.float32
    assert tensor.array.tolist() == (halves.astype(np.uint32) << 16).view(np.float32).tolist()
    assert np.allclose(tensor.array, values, rtol=1 / 128)


def test_booleans_are_any_byte_but_zero() -> None:
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BOOL", "shape": [3], "parameters": {"binary_data_size": 3}}]}
    ).encode()
    (tensor,) = oip.parse_request(head + b"\x00\x01\x02", len(head)).inputs
    assert tensor.array.tolist() == [False, True, True]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01\x00\x00\x00", b"\xff\xff\xff\xffab", b"\x01\x00\x00\x00a", b"\x00\x00\x00\x00" * 3, b"\x02\x00\x00"],
)
def test_bytes_elements_that_lie_about_their_length_are_refused(data: bytes) -> None:
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(data)}}]}
    ).encode()
    with pytest.raises(ShapeError, match="'x'"):
        oip.parse_request(head + data, len(head))


@pytest.mark.parametrize("size", [-1, 9, 1 << 62, True, "8", 8.0])
def test_binary_size_that_lies_is_refused(size: Any) -> None:
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}]}
    ).encode()
    with pytest.raises(ShapeError, match="binary_data_size"):
        oip.parse_request(head + bytes(8), len(head))


def test_data_and_binary_size_together_are_refused() -> None:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1], "data": [1], "parameters": {"binary_data_size": 1}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(DecodeError, match="both"):
        oip.parse_request(head + b"\x01", len(head))


@pytest.mark.parametrize("header", ["-1", "11", "1e1", "0x5", "٣", " 5", "9" * 30, "5,5"])
def test_header_that_lies_about_the_json_is_refused(header: str) -> None:
    with pytest.raises(DecodeError, match="Inference-Header-Content-Length"):
        oip.header_length(header, 10)


def test_header_of_the_json() -> None:
    assert (oip.header_length("", 10), oip.header_length("0", 10), oip.header_length("10", 10)) == (None, 0, 10)


def test_raw_body_is_the_one_input() -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    assert np.array_equal(oip.parse_raw(array.tobytes(), "x", "FP32", (-1, 2, 3)).array, array)


@pytest.mark.parametrize(("count", "shape"), [(0, (-1, 3)), (5, (-1, 3)), (3, (2, 3)), (12, (2, 3)), (6, (-1, -1))])
def test_raw_body_of_another_size_is_refused(count: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="'x'"):
        oip.parse_raw(bytes(4 * count), "x", "FP32", shape)


def test_output_without_elements_is_written_and_read() -> None:
    empty = np.empty((0, 4), np.float32)
    body, json_bytes = oip.encode_response("m", "1", [("boxes", empty, True), ("scores", empty, False)])
    head = json.loads(body[:json_bytes])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert head["outputs"][1]["data"] == []
    assert [each.array.shape for each in oip.parse_response(body, json_bytes)] == [(0, 4), (0, 4)]


def test_bytes_that_are_no_text_have_no_json() -> None:
    array = np.empty(1, object)
    array[0] = b"\xff"
    with pytest.raises(DTypeError, match="not text"):
        oip.encode_response("m", "1", [("x", array, False)])


@given(
    hnp.arrays(
        st.sampled_from(["float32", "float16", "int64", "uint8"]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=5),
        elements=st.integers(0, 9),
    ),
    st.integers(1, 6),
    st.lists(st.text(max_size=3), max_size=6),
)
def test_classes_of_many_rows_are_those_of_each_row(scores: Array, count: int, labels: list[str]) -> None:
    texts = oip.classify(scores, count, labels)
    for row, found in zip(scores.reshape(len(scores), -1), texts, strict=True):
        best = sorted(range(len(row)), key=lambda index: -float(row[index]))[:count]
        named = [f"{index}:{labels[index]}" if index < len(labels) else f"{index}" for index in best]
        assert list(found) == [f"{row[i]:f}:{name}".encode() for i, name in zip(best, named, strict=True)]


def test_more_elements_than_pictures_may_come_are_refused_before_they_are_read() -> None:
    count = oip.ELEMENTS_MAX + 1
    size = {"binary_data_size": 0}
    head = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [count], "parameters": size}]}).encode()
    with pytest.raises(ShapeError, match="at most 256"):
        oip.parse_request(head, len(head))
    with pytest.raises(ShapeError, match="at most 256"):
        oip.parse_request(request("BYTES", [count], [""] * count))
    body, json_bytes = oip.encode_response("m", "1", [("x", np.full(count, b"a", object), True)])
    assert oip.parse_response(body, json_bytes)[0].array.shape == (count,)


def test_classes_are_named_best_first_and_ties_by_their_place() -> None:
    scores = np.array([[0.5, 0.25, 0.25], [0, 1, 0]], np.float32)
    assert oip.classify(scores, 2, ("a", "b", "c")).tolist() == [
        [b"0.500000:0:a", b"0.250000:1:b"],
        [b"1.000000:1:b", b"0.000000:0:a"],
    ]
    assert oip.classify(scores[:1], 9, ()).tolist() == [[b"0.500000:0", b"0.250000:1", b"0.250000:2"]]


@given(st.binary(max_size=500))
def test_compressed_body_comes_back(content: bytes) -> None:
    bare = zlib.compressobj(wbits=-15)
    assert decompress(gzip.compress(content), "gzip", 500) == content
    assert decompress(zlib.compress(content), "deflate", 500) == content
    assert decompress(bare.compress(content) + bare.flush(), "deflate", 500) == content


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_decompressed_or_refused(body: bytes, coding: str) -> None:
    with suppress(CompressionError):
        assert len(decompress(body, coding, 1000)) <= 1000


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(bytes(10_000_000)), "gzip"),
        (zlib.compress(bytes(10_000_000)), "deflate"),
        (gzip.compress(b"x" * 100)[:-9], "gzip"),
        (gzip.compress(b"x") + gzip.compress(b"y"), "gzip"),
        (gzip.compress(b"x"), "deflate"),
        (b"", "gzip"),
        (b"x", "br"),
        (b"x", "gzip, gzip"),
    ],
    ids=["bomb", "bomb-zlib", "cut", "two", "other", "empty", "unknown", "twice"],
)
def test_bombs_and_damaged_bodies_are_refused(body: bytes, coding: str) -> None:
    with pytest.raises(CompressionError):
        decompress(body, coding, 1 << 20)
