"""Numbers in JSON -> arrays of the element types that a model asks for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.tensors import DType, TensorSpec
from appliance.errors import ApplianceError, DecodeError, DTypeError, ShapeError
from appliance.http.numbers import ROWS_MAX, array_from_json, run_on_loop


def read(content: object, dtype: DType = "float32", shape: tuple[int, ...] = (-1, 2)) -> Any:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return array_from_json(text, TensorSpec("x", dtype, shape))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64"])
def test_numbers_become_the_model_s_element_type(dtype: DType) -> None:
    array = read([[1, 2], [3, 4]], dtype)
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, [[1, 2], [3, 4]])


def test_large_integers_keep_their_last_digit() -> None:
    assert read([2**62 + 1], "int64", (-1,)).tolist() == [2**62 + 1]


def test_truth_values_are_read() -> None:
    assert read([True, False], "bool", (-1,)).tolist() == [True, False]


def test_number_too_large_for_a_float_is_left_to_the_check_of_tensors() -> None:
    assert read([[1e300, 0]]).tolist() == [[float("inf"), 0.0]]


@pytest.mark.parametrize(
    ("content", "dtype", "error"),
    [
        ([[256, 0]], "uint8", DTypeError),
        ([[-1, 0]], "uint8", DTypeError),
        ([[2**31, 0]], "int32", DTypeError),
        ([[2**63, 0]], "int64", DTypeError),
        ([[10**30, 0]], "int64", DTypeError),
        ([[1.5, 0]], "int32", DTypeError),
        ([["1", 0]], "float32", DTypeError),
        ([[None, 0]], "float32", DTypeError),
        ([[True, 0]], "float32", DTypeError),
        ([[1, 0]], "bool", DTypeError),
        ([1, 2], "float32", ShapeError),
        ([[[1, 2]]], "float32", ShapeError),
        ([[1, 2], [3]], "float32", ShapeError),
        ([[], []], "float32", ShapeError),
        ([], "float32", ShapeError),
        (5, "float32", ShapeError),
        ([[0, 0]] * (ROWS_MAX + 1), "float32", ShapeError),
        (b"", "float32", DecodeError),
        (b"[[1, 2]", "float32", DecodeError),
        (b"[[NaN, 2]]", "float32", DecodeError),
        (b"[[1, -Infinity]]", "float32", DecodeError),
    ],
)
def test_what_is_no_such_array_is_refused_by_name(content: object, dtype: DType, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(content, dtype)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(DTypeError, match=r"input 'x'.*`str`.*\[0\]\[1\].*float32 of shape \[-1, 2\]"):
        read([[1, "two"]])
    with pytest.raises(DecodeError, match="finite numbers only"):
        read(b"[[1, NaN]]")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@given(VALUES | st.binary(max_size=30), st.sampled_from(["uint8", "int64", "float32", "bool"]), st.integers(1, 4))
def test_anything_is_an_array_with_these_axes_or_refused(content: object, dtype: DType, axes: int) -> None:
    try:
        array = read(content, dtype, (-1,) * axes)
    except ApplianceError:
        return
    assert array.ndim == axes
    assert array.dtype == np.dtype(dtype)


def test_batches_do_not_run_on_the_loop() -> None:
    assert run_on_loop(None)
    assert run_on_loop({"x": np.zeros((1, 4096))})
    assert not run_on_loop({"x": np.zeros((4096, 1))})
