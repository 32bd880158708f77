"""Shapes and values of tensors."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.core.tensors import TensorSpec, check_tensor
from appliance.errors import ShapeError, ValueRangeError

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
