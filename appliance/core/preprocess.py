"""From a decoded input to the network's input tensor."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from appliance.core.manifest import ImagePreprocess, WindowPreprocess
from appliance.core.tensors import Array, TensorSpec
from appliance.core.waveform import prepare_window
from appliance.errors import ShapeError


def preprocess_image(image: npt.NDArray[Any], steps: ImagePreprocess, spec: TensorSpec) -> Array:
    """image: (height, width, 3) uint8 RGB. Returns (1, rows, columns, channels) float32 as `spec` asks.

    The picture is stretched to the input's size by area averaging, then (pixel - mean) / std.
    """
    _, rows, columns, channels = spec.shape
    if image.shape[:2] != (rows, columns):
        shrink = image.shape[0] > rows or image.shape[1] > columns
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    if steps.colour == "gray":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = np.asarray(steps.mean, np.float32)
    scale = 1.0 / np.asarray(steps.std, np.float32)
    pixels = image.reshape(1, rows, columns, channels).astype(np.float32)
    pixels -= mean
    pixels *= scale
    return pixels


def preprocess_window(window: npt.NDArray[np.float32], steps: WindowPreprocess) -> Array:
    """window: (size, channels) float32 in the manifest's unit. Returns (1, ...) float32."""
    try:
        return prepare_window(window, steps.transform, steps.rate_hz)
    except ValueError as error:
        raise ShapeError(str(error)) from error
