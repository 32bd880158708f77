"""Camera frames of a conveyor belt with parts on it: bolts, caps, coins, gears, nuts and washers, seen from above.

Coins are photographs (24 of them, on the picture `coins` in scikit-image's wheel, no known copyright restrictions);
everything else is drawn: outline, height, shading under one light, shadow. Belts are drawn, or come from the
photographs of `textures`. Nothing is downloaded; the picture is checked against its hash.

`train`, `validation` and `test` share no coin and no pixel of a photographed belt; the belts of BELTS_UNSEEN are never
in training. Everything comes from a NumPy generator: equal seeds give equal frames.
"""

import functools
import hashlib
import importlib.resources
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from provisioning.textures import Texture, region

Label = Literal["bolt", "cap", "coin", "gear", "nut", "washer"]
Belt = Literal["rubber", "ribs", "weave", "chevron", "brick", "grass", "gravel", "mesh", "links"]
Split = Literal["train", "validation", "test"]

Patch = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

LABELS: tuple[Label, ...] = ("bolt", "cap", "coin", "gear", "nut", "washer")
BELTS: tuple[Belt, ...] = ("rubber", "ribs", "weave", "chevron", "brick", "grass", "gravel")
BELTS_UNSEEN: tuple[Belt, ...] = ("mesh", "links")

COINS: dict[Split, tuple[int, ...]] = {
    "train": (0, 1, 3, 5, 7, 8, 10, 12, 14, 15, 17, 18, 21, 23),
    "validation": (4, 6, 13, 22),
    "test": (2, 9, 11, 16, 19, 20),
}

_COINS_SHA256 = "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"

# Outline of each coin on the photograph: centre x, centre y, two diameters, turn in degrees; measured on it.
_COINS = (
    (44.2, 54.5, 39.0, 45.0, 77.9),
    (100.3, 56.3, 35.6, 40.0, 95.9),
    (155.3, 50.9, 44.8, 47.5, 99.2),
    (215.3, 51.2, 44.3, 47.2, 94.5),
    (276.5, 52.4, 38.9, 41.1, 98.6),
    (335.3, 43.6, 56.3, 58.8, 89.0),
    (44.7, 124.3, 40.1, 41.8, 43.6),
    (102.2, 125.7, 36.6, 38.6, 61.3),
    (153.6, 127.3, 35.5, 39.3, 85.7),
    (205.1, 123.8, 38.6, 40.7, 56.3),
    (270.7, 118.8, 48.4, 51.3, 90.9),
    (336.2, 124.4, 39.0, 39.3, 94.4),
    (43.7, 197.4, 37.4, 38.5, 138.5),
    (101.7, 195.5, 43.2, 44.0, 85.2),
    (154.2, 197.7, 38.1, 39.3, 97.8),
    (212.5, 193.1, 46.3, 48.0, 90.2),
    (273.7, 193.6, 42.2, 46.0, 123.0),
    (347.5, 187.3, 63.0, 63.5, 90.0),
    (46.1, 259.8, 55.5, 57.0, 59.3),
    (113.9, 265.7, 42.2, 43.1, 97.5),
    (172.4, 261.3, 51.5, 57.7, 90.9),
    (243.9, 263.4, 46.4, 48.4, 63.3),
    (300.6, 263.3, 48.5, 52.5, 57.1),
    (358.2, 267.9, 41.6, 45.6, 91.4),
)

# Red, green, blue of steel, zinc, stainless, brass, copper, black oxide.
_METALS = ((172, 174, 178), (198, 200, 206), (182, 178, 170), (204, 170, 92), (184, 118, 78), (66, 66, 70))
_PLASTICS = ((196, 40, 38), (34, 92, 176), (232, 232, 226), (38, 132, 66), (236, 190, 40), (40, 40, 44), (214, 110, 34))
_BELT_COLOURS = (
    (48, 49, 51),
    (78, 80, 82),
    (30, 88, 66),
    (44, 92, 138),
    (196, 194, 186),
    (150, 128, 98),
    (108, 110, 112),
)

