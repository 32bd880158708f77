"""From the payload of a message to samples of its model's channels, in the model's unit. Pure.

JSON and CBOR hold a number, an array of numbers, an array of rows, or an array of objects with one value per channel;
or an object with one of these under the route's `values` path, or with one array per channel under the channels'
names. CSV has one line per sample. Raw numbers are little-endian, all channels of a sample together; in JSON they are
text in base64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.cbor import decode_cbor
from appliance.codecs import decode_json
from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.protocol import Part
from appliance.core.units import conversion
from appliance.errors import ConfigError, DecodeError, EmptyBody, FieldError, ShapeError, ValueRangeError
from appliance.fields import MISSING, at_path, base64_bytes
from appliance.mqtt.message import InboundMessage
from appliance.mqtt.payloads import key_of, part_of
from appliance.mqtt.route_time import RouteClock, time_policy
from appliance.readings_config import DType, Form
from appliance.rows import rows_from_csv

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FORMS: dict[str, Form] = {
    "application/json": "json",
    "application/cbor": "cbor",
    "text/csv": "csv",
    "application/csv": "csv",
}


class Readings(msgspec.Struct, frozen=True):
    """samples: (n, channels) float32, oldest first. times: packed, where the route's windows are windows of time."""

    samples: npt.NDArray[np.float32]
    part: Part
    key: str | None
    times: bytes | None = None


class _Scaling(msgspec.Struct, frozen=True):
    """Columns of the payload -> the model's channels, gain * number + shift. order: None when it is the same."""

    order: tuple[int, ...] | None
    gain: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]


class Reader:
    """Reads the messages of one route for its model. Raises ConfigError when they do not fit each other."""

    def __init__(self, route: RouteConfig, steps: WindowPreprocess) -> None:
        self.route = route
        self.steps = steps
        self.policy = time_policy(route, steps)
        self._names = tuple(channel.name for channel in route.channels) or steps.channels
        self._scaling = _scaling(route, steps)
        self._clock = None if self.policy is None else RouteClock(route, self.policy)
        if route.payload == "image" or (route.payload == "base64" and route.dtype is None):
            raise ConfigError(
                f"route {route.name} has payload {route.payload!r}, but model {route.model} takes readings; give "
                "another payload, and for raw numbers their dtype"
            )

    def read(self, message: InboundMessage, source: str, at: float) -> Readings:
        """at: when it came, in seconds since 1970. Raises InputError."""
        if not message.payload:
            raise EmptyBody("the payload is empty; send readings")
        values, fields, times = self._content(message)
        samples = self._samples(values)
        part, key = part_of(message, fields), key_of(message, self.route, fields)
        if self._clock is None:
            return Readings(samples, part, key)
        return Readings(samples, part, key, self._clock.times(message, fields, times, source, at, len(samples)))

    def _content(self, message: InboundMessage) -> tuple[object, Mapping[str, object], object]:
        """The values, the fields beside them, and the times that stand beside each sample (or MISSING)."""
        route, payload = self.route, message.payload
        form = route.payload
        if form == "auto":
            form = "json" if message.content_type is None else self._form_of(message.content_type)
        if form == "csv":
            values, times = self._csv(payload)
            return values, {}, times
        if form in ("raw", "base64"):
            if form == "base64":
                payload = base64_bytes(payload.decode("ascii", "replace").strip(), "payload")
            return self._raw(payload), {}, MISSING
        content = decode_cbor(payload) if form == "cbor" else decode_json(payload)
        fields: Mapping[str, object] = {}
        found: object = content
        if isinstance(content, dict):
            fields = content
            found = at_path(content, route.values)
            if found is MISSING:
                found = _by_channel(content, self._names, route.values)
        if isinstance(found, list) and found and isinstance(found[0], dict):
            return self._from_objects(found, fields)
        if route.dtype is not None and isinstance(found, str | bytes):
            found = self._raw(base64_bytes(found, route.values) if isinstance(found, str) else found)
        return found, fields, MISSING

    def _form_of(self, content_type: str) -> Form:
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "application/octet-stream" and self.route.dtype is not None:
            return "raw"
        return _FORMS.get(kind, "json")

    def _csv(self, payload: bytes) -> tuple[object, object]:
        columns, time = self._names, self.route.time_field
        if time is not None and time in _first_line(payload):
            columns = (time, *columns)
        rows = rows_from_csv(payload, columns)
        if time is not None and rows.shape[1] == len(self._names) + 1:
            return rows[:, 1:], rows[:, 0]
        return rows, MISSING

    def _raw(self, payload: bytes) -> npt.NDArray[Any]:
        dtype, count = self.route.dtype, len(self._names)
        assert dtype is not None
        return _raw_rows(payload, dtype, count)

    def _from_objects(
        self, rows: list[Any], fields: Mapping[str, object]
    ) -> tuple[object, Mapping[str, object], object]:
        """An array of objects, one per sample."""
        names, time = self._names, self.route.time_field
        if not all(isinstance(row, dict) for row in rows):
            raise ShapeError("the array holds objects and other things; send one object per sample")
        missing = next((name for row in rows for name in names if name not in row), None)
        if missing is not None:
            raise DecodeError(f"an object of the array has no {missing!r}; send each of {list(names)} in every one")
        times: object = MISSING
        if time is not None:
            found = [at_path(row, time) for row in rows]
            if any(each is not MISSING for each in found):
                if any(each is MISSING or each is None for each in found):
                    raise FieldError(f"an object of the array has no {time!r}; send the time of every sample")
                times = found
        return [[row[name] for name in names] for row in rows], fields, times

    def _samples(self, values: object) -> npt.NDArray[np.float32]:
        """A number, numbers or rows of numbers -> (n, channels)."""
        wide = _rows(values, self._names)
        if self._scaling is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                scaled: npt.NDArray[Any] = wide * self._scaling.gain + self._scaling.shift
            wide = scaled if self._scaling.order is None else scaled[:, self._scaling.order]
        # The largest one is NaN if any is; `max` as a method would cost a reading more than its parsing.
        if not np.maximum.reduce(np.abs(wide), axis=None) <= _FLOAT32_MAX:
            raise ValueRangeError("readings contain NaN, infinity or a number beyond float32; send finite numbers only")
        return wide.astype(np.float32)


