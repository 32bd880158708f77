"""CBOR (RFC 8949) -> Python values; typed arrays (RFC 8746) become NumPy arrays."""

from __future__ import annotations

from typing import Any, NoReturn

import cbor2
import numpy as np

from appliance.errors import DecodeError, EmptyBody

# RFC 8746, section 2.1: float, signed, little-endian and length are bits of the tag. 68 is for clamped arithmetic only.
_TYPED_ARRAYS = {
    64: ">u1",
    65: ">u2",
    66: ">u4",
    67: ">u8",
    68: "<u1",
    69: "<u2",
    70: "<u4",
    71: "<u8",
    72: ">i1",
    73: ">i2",
    74: ">i4",
    75: ">i8",
    77: "<i2",
    78: "<i4",
    79: "<i8",
    80: ">f2",
    81: ">f4",
    82: ">f8",
    84: "<f2",
    85: "<f4",
    86: "<f8",
}
_ROW_MAJOR = 40
_SHAREABLE, _SHARED = 28, 29
_DEPTH_MAX = 32


def decode_cbor(body: bytes) -> object:
    """Raises EmptyBody or DecodeError."""
    if not body:
        raise EmptyBody("the body is empty; send CBOR")
    try:
        # A value that is shared could stand for itself a billion times.
        return cbor2.loads(
            body,
            tag_hook=_from_tag,
            semantic_decoders={_SHAREABLE: _refuse, _SHARED: _refuse},
            max_depth=_DEPTH_MAX,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"the body is not CBOR: {error}") from error


def _from_tag(tag: cbor2.CBORTag, _immutable: bool) -> Any:
    """Raises ValueError for an array that is none."""
    if tag.tag in _TYPED_ARRAYS and isinstance(tag.value, bytes):
        return np.frombuffer(tag.value, _TYPED_ARRAYS[tag.tag])
    if tag.tag == _ROW_MAJOR:
        # RFC 8746, section 3.1.1: [dimensions, elements].
        dimensions, elements = tag.value
        return np.asarray(elements).reshape([int(each) for each in dimensions])
    return tag


def _refuse(_decoder: object) -> NoReturn:
    raise ValueError("shared values are not taken; send each where it belongs")