# Parts are drawn this many times larger, then reduced: smooth edges.
_FINE = 2
# Shares of a part: hidden by another one, outside the picture; and the overlap of two boxes.
_HIDDEN_MAX, _OUTSIDE_MAX, _BOX_IOU_MAX = 0.12, 0.35, 0.3
_TRIES = 30


class Part(NamedTuple):
    """A part that can be seen. box: (left, top, right, bottom) in pixels, right and bottom exclusive."""

    label: Label
    box: tuple[int, int, int, int]


class _Light(NamedTuple):
    """Where the light comes from: a unit vector in the picture, and its height above the belt, 0..1."""

    x: float
    y: float
    z: float


class _Sprite(NamedTuple):
    """A part drawn by itself: colour (h, w, 3) 0..255, cover (h, w) 0..1."""

    label: Label
    colour: Patch
    cover: Patch


class _Field(NamedTuple):
    """A part in its own frame. inside: signed distance to the outline, pixels, positive inside; height: pixels;
    colour: (h, w, 3) before the light falls on it; gloss: 0 dull to 1 mirror.
    """

    inside: Patch
    height: Patch
    colour: Patch
    gloss: float


def scene(
    rng: np.random.Generator,
    count: int,
    split: Split = "test",
    size: tuple[int, int] = (480, 640),
    belt: Belt | None = None,
    labels: Sequence[Label] = LABELS,
) -> tuple[Pixels, tuple[Part, ...]]:
    """A belt with `count` parts of `labels`, or fewer when there is no room left for more.

    size: (height, width) in pixels, 128 or more each. belt: one of BELTS by lot when None.
    Returns (H, W, 3) uint8 RGB and the parts. A box ends at the picture's edge, and takes no notice of a part above.
    """
    if min(size) < 128:
        raise ValueError(f"size must be at least (128, 128), got {size}")
    chosen = belt or BELTS[int(rng.integers(len(BELTS)))]
    canvas = _litter(rng, _belt(rng, chosen, split, size))
    turn = rng.uniform(0, 2 * math.pi)
    light = _Light(math.cos(turn), math.sin(turn), rng.uniform(0.5, 0.9))
    zoom = min(size) / 480 * rng.uniform(0.8, 1.2)
    touching = rng.random() < 0.4
    owners = np.zeros(size, np.int32)
    areas: list[float] = []
    parts: list[Part] = []
    for _ in range(count):
        label = labels[int(rng.integers(len(labels)))]
        sprite = _draw(rng, label, zoom, light, split)
        place = _find_room(rng, sprite, owners, areas, parts, touching)
        if place is None:
            continue
        corner, part = place
        _lay(canvas, owners, sprite, corner, light, zoom * rng.uniform(3, 9), len(parts) + 1)
        areas.append(float((sprite.cover > 0.5).sum()))
        parts.append(part)
    return _expose(rng, canvas), tuple(parts)


@functools.cache
def _coins() -> Pixels:
    """The photograph of the coins, (303, 384) uint8 grey, read-only.

    Raises FileNotFoundError without scikit-image, ValueError when its file is another one.
    """
    try:
        content = (importlib.resources.files("skimage") / "data" / "coins.png").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError("photograph 'coins' not found: install scikit-image") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _COINS_SHA256:
        raise ValueError(f"photograph 'coins': expected SHA-256 {_COINS_SHA256}, got {digest}")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    pixels = np.asarray(image, np.uint8)
    pixels.setflags(write=False)
    return pixels


# --- the belt -------------------------------------------------------------------------------------------------------


def _belt(rng: np.random.Generator, belt: Belt, split: Split, size: tuple[int, int]) -> Patch:
    """The empty belt, (H, W, 3) float32 0..255, now and then with the frame of the conveyor along two sides."""
    height = size[0]
    base = np.array(_BELT_COLOURS[int(rng.integers(len(_BELT_COLOURS)))], np.float32) * np.float32(
        rng.uniform(0.8, 1.2)
    )
    if belt in ("brick", "grass", "gravel"):
        relief = _photographed(rng, belt, split, size)
    else:
        relief = _pattern(rng, belt, size)
    wear = _clouds(rng, size, 6) * rng.uniform(0.02, 0.08)
    canvas = np.clip(base, 15, 235) * (1 + relief + wear)[..., None]
    if rng.random() < 0.25:
        rail = rng.uniform(0.03, 0.08) * height
        rows = np.arange(height, dtype=np.float32)[:, None]
        away = np.minimum(rows, height - 1 - rows)
        steel = 120 + 60 * np.sin(np.clip(away / rail, 0, 1) * math.pi) + _clouds(rng, size, 40) * 6
        canvas = np.where(
            (away < rail)[..., None], steel[..., None], canvas * np.clip((away - rail) / 8, 0.5, 1)[..., None]
        )
    turned = canvas[::-1] if rng.random() < 0.5 else canvas
    return np.asarray(np.clip(turned, 0, 255), np.float32)