class Readers:
    """The reader of each route, until it or its model is another one. Used by several threads: entries are whole."""

    def __init__(self) -> None:
        self._known: dict[str, Reader] = {}

    def reader(self, route: RouteConfig, steps: WindowPreprocess) -> Reader:
        """Raises ConfigError."""
        known = self._known.get(route.name)
        if known is None or known.steps is not steps or known.route is not route:
            known = self._known[route.name] = Reader(route, steps)
        return known


def _scaling(route: RouteConfig, steps: WindowPreprocess) -> _Scaling | None:
    if not route.channels:
        return None
    names = [channel.name for channel in route.channels]
    if sorted(names) != sorted(steps.channels):
        raise ConfigError(
            f"route {route.name} has the channels {names}, model {route.model} takes {list(steps.channels)}; name "
            "the same"
        )
    gains, shifts = [], []
    for channel in route.channels:
        try:
            factor, zero = (1.0, 0.0) if channel.unit is None else conversion(channel.unit, steps.unit)
        except ValueError as error:
            raise ConfigError(f"route {route.name}, channel {channel.name}: {error}") from error
        gains.append(factor * channel.scale)
        shifts.append(factor * channel.offset + zero)
    order = tuple(names.index(name) for name in steps.channels)
    return _Scaling(None if order == tuple(range(len(order))) else order, np.array(gains), np.array(shifts))


def _rows(values: object, names: tuple[str, ...]) -> npt.NDArray[Any]:
    """A number, numbers or rows of numbers -> (n, channels) of the type they have."""
    count = len(names)
    wrong = f"readings are not numbers in rows of equal length; expected rows of {count} ({', '.join(names)})"
    try:
        wide = np.asarray(values)
    except ValueError as error:
        raise ShapeError(wrong) from error
    if wide.dtype.kind not in "iuf":
        raise ShapeError(wrong)
    if wide.dtype == np.float16:
        # Its range is too small for the limit that all are compared with.
        wide = wide.astype(np.float32)
    if wide.ndim == 0:
        wide = wide.reshape(1, 1)
    elif wide.ndim == 1:
        wide = wide.reshape(-1, 1) if count == 1 else wide.reshape(1, -1)
    if wide.ndim != 2 or wide.shape[1] != count or not len(wide):
        raise ShapeError(f"readings have shape {list(np.shape(wide))}; expected rows of {count} ({', '.join(names)})")
    return wide


def _raw_rows(payload: bytes, dtype: DType, channels: int) -> npt.NDArray[Any]:
    """Little-endian numbers -> (n, channels)."""
    element = np.dtype(dtype).newbyteorder("<")
    sample = element.itemsize * channels
    if not payload or len(payload) % sample:
        raise ShapeError(
            f"{len(payload)} bytes are no whole number of samples; one has {channels} {dtype}, {sample} bytes"
        )
    return np.frombuffer(payload, element).reshape(-1, channels)


def _by_channel(content: Mapping[str, object], channels: tuple[str, ...], path: str) -> object:
    found = [content.get(name, MISSING) for name in channels]
    if any(value is MISSING for value in found):
        raise DecodeError(f"the payload has no {path!r} and not each of {list(channels)}; set the route's values path")
    columns: list[Any] = [value if isinstance(value, list | np.ndarray) else [value] for value in found]
    if any(isinstance(column, np.ndarray) and column.ndim != 1 for column in columns):
        raise ShapeError(f"the channels {list(channels)} are not one array of numbers each")
    if len({len(column) for column in columns}) != 1:
        raise ShapeError(f"the channels {list(channels)} differ in length")
    return [list(row) for row in zip(*columns, strict=True)]


def _first_line(payload: bytes) -> set[str]:
    """The names of a CSV's columns, if it has some."""
    line = payload.lstrip().split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    for separator in ";\t":
        line = line.replace(separator, ",")
    return {name.strip().strip('"') for name in line.split(",")}
