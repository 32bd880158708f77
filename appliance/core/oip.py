"""The wire form of the Open Inference Protocol v2 over HTTP: requests and answers, as JSON and with binary tensors.

A body is JSON; with the binary extension the tensors follow it, in order, little-endian, and the header
`Inference-Header-Content-Length` says how long the JSON is. A BYTES tensor is made of elements: a length (u32), then
as many bytes. In JSON a tensor is flat or nested in its shape; FP16 and BF16 have no JSON form.

Sources: the protocol's HTTP page, Triton's extensions `binary_data`, `classification`, `schedule_policy`.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import orjson

from appliance.core.tensors import Array
from appliance.errors import ApplianceError, DecodeError, DTypeError, ShapeError, ValueRangeError

try:
    import simdjson
except ImportError:  # there is no wheel for every Python; the same answers, at a third of the speed
    simdjson = None  # type: ignore[assignment]

HEADER_LENGTH = "inference-header-content-length"
ELEMENTS_MAX = 256
"""Of a BYTES tensor in a request: each is an encoded picture."""

_DTYPES: dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_BY_DTYPE = {np.dtype(dtype): datatype for dtype, datatype in _DATATYPES.items()}
_WITHOUT_JSON = ("FP16", "BF16")
_AXES_MAX = 32

_SIMD_FROM = 2048
"""Bytes of JSON from where the set-up of simdjson pays."""

_NOT_FINITE = re.compile(rb"\b(?:NaN|Infinity|nan|inf)\b")
_LENGTH = struct.Struct("<I")

_SIMD_TYPES: dict[str, Literal["d", "i", "u"]] = {"f": "d", "i": "i", "u": "u"}

Parameters = dict[str, bool | int | float | str]
T = TypeVar("T")


class Tensor(msgspec.Struct, frozen=True, eq=False):
    """A tensor as it came. array: in its shape; BYTES as an array of `bytes` objects, BF16 as float32.

    An array of binary data shares the body's memory where the body's layout allows, and cannot be written to.
    """

    name: str
    datatype: str
    array: Array


class AskedOutput(msgspec.Struct, frozen=True):
    """An output that the caller names. classification: how many of the best classes to answer instead, 0: none."""

    name: str
    binary: bool
    classification: int


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """outputs: None: all of them, binary if `binary`. id: empty when none was given."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[AskedOutput, ...] | None = None
    binary: bool = False
    id: str = ""
    parameters: Parameters = {}


class _WireTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: Annotated[list[int], msgspec.Meta(max_length=_AXES_MAX)]
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _WireOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _WireRequest(msgspec.Struct):
    inputs: list[_WireTensor]
    outputs: list[_WireOutput] | None = None
    id: str | None = None
    parameters: Parameters | None = None


class _WireResponse(msgspec.Struct):
    outputs: list[_WireTensor]


_REQUEST = msgspec.json.Decoder(_WireRequest)
_RESPONSE = msgspec.json.Decoder(_WireResponse)
_FLOATS = msgspec.json.Decoder(list[float])
_WHOLES = msgspec.json.Decoder(list[int])


def datatype_of(dtype: str) -> str:
    """The protocol's word for an element type of NumPy's, `object` being BYTES."""
    return _DATATYPES.get(dtype, "BYTES")


def header_length(header: str, body_bytes: int) -> int | None:
    """Read `Inference-Header-Content-Length`; None when the header is absent. Raises DecodeError for a lie."""
    if not header:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 16) or int(header) > body_bytes:
        raise DecodeError(
            f"Inference-Header-Content-Length is {header[:32]!r}, the body has {body_bytes} bytes (decompressed); "
            f"send the length of the JSON in bytes"
        )
    return int(header)


