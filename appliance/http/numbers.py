"""Numbers in JSON -> arrays of the element types that a model asks for."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from appliance.core.manifest import ModelManifest
from appliance.core.tensors import Array, TensorSpec
from appliance.errors import DecodeError, DTypeError, ShapeError

PARSED_ON_LOOP_MAX = 64 << 10
"""Bytes of JSON; more would hold up every other caller, so a thread takes it."""

ROWS_MAX = 4096
"""In one call; every row becomes a result."""

_ROWS_ON_LOOP_MAX = 16

_NOT_FINITE = re.compile(rb"[\[,:\s]-?(NaN|Infinity)\b")


def array_from_json(text: bytes | msgspec.Raw, spec: TensorSpec) -> Array:
    """Nested numbers, with as many levels as `spec` has axes. Sizes of axes are not checked here.

    Raises ShapeError for other levels, rows that differ in length or nothing at all; DTypeError for what is no number
    of the element type; DecodeError.
    """
    try:
        values = _decoder(np.dtype(spec.dtype).kind, len(spec.shape)).decode(text)
    except msgspec.ValidationError as error:
        kind = ShapeError if "`array`" in str(error) else DTypeError
        raise kind(f"input {spec.name!r}: {error}; send {spec.dtype} of shape {list(spec.shape)}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise json_error(error, bytes(text)) from error
    return to_array(values, spec)


def to_array(values: Any, spec: TensorSpec) -> Array:
    """Nested lists of Python numbers -> array. Raises ShapeError, DTypeError."""
    dtype = np.dtype(spec.dtype)
    try:
        if dtype.kind in "iu":
            array: Array = np.asarray(values, np.int64)
            limits = np.iinfo(dtype)
            if array.size and (array.min() < limits.min or array.max() > limits.max):
                raise OverflowError(f"a number does not fit {spec.dtype}")
            array = array.astype(dtype, copy=False)
        else:
            # Too large for the type becomes infinity here, and is refused where tensors are checked.
            with np.errstate(over="ignore"):
                array = np.asarray(values, dtype)
    except OverflowError as error:
        raise DTypeError(f"input {spec.name!r}: {error}; its numbers are {spec.dtype}") from error
    except ValueError as error:
        raise ShapeError(f"input {spec.name!r}: its rows differ in length; send shape {list(spec.shape)}") from error
    if not array.size:
        raise ShapeError(f"input {spec.name!r} is empty; send shape {list(spec.shape)}")
    if spec.shape[0] == -1 and len(array) > ROWS_MAX:
        raise ShapeError(f"input {spec.name!r} has {len(array)} rows; send at most {ROWS_MAX} in a call")
    return array


def run_on_loop(tensors: Mapping[str, Array] | None) -> bool:
    """Whether an input is small enough for the HTTP loop, if its model is: a batch would hold up every other caller."""
    return tensors is None or all(len(array) <= _ROWS_ON_LOOP_MAX for array in tensors.values())


def arrays_from_json(inputs: Mapping[str, msgspec.Raw], manifest: ModelManifest) -> dict[str, Array]:
    """Every input of the model by its name. Raises ShapeError for other names, and what `array_from_json` raises."""
    if len(inputs) != len(manifest.inputs) or any(spec.name not in inputs for spec in manifest.inputs):
        raise other_names(inputs, manifest)
    return {spec.name: array_from_json(inputs[spec.name], spec) for spec in manifest.inputs}


def other_names(inputs: Mapping[str, object], manifest: ModelManifest) -> ShapeError:
    names = sorted(spec.name for spec in manifest.inputs)
    return ShapeError(f"the inputs are {sorted(inputs)[:16]}, model {manifest.name} expects {names}")


def json_error(error: Exception, body: bytes) -> DecodeError:
    """What a parser's complaint about `body` means."""
    if _NOT_FINITE.search(body):
        return DecodeError("the body contains NaN or Infinity, which is not JSON; send finite numbers only")
    return DecodeError(f"the body is not JSON: {error}")


@functools.lru_cache(maxsize=64)
def _decoder(kind: str, axes: int) -> msgspec.json.Decoder[Any]:
    nested: Any = {"b": bool, "i": int, "u": int}.get(kind, float)
    for _ in range(axes):
        nested = list[nested]
    return msgspec.json.Decoder(nested)
