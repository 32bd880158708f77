"""When a camera does not see any more."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from appliance.core.picture_quality import IN_A_ROW, Fault, PictureQuality, Standing, fault_of, follow, measure


def scene(height: int = 480, width: int = 640) -> npt.NDArray[np.uint8]:
    """A board of fields with some grain."""
    rows, columns = np.indices((height, width)) // 40
    grain = np.random.default_rng(7).integers(0, 30, (height, width))
    grey = ((rows + columns) % 2 * 150 + 40 + grain).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_bright_and_sharp_scene_measures_above_a_dark_and_a_blurred_one() -> None:
    good = scene()
    dark = (good // 12).astype(np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(good, (0, 0), 12), np.uint8)
    assert measure(good).brightness > 0.4
    assert measure(dark).brightness < 0.1
    assert measure(blurred).brightness == pytest.approx(measure(good).brightness, abs=0.02)
    assert measure(blurred).sharpness < measure(good).sharpness / 20


def test_size_of_the_picture_hardly_matters() -> None:
    small, large = scene(), np.asarray(cv2.resize(scene(), (2560, 1920), interpolation=cv2.INTER_LINEAR), np.uint8)
    assert measure(large).sharpness == pytest.approx(measure(small).sharpness, rel=0.5)


def test_measuring_changes_nothing() -> None:
    image = scene()
    before = image.copy()
    measure(image)
    assert (image == before).all()
    assert measure(np.zeros((1, 1, 3), np.uint8)) == PictureQuality(0.0, 0.0)


@pytest.mark.parametrize(
    ("quality", "dark_below", "blurred_below", "fault"),
    [
        (PictureQuality(0.05, 900.0), 0.1, 50.0, "dark"),
        (PictureQuality(0.05, 1.0), 0.1, 50.0, "dark"),
        (PictureQuality(0.5, 1.0), 0.1, 50.0, "blurred"),
        (PictureQuality(0.05, 1.0), None, 50.0, "blurred"),
        (PictureQuality(0.05, 1.0), None, None, None),
        (PictureQuality(0.1, 50.0), 0.1, 50.0, None),
    ],
)
def test_fault_of_a_picture(
    quality: PictureQuality, dark_below: float | None, blurred_below: float | None, fault: Fault | None
) -> None:
    assert fault_of(quality, dark_below, blurred_below) == fault


def faults(*seen: Fault | None) -> list[Fault | None]:
    standing, told = Standing(), []
    for each in seen:
        standing = follow(standing, each)
        told.append(standing.fault)
    return told


def test_state_changes_when_three_pictures_agree() -> None:
    assert IN_A_ROW == 3
    assert faults("dark", "dark", "dark", None, None, None) == [None, None, "dark", "dark", "dark", None]


def test_single_pictures_change_nothing() -> None:
    assert faults("dark", None, "dark", "dark", None, "dark") == [None] * 6
    assert faults("dark", "dark", "blurred", "dark", "dark", "blurred", "blurred", "blurred")[-1] == "blurred"
    assert faults("dark", "dark", "dark", None, "dark", None, "dark")[-1] == "dark"