def parse_request(body: bytes, json_bytes: int | None = None) -> InferRequest:
    """Read a request. json_bytes: of the JSON in front of binary tensors, None: the body is all JSON.

    Raises DecodeError, DTypeError for an unknown datatype or values of another one, ShapeError, ValueRangeError.
    """
    head = body if json_bytes is None else body[:json_bytes]
    wire, data = _read(head, _REQUEST, _WireRequest, "inputs")
    if not wire.inputs:
        raise DecodeError("'inputs' is empty; send every input of the model")
    for each in wire.inputs:
        if each.datatype == "BYTES" and math.prod(each.shape) > ELEMENTS_MAX:
            raise ShapeError(
                f"input {each.name!r} is BYTES of shape {_short(each.shape)}; send at most {ELEMENTS_MAX} elements"
            )
    inputs = _tensors("input", wire.inputs, data, body, json_bytes, least=1)
    parameters = wire.parameters or {}
    binary = _flag(parameters.get("binary_data_output"), "binary_data_output")
    outputs = None if not wire.outputs else tuple(_asked(output, binary) for output in wire.outputs)
    return InferRequest(inputs, outputs, binary, wire.id or "", parameters)


def parse_response(body: bytes, json_bytes: int | None = None) -> tuple[Tensor, ...]:
    """Read the outputs of an answer; a size may be 0. Raises as `parse_request` does."""
    head = body if json_bytes is None else body[:json_bytes]
    wire, data = _read(head, _RESPONSE, _WireResponse, "outputs")
    return _tensors("output", wire.outputs, data, body, json_bytes, least=0)