def _photographed(rng: np.random.Generator, texture: Texture, split: Split, size: tuple[int, int]) -> Patch:
    """A turned, enlarged piece of one region of a photograph as relief, about -0.4..0.4, (H, W)."""
    source = region(texture, split)
    height, width = size
    turned = rng.random() < 0.5
    rows, columns = (width, height) if turned else (height, width)
    share = min(source.shape[0] / rows, source.shape[1] / columns) * rng.uniform(0.6, 1.0)
    high, wide = int(rows * share), int(columns * share)
    top, left = (int(rng.integers(room + 1)) for room in (source.shape[0] - high, source.shape[1] - wide))
    piece = cv2.resize(source[top : top + high, left : left + wide], (columns, rows), interpolation=cv2.INTER_CUBIC)
    grey = piece.astype(np.float32)
    grey = (grey.T if turned else grey)[:: -1 if rng.random() < 0.5 else 1]
    return np.asarray((grey - grey.mean()) / (grey.std() + 1e-3) * rng.uniform(0.05, 0.16), np.float32)


def _pattern(rng: np.random.Generator, belt: Belt, size: tuple[int, int]) -> Patch:
    """Relief of a drawn belt, (H, W), about -0.4..0.4."""
    height, width = size
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.5:
        down, across = across, down
    period, depth = rng.uniform(7, 34) * min(size) / 480, rng.uniform(0.04, 0.22)
    phase = 2 * np.pi * across / np.float32(period) + rng.uniform(0, 6)
    if belt == "ribs":
        relief = np.sign(np.sin(phase)) * np.abs(np.sin(phase)) ** 0.4
    elif belt == "weave":
        relief = np.sin(phase) * np.sin(2 * np.pi * down / np.float32(period))
    elif belt == "chevron":
        folded = np.abs(np.mod(down / (6 * period), 2) - 1) * 6 * period
        relief = np.tanh(4 * np.sin(phase + 2 * np.pi * folded / period))
    elif belt == "mesh":
        pitch = period + 12
        far = np.hypot(np.mod(across, pitch) - pitch / 2, np.mod(down, pitch) - pitch / 2)
        relief = np.clip((far - pitch * 0.28) / 2, -1, 0) * 2
    elif belt == "links":
        pitch = period + 16
        row = np.floor(down / pitch)
        along = np.mod(across + np.mod(row, 2) * pitch, 2 * pitch)
        edge = np.minimum(
            np.minimum(along, 2 * pitch - along), np.minimum(np.mod(down, pitch), pitch - np.mod(down, pitch))
        )
        relief = np.clip(edge / 3 - 1, -1, 0) * 2
    else:
        relief = np.zeros(size, np.float32)
    fine = rng.standard_normal(size, np.float32) * np.float32(rng.uniform(0.01, 0.06))
    return np.asarray(relief * depth + cv2.GaussianBlur(fine, (0, 0), 0.8), np.float32)


