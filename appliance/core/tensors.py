"""What a model's inputs and outputs look like, how numbers become them, and the check that guards them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.errors import DecodeError, DTypeError, EmptyBody, ShapeError, ValueRangeError

DType = Literal["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]
Array = npt.NDArray[Any]

_NOT_FINITE = re.compile(rb"[\[,:\s]-?(NaN|Infinity)\b")


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


def to_array(values: Any, spec: TensorSpec) -> Array:
    """Nested lists of numbers, or an array of any type -> array in the element type of `spec`.

    No number becomes another one: whole numbers beyond the type and fractions for a type of whole numbers are refused.
    Floats are rounded to the type; one too large for it becomes infinity, which `check_tensor` refuses. Axes are not
    checked here. Raises ShapeError for rows that differ in length, DTypeError.
    """
    dtype = np.dtype(spec.dtype)
    array = _nested(values, None, spec)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "b") != (dtype.kind == "b"):
        raise DTypeError(f"input {spec.name!r} has values that are not {spec.dtype}")
    if dtype.kind in "iu" and array.size:
        if array.dtype.kind == "f" and not (array == np.trunc(array)).all():
            raise DTypeError(f"input {spec.name!r} has numbers that are not whole; its numbers are {spec.dtype}")
        limits = np.iinfo(dtype)
        # As Python's numbers, which compare exactly.
        if array.min().item() < limits.min or array.max().item() > limits.max:
            raise DTypeError(f"input {spec.name!r}: a number does not fit {spec.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def array_from_json(text: bytes | msgspec.Raw, spec: TensorSpec) -> Array:
    """Nested numbers, with as many levels as `spec` has axes. Sizes of axes are not checked here.

    Raises ShapeError for other levels, rows that differ in length or nothing at all; DTypeError for what is no number
    of the element type; DecodeError.
    """
    dtype = np.dtype(spec.dtype)
    try:
        values = _decoder(dtype.kind, len(spec.shape)).decode(text)
    except msgspec.ValidationError as error:
        kind = ShapeError if "`array`" in str(error) else DTypeError
        raise kind(f"input {spec.name!r}: {error}; send {spec.dtype} of shape {list(spec.shape)}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise json_error(error, bytes(text)) from error
    # All of one kind now: numpy need not find out which.
    array = to_array(_nested(values, np.dtype(np.int64) if dtype.kind in "iu" else dtype, spec), spec)
    if not array.size:
        raise ShapeError(f"input {spec.name!r} is empty; send shape {list(spec.shape)}")
    return array


def arrays_from_json(inputs: Mapping[str, msgspec.Raw], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Every tensor by its name. Raises ShapeError for other names, and what `array_from_json` raises."""
    if len(inputs) != len(specs) or any(spec.name not in inputs for spec in specs):
        raise other_names(inputs, specs)
    return {spec.name: array_from_json(inputs[spec.name], spec) for spec in specs}


def tensors_from_json(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """{"inputs": {name: nested numbers}}, and other fields that are not looked at -> every input by its name.

    Raises EmptyBody, and what `arrays_from_json` raises.
    """
    if not body:
        raise EmptyBody("the body is empty; send JSON")
    try:
        inputs = _INPUTS.decode(body).inputs
    except msgspec.ValidationError as error:
        raise DecodeError(f'expected a JSON object with "inputs": {{name: nested numbers}}: {error}') from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(error, body) from error
    return arrays_from_json(inputs, specs)


def other_names(inputs: Mapping[str, object], specs: Sequence[TensorSpec]) -> ShapeError:
    return ShapeError(f"the inputs are {sorted(inputs)[:16]}, the model expects {sorted(spec.name for spec in specs)}")


def json_error(error: Exception, body: bytes) -> DecodeError:
    """What a parser's complaint about `body` means."""
    if _NOT_FINITE.search(body):
        return DecodeError("the body contains NaN or Infinity, which is not JSON; send finite numbers only")
    return DecodeError(f"the body is not JSON: {error}")


class _Inputs(msgspec.Struct):
    inputs: dict[str, msgspec.Raw]


_INPUTS = msgspec.json.Decoder(_Inputs)


def _nested(values: Any, dtype: np.dtype[Any] | None, spec: TensorSpec) -> Array:
    try:
        with np.errstate(over="ignore"):
            array: Array = np.asarray(values, dtype)
    except OverflowError as error:
        raise DTypeError(f"input {spec.name!r}: a number does not fit {spec.dtype}") from error
    except ValueError as error:
        raise ShapeError(f"input {spec.name!r}: its rows differ in length; send shape {list(spec.shape)}") from error
    return array


@functools.lru_cache(maxsize=64)
def _decoder(kind: str, axes: int) -> msgspec.json.Decoder[Any]:
    nested: Any = {"b": bool, "i": int, "u": int}.get(kind, float)
    for _ in range(axes):
        nested = list[nested]
    return msgspec.json.Decoder(nested)
