"""Pictures and windows made into input tensors, against the same in plain numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from appliance.core.manifest import ImagePreprocess, WindowPreprocess
from appliance.core.preprocess import preprocess_image, preprocess_window
from appliance.core.tensors import TensorSpec
from appliance.errors import ShapeError

RGB = ImagePreprocess(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))


def make_image(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def spec(rows: int, columns: int, channels: int = 3) -> TensorSpec:
    return TensorSpec("image", "float32", (-1, rows, columns, channels))


def test_picture_of_the_right_size_is_only_normalised() -> None:
    image = make_image(4, 6)
    tensor = preprocess_image(image, RGB, spec(4, 6))
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[0], (image - np.array([10, 20, 30.0])) / np.array([2, 4, 5.0]), rtol=1e-6)


def test_larger_picture_is_averaged_over_areas() -> None:
    image = make_image(12, 8)
    mean = image.reshape(4, 3, 4, 2, 3).mean(axis=(1, 3))
    tensor = preprocess_image(image, RGB, spec(4, 4))
    pixels = tensor[0] * np.array([2, 4, 5.0]) + np.array([10, 20, 30.0])
    # OpenCV rounds the average to a whole pixel value.
    np.testing.assert_allclose(pixels, mean, atol=0.51)


def test_smaller_picture_of_one_colour_stays_of_one_colour() -> None:
    tensor = preprocess_image(np.full((3, 5, 3), 130, np.uint8), RGB, spec(8, 8))
    assert tensor.shape == (1, 8, 8, 3)
    assert np.unique(tensor[..., 0]) == pytest.approx([60.0])


def test_channels_stay_red_green_blue() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 200
    tensor = preprocess_image(image, ImagePreprocess(mean=(0.0,) * 3, std=(1.0,) * 3), spec(2, 2))
    assert tensor[0, 0, 0].tolist() == [200.0, 0.0, 0.0]


def test_gray_weighs_the_colours() -> None:
    image = make_image(4, 4)
    tensor = preprocess_image(image, ImagePreprocess(colour="gray", mean=(0.0,), std=(1.0,)), spec(4, 4, 1))
    # ITU-R BT.601
    np.testing.assert_allclose(tensor[0, ..., 0], image @ np.array([0.299, 0.587, 0.114]), atol=0.51)


def test_picture_itself_is_left_alone() -> None:
    image = make_image(4, 4)
    before = image.copy()
    preprocess_image(image, RGB, spec(4, 4))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (9, 7)])
def test_any_proportion_becomes_the_input_s_size(shape: tuple[int, int]) -> None:
    assert preprocess_image(make_image(*shape), RGB, spec(8, 8)).shape == (1, 8, 8, 3)


def make_window_steps(transform: str = "none") -> WindowPreprocess:
    return WindowPreprocess(channels=("x", "y"), unit="g", rate_hz=100.0, size=16, transform=transform)


def test_window_becomes_a_batch_of_one() -> None:
    window = np.arange(32, dtype=np.float32).reshape(16, 2)
    np.testing.assert_array_equal(preprocess_window(window, make_window_steps()), window[None])


def test_unknown_transform_is_refused() -> None:
    with pytest.raises(ShapeError, match="wavelet"):
        preprocess_window(np.zeros((16, 2), np.float32), make_window_steps("wavelet"))
