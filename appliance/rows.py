"""Samples in files -> rows of numbers: CSV and WAV, one row per sample and one column per channel."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from appliance.codecs import WINDOW
from appliance.errors import DecodeError, EmptyBody, FieldError, MediaTypeError, ShapeError

CSV_TYPES = frozenset({"text/csv", "application/csv"})

Rows = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""(n, columns). Text gives float64, which holds integers as well."""

_CHUNKS_MAX = 1000
_EXTENSIBLE = 0xFFFE
_UNTIL_THE_END = 0xFFFFFFFF
# Format tag and bits -> element type and full scale (WAVE_FORMAT_PCM 1, WAVE_FORMAT_IEEE_FLOAT 3).
_SAMPLES = {(1, 16): ("<i2", 1 << 15), (1, 32): ("<i4", 1 << 31), (3, 32): ("<f4", 1), (3, 64): ("<f8", 1)}


def is_wav(body: bytes) -> bool:
    return body[:4] == b"RIFF" and body[8:12] == b"WAVE"


def window_bytes(rows: Rows) -> tuple[bytes, str]:
    """Rows in the form, and with the media type, that a window has inside the appliance."""
    # Too large for float32 becomes infinity here, and is refused when the window is decoded.
    with np.errstate(over="ignore"):
        return rows.astype("<f4", copy=False).tobytes(), f"{WINDOW};channels={rows.shape[1]}"


def rows_from_csv(body: bytes, columns: Sequence[str] = ()) -> Rows:
    """Numbers with points, between commas, semicolons or tabs, after an optional line of names.

    columns: the names in the model's order; a line of the same names in another order is put right.
    Raises EmptyBody, DecodeError, ShapeError for lines that differ in length, FieldError for other names.
    """
    try:
        lines = [line for line in body.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DecodeError(f"the CSV is no text: {error}; send UTF-8") from error
    if not lines:
        raise EmptyBody("the CSV is empty; send one line per sample, with one number per channel")
    separator = next((each for each in ";\t" if each in lines[0]), ",")
    first = [name.strip().strip('"') for name in lines[0].split(separator)]
    order = None
    if not any(_is_number(value) for value in first):
        order = _order(first, columns)
        del lines[0]
        if not lines:
            raise EmptyBody("the CSV has names and no numbers; send one line per sample")
    try:
        rows = np.loadtxt(lines, np.float64, comments=None, delimiter=separator, ndmin=2)
    except ValueError as error:
        if "columns" in str(error):
            raise ShapeError("the CSV's lines differ in length; send one number per channel in each") from error
        raise DecodeError(f"the CSV cannot be read: {error}; send numbers with points") from error
    if order is None:
        return rows
    if rows.shape[1] != len(order):
        raise ShapeError(f"the CSV has {len(order)} names and {rows.shape[1]} columns; send a number for each name")
    return rows[:, order]


def rows_from_wav(body: bytes, channels: int, rate_hz: float) -> Rows:
    """PCM of 16 or 32 bits, full scale being 1.0, or floats as they are.

    Raises ShapeError unless it has these channels and this rate (within a thousandth), MediaTypeError for another
    coding, DecodeError for a file that is cut off.
    """
    form, data = _chunks(body)
    tag, count, rate, bits = form
    if (tag, bits) not in _SAMPLES:
        raise MediaTypeError(f"the WAV has {bits}-bit samples of coding {tag}; send PCM of 16 bits or 32-bit floats")
    if count != channels or abs(rate - rate_hz) > rate_hz / 1000:
        raise ShapeError(
            f"the WAV has {count} channels at {rate} Hz, the model takes {channels} at {rate_hz:g} Hz; record it so"
        )
    dtype, scale = _SAMPLES[tag, bits]
    samples = np.frombuffer(data, dtype, len(data) // (count * bits // 8) * count)
    # A float too large for float32 becomes infinity here, and is refused when the window is decoded.
    with np.errstate(over="ignore"):
        return (samples / np.float32(scale)).astype(np.float32).reshape(-1, count)


def _chunks(body: bytes) -> tuple[tuple[int, int, int, int], memoryview]:
    """(format tag, channels, rate in Hz, bits) and the samples' bytes (Multimedia Programming Interface 1.0, RIFF)."""
    if not is_wav(body):
        raise MediaTypeError(f"the body starts with {body[:8].hex(' ')}, which is no WAV; send RIFF/WAVE")
    form: tuple[int, int, int, int] | None = None
    at = 12
    for _ in range(_CHUNKS_MAX):
        if at + 8 > len(body):
            break
        name, size = struct.unpack_from("<4sI", body, at)
        at += 8
        if name == b"data" and size == _UNTIL_THE_END:
            size = len(body) - at
        if at + size > len(body):
            raise DecodeError(f"the WAV is cut off after {len(body)} bytes; send it again")
        if name == b"fmt " and size >= 16:
            tag, count, rate, _, _, bits = struct.unpack_from("<HHIIHH", body, at)
            if tag == _EXTENSIBLE and size >= 26:
                (tag,) = struct.unpack_from("<H", body, at + 24)
            form = tag, count, rate, bits
        elif name == b"data" and form is not None:
            return form, memoryview(body)[at : at + size]
        at += size + size % 2
    raise DecodeError("the WAV has no format or no samples; send it again")


def _order(names: Sequence[str], columns: Sequence[str]) -> list[int] | None:
    """Where each of the model's columns is among `names`; None when the model does not name its columns."""
    if not columns:
        return None
    if sorted(names) != sorted(columns):
        raise FieldError(
            f"the CSV's columns are {list(names)[:16]}, the model's channels {list(columns)}; name them so"
        )
    return [list(names).index(column) for column in columns]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
