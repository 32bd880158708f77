"""Camera frames of a surface, good or with a defect drawn into it, from photographs that scikit-image's wheel carries.

The photographs (brick, grass, gravel; 512x512 grey, CC0) are read from the installed package, never downloaded, and
checked against their hash. Each is cut into regions that share no pixel: `train` and `validation` make models,
`test` is for tests, golden cases and the simulated camera. A frame is resampled from within one region alone.

Everything is drawn from a NumPy generator: equal seeds give equal frames.
"""

import functools
import hashlib
import importlib.resources
import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Texture = Literal["brick", "grass", "gravel"]
Kind = Literal["good", "scratch", "hole", "stain"]
Split = Literal["train", "validation", "test", "whole"]

Patch = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TEXTURES: tuple[Texture, ...] = ("brick", "grass", "gravel")
KINDS: tuple[Kind, ...] = ("good", "scratch", "hole", "stain")


class Region(NamedTuple):
    """A rectangle of a photograph in pixels; the ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int


# `whole` overlaps the others: it is for a photograph that training left out altogether.
REGIONS: dict[Split, Region] = {
    "train": Region(0, 352, 0, 336),
    "validation": Region(352, 512, 0, 336),
    "test": Region(0, 512, 336, 512),
    "whole": Region(0, 512, 0, 512),
}

_SHA256: dict[Texture, str] = {
    "brick": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "grass": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "gravel": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
}

# The short side of what the camera sees, in pixels of the photograph.
_VIEW_MIN, _VIEW_MAX = 112.0, 168.0
# Cubic interpolation reaches two pixels beyond the point it computes.
_MARGIN = 2.0

# What a stain multiplies each of red, green and blue with, where it is thickest: oil, coffee, rust, algae, water.
_TINTS = ((0.38, 0.37, 0.38), (0.56, 0.43, 0.31), (0.80, 0.50, 0.34), (0.52, 0.64, 0.38), (0.54, 0.58, 0.65))


@functools.cache
def photograph(texture: Texture) -> npt.NDArray[np.uint8]:
    """The photograph as (512, 512) uint8 grey, read-only.

    Raises FileNotFoundError without scikit-image, ValueError when its file is not the one that the models know.
    """
    try:
        content = (importlib.resources.files("skimage") / "data" / f"{texture}.png").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(f"photograph {texture!r} not found: install scikit-image") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256[texture]:
        raise ValueError(f"photograph {texture!r}: expected SHA-256 {_SHA256[texture]}, got {digest}")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    pixels = np.asarray(image, np.uint8)
    pixels.setflags(write=False)
    return pixels


def region(texture: Texture, split: Split) -> npt.NDArray[np.uint8]:
    """The pixels of one region of the photograph, (rows, columns) uint8, read-only."""
    part = REGIONS[split]
    return photograph(texture)[part.top : part.bottom, part.left : part.right]


def frame(
    rng: np.random.Generator, texture: Texture, kind: Kind, split: Split = "test", size: tuple[int, int] = (320, 320)
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """What a camera above the surface sees: another place, turn, distance, light and focus each time.

    size: (height, width) in pixels, 64 or more each.  Returns (H, W, 3) uint8 RGB, and (H, W) bool that is true where
    the defect is: nowhere for `good`, somewhere for every other kind.
    """
    height, width = size
    if min(size) < 64:
        raise ValueError(f"size must be at least (64, 64), got {size}")
    patch = _colour(rng, _view(rng, region(texture, split), height, width))
    mask = np.zeros((height, width), np.bool_)
    if kind != "good":
        draw = {"scratch": scratch, "hole": hole, "stain": stain}[kind]
        for _ in range(2 if rng.random() < 0.3 else 1):
            patch, drawn = draw(rng, patch)
            mask |= drawn
    return _expose(rng, patch), mask


def encode(rng: np.random.Generator, image: npt.NDArray[np.uint8]) -> bytes:
    """The frame, (H, W, 3) uint8 RGB, as the camera publishes it: JPEG of a quality from 80 to 95."""
    quality = int(rng.integers(80, 96))
    done, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return content.tobytes()


def scratch(rng: np.random.Generator, patch: Patch) -> tuple[Patch, Mask]:
    """Draw a long, slightly bent groove: a bright or dark line with a thin edge of the opposite shade along it.

    patch: (H, W, 3) float32, 0..255.  Returns a new patch, and (H, W) bool of the line.
    """
    height, width = patch.shape[:2]
    short = min(height, width)
    steps = 48
    bend = np.cumsum(rng.normal(0, 0.02, steps)) + np.linspace(0, rng.normal(0, 0.4), steps)
    heading = rng.uniform(0, 2 * math.pi) + bend
    stride = short * rng.uniform(0.6, 1.0) / steps
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * stride, axis=0)
    middle = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
    path += middle - (path.min(axis=0) + path.max(axis=0)) / 2
    thickness = short * rng.uniform(0.012, 0.024)
    line = _stroke((height, width), path, thickness)
    normal = np.array([-math.sin(heading.mean()), math.cos(heading.mean())])
    edge = _stroke((height, width), path + normal * thickness * 0.9, thickness * 0.7) * (1 - line)
    sign = 1.0 if rng.random() < 0.6 else -1.0
    around = float(patch[line > 0.5].mean()) if (line > 0.5).any() else float(patch.mean())
    depth = max(rng.uniform(75, 115), 2.3 * float(patch.std()))
    out = _blend(patch, np.float32(around + sign * depth), line * rng.uniform(0.85, 1.0))
    out = _blend(out, np.float32(around - sign * depth), edge * 0.6)
    return out, line > 0.4


def hole(rng: np.random.Generator, patch: Patch) -> tuple[Patch, Mask]:
    """Draw a deep, nearly black pit of uneven outline, its far rim catching the light.

    patch: (H, W, 3) float32, 0..255.  Returns a new patch, and (H, W) bool of the pit.
    """
    height, width = patch.shape[:2]
    radius = min(height, width) * rng.uniform(0.055, 0.115)
    inside, across = _blob(rng, (height, width), radius, roughness=0.12)
    softness = max(1.0, radius * 0.12)
    pit = _ramp(inside, softness)
    rim = np.exp(-((inside / (radius * 0.16)) ** 2)) * np.clip(across, 0, 1) * (1 - pit)
    bottom = rng.uniform(4, 26) + 14 * np.clip(across, -1, 1)
    out = _blend(patch, np.float32(min(245.0, float(patch.mean()) + 85)), rim * rng.uniform(0.5, 0.9))
    out = _blend(out, np.clip(bottom, 0, 60).astype(np.float32)[..., None], pit * 0.97)
    return out, pit > 0.5


def stain(rng: np.random.Generator, patch: Patch) -> tuple[Patch, Mask]:
    """Tint a wide patch of uneven outline; the texture stays visible below, the border dries darker.

    patch: (H, W, 3) float32, 0..255.  Returns a new patch, and (H, W) bool of the stain.
    """
    height, width = patch.shape[:2]
    radius = min(height, width) * rng.uniform(0.14, 0.27)
    inside, _ = _blob(rng, (height, width), radius, roughness=0.22)
    film = _ramp(inside, max(1.0, radius * 0.10))
    ring = np.exp(-(((inside - radius * 0.06) / (radius * 0.09)) ** 2)) * film
    thickness = rng.uniform(0.75, 1.0) * film + 0.25 * ring
    tint = np.array(_TINTS[rng.integers(len(_TINTS))]) * rng.uniform(0.9, 1.1, 3)
    kept = np.clip(1 - thickness[..., None] * (1 - tint.astype(np.float32)), 0.05, 1)
    return (patch * kept).astype(np.float32), film > 0.5


def _view(rng: np.random.Generator, source: npt.NDArray[np.uint8], height: int, width: int) -> Patch:
    """Resample a turned rectangle that lies inside the source whole; (height, width) float32."""
    angle = math.radians(90 * int(rng.integers(4)) + rng.uniform(-15, 15))
    short = math.exp(rng.uniform(math.log(_VIEW_MIN), math.log(_VIEW_MAX)))
    scale = short / min(height, width)
    cos, sin = math.cos(angle), math.sin(angle)
    box = np.array([width * abs(cos) + height * abs(sin), width * abs(sin) + height * abs(cos)])
    room = np.array([source.shape[1], source.shape[0]]) - 1 - 2 * _MARGIN
    scale = min(scale, float((room / box).min()))
    slack = room - scale * box
    centre = _MARGIN + scale * box / 2 + slack * rng.uniform(0, 1, 2)
    turn = scale * np.array([[cos, -sin], [sin, cos]])
    shift = centre - turn @ np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.hstack([turn, shift[:, None]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(source, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.5:
        seen = seen[:, ::-1]
    return seen.astype(np.float32)


def _colour(rng: np.random.Generator, grey: Patch) -> Patch:
    """Give the grey view a contrast, a brightness and a cast of colour; (H, W, 3) float32."""
    mean = float(grey.mean())
    toned = (grey - mean) * rng.uniform(0.75, 1.25) + mean + rng.uniform(-20, 20)
    cast = (1 + rng.uniform(-0.10, 0.10, 3)).astype(np.float32)
    return np.asarray(np.clip(toned[..., None] * cast, 0, 255), np.float32)


def _expose(rng: np.random.Generator, patch: Patch) -> npt.NDArray[np.uint8]:
    """Light the patch unevenly, blur it as a lens does and add the sensor's grain; (H, W, 3) uint8."""
    height, width = patch.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + rng.uniform(0, 0.18) * (math.cos(angle) * across + math.sin(angle) * down)
    light *= rng.uniform(0.85, 1.15) * (1 - rng.uniform(0, 0.12) * (across**2 + down**2))
    lit = (patch * light[..., None]).astype(np.float32)
    blur = rng.uniform(0.0, 0.0035) * min(height, width)
    if blur > 0.3:
        lit = np.asarray(cv2.GaussianBlur(lit, (0, 0), blur), np.float32)
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1, 4))
    return np.clip(np.rint(lit + grain), 0, 255).astype(np.uint8)


