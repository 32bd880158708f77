"""Shapes and values of tensors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.tensors import DType, TensorSpec, array_from_json, check_tensor, tensors_from_json, to_array
from appliance.errors import (
    ApplianceError,
    DecodeError,
    DTypeError,
    EmptyBody,
    ShapeError,
    ValueRangeError,
)

SPEC = TensorSpec("image", "float32", (-1, 2, 3))


def test_tensor_that_fits_is_handed_on_in_the_spec_s_type() -> None:
    checked = check_tensor(SPEC, np.arange(12, dtype=np.float64).reshape(2, 2, 3))
    assert checked.dtype == np.float32
    assert checked.tolist() == np.arange(12).reshape(2, 2, 3).tolist()


def test_tensor_is_made_contiguous() -> None:
    assert check_tensor(SPEC, np.zeros((1, 3, 2), np.float32).transpose(0, 2, 1)).flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 2), (1, 3, 2), (1, 2, 3, 1), (2, 3), ()])
def test_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"'image' has shape .*expects \[-1, 2, 3\]"):
        check_tensor(SPEC, np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    tensor = np.zeros((1, 2, 3), np.float32)
    tensor[0, 1, 2] = value
    with pytest.raises(ValueRangeError, match="NaN or infinity"):
        check_tensor(SPEC, tensor)


def test_whole_numbers_need_no_finiteness() -> None:
    assert check_tensor(TensorSpec("n", "int32", (2,)), np.array([1, 2], np.int64)).dtype == np.int32


@pytest.mark.parametrize(("name", "shape"), [("", (1,)), ("x", ()), ("x", (0,)), ("x", (2, -2))])
def test_impossible_spec_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        TensorSpec(name, "float32", shape)


# -- numbers become arrays


def converted(values: Any, dtype: DType) -> Any:
    return to_array(values, TensorSpec("x", dtype, (-1, 2)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64"])
def test_numbers_and_arrays_become_the_spec_s_element_type(dtype: DType) -> None:
    for values in ([[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([[1, 2], [3, 4]])):
        array = converted(values, dtype)
        assert array.dtype == np.dtype(dtype)
        assert array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[300, 0]], "uint8"),
        ([[-1, 0]], "uint8"),
        ([[2**31, 0]], "int32"),
        ([[2**63, 0]], "int64"),
        ([[-(2**63) - 1, 0]], "int64"),
        ([[10**30, 0]], "int64"),
        (np.array([[2.0**63, 0.0]]), "int64"),
        (np.array([[np.nan, 0.0]]), "int32"),
        ([[1.9, 0]], "int64"),
        ([["1", 0]], "float32"),
        ([[None, 0]], "float32"),
        ([[True, False]], "float32"),
        ([[1, 0]], "bool"),
        ([[{}, 0]], "float32"),
    ],
)
def test_no_number_becomes_another_one(values: object, dtype: DType) -> None:
    with pytest.raises(DTypeError, match="'x'"):
        converted(values, dtype)


def test_numbers_keep_their_last_digit() -> None:
    assert converted([[2**62 + 1, -(2**63)]], "int64").tolist() == [[2**62 + 1, -(2**63)]]
    assert converted([[True, False]], "bool").tolist() == [[True, False]]


def test_number_beyond_its_float_is_left_to_the_check() -> None:
    spec = TensorSpec("x", "float32", (-1, 2))
    for array in (to_array([[1e300, 0.0]], spec), array_from_json(b"[[1e300, 0]]", spec)):
        with pytest.raises(ValueRangeError):
            check_tensor(spec, array)


def test_rows_that_differ_in_length_are_no_array() -> None:
    with pytest.raises(ShapeError, match="differ in length"):
        converted([[1, 2], [3]], "float32")


SPECS = (TensorSpec("a", "uint8", (-1, 2)), TensorSpec("b", "float32", (-1,)))


def test_inputs_are_read_by_name_beside_other_fields() -> None:
    read = tensors_from_json(b'{"part": "P", "inputs": {"b": [0.5], "a": [[1, 255]]}}', SPECS)
    assert {name: (array.dtype.name, array.tolist()) for name, array in read.items()} == {
        "a": ("uint8", [[1, 255]]),
        "b": ("float32", [0.5]),
    }


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"a": [[1, 2]]}, ShapeError),
        ({"a": [[1, 2]], "b": [1], "c": [1]}, ShapeError),
        ({"a": [[1, 2]], "c": [1]}, ShapeError),
        ({"a": [1, 2], "b": [1]}, ShapeError),
        ({"a": [[1, 2], [3]], "b": [1]}, ShapeError),
        ({"a": [], "b": [1]}, ShapeError),
        ({"a": [[1, 300]], "b": [1]}, DTypeError),
        ({"a": [[1, 1.9]], "b": [1]}, DTypeError),
        ({"a": [[1, "2"]], "b": [1]}, DTypeError),
        ({"a": [[1, 2]], "b": [True]}, DTypeError),
        ([1, 2], DecodeError),
        (None, DecodeError),
    ],
)
def test_inputs_that_are_not_the_model_s_are_refused(inputs: object, error: type[ApplianceError]) -> None:
    with pytest.raises(error):
        tensors_from_json(json.dumps({"inputs": inputs}).encode(), SPECS)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", EmptyBody),
        (b"{}", DecodeError),
        (b"[]", DecodeError),
        (b"\xff", DecodeError),
        (b'{"inputs": {"a": [[1, 2]', DecodeError),
        (b"[" * 100_000, DecodeError),
    ],
)
def test_body_that_holds_no_inputs_is_refused(body: bytes, error: type[ApplianceError]) -> None:
    with pytest.raises(error):
        tensors_from_json(body, SPECS)


def test_nan_is_said_to_be_no_json() -> None:
    with pytest.raises(DecodeError, match="finite numbers only"):
        tensors_from_json(b'{"inputs": {"a": [[1, 2]], "b": [NaN]}}', SPECS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@given(VALUES, st.sampled_from(["uint8", "int64", "float32", "bool"]))
def test_anything_is_an_array_of_this_type_or_refused(values: object, dtype: DType) -> None:
    try:
        array = to_array(values, TensorSpec("x", dtype, (-1,)))
    except ApplianceError:
        return
    assert array.dtype == np.dtype(dtype)
