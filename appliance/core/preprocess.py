"""From a decoded input to the network's input tensor, and from a place in that input back to the picture."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from appliance.core.manifest import ImagePreprocess, WindowPreprocess
from appliance.core.tensors import Array, TensorSpec
from appliance.core.waveform import prepare_window
from appliance.errors import ShapeError


class Placement(NamedTuple):
    """Where a picture lies in the network's input.

    A point (x, y) of the picture is at (left + x * scale_x, top + y * scale_y) of the input. Scales are input pixels
    per pixel of the picture; left and top are in pixels of the input, negative where the picture was cropped.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float


class _Area(NamedTuple):
    """A rectangle in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def input_size(steps: ImagePreprocess, spec: TensorSpec) -> tuple[int, int]:
    """Rows and columns of the input."""
    rows, columns = spec.shape[2:4] if steps.layout == "nchw" else spec.shape[1:3]
    return rows, columns


def place(picture: tuple[int, int], steps: ImagePreprocess, spec: TensorSpec) -> Placement:
    """picture: (height, width) as it was sent. The same geometry that `preprocess_image` uses."""
    source, target = _areas(picture, steps, *input_size(steps, spec))
    scale_x, scale_y = target.width / source.width, target.height / source.height
    return Placement(scale_x, scale_y, target.left - source.left * scale_x, target.top - source.top * scale_y)


def preprocess_image(image: npt.NDArray[np.uint8], steps: ImagePreprocess, spec: TensorSpec) -> Array:
    """image: (height, width, 3) uint8 RGB, left unchanged. Returns a batch of one in the layout and dtype of `spec`.

    `stretch` and `crop` shrink by area averaging. `letterbox` is bilinear, as in the training of the detectors that it
    is used with. All enlarge bilinearly. A uint8 input takes the pixels as they are, any other (pixel - mean) / std.
    """
    rows, columns = input_size(steps, spec)
    source, target = _areas((image.shape[0], image.shape[1]), steps, rows, columns)
    pixels: npt.NDArray[Any] = image[source.top : source.top + source.height, source.left : source.left + source.width]
    if (source.height, source.width) != (target.height, target.width):
        shrink = source.height > target.height or source.width > target.width
        area = shrink and steps.resize != "letterbox"
        pixels = cv2.resize(
            pixels, (target.width, target.height), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR
        )
    if (target.height, target.width) != (rows, columns):
        below, beside = rows - target.top - target.height, columns - target.left - target.width
        pad = (steps.pad,) * 3
        pixels = cv2.copyMakeBorder(pixels, target.top, below, target.left, beside, cv2.BORDER_CONSTANT, value=pad)
    if steps.colour != "rgb":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if steps.colour == "gray" else cv2.COLOR_RGB2BGR)
    tensor = _planes(pixels, steps, spec) if steps.layout == "nchw" else _interleaved(pixels, steps, spec)
    if tensor.dtype == spec.dtype:
        return tensor
    return (np.rint(tensor) if np.dtype(spec.dtype).kind in "iu" else tensor).astype(spec.dtype)


def preprocess_window(window: npt.NDArray[np.float32], steps: WindowPreprocess) -> Array:
    """window: (size, channels) float32 in the manifest's unit. Returns (1, ...) float32."""
    try:
        return prepare_window(window, steps.transform, steps.rate_hz)
    except ValueError as error:
        raise ShapeError(str(error)) from error


def _areas(picture: tuple[int, int], steps: ImagePreprocess, rows: int, columns: int) -> tuple[_Area, _Area]:
    """Which part of the picture goes to which part of the input."""
    height, width = picture
    whole, full = _Area(0, 0, height, width), _Area(0, 0, rows, columns)
    if steps.resize == "crop":
        scale = max(rows / height, columns / width)
        across, down = max(1, min(width, round(columns / scale))), max(1, min(height, round(rows / scale)))
        return _Area((height - down) // 2, (width - across) // 2, down, across), full
    if steps.resize == "letterbox":
        scale = min(rows / height, columns / width)
        across, down = max(1, min(columns, round(width * scale))), max(1, min(rows, round(height * scale)))
        return whole, _Area((rows - down) // 2, (columns - across) // 2, down, across)
    return whole, full


def _interleaved(pixels: npt.NDArray[Any], steps: ImagePreprocess, spec: TensorSpec) -> Array:
    """(rows, columns[, channels]) -> (1, rows, columns, channels)."""
    tensor: Array = np.ascontiguousarray(pixels) if spec.dtype == "uint8" else cv2.LUT(pixels, _table(steps))
    return tensor.reshape(1, *pixels.shape[:2], len(steps.mean))


def _planes(pixels: npt.NDArray[Any], steps: ImagePreprocess, spec: TensorSpec) -> Array:
    """(rows, columns[, channels]) -> (1, channels, rows, columns)."""
    as_is = spec.dtype == "uint8"
    tensor = np.empty((1, len(steps.mean), *pixels.shape[:2]), np.uint8 if as_is else np.float32)
    for plane, channel, mean, std in zip(tensor[0], cv2.split(pixels), steps.mean, steps.std, strict=True):
        if as_is:
            plane[:] = channel
            continue
        # A multiplication and an addition in place cost half of looking every pixel up in a table.
        np.multiply(channel, np.float32(1.0 / std), out=plane)
        if mean:
            plane -= np.float32(mean / std)
    return tensor


@lru_cache(maxsize=64)
def _table(steps: ImagePreprocess) -> npt.NDArray[np.float32]:
    """(pixel - mean) / std of every pixel value: (1, 256, channels), with one channel when all are alike.

    One look-up replaces three passes over the picture.
    """
    columns = [(np.arange(256) - mean) / std for mean, std in dict.fromkeys(zip(steps.mean, steps.std, strict=True))]
    if 1 < len(columns) < len(steps.mean):
        columns = [(np.arange(256) - mean) / std for mean, std in zip(steps.mean, steps.std, strict=True)]
    return np.stack(columns, axis=-1).astype(np.float32)[None]
