"""The drawn belts that the detector learns from and the simulated camera shows."""

from __future__ import annotations

import itertools
from collections import Counter

import cv2
import numpy as np
import pytest

from provisioning import belt
from provisioning.belt import BELTS, BELTS_UNSEEN, COINS, LABELS, overlap, scene
from provisioning.simulate import BELT_TURNS, camera


@pytest.mark.parametrize("kind", [*BELTS, *BELTS_UNSEEN])
def test_every_belt_can_be_drawn_in_a_picture_of_any_proportions(kind: belt.Belt) -> None:
    image, parts = scene(np.random.default_rng(1), 4, size=(200, 300), belt=kind)

    assert image.shape == (200, 300, 3)
    assert image.dtype == np.uint8
    assert image.std() > 3
    assert 1 <= len(parts) <= 4


def test_equal_seeds_draw_equal_scenes_and_other_seeds_others() -> None:
    first, again, other = (scene(np.random.default_rng(seed), 3, size=(160, 160)) for seed in (5, 5, 6))

    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0], other[0])


def test_boxes_lie_in_the_picture_and_hardly_overlap() -> None:
    for seed in range(12):
        _, parts = scene(np.random.default_rng(seed), 10, size=(240, 320))
        for part in parts:
            left, top, right, bottom = part.box
            assert 0 <= left < right <= 320
            assert 0 <= top < bottom <= 240
        for one, other in itertools.combinations(parts, 2):
            assert overlap(one.box, other.box) <= 0.3


@pytest.mark.parametrize("label", LABELS)
def test_a_box_holds_the_part_and_nothing_changes_beyond_its_shadow(
    label: belt.Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(belt, "_expose", lambda rng, canvas: canvas.astype(np.uint8))
    for seed in range(5):
        image, (part,) = scene(np.random.default_rng(seed), 1, size=(240, 240), belt="rubber", labels=(label,))
        empty, none = scene(np.random.default_rng(seed), 0, size=(240, 240), belt="rubber")
        changed = (image != empty).any(axis=2)
        left, top, right, bottom = part.box
        near = np.zeros_like(changed)
        near[max(0, top - 25) : bottom + 25, max(0, left - 25) : right + 25] = True

        assert none == ()
        assert changed[top:bottom, left:right].mean() > 0.3
        assert not (changed & ~near).any()


def test_all_kinds_of_parts_come_about_equally_often() -> None:
    rng = np.random.default_rng(2)
    seen = Counter(part.label for _ in range(40) for part in scene(rng, 6, size=(240, 320))[1])

    assert set(seen) == set(LABELS)
    assert min(seen.values()) > 0.4 * max(seen.values())


def test_no_coin_is_in_two_splits_and_each_is_in_one() -> None:
    assert sorted(itertools.chain.from_iterable(COINS.values())) == list(range(24))


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        scene(np.random.default_rng(0), 1, size=(100, 640))


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0


def test_a_belt_camera_publishes_few_parts_and_now_and_then_a_jam() -> None:
    messages = list(itertools.islice(camera(0, 1.0, "7", "belt"), 2))

    assert [dict(each.properties)["seq"] for each in messages] == ["7-1", "7-2"]
    for each in messages:
        image = cv2.imdecode(np.frombuffer(each.payload, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (480, 640, 3)
    assert next(camera(0, 1.0, "7", "belt")).payload == messages[0].payload
    assert sorted(BELT_TURNS)[len(BELT_TURNS) // 2] <= 6 < max(BELT_TURNS)
