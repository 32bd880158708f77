"""Media type -> array: each codec is a plain function of bytes, bounded before it allocates.

A picture is judged by its first bytes, not by what its sender called it. A window travels inside the appliance as
little-endian float32, row by row.
"""

from __future__ import annotations

import struct

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from appliance.errors import DecodeError, EmptyBody, ImageTooLarge, MediaTypeError, ShapeError, ValueRangeError

JPEG = "image/jpeg"
PNG = "image/png"
WINDOW = "application/vnd.appliance.window"
"""A parameter `channels` may follow; without it the bytes have the channels of their model."""

TENSORS = "application/vnd.appliance.tensors"
"""JSON {"inputs": {name: nested numbers}}: the input of a model that takes tensors."""

Image = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, RGB."""

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
# SOF0..SOF15 hold the size; C4, C8 and CC are tables (ITU-T T.81, table B.1).
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
# TEM and RST0..RST7 stand alone, without a length; a parser that overlooks it can be shown a false size.
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_JPEG_MARKERS_MAX = 4096
_JPEG_SIDE_MAX = 65_500


def sniff(body: bytes) -> str:
    """Return JPEG or PNG from the first bytes; raises EmptyBody or MediaTypeError."""
    if not body:
        raise EmptyBody("the body is empty; send a JPEG or PNG picture")
    if body.startswith(_JPEG_MAGIC):
        return JPEG
    if body.startswith(_PNG_MAGIC):
        return PNG
    raise MediaTypeError(f"the body starts with {body[:8].hex(' ')}, neither JPEG nor PNG; send one of these")


def decode_image(body: bytes, pixels_max: int) -> Image:
    """Decode a JPEG or PNG, turned upright as its EXIF data says.

    Raises EmptyBody, MediaTypeError, ImageTooLarge (before any pixel is allocated) and DecodeError.
    """
    kind, width, height = _measure(body)
    if width * height > pixels_max:
        raise ImageTooLarge(f"the picture is {width}x{height}, above the limit of {pixels_max} pixels; send it smaller")
    return _decode(body, kind, cv2.IMREAD_COLOR_RGB)


def decode_reduced(body: bytes, pixels_max: int, rows: int, columns: int) -> tuple[Image, tuple[int, int]]:
    """Decode at half the size if that still has `rows` x `columns`, which saves a good part of the work of a JPEG.

    Returns the picture and the (height, width) it has whole. Raises as `decode_image`.
    """
    kind, width, height = _measure(body)
    if kind == PNG or min(height // 2, width // 2) < max(rows, columns) or width * height > pixels_max:
        image = decode_image(body, pixels_max)
        return image, (image.shape[0], image.shape[1])
    # There is no flag for half the size in RGB.
    half = _decode(body, kind, cv2.IMREAD_REDUCED_COLOR_2)
    upright = abs(half.shape[0] * 2 - height) <= 1 and abs(half.shape[1] * 2 - width) <= 1
    rgb = np.asarray(cv2.cvtColor(half, cv2.COLOR_BGR2RGB), np.uint8)
    return rgb, (height, width) if upright else (width, height)


def encode_jpeg(image: Image, quality: int = 90) -> bytes:
    """Encode an RGB picture."""
    height, width = image.shape[:2]
    if max(height, width) > _JPEG_SIDE_MAX:
        raise ImageTooLarge(
            f"the picture is {width}x{height}, a JPEG has at most {_JPEG_SIDE_MAX} pixels a side; ask for JSON instead"
        )
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DecodeError("the picture cannot be encoded as JPEG")
    return data.tobytes()


def encode_as(image: Image, kind: str) -> bytes:
    """Encode an RGB picture as PNG, without loss, or as JPEG of high quality. Raises ImageTooLarge, DecodeError."""
    if kind != PNG:
        return encode_jpeg(image, quality=95)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise DecodeError("the picture cannot be encoded as PNG")
    return data.tobytes()


def encode_window(rows: list[list[float]]) -> tuple[bytes, str]:
    """(size, channels) -> bytes and their media type; raises ShapeError when the rows differ in length."""
    try:
        # Too large for float32 becomes infinity here, and is refused when the window is decoded.
        with np.errstate(over="ignore"):
            window = np.asarray(rows, dtype="<f4")
    except ValueError as error:
        raise ShapeError("the rows differ in length; send every row with one number per channel") from error
    if window.ndim != 2:
        raise ShapeError("there are no rows; send one row per sample, with one number per channel")
    return window.tobytes(), f"{WINDOW};channels={window.shape[1]}"


def decode_window(body: bytes, media_type: str, size: int, channels: int) -> npt.NDArray[np.float32]:
    """bytes -> (size, channels) float32; raises ShapeError, ValueRangeError."""
    values = np.frombuffer(body, dtype="<f4")
    got = int(media_type.partition("channels=")[2] or channels)
    if got != channels or values.size != size * channels:
        raise ShapeError(
            f"the window has {values.size // max(got, 1)} rows of {got} numbers, the model expects {size} rows of "
            f"{channels}; send one row per sample, with one number per channel"
        )
    if not np.isfinite(values).all():
        raise ValueRangeError("the window contains NaN or infinity; send finite numbers only")
    return values.reshape(size, channels).astype(np.float32, copy=False)


def decode_json(body: bytes) -> object:
    """Raises EmptyBody or DecodeError with the place of the mistake."""
    if not body:
        raise EmptyBody("the body is empty; send JSON")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the body is not JSON: {error}") from error


def _measure(body: bytes) -> tuple[str, int, int]:
    """Media type, width and height as the headers say."""
    kind = sniff(body)
    return kind, *(_png_size(body) if kind == PNG else _jpeg_size(body))


def _decode(body: bytes, kind: str, flags: int) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(body, np.uint8), flags)
    except cv2.error as error:
        raise DecodeError(f"the {kind} picture cannot be decoded: {error.err}; send it again") from error
    if image is None:
        raise DecodeError(f"the {kind} picture is damaged and cannot be decoded; send it again")
    return np.asarray(image, np.uint8)


def _png_size(body: bytes) -> tuple[int, int]:
    """Width and height from IHDR (W3C PNG, section 11.2.1); the picture must reach its IEND chunk."""
    if len(body) < 33 or body[12:16] != b"IHDR":
        raise DecodeError("the PNG picture has no header; send it again")
    if body.rfind(b"IEND") < 33:
        raise DecodeError(f"the PNG picture is cut off after {len(body)} bytes; send it again")
    width, height = struct.unpack_from(">II", body, 16)
    return width, height


def _jpeg_size(body: bytes) -> tuple[int, int]:
    """Width and height from the frame header (ITU-T T.81, B.2.2); the picture must reach its end marker."""
    size = None
    at = 2
    for _ in range(_JPEG_MARKERS_MAX):
        if at + 4 > len(body) or body[at] != 0xFF:
            break
        marker = body[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_ALONE:
            at += 2
            continue
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        if marker in _JPEG_SIZES and at + 9 <= len(body):
            height, width = struct.unpack_from(">HH", body, at + 5)
            size = width, height
        if marker == _JPEG_SCAN:
            break
        at += 2 + length
    if size is None:
        raise DecodeError("the JPEG picture has no frame header; send it again")
    if body.find(b"\xff\xd9", at) < 0:
        raise DecodeError(f"the JPEG picture is cut off after {len(body)} bytes; send it again")
    return size