def _litter(rng: np.random.Generator, canvas: Patch) -> Patch:
    """Things that are no parts: oil, chalk lines, crumbs, scraps of paper."""
    height, width = canvas.shape[:2]
    short = min(height, width)
    for _ in range(int(rng.poisson(1.0))):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = (int(short * rng.uniform(0.02, 0.12)), int(short * rng.uniform(0.02, 0.12)))
        spot = np.zeros((height, width), np.float32)
        cv2.ellipse(spot, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1)
        spot = cv2.GaussianBlur(spot, (0, 0), short * rng.uniform(0.006, 0.02)).astype(np.float32)
        canvas = canvas * (1 - spot * np.float32(rng.uniform(-0.25, 0.5)))[..., None]
    canvas = np.ascontiguousarray(canvas, np.float32)
    for _ in range(int(rng.poisson(2.0))):
        start = rng.uniform(0, 1, 2) * (width, height)
        end = start + rng.normal(0, 0.12 * short, 2)
        shade = rng.uniform(20, 220)
        cv2.line(canvas, _point(start), _point(end), (shade, shade, shade), int(rng.integers(1, 3)), cv2.LINE_AA)
    for _ in range(int(rng.poisson(3.0))):
        x, y = rng.uniform(0, 1, 2) * (width, height)
        reach = short * rng.uniform(0.004, 0.014)
        corners = np.array([x, y]) + rng.normal(0, reach, (5, 2))
        shade, cast = rng.uniform(20, 235), rng.uniform(0.8, 1.2, 3)
        cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], (shade * cast).tolist(), cv2.LINE_AA)
    if rng.random() < 0.15:
        box = cv2.boxPoints(
            (_point(rng.uniform(0, 1, 2) * (width, height)), (short * 0.16, short * 0.08), rng.uniform(0, 180))
        )
        cv2.fillPoly(canvas, [np.rint(box).astype(np.int32)], (226.0, 224.0, 214.0), cv2.LINE_AA)
    return np.clip(canvas, 0, 255).astype(np.float32)


# --- the parts ------------------------------------------------------------------------------------------------------


def _draw(rng: np.random.Generator, label: Label, zoom: float, light: _Light, split: Split) -> _Sprite:
    if label == "coin":
        return _coin(rng, zoom, split)
    reach = zoom * {"bolt": 172, "cap": 104, "gear": 138, "nut": 104, "washer": 108}[label] / 2
    turn = rng.uniform(0, 2 * math.pi)
    side = np.arange(-math.ceil(reach) * _FINE, math.ceil(reach) * _FINE, dtype=np.float32)
    y, x = np.meshgrid((side + 0.5) / _FINE, (side + 0.5) / _FINE, indexing="ij")
    u = (x * math.cos(turn) + y * math.sin(turn)).astype(np.float32)
    v = (y * math.cos(turn) - x * math.sin(turn)).astype(np.float32)
    make = {"bolt": _bolt, "cap": _cap, "gear": _gear, "nut": _nut, "washer": _washer}[label]
    return _render(label, make(rng, u, v, zoom), light)


def _washer(rng: np.random.Generator, u: Patch, v: Patch, zoom: float) -> _Field:
    outer = zoom * rng.uniform(44, 104) / 2
    inner = outer * rng.uniform(0.36, 0.66)
    far = np.hypot(u, v)
    inside = np.minimum(outer - far, far - inner)
    if rng.random() < 0.15:
        # A spring washer is cut open.
        inside = np.minimum(inside, np.where(u > 0, np.abs(v + 0.4 * (far - inner)) - outer * 0.035, outer))
    turned = np.sin(far * rng.uniform(1.5, 3.0) / zoom) * rng.uniform(0, 0.05)
    return _Field(inside, _bevel(inside, zoom * rng.uniform(1, 3)), _metal(rng, u, v, turned), rng.uniform(0.2, 0.8))


def _nut(rng: np.random.Generator, u: Patch, v: Patch, zoom: float) -> _Field:
    apothem = zoom * rng.uniform(40, 86) / 2
    bore = apothem * rng.uniform(0.46, 0.64)
    far = np.hypot(u, v)
    hexagon = _polygon(u, v, 6, apothem)
    inside = np.minimum(hexagon, far - bore * 0.86)
    chamfer = np.clip((far - apothem * 0.97) / (0.18 * apothem), 0, 1)
    thread = np.clip((bore - far) / (0.14 * bore), 0, 1)
    height = _bevel(np.minimum(hexagon, far - bore), zoom * 2) - zoom * (3.5 * chamfer**2 + 4 * thread)
    rings = np.where(thread > 0, 0.35 * np.sin(thread * 2.5 * math.pi) - 0.3, 0.0)
    if rng.random() < 0.3:
        # The collar of a lock nut, of nylon.
        height = height + zoom * 2 * np.clip(1 - np.abs(far - bore * 1.25) / (0.15 * bore), 0, 1)
    return _Field(inside, height.astype(np.float32), _metal(rng, u, v, rings), rng.uniform(0.3, 0.9))


