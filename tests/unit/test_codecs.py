"""Bytes from outside: what is no picture or window is refused, whatever it is, before it costs memory."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.codecs import (
    JPEG,
    PNG,
    WINDOW,
    decode_image,
    decode_json,
    decode_window,
    encode_jpeg,
    encode_window,
    sniff,
)
from appliance.errors import (
    DecodeError,
    EmptyBody,
    ImageTooLarge,
    InputError,
    MediaTypeError,
    ShapeError,
    ValueRangeError,
)
from tests.support.models import encode, picture

PIXELS_MAX = 1_000_000
PNG_BODY = picture(200, side=24, form=".png")
JPEG_BODY = picture(200, side=24, form=".jpg")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its one line of pixels is tiny."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A real JPEG whose frame header claims another size."""
    at = JPEG_BODY.index(b"\xff\xc0") + 5
    return JPEG_BODY[:at] + struct.pack(">HH", height, width) + JPEG_BODY[at + 4 :]


@pytest.mark.parametrize(("form", "kind"), [(".png", PNG), (".jpg", JPEG)])
def test_picture_is_decoded_in_red_green_blue(form: str, kind: str) -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[..., 2] = 250  # OpenCV encodes blue, green, red
    body = encode(image, form)
    assert sniff(body) == kind
    decoded = decode_image(body, PIXELS_MAX)
    assert decoded.shape == (16, 32, 3)
    assert decoded[8, 16, 0] > 240
    assert decoded[8, 16, 2] < 10


def test_gray_and_transparent_pictures_become_three_channels() -> None:
    assert decode_image(encode(np.full((4, 4), 9, np.uint8), ".png"), PIXELS_MAX).shape == (4, 4, 3)
    assert decode_image(encode(np.full((4, 4, 4), 9, np.uint8), ".png"), PIXELS_MAX).shape == (4, 4, 3)


def test_empty_body_is_named_as_such() -> None:
    with pytest.raises(EmptyBody, match="empty"):
        decode_image(b"", PIXELS_MAX)


@pytest.mark.parametrize("body", [b"GIF89a" + bytes(50), b"hello", b"{}", b"RIFF1234WEBP", b"\x00" * 100, b"\xff\xd8"])
def test_other_kinds_of_file_are_refused_with_their_first_bytes(body: bytes) -> None:
    with pytest.raises(MediaTypeError, match=f"starts with {body[:8].hex(' ')}"):
        decode_image(body, PIXELS_MAX)


@pytest.mark.parametrize("body", [PNG_BODY, JPEG_BODY])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_picture_that_is_cut_off_is_refused(body: bytes, share: float) -> None:
    with pytest.raises(DecodeError):
        decode_image(body[: int(len(body) * share)], PIXELS_MAX)


@pytest.mark.parametrize("body", [png_of_size(60_000, 60_000), jpeg_of_size(60_000, 60_000), png_of_size(1, 2**31 - 1)])
def test_bomb_is_refused_by_its_header(body: bytes) -> None:
    assert len(body) < 2000
    with pytest.raises(ImageTooLarge, match="above the limit of 1000000 pixels"):
        decode_image(body, PIXELS_MAX)


@pytest.mark.parametrize("alone", [b"\xff\x01", b"\xff\xd0", b"\xff\xd7"])
def test_marker_without_length_does_not_hide_a_bomb_s_size(alone: bytes) -> None:
    """To a parser that takes the next two bytes as its length, the true frame header would be inside a segment."""
    bomb = jpeg_of_size(60_000, 60_000)
    with pytest.raises(InputError) as raised:
        decode_image(bomb[:2] + alone + bomb[2:], PIXELS_MAX)
    assert isinstance(raised.value, ImageTooLarge)


def test_endless_markers_end() -> None:
    with pytest.raises(DecodeError, match="no frame header"):
        decode_image(b"\xff\xd8" + b"\xff" * (1 << 20), PIXELS_MAX)


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_picture_without_pixels_is_refused(width: int, height: int) -> None:
    for body in (png_of_size(width, height), jpeg_of_size(width, height)):
        with pytest.raises(DecodeError):
            decode_image(body, PIXELS_MAX)


def check_decoded_or_refused(body: bytes) -> None:
    """A picture within the limit, or an InputError; anything else that is raised fails the test."""
    try:
        image = decode_image(body, PIXELS_MAX)
    except InputError:
        return
    assert image.ndim == 3
    assert image.shape[0] * image.shape[1] <= PIXELS_MAX


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", PNG_BODY[:33]]))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_an_input_error_and_nothing_else(body: bytes, beginning: bytes) -> None:
    check_decoded_or_refused(beginning + body)


@given(
    st.sampled_from([PNG_BODY, JPEG_BODY]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 40),
)
@settings(max_examples=400, deadline=None)
def test_mutated_picture_is_decoded_or_an_input_error(body: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    changed = bytearray(body)
    for at, value in changes:
        changed[at % len(changed)] = value
    check_decoded_or_refused(bytes(changed[: len(changed) - cut]))


def test_jpeg_is_decoded_to_about_what_was_encoded() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 220
    decoded = decode_image(encode_jpeg(image), PIXELS_MAX).astype(int)
    assert np.abs(decoded - image).max() < 12


def test_picture_too_long_for_jpeg_is_refused() -> None:
    with pytest.raises(ImageTooLarge, match="70000x1"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8))


def test_window_comes_back_as_it_was() -> None:
    body, media_type = encode_window([[1, 2.5], [3, -4], [0, 1e-7]])
    assert media_type.startswith(WINDOW)
    np.testing.assert_array_equal(
        decode_window(body, media_type, 3, 2), np.array([[1, 2.5], [3, -4], [0, 1e-7]], np.float32)
    )


def test_window_without_stated_channels_has_its_model_s() -> None:
    assert decode_window(np.arange(6, dtype="<f4").tobytes(), WINDOW, 3, 2).tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("rows", [[[1, 2, 3], [4, 5, 6]], [[1, 2], [3, 4]], [[1], [2], [3], [4], [5], [6]], [[]]])
def test_window_of_another_shape_is_refused_even_with_as_many_numbers(rows: list[list[float]]) -> None:
    body, media_type = encode_window(rows)
    with pytest.raises(ShapeError, match="the model expects 3 rows of 2"):
        decode_window(body, media_type, 3, 2)


def test_rows_of_different_length_are_refused() -> None:
    with pytest.raises(ShapeError, match="differ in length"):
        encode_window([[1, 2], [3]])


def test_no_rows_are_refused() -> None:
    with pytest.raises(ShapeError, match="no rows"):
        encode_window([])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_window_that_is_not_finite_is_refused(value: float) -> None:
    body, media_type = encode_window([[0.0, value]])
    with pytest.raises(ValueRangeError, match="NaN or infinity"):
        decode_window(body, media_type, 1, 2)


@pytest.mark.parametrize("body", [b"{", b"[1,]", b'{"a": NaN}', b"\xff", b'{"a": Infinity}', b"[" * 100_000])
def test_malformed_json_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not JSON"):
        decode_json(body)


def test_empty_json_is_named_as_such() -> None:
    with pytest.raises(EmptyBody):
        decode_json(b"")
