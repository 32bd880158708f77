"""Pictures and windows made into input tensors, against the same in plain numpy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.manifest import ImagePreprocess, WindowPreprocess
from appliance.core.preprocess import place, preprocess_image, preprocess_window
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


AS_IS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def test_channels_in_the_other_order() -> None:
    image = make_image(2, 2)
    tensor = preprocess_image(image, ImagePreprocess(colour="bgr", **AS_IS), spec(2, 2))
    np.testing.assert_array_equal(tensor[0], image[..., ::-1])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_channels_first_is_the_same_tensor_turned(dtype: Literal["float32", "uint8"]) -> None:
    image = make_image(9, 7)
    last = TensorSpec("image", dtype, (1, 4, 6, 3))
    first = TensorSpec("image", dtype, (1, 3, 4, 6))
    steps = {"mean": (10.0, 20.0, 30.0), "std": (2.0, 4.0, 5.0)}
    tensor = preprocess_image(image, ImagePreprocess(layout="nchw", **steps), first)  # type: ignore[arg-type]
    turned = preprocess_image(image, ImagePreprocess(**steps), last)  # type: ignore[arg-type]
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, turned.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_uint8_input_takes_the_pixels_as_they_are() -> None:
    image = make_image(4, 6)
    tensor = preprocess_image(image, RGB, TensorSpec("image", "uint8", (1, 4, 6, 3)))
    assert tensor.dtype == np.uint8
    np.testing.assert_array_equal(tensor[0], image)


@pytest.mark.parametrize(("dtype", "value"), [("float16", -0.5), ("int8", 0), ("float64", -0.5)])
def test_other_element_types_take_the_normalised_value(dtype: Any, value: float) -> None:
    steps = ImagePreprocess(mean=(10.0,) * 3, std=(20.0,) * 3)
    tensor = preprocess_image(np.zeros((2, 2, 3), np.uint8), steps, TensorSpec("image", dtype, (1, 2, 2, 3)))
    assert tensor.dtype == np.dtype(dtype)
    assert tensor[0, 0, 0, 0] == value


@pytest.mark.parametrize("same", [True, False])
def test_gray_of_one_channel_and_three_alike_are_normalised_the_same(same: bool) -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    std = (50.0, 50.0, 50.0) if same else (50.0, 50.0, 25.0)
    tensor = preprocess_image(image, ImagePreprocess(mean=(50.0,) * 3, std=std), spec(2, 2))
    assert tensor[0, 0, 0].tolist() == [1.0, 1.0, 1.0 if same else 2.0]


def test_crop_keeps_the_middle() -> None:
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8] = 200
    tensor = preprocess_image(image, ImagePreprocess(resize="crop", **AS_IS), spec(4, 4))
    assert np.unique(tensor) == pytest.approx([200.0])


def test_letterbox_keeps_the_proportions_and_fills_the_rest() -> None:
    image = np.full((4, 8, 3), 200, np.uint8)
    tensor = preprocess_image(image, ImagePreprocess(resize="letterbox", pad=7, **AS_IS), spec(16, 16))
    assert np.unique(tensor[0, 4:12]).tolist() == [200.0]
    assert np.unique(tensor[0, :4]).tolist() == [7.0]
    assert np.unique(tensor[0, 12:]).tolist() == [7.0]


@given(
    resize=st.sampled_from(("stretch", "crop", "letterbox")),
    layout=st.sampled_from(("nhwc", "nchw")),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
def test_any_picture_fits_in_every_way(resize: Any, layout: Any, height: int, width: int) -> None:
    shape = (1, 8, 12, 3) if layout == "nhwc" else (1, 3, 8, 12)
    steps = ImagePreprocess(resize=resize, layout=layout, **AS_IS)
    assert preprocess_image(make_image(height, width), steps, TensorSpec("image", "float32", shape)).shape == shape


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(40, 80), (80, 40), (33, 32), (300, 200)])
def test_placement_leads_from_a_spot_in_the_input_back_to_the_picture(resize: Any, size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2 + 3, width // 2 - 4
    image[y - 3 : y + 4, x - 3 : x + 4] = 255
    steps = ImagePreprocess(resize=resize, pad=0, **AS_IS)
    tensor = preprocess_image(image, steps, spec(64, 64))[0, ..., 0]
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    placement = place(size, steps, spec(64, 64))
    found_x = ((columns * tensor).sum() / tensor.sum() - placement.left) / placement.scale_x
    found_y = ((rows * tensor).sum() / tensor.sum() - placement.top) / placement.scale_y
    assert found_x == pytest.approx(x + 0.5, abs=0.7)
    assert found_y == pytest.approx(y + 0.5, abs=0.7)


def make_window_steps(transform: str = "none") -> WindowPreprocess:
    return WindowPreprocess(channels=("x", "y"), unit="g", rate_hz=100.0, size=16, transform=transform)


def test_window_becomes_a_batch_of_one() -> None:
    window = np.arange(32, dtype=np.float32).reshape(16, 2)
    np.testing.assert_array_equal(preprocess_window(window, make_window_steps()), window[None])


def test_unknown_transform_is_refused() -> None:
    with pytest.raises(ShapeError, match="wavelet"):
        preprocess_window(np.zeros((16, 2), np.float32), make_window_steps("wavelet"))