def _bolt(rng: np.random.Generator, u: Patch, v: Patch, zoom: float) -> _Field:
    """On its side: the head towards -u, the thread towards +u."""
    length = zoom * rng.uniform(70, 164)
    radius = min(zoom * rng.uniform(13, 28), length * 0.24) / 2
    head, wide = radius * rng.uniform(1.1, 1.8), radius * rng.uniform(1.6, 2.1)
    kind = int(rng.integers(4))
    along = u + length / 2
    taper = np.clip((along - length + radius * 0.8) / (radius * 0.8), 0, 1) * radius * (0.9 if kind == 3 else 0.3)
    pitch = max(2.2, radius * rng.uniform(0.28, 0.5))
    from_ = head + (length - head) * (rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0)
    cut = np.sin(2 * np.pi * (along + v * 0.12) / np.float32(pitch)) * (along > from_)
    shank = radius - taper + cut * min(0.9, radius * 0.07)
    shaft = np.minimum(np.minimum(shank - np.abs(v), along - head * 0.5), length - along)
    if kind == 0:
        # Hexagon head: three faces show.
        top = np.minimum(np.minimum(wide - np.abs(v), along), head - along)
        rise = wide * np.where(np.abs(v) < wide * 0.5, 1.0, 1.45 - 0.9 * np.abs(v) / wide)
    elif kind == 1:
        top = wide - np.hypot(v, np.minimum(along - head, 0) * wide / head)
        top = np.minimum(top, head - along)
        rise = np.sqrt(np.clip(wide**2 - v**2 - (np.minimum(along - head, 0) * wide / head) ** 2, 0, None))
    elif kind == 2:
        top = np.minimum(np.minimum(wide - np.abs(v), along), head - along)
        rise = np.sqrt(np.clip(wide**2 - v**2, 0, None)) + 0.5 * np.sin(v * np.float32(6 / zoom))
    else:
        # Countersunk: as wide as the head at the end, as the shank below.
        top = np.minimum(
            np.minimum(wide - (wide - radius) * np.clip(along / head, 0, 1) - np.abs(v), along), head - along
        )
        rise = np.sqrt(np.clip((wide - (wide - radius) * np.clip(along / head, 0, 1)) ** 2 - v**2, 0, None))
    inside = np.maximum(shaft, top).astype(np.float32)
    round_ = np.sqrt(np.clip((radius - taper) ** 2 - v**2, 0, None)) + cut * radius * 0.16
    height = np.where(top > 0, rise, round_).astype(np.float32)
    return _Field(inside, height * 0.8, _metal(rng, u, v, -0.18 * np.clip(-cut, 0, 1)), rng.uniform(0.3, 0.9))


def _gear(rng: np.random.Generator, u: Patch, v: Patch, zoom: float) -> _Field:
    outer = zoom * rng.uniform(64, 132) / 2
    teeth = int(rng.integers(10, 27))
    depth = outer * rng.uniform(1.4, 2.2) / teeth * 1.3
    bore = outer * rng.uniform(0.14, 0.34)
    far, angle = np.hypot(u, v), np.arctan2(v, u)
    profile = np.clip(np.cos(angle * teeth) * rng.uniform(1.4, 2.4), -1, 1)
    inside = np.minimum(outer - depth * (1 - profile) / 2 - far, far - bore)
    if rng.random() < 0.35:
        inside = np.minimum(inside, np.maximum(np.abs(v) - bore * 0.3, bore * 1.35 - u))
    web = outer - depth * 1.8
    hub = bore + (web - bore) * rng.uniform(0.2, 0.45)
    height = _bevel(inside, zoom * 2)
    style = rng.random()
    if style < 0.4:
        height = height - zoom * 3 * _step(far - hub, zoom * 2) * _step(web - far, zoom * 2)
    elif style < 0.75:
        holes = int(rng.integers(3, 7))
        middle, size = (hub + web) / 2, min((web - hub) * 0.36, 0.62 * (hub + web) / 2 * math.sin(math.pi / holes))
        folded = np.mod(angle, 2 * math.pi / holes) - math.pi / holes
        away = np.hypot(far * np.cos(folded) - middle, far * np.sin(folded)) - size
        inside = np.minimum(inside, away)
        height = height + _bevel(away, zoom * 2)
    plastic = rng.random() < 0.3
    colour = _plastic(rng, u, v) if plastic else _metal(rng, u, v, 0.03 * np.sin(far / zoom))
    return _Field(
        inside.astype(np.float32), height.astype(np.float32), colour, rng.uniform(0.1, 0.4 if plastic else 0.8)
    )