def _stroke(size: tuple[int, int], path: npt.NDArray[np.floating], thickness: float) -> Patch:
    """Cover of a smooth line that thins out towards its ends, (H, W) float32 0..1."""
    canvas = np.zeros(size, np.uint8)
    taper = np.clip(np.sin(np.linspace(0.12, math.pi - 0.12, len(path))) * 1.6, 0.4, 1)
    points = np.rint(path * 16).astype(np.int32)
    for start, end, share in zip(points[:-1], points[1:], taper[1:], strict=True):
        pixels = max(1, round(thickness * share))
        cv2.line(canvas, start.tolist(), end.tolist(), 255, pixels, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _blob(rng: np.random.Generator, size: tuple[int, int], radius: float, roughness: float) -> tuple[Patch, Patch]:
    """An uneven disc: signed distance to its outline in pixels (positive inside), and position along the light, -1..1.

    Both (H, W). The outline is a circle, flattened a little, whose radius is modulated by a few harmonics.
    """
    height, width = size
    reach = min(radius * 1.2 / width, 0.45), min(radius * 1.2 / height, 0.45)
    x = width * rng.uniform(reach[0], 1 - reach[0])
    y = height * rng.uniform(reach[1], 1 - reach[1])
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    turn, flat = rng.uniform(0, math.pi), rng.uniform(0.75, 1.0)
    along = (across - x) * math.cos(turn) + (down - y) * math.sin(turn)
    aside = (-(across - x) * math.sin(turn) + (down - y) * math.cos(turn)) / flat
    distance, angle = np.hypot(along, aside), np.arctan2(aside, along)
    outline = np.ones(size, np.float32)
    for harmonic in range(2, 7):
        outline += roughness * rng.normal() / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * math.pi))
    light = rng.uniform(0, 2 * math.pi)
    position = ((across - x) * math.cos(light) + (down - y) * math.sin(light)) / radius
    return radius * np.clip(outline, 0.6, 1.5) - distance, position


def _ramp(inside: Patch, softness: float) -> Patch:
    """0 outside, 1 inside, rising over `softness` pixels at the outline."""
    return np.asarray(np.clip(inside / softness + 0.5, 0, 1), np.float32)


def _blend(patch: Patch, value: npt.ArrayLike, cover: npt.ArrayLike) -> Patch:
    share = np.asarray(cover, np.float32)[..., None]
    return (patch * (1 - share) + np.asarray(value, np.float32) * share).astype(np.float32)
