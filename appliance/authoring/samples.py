"""Pictures made here, for golden cases of a model whose author gave none: the same bytes on every box."""

from __future__ import annotations

import cv2
import numpy as np

HEIGHT, WIDTH = 240, 320


def sample_pictures() -> list[bytes]:
    """A few PNG pictures of smooth colours and plain shapes, small when compressed."""
    return [_encode(_shaded(angle, shapes)) for angle, shapes in ((0.0, 0), (0.8, 3), (1.6, 6), (2.4, 12))]


def _shaded(angle: float, shapes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    slope = (np.cos(angle) * columns / WIDTH + np.sin(angle) * rows / HEIGHT + 1) / 2
    image = np.stack([60 + 120 * slope, 90 + 60 * (1 - slope), 130 - 70 * slope], axis=-1).astype(np.uint8)
    random = np.random.default_rng(shapes)
    for index in range(shapes):
        centre = (int(random.integers(20, WIDTH - 20)), int(random.integers(20, HEIGHT - 20)))
        size = int(random.integers(8, 40))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        if index % 2:
            cv2.circle(image, centre, size, colour, cv2.FILLED)
        else:
            cv2.rectangle(image, centre, (centre[0] + size, centre[1] + size), colour, cv2.FILLED)
    return image


def _encode(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    done, data = cv2.imencode(".png", image)
    if not done:
        raise RuntimeError("OpenCV cannot encode PNG")
    return data.tobytes()