def _cap(rng: np.random.Generator, u: Patch, v: Patch, zoom: float) -> _Field:
    """Crown cork or screw cap; no hole."""
    outer = zoom * rng.uniform(60, 100) / 2
    far, angle = np.hypot(u, v), np.arctan2(v, u)
    crown = rng.random() < 0.5
    flutes = 21 if crown else int(rng.integers(36, 70))
    wave = np.cos(angle * flutes)
    inside = outer * (1 + (0.035 if crown else 0.012) * wave) - far
    skirt = outer * (rng.uniform(0.74, 0.84) if crown else rng.uniform(0.86, 0.93))
    fall = np.clip((far - skirt) / (outer - skirt), 0, 1)
    height = -zoom * 7 * fall**1.5 + zoom * 1.6 * wave * fall * (1.0 if crown else 0.5)
    colour = _plastic(rng, u, v)
    print_ = rng.random()
    second = np.array(_PLASTICS[int(rng.integers(len(_PLASTICS)))], np.float32)
    if print_ < 0.35:
        mark = _step(outer * rng.uniform(0.3, 0.55) - far, zoom)
    elif print_ < 0.6:
        mark = _step(_polygon(u, v, int(rng.integers(3, 6)), outer * rng.uniform(0.2, 0.35)), zoom)
    elif print_ < 0.75:
        mark = _step(outer * 0.12 - np.abs(v), zoom) * _step(outer * 0.55 - np.abs(u), zoom)
    else:
        mark = np.zeros_like(far)
        height = height - zoom * 1.5 * _step(outer * rng.uniform(0.5, 0.7) - far, zoom * 2)
    colour = colour * (1 - mark[..., None]) + second * mark[..., None]
    return _Field(
        inside.astype(np.float32), height.astype(np.float32), colour.astype(np.float32), rng.uniform(0.3, 0.9)
    )


