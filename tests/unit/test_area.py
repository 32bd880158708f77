"""Parts of a picture in shares of it: what a mask paints, which pixels a crop takes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.area import Mask, black_out, check_inside, pixels


@pytest.mark.parametrize(
    ("rectangle", "box"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 100, 50)),
        ((0.25, 0.5, 0.5, 0.5), (25, 25, 75, 50)),
        # 0.3 * 100 is a little less than 30, 0.1 + 0.2 a little more: neither costs a pixel.
        ((0.3, 0.0, 0.4, 0.2), (30, 0, 70, 10)),
        # All that it touches.
        ((0.001, 0.001, 0.001, 0.001), (0, 0, 1, 1)),
        ((1.0, 1.0, 0.1, 0.1), (99, 49, 100, 50)),
    ],
)
def test_rectangle_is_whole_pixels(rectangle: tuple[float, ...], box: tuple[int, ...]) -> None:
    assert pixels(rectangle, 50, 100) == box  # type: ignore[arg-type]


@given(
    st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 300), st.integers(1, 300)
)
def test_rectangle_is_never_empty_and_never_outside(
    x: float, y: float, across: float, down: float, height: int, width: int
) -> None:
    left, top, right, bottom = pixels((x, y, across, down), height, width)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_masks_paint_what_they_name_and_nothing_far_from_it() -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    black_out(image, (Mask(rectangle=(0.0, 0.0, 0.25, 0.5)), Mask(polygon=((0.5, 0.5), (0.9, 0.5), (0.9, 0.9)))))
    assert not image[:50, :50].any()
    assert not image[60, 130:180].any()
    assert image[:48, 50:].all()
    assert image[60:, :95].all()
    assert image[80, 110].all(), "above the slanting edge"


def test_polygon_leaves_no_edge_open() -> None:
    """Every pixel whose middle is inside is black, whatever the corners round to."""
    image = np.full((40, 40, 3), 255, np.uint8)
    black_out(image, (Mask(polygon=((0.2125, 0.2125), (0.7875, 0.2125), (0.7875, 0.7875), (0.2125, 0.7875))),))
    assert not image[8:32, 8:32].any()


@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"rectangle": [0, 0, 1, 1], "polygon": [[0, 0], [1, 0], [1, 1]]},
        {"polygon": [[0, 0], [1, 1]]},
        {"rectangle": [0, 0, 1]},
        {"rectangle": [0, 0, 0, 1]},
        {"rectangle": [0, 0, 1.5, 1]},
        {"polygon": [[0, 0], [1, 0], [1, -0.1]]},
    ],
)
def test_mask_that_is_none_is_refused(mask: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(mask, Mask)


def test_rectangle_that_reaches_out_is_refused() -> None:
    with pytest.raises(ValueError, match="reaches out of the picture"):
        check_inside((0.5, 0.0, 0.6, 1.0))
    check_inside((0.9, 0.0, 0.1, 1.0))
