"""What a model's inputs and outputs look like, and the check that guards them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.errors import ShapeError, ValueRangeError

DType = Literal["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]
Array = npt.NDArray[Any]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, element type and shape of one tensor; -1 marks a free axis (the batch)."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor needs a name")
        if not self.shape or any(size == 0 or size < -1 for size in self.shape):
            raise ValueError(
                f"shape {list(self.shape)} of tensor {self.name!r}: axes are positive, or -1 for the batch"
            )


def check_tensor(spec: TensorSpec, tensor: Array) -> Array:
    """Return `tensor` in the element type of `spec`, contiguous.

    Raises ShapeError when the shape does not fit, ValueRangeError when a value is NaN or infinite.
    """
    fits = tensor.ndim == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"input {spec.name!r} has shape {list(tensor.shape)}, the model expects {list(spec.shape)} (-1: any size)"
        )
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise ValueRangeError(f"input {spec.name!r} contains NaN or infinity; send finite numbers only")
    return np.ascontiguousarray(tensor, dtype=spec.dtype)