def _coin(rng: np.random.Generator, zoom: float, split: Split) -> _Sprite:
    """A photographed coin, turned, enlarged, and tinted as silver, bronze or gold."""
    x, y, wide, high, tilt = _COINS[COINS[split][int(rng.integers(len(COINS[split])))]]
    scale = zoom * rng.uniform(1.45, 2.0)
    reach = math.ceil(max(wide, high) / 2 * scale) + 2
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    shift = np.array([x, y]) - np.array([[cos, -sin], [sin, cos]]) @ np.array([reach - 0.5, reach - 0.5])
    matrix = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    grey = cv2.warpAffine(_coins(), matrix, (2 * reach, 2 * reach), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    side = np.arange(2 * reach, dtype=np.float32) - np.float32(reach - 0.5)
    down, across = np.meshgrid(side, side, indexing="ij")
    inner = angle - math.radians(tilt)
    along = (across * math.cos(inner) - down * math.sin(inner)) / (wide / 2 * scale)
    aside = (across * math.sin(inner) + down * math.cos(inner)) / (high / 2 * scale)
    cover = np.clip((0.97 - np.hypot(along, aside)) * reach + 0.5, 0, 1)
    tint = np.array([(1.0, 1.0, 1.0), (1.02, 0.86, 0.66), (1.08, 0.92, 0.58)][int(rng.integers(3))]) * rng.uniform(
        0.95, 1.05, 3
    )
    value = (grey.astype(np.float32) - 120) * rng.uniform(0.8, 1.4) + rng.uniform(105, 160)
    colour = np.clip(value[..., None] * tint.astype(np.float32), 0, 255)
    return _Sprite("coin", colour.astype(np.float32), cover.astype(np.float32))


def _render(label: Label, field: _Field, light: _Light) -> _Sprite:
    """Let the light fall on a part (Lambert's cosine, Blinn's highlight) and bring it to its size."""
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(field.height, (0, 0), 1.0) * _FINE)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    low = math.sqrt(1 - light.z**2)
    towards = (-(slope_x * light.x + slope_y * light.y) * low + light.z) / length
    # Half way between the light and the camera straight above.
    half = math.sqrt(2 + 2 * light.z)
    shine = (-(slope_x * light.x + slope_y * light.y) * low + light.z + 1) / (length * half)
    diffuse = (0.4 + 0.6 * np.clip(towards, 0, None) / light.z)[..., None]
    highlight = (np.clip(shine, 0, 1) ** (8 + 50 * field.gloss) * 110 * field.gloss)[..., None]
    lit = np.clip(field.colour * (diffuse * (1 - 0.35 * field.gloss)) + highlight, 0, 255).astype(np.float32)
    cover = np.clip(field.inside * _FINE + 0.5, 0, 1).astype(np.float32)
    size = (cover.shape[1] // _FINE, cover.shape[0] // _FINE)
    small = cv2.resize(lit, size, interpolation=cv2.INTER_AREA)
    return _Sprite(
        label, small.astype(np.float32), cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    )


def _metal(rng: np.random.Generator, u: Patch, v: Patch, relief: npt.ArrayLike) -> Patch:
    """Colour of a metal, brushed, a little uneven, now and then rusty; relief is added to its brightness, in shares."""
    base = np.array(_METALS[int(rng.integers(len(_METALS)))], np.float32) * np.float32(rng.uniform(0.85, 1.12))
    uneven = _clouds(rng, u.shape, 9) * rng.uniform(0.01, 0.06) + rng.standard_normal(u.shape, np.float32) * 0.025
    mirrored = np.sin(u * np.float32(rng.uniform(0, 0.09)) + v * np.float32(rng.uniform(0, 0.09)) + rng.uniform(0, 6))
    colour = base * (1 + uneven + 0.12 * mirrored + np.asarray(relief, np.float32))[..., None]
    if rng.random() < 0.15:
        rust = np.clip(_clouds(rng, u.shape, 14) - 0.4, 0, 1)[..., None] * np.float32(rng.uniform(0.3, 0.9))
        colour = colour * (1 - rust) + np.array((122, 70, 38), np.float32) * rust
    return colour.astype(np.float32)


def _plastic(rng: np.random.Generator, u: Patch, v: Patch) -> Patch:
    base = np.array(_PLASTICS[int(rng.integers(len(_PLASTICS)))], np.float32) * rng.uniform(0.8, 1.1, 3).astype(
        np.float32
    )
    return (base * (1 + _clouds(rng, u.shape, 12) * 0.03)[..., None]).astype(np.float32)


# --- putting it together --------------------------------------------------------------------------------------------


def _find_room(
    rng: np.random.Generator,
    sprite: _Sprite,
    owners: npt.NDArray[np.int32],
    areas: Sequence[float],
    parts: Sequence[Part],
    touching: bool,
) -> tuple[tuple[int, int], Part] | None:
    """A place, (top, left), where the sprite hides no other part and stays in the picture, each within its limit."""
    height, width = owners.shape
    high, wide = sprite.cover.shape
    solid = sprite.cover > 0.5
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    for _ in range(_TRIES):
        top, left = int(rng.uniform(0, height) - high / 2), int(rng.uniform(0, width) - wide / 2)
        inner, outer = _overlap(top, left, high, wide, height, width)
        seen = solid[inner]
        if seen.sum() < (1 - _OUTSIDE_MAX) * solid.sum():
            continue
        below = np.bincount(owners[outer][seen], minlength=len(areas) + 1)[1:]
        if below.any() and not (
            touching and all(hit <= _HIDDEN_MAX * area for hit, area in zip(below, areas, strict=True))
        ):
            continue
        box = (
            max(0, left + int(columns[0])),
            max(0, top + int(rows[0])),
            min(width, left + int(columns[-1]) + 1),
            min(height, top + int(rows[-1]) + 1),
        )
        if all(overlap(box, other.box) <= _BOX_IOU_MAX for other in parts):
            return (top, left), Part(sprite.label, box)
    return None


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0..1."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return both / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)


def _lay(
    canvas: Patch,
    owners: npt.NDArray[np.int32],
    sprite: _Sprite,
    corner: tuple[int, int],
    light: _Light,
    thickness: float,
    number: int,
) -> None:
    """Put the sprite on the canvas, in place, with the shadow that a part of this thickness throws; mark its pixels."""
    (top, left), (high, wide) = corner, sprite.cover.shape
    reach = math.ceil(thickness * 2.5)
    steep = math.sqrt(1 - light.z**2) / light.z
    shadow = cv2.copyMakeBorder(sprite.cover, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    shift = np.array([[1, 0, -light.x * thickness * steep], [0, 1, -light.y * thickness * steep]])
    shadow = cv2.warpAffine(shadow, shift, (shadow.shape[1], shadow.shape[0]))
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(0.6, thickness * 0.35)).astype(np.float32)
    inner, outer = _overlap(top - reach, left - reach, high + 2 * reach, wide + 2 * reach, *canvas.shape[:2])
    canvas[outer] *= (1 - np.float32(0.55) * shadow[inner])[..., None]
    inner, outer = _overlap(top, left, high, wide, *canvas.shape[:2])
    cover = sprite.cover[inner][..., None]
    canvas[outer] = canvas[outer] * (1 - cover) + sprite.colour[inner] * cover
    owners[outer] = np.where(sprite.cover[inner] > 0.5, number, owners[outer])


def _expose(rng: np.random.Generator, canvas: Patch) -> Pixels:
    """Light the belt unevenly, blur it as a lens and the belt's motion do, add the sensor's grain; (H, W, 3) uint8."""
    height, width = canvas.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + rng.uniform(0, 0.25) * (math.cos(angle) * across + math.sin(angle) * down)
    light *= rng.uniform(0.7, 1.2) * (1 - rng.uniform(0, 0.15) * (across**2 + down**2))
    cast = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    lit: npt.NDArray[Any] = canvas * light.astype(np.float32)[..., None] * cast
    blur = rng.uniform(0.0, 0.0036) * min(height, width)
    if blur > 0.3:
        lit = cv2.GaussianBlur(lit, (0, 0), blur)
    if rng.random() < 0.3:
        lit = cv2.blur(lit, (int(rng.integers(2, 8)), 1))
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1, 6))
    return np.asarray(np.clip(np.rint(lit + grain), 0, 255), np.uint8)


