"""How many rows of numbers a call may bring."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from appliance.core.manifest import ModelManifest
from appliance.core.tensors import TensorSpec
from appliance.errors import ShapeError
from appliance.http.numbers import check_rows
from appliance.served import ROWS_MAX


def takes(*shape: int) -> ModelManifest:
    return cast(ModelManifest, SimpleNamespace(inputs=(TensorSpec("x", "float32", shape),)))


def test_rows_are_counted_along_the_batch() -> None:
    most = {"x": np.zeros((ROWS_MAX, 2), np.float32)}
    assert check_rows(most, takes(-1, 2)) is most
    with pytest.raises(ShapeError, match=f"'x' has {ROWS_MAX + 1} rows; send at most {ROWS_MAX}"):
        check_rows({"x": np.zeros((ROWS_MAX + 1, 2), np.float32)}, takes(-1, 2))


def test_numbers_of_one_row_are_no_rows() -> None:
    for shape in ((-1, ROWS_MAX + 1), (ROWS_MAX + 1,)):
        check_rows({"x": np.zeros([1 if size == -1 else size for size in shape], np.float32)}, takes(*shape))
