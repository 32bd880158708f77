"""The little that must be known of an ONNX file before a runtime sees it (onnx.proto: ModelProto).

A file that was cut off can still be a valid, smaller protocol buffer for a forgiving reader, and an operator set that
a runtime does not know may be taken for an older one, with other numbers as the result: both are refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from appliance.errors import ImportRefused

OPSET_MIN, OPSET_MAX = 7, 25
"""Before 7 operators broadcast by other rules; beyond the last nobody has compared the numbers yet."""

_OPSET_ADVISED = 17
_GRAPH, _OPSETS, _IR_VERSION = 7, 8, 1
_INITIALISERS, _DATA_LOCATION, _EXTERNAL = 5, 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Malformed(ValueError):
    pass


def looks_like(content: bytes) -> bool:
    """Whether the whole content is a ModelProto: its fields fill it exactly, and a version and a graph are there."""
    try:
        fields = {number for number, _ in _fields(memoryview(content))}
    except _Malformed:
        return False
    return {_IR_VERSION, _GRAPH} <= fields and max(fields) <= 100


def check(path: Path, content: bytes) -> None:
    """Raises ImportRefused for operator sets out of range and for weights in files of their own."""
    try:
        for number, value in _fields(memoryview(content)):
            if number == _OPSETS and isinstance(value, memoryview):
                _check_opset(path, value)
            if number == _GRAPH and isinstance(value, memoryview):
                _check_graph(path, value)
    except _Malformed as error:
        raise ImportRefused(f"{path} is damaged or cut off ({error}); copy or export it again") from error


def _check_opset(path: Path, value: memoryview) -> None:
    fields = dict(_fields(value))
    domain, version = fields.get(1, b""), fields.get(2, 1)
    standard = bytes(domain) in (b"", b"ai.onnx") if not isinstance(domain, int) else False
    if standard and isinstance(version, int) and not OPSET_MIN <= version <= OPSET_MAX:
        raise ImportRefused(
            f"{path} uses operator set {version}, this appliance knows {OPSET_MIN} to {OPSET_MAX}; export it again "
            f"with opset_version={_OPSET_ADVISED}"
        )


def _check_graph(path: Path, graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == _INITIALISERS and isinstance(value, memoryview):
            for inside, setting in _fields(value):
                if inside == _DATA_LOCATION and setting == _EXTERNAL:
                    raise ImportRefused(
                        f"{path} keeps its weights in another file; save it as one: "
                        'onnx.save(onnx.load("in.onnx"), "out.onnx", save_as_external_data=False)'
                    )


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message (protocol buffers' encoding). Raises _Malformed unless they fill it."""
    at, end = 0, len(view)
    while at < end:
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _Malformed(f"field 0 at byte {at}")
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {kind} at byte {at}")
        if at + length > end:
            raise _Malformed(f"{at + length - end} bytes are missing")
        yield number, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise _Malformed("it ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed("a number is too long")