def _overlap(
    top: int, left: int, high: int, wide: int, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What of a patch at (top, left) lies in the picture: in the patch's own indices, and in the picture's."""
    rows = slice(max(0, top), max(0, min(height, top + high)))
    columns = slice(max(0, left), max(0, min(width, left + wide)))
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return inner, (rows, columns)


def _polygon(u: Patch, v: Patch, sides: int, apothem: float) -> Patch:
    """Distance to the sides of a regular polygon, positive inside."""
    turns = 2 * math.pi * np.arange(sides) / sides
    return np.asarray(
        np.min([apothem - (u * math.cos(turn) + v * math.sin(turn)) for turn in turns], axis=0), np.float32
    )


def _bevel(inside: npt.ArrayLike, width: float) -> Patch:
    """Height of a flat top with rounded edges `width` wide, pixels."""
    share = np.clip(np.asarray(inside, np.float32) / width, 0, 1)
    return np.asarray(width * np.sqrt(1 - (1 - share) ** 2), np.float32)


def _step(inside: npt.ArrayLike, softness: float) -> Patch:
    """0 outside, 1 inside, rising over `softness` pixels at the outline."""
    return np.asarray(np.clip(np.asarray(inside, np.float32) / softness + 0.5, 0, 1), np.float32)


def _clouds(rng: np.random.Generator, size: tuple[int, ...], cells: int) -> Patch:
    """Smooth noise with about `cells` bumps along the shorter side, standard deviation about 0.6; (H, W)."""
    height, width = size
    step = min(height, width) / cells
    coarse = rng.standard_normal((math.ceil(height / step) + 1, math.ceil(width / step) + 1), np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _point(place: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(place[0]), int(place[1])