def parse_raw(body: bytes, name: str, datatype: str, shape: Sequence[int]) -> Tensor:
    """The whole body is the one input of a model; `shape` may leave one axis free (-1). Raises ShapeError."""
    free = [axis for axis, size in enumerate(shape) if size == -1]
    row = math.prod(size for size in shape if size != -1) * np.dtype(_DTYPES[datatype]).itemsize
    if len(free) > 1 or not body or len(body) % row or (not free and len(body) != row):
        raise ShapeError(
            f"the body has {len(body)} bytes, input {name!r} is {datatype} of shape {list(shape)} (-1: any size), "
            f"{row} bytes{' each' if free else ''}"
        )
    known = [len(body) // row if size == -1 else size for size in shape]
    return Tensor(name, datatype, _binary("input", name, datatype, known, memoryview(body)))


def encode_request(
    inputs: Mapping[str, Array], outputs: Iterable[str], *, binary: bool, parameters: Parameters | None = None
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON when tensors follow. Raises DTypeError for float16 as JSON."""
    tensors, tail = _wire_tensors([(name, array, binary) for name, array in inputs.items()])
    head: dict[str, Any] = {
        "inputs": tensors,
        "outputs": [
            {"name": name, "parameters": {"binary_data": True}} if binary else {"name": name} for name in outputs
        ],
    }
    if parameters:
        head["parameters"] = parameters
    return _join(head, tail)


def encode_response(
    model: str,
    version: str,
    outputs: Iterable[tuple[str, Array, bool]],
    *,
    id: str = "",
    parameters: Parameters | None = None,
) -> tuple[bytes, int | None]:
    """outputs: name, array, whether it goes as binary data. Returns the body, and the length of its JSON when
    tensors follow. Raises DTypeError for float16 as JSON.
    """
    tensors, tail = _wire_tensors(outputs)
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if id:
        head["id"] = id
    if parameters:
        head["parameters"] = parameters
    head["outputs"] = tensors
    return _join(head, tail)


def classify(scores: Array, count: int, labels: Sequence[str]) -> Array:
    """The classification extension: scores (rows, ...) -> (rows, count) of `value:index[:label]`, best first.

    labels: may be empty. A count above the number of classes gives all of them.
    """
    rows = scores.reshape(len(scores), -1)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(rows, best, axis=1)
    names = [f"{index}:{labels[index]}" if index < len(labels) else str(index) for index in range(rows.shape[1])]
    texts = [
        f"{value:f}:{names[index]}".encode()
        for value, index in zip(values.ravel().tolist(), best.ravel().tolist(), strict=True)
    ]
    return _objects(texts).reshape(best.shape)


def _read(head: bytes, decoder: msgspec.json.Decoder[T], kind: type[T], field: str) -> tuple[T, list[Any] | None]:
    """The JSON without the numbers in it, and what simdjson made of each tensor's `data`, if it was asked."""
    try:
        fast = _read_fast(head, kind, field) if len(head) >= _SIMD_FROM and simdjson is not None else None
        return fast or (decoder.decode(head), None)
    except msgspec.ValidationError as error:
        raise DecodeError(f"the body does not follow the protocol: {error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if _NOT_FINITE.search(head):
            raise ValueRangeError("NaN and infinity are not JSON; send finite numbers only") from error
        raise DecodeError(f"the body is not JSON: {error}") from error


def _read_fast(head: bytes, kind: type[T], field: str) -> tuple[T, list[Any]] | None:
    """None for what simdjson does not take: mistakes, which msgspec words better, and whole numbers above 64 bits."""
    try:
        document = simdjson.Parser().parse(head)
        if not isinstance(document, simdjson.Object) or field not in document:
            return None
        found = document[field]
        if not isinstance(found, simdjson.Array):
            return None
        tensors: list[Any] = list(found)
        if not all(isinstance(each, simdjson.Object) for each in tensors):
            return None
        plain = _fields(document, kind, field)
        plain[field] = [_fields(each, _WireTensor, "data") for each in tensors]
        data: list[Any] = [each.get("data", msgspec.UNSET) for each in tensors]
        known = [*plain.values(), *(each.get("shape") for each in plain[field])]
        arrays = sum(isinstance(each, list) for each in known)
        arrays += sum(_arrays(each, tensor.get("shape")) for each, tensor in zip(data, plain[field], strict=True))
    except (ValueError, RuntimeError, TypeError, LookupError):
        return None
    # simdjson flattens data of any nesting. With a bracket for each known array and no more, there is no other array.
    return (msgspec.convert(plain, kind), data) if head.count(b"[") == arrays else None


def _arrays(data: Any, shape: Any) -> int:
    """How many arrays flat data, or data nested in its shape, is made of. Any other may raise anything."""
    if not isinstance(data, simdjson.Array):
        return 0
    if not len(data) or not isinstance(data[0], simdjson.Array):
        return 1
    level: list[Any] = [data]
    count = 1
    for size in shape[:-1]:
        if set(map(len, level)) != {size}:
            raise ValueError
        level = list(itertools.chain.from_iterable(level))
        count += len(level)
    if set(map(len, level)) != {shape[-1]}:
        raise ValueError
    return count


def _fields(found: Any, kind: type[Any], but: str) -> dict[str, Any]:
    """What `kind` knows of an object."""
    return {key: _plain(found[key]) for key in kind.__struct_fields__ if key != but and key in found}


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _tensors(
    side: str, wire: list[_WireTensor], data: list[Any] | None, body: bytes, json_bytes: int | None, *, least: int
) -> tuple[Tensor, ...]:
    tensors = []
    at = len(body) if json_bytes is None else json_bytes
    for index, each in enumerate(wire):
        _check_wire(side, each, least)
        size = (each.parameters or {}).get("binary_data_size")
        given = each.data if data is None else data[index]
        if size is not None:
            if type(size) is not int or size < 0 or size > len(body) - at:
                raise ShapeError(
                    f"{side} {each.name!r} has a binary_data_size of {str(size)[:32]}, {len(body) - at} bytes follow; "
                    f"send the tensor after the JSON, and its length in Inference-Header-Content-Length"
                )
            if given is not msgspec.UNSET:
                raise DecodeError(f"{side} {each.name!r} has both data and binary_data_size; send one of them")
            array = _binary(side, each.name, each.datatype, each.shape, memoryview(body)[at : at + size])
            at += size
        elif given is msgspec.UNSET:
            raise DecodeError(f"{side} {each.name!r} has neither data nor binary_data_size; send one of them")
        else:
            array = _from_json(side, each, given)
        tensors.append(Tensor(each.name, each.datatype, array))
    if at != len(body):
        raise ShapeError(f"{len(body) - at} bytes are left after the last tensor; send as many as the shapes say")
    return tuple(tensors)


def _check_wire(side: str, tensor: _WireTensor, least: int) -> None:
    if tensor.datatype not in _DTYPES and tensor.datatype not in ("BYTES", "BF16"):
        raise DTypeError(
            f"{side} {tensor.name!r} has the unknown datatype {tensor.datatype[:32]!r}; known are "
            f"{', '.join([*_DTYPES, 'BF16', 'BYTES'])}"
        )
    if any(size < least for size in tensor.shape):
        raise ShapeError(f"{side} {tensor.name!r} has the shape {_short(tensor.shape)}; every size is {least} or more")


def _binary(side: str, name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    count = math.prod(shape)
    if datatype == "BYTES":
        return _elements(side, name, count, data).reshape(shape)
    dtype = np.dtype("<u2" if datatype == "BF16" else _DTYPES[datatype]).newbyteorder("<")
    if count * dtype.itemsize != len(data):
        raise ShapeError(
            f"{side} {name!r} has {len(data)} bytes, {datatype} of shape {_short(shape)} needs {count * dtype.itemsize}"
        )
    array: Array = np.frombuffer(data, dtype)
    if datatype == "BF16":
        # The upper half of a float32 (and a sixteenth of its precision).
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif datatype == "BOOL":
        array = array.view(np.uint8) != 0
    elif not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def _elements(side: str, name: str, count: int, data: memoryview) -> Array:
    found: list[bytes] = []
    at = 0
    while at + 4 <= len(data) and len(found) < count:
        (size,) = _LENGTH.unpack_from(data, at)
        if at + 4 + size > len(data):
            break
        found.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(data) or len(found) != count:
        raise ShapeError(
            f"{side} {name!r} is BYTES with {_short([count])} elements, its {len(data)} bytes hold {len(found)} whole "
            f"ones and {len(data) - at} bytes more; send each as its length (u32, little-endian) and its bytes"
        )
    return _objects(found)


def _from_json(side: str, tensor: _WireTensor, data: Any) -> Array:
    datatype, shape = tensor.datatype, tensor.shape
    if datatype in _WITHOUT_JSON:
        raise DTypeError(f"{side} {tensor.name!r} is {datatype}, which JSON cannot hold; send it as binary data")
    try:
        if datatype in ("BOOL", "BYTES"):
            array = _listed(datatype, _flat_list(_decoded(data), shape))
        elif isinstance(data, msgspec.Raw):
            array = _small_numbers(datatype, data, shape)
        else:
            array = _simd_numbers(datatype, data)
    except ApplianceError as error:
        raise type(error)(f"{side} {tensor.name!r}: {error}") from error
    except (msgspec.DecodeError, TypeError, ValueError, OverflowError, RuntimeError, RecursionError) as error:
        raise DTypeError(f"{side} {tensor.name!r} is {datatype}, but its data is something else: {error}") from error
    if array.size != math.prod(shape):
        raise ShapeError(
            f"{side} {tensor.name!r} has {array.size} values, shape {_short(shape)} needs {_short([math.prod(shape)])}"
        )
    return array.reshape(shape)


def _small_numbers(datatype: str, data: msgspec.Raw, shape: list[int]) -> Array:
    decoder = _FLOATS if datatype.startswith("FP") else _WHOLES
    try:
        values = decoder.decode(data)
    except msgspec.ValidationError:
        values = msgspec.convert(_flat_list(_decoded(data), shape), decoder.type)
    return _narrowed(datatype, np.array(values, _wide(datatype)))


def _simd_numbers(datatype: str, data: Any) -> Array:
    if not isinstance(data, simdjson.Array):
        raise ShapeError("its data is not an array")
    wide = np.dtype(_wide(datatype))
    return _narrowed(datatype, np.frombuffer(data.as_buffer(of_type=_SIMD_TYPES[wide.kind]), wide))


def _wide(datatype: str) -> str:
    if datatype.startswith("FP"):
        return "<f8"
    return "<u8" if datatype == "UINT64" else "<i8"


def _narrowed(datatype: str, values: Array) -> Array:
    dtype = np.dtype(_DTYPES[datatype])
    if dtype == values.dtype:
        return values
    if dtype.kind != "f" and values.size:
        bounds = np.iinfo(dtype)
        if values.min() < bounds.min or values.max() > bounds.max:
            raise OverflowError(f"{datatype} holds {bounds.min} to {bounds.max}")
    # What a float32 cannot hold becomes infinity, and is refused as such.
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _decoded(data: Any) -> Any:
    if isinstance(data, msgspec.Raw):
        return msgspec.json.decode(data)
    return _plain(data)


def _flat_list(data: Any, shape: list[int]) -> list[Any]:
    """Nested lists, row by row. Data of one level is flat already."""
    if not isinstance(data, list):
        raise ShapeError("its data is not an array")
    if not any(isinstance(each, list) for each in data):
        return data
    level = [data]
    for size in shape:
        if any(not isinstance(each, list) or len(each) != size for each in level):
            raise ShapeError(f"its data is not nested in its shape {_short(shape)}; nest it so, or send it flat")
        level = [inner for each in level for inner in each]
    return level


def _listed(datatype: str, values: list[Any]) -> Array:
    if datatype == "BOOL":
        return np.array(msgspec.convert(values, list[bool]), bool)
    return _objects([text.encode() for text in msgspec.convert(values, list[str])])


def _objects(elements: list[bytes]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _asked(output: _WireOutput, binary: bool) -> AskedOutput:
    parameters = output.parameters or {}
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise DecodeError(
            f"output {output.name!r} asks for classification {str(count)[:32]!r}; send a count of classes"
        )
    return AskedOutput(output.name, _flag(parameters.get("binary_data", binary), "binary_data"), count)


def _flag(value: object, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise DecodeError(f"parameter {name!r} is {str(value)[:32]!r}; send true or false")
    return bool(value)


def _wire_tensors(outputs: Iterable[tuple[str, Array, bool]]) -> tuple[list[dict[str, Any]], list[bytes]]:
    tensors, tail = [], []
    for name, array, binary in outputs:
        datatype = _BY_DTYPE.get(array.dtype) or datatype_of(array.dtype.name)
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary:
            data = _bytes(array)
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        elif datatype in _WITHOUT_JSON:
            raise DTypeError(f"{name!r} is {datatype}, which JSON cannot hold; ask for it as binary data")
        elif datatype == "BYTES":
            tensor["data"] = [_text(each) for each in array.ravel()]
        else:
            tensor["data"] = np.ascontiguousarray(array.ravel(), array.dtype.newbyteorder("="))
        tensors.append(tensor)
    return tensors, tail


def _bytes(array: Array) -> bytes:
    if array.dtype == object:
        return b"".join(_LENGTH.pack(len(each)) + each for each in array.ravel())
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _text(element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise DTypeError("a BYTES element is not text, which JSON cannot hold; ask for it as binary data") from error


def _join(head: dict[str, Any], tail: list[bytes]) -> tuple[bytes, int | None]:
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return text, None
    # Spaces, so that the first tensor begins where any number may: the other side need not copy it.
    text += b" " * (-len(text) % 8)
    return b"".join((text, *tail)), len(text)


def _short(shape: Sequence[int]) -> str:
    """A shape for an error's text: numbers of any size, on one line."""
    return "[" + ", ".join(str(size) if abs(size) < 10**20 else "more than 10^20" for size in shape) + "]"
