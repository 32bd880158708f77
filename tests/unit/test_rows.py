"""CSV and WAV -> rows of numbers."""

from __future__ import annotations

import contextlib
import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.codecs import decode_window
from appliance.errors import ApplianceError, DecodeError, EmptyBody, FieldError, MediaTypeError, ShapeError
from appliance.rows import Rows, is_wav, rows_from_csv, rows_from_wav, window_bytes

RATE_HZ = 1024.0


def wav(samples: np.ndarray, rate: int = 1024, *, tag: int = 1, extensible: bool = False) -> bytes:
    """samples: (n, channels); the element type tells the bits."""
    channels, bits = samples.shape[1], samples.dtype.itemsize * 8
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate, rate * frame, frame, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, bits, 0, tag) + bytes.fromhex("000000001000800000aa00389b71")
    data = samples.tobytes()
    chunks = b"LIST" + struct.pack("<I", 3) + b"odd\0" + b"fmt " + struct.pack("<I", len(head)) + head
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def recorded(channels: int = 3) -> bytes:
    """What Python's own writer makes of a rising tone, 16 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(1024)
        out.writeframes(np.arange(16 * channels, dtype="<i2").tobytes())
    return content.getvalue()


@pytest.mark.parametrize("text", ["1,2\n3,4\n", "1;2\r\n3;4", "1\t2\n\n3\t4", "\ufeff1,2\n3,4", " 1 , 2e0\n3.0,4"])
def test_csv_is_read(text: str) -> None:
    np.testing.assert_array_equal(rows_from_csv(text.encode(), ("x", "y")), np.array([[1, 2], [3, 4]], np.float32))


def test_names_put_the_columns_in_the_model_s_order() -> None:
    rows = rows_from_csv(b'y,"x"\n1,2\n3,4\n', ("x", "y"))
    np.testing.assert_array_equal(rows, np.array([[2, 1], [4, 3]], np.float32))
    np.testing.assert_array_equal(rows_from_csv(b"a,b\n1,2\n"), np.array([[1, 2]], np.float32))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", EmptyBody),
        (b" \n\n", EmptyBody),
        (b"x,y\n", EmptyBody),
        (b"1,2\n3\n", ShapeError),
        (b"x,y\n1,2,3\n", ShapeError),
        (b"x,z\n1,2\n", FieldError),
        (b"x,y\n1,two\n", DecodeError),
        (b"1,2\n3,#4\n", DecodeError),
        (b"1;2\n3,5;4,5\n", DecodeError),
        (b"\xff\xd8\xff\xe0", DecodeError),
    ],
)
def test_csv_that_is_wrong(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        rows_from_csv(body, ("x", "y"))


def test_wav_of_16_bits_has_full_scale_one() -> None:
    samples = np.array([[-32768, 0, 16384]] * 4, "<i2")
    np.testing.assert_array_equal(rows_from_wav(wav(samples), 3, RATE_HZ), np.array([[-1, 0, 0.5]] * 4, np.float32))


@pytest.mark.parametrize("extensible", [False, True])
def test_wav_of_floats_is_taken_as_it_is(extensible: bool) -> None:
    samples = np.array([[1.5, -2.5, 0.25]] * 4, "<f4")
    np.testing.assert_array_equal(rows_from_wav(wav(samples, tag=3, extensible=extensible), 3, RATE_HZ), samples)


def test_wav_of_another_writer_is_read() -> None:
    expected = np.arange(48, dtype=np.float32).reshape(16, 3) / 32768
    np.testing.assert_array_equal(rows_from_wav(recorded(), 3, RATE_HZ), expected)


def test_wav_of_unknown_length_goes_to_the_end() -> None:
    body = bytearray(recorded())
    struct.pack_into("<I", body, body.index(b"data") + 4, 0xFFFFFFFF)
    assert rows_from_wav(bytes(body), 3, RATE_HZ).shape == (16, 3)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"RIFF", MediaTypeError),
        (recorded()[:20], DecodeError),
        (recorded()[:-2], DecodeError),
        (recorded()[:36], DecodeError),
        (recorded(2), ShapeError),
        (wav(np.zeros((4, 3), "<i2"), 44_100), ShapeError),
        (wav(np.zeros((4, 3), "<i1")), MediaTypeError),
        (wav(np.zeros((4, 3), "<i2"), tag=6), MediaTypeError),
        (wav(np.zeros((4, 0), "<i2")), ShapeError),
    ],
)
def test_wav_that_is_wrong(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        rows_from_wav(body, 3, RATE_HZ)


def test_rows_travel_as_a_window() -> None:
    rows: Rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(decode_window(*window_bytes(rows), 2, 3), rows)
    np.testing.assert_array_equal(decode_window(*window_bytes(rows[:, ::-1]), 2, 3), rows[:, ::-1])


@given(st.binary(max_size=100), st.integers(0, 140))
def test_any_bytes_are_rows_or_refused(noise: bytes, at: int) -> None:
    whole = recorded()
    for body in (noise, whole[:at] + noise + whole[at:], whole[:12] + noise):
        with contextlib.suppress(ApplianceError):
            rows_from_wav(body, 3, RATE_HZ)
        with contextlib.suppress(ApplianceError):
            rows_from_csv(body, ("x", "y", "z"))
    assert is_wav(whole)
