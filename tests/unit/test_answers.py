"""The answer cache: what it keeps, what it forgets, and how it counts bytes."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from appliance.answers import Answers, answer_key, weigh
from appliance.core.prediction import ClassScore, HeatMap, Prediction, Region
from appliance.core.protocol import InferenceRequest, Timing
from appliance.served import Inferred, ServedModel

LABELS = ("good", "bad")


def make_inferred(outputs: int = 0, *, regions: int = 0, cells: int = 0, score: float = 0.5) -> Inferred:
    """outputs: float32 numbers in the network's output."""
    prediction = Prediction(
        classes=tuple(ClassScore(label, score) for label in LABELS),
        score=score,
        # Numbers of their own, as inference gives them: a literal would be shared.
        regions=tuple(Region("bad", score + n, (n + 300, n + 301, n + 302, n + 303), n / 7) for n in range(regions)),
        heatmap=HeatMap(1, cells, bytes(cells)) if cells else None,
    )
    arrays = {"probabilities": np.zeros((1, outputs), np.float32)} if outputs else None
    return Inferred((prediction,), Timing(0.1, 0.2, 0.3, 0.4), True, None, arrays)


def make_request(**changes: Any) -> InferenceRequest:
    given: dict[str, Any] = {
        "model": "tiny",
        "body": b"picture",
        "media_type": "image/png",
        "source": "upload",
        "door": "http",
        "at": 0.0,
    }
    return InferenceRequest(**{**given, **changes})


def make_served(number: int = 1) -> ServedModel:
    """number: what no other loaded model has."""
    return cast(ServedModel, SimpleNamespace(number=number))


def key(index: int) -> bytes:
    return index.to_bytes(32, "big")


def test_answer_is_found_again() -> None:
    answers = Answers(1 << 20)
    kept = make_inferred()
    assert answers.get(key(1)) is None
    answers.put(key(1), kept)
    assert answers.get(key(1)) is kept
    assert (answers.hits, answers.misses) == (1, 1)


def test_least_recently_used_goes_first() -> None:
    one = weigh(make_inferred(100))
    answers = Answers(3 * one)
    for index in range(3):
        answers.put(key(index), make_inferred(100))
    answers.get(key(0))
    answers.put(key(3), make_inferred(100))
    assert [answers.get(key(index)) is not None for index in range(4)] == [True, False, True, True]
    assert answers.held_bytes == 3 * one


def test_bytes_are_those_of_what_is_kept() -> None:
    answers = Answers(50_000)
    sizes = np.random.default_rng(1).integers(1, 3000, 300)
    kept: dict[int, Inferred] = {}
    for index, size in enumerate(sizes):
        number = index % 40
        kept[number] = make_inferred(int(size))
        answers.put(key(number), kept[number])
        here = [each for each in kept if answers.get(key(each)) is not None]
        assert answers.held_bytes == sum(weigh(kept[each]) for each in here) <= 50_000
        assert len(answers) == len(here)


def test_answer_above_the_bound_drives_nobody_out() -> None:
    answers = Answers(weigh(make_inferred()) * 2)
    answers.put(key(1), make_inferred())
    answers.put(key(2), make_inferred(100_000))
    assert answers.get(key(1)) is not None
    assert answers.get(key(2)) is None


def test_the_same_key_again_counts_once() -> None:
    answers = Answers(1 << 20)
    answers.put(key(1), make_inferred(1000))
    answers.put(key(1), make_inferred(10))
    assert answers.held_bytes == weigh(make_inferred(10))
    assert len(answers) == 1


@pytest.mark.parametrize("made", [{}, {"outputs": 1000}, {"regions": 50}, {"cells": 4096}])
def test_weight_is_what_an_answer_takes(made: dict[str, int]) -> None:
    count = 300
    answers = Answers(1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(count):
            answers.put(hash_of(index), make_inferred(**made, score=index / count))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.6 * answers.held_bytes < taken < 1.4 * answers.held_bytes


def hash_of(index: int) -> bytes:
    found = answer_key(make_request(body=str(index).encode()), make_served())
    assert found is not None
    return found


def test_batch_is_counted_whole_when_one_row_of_it_is_kept() -> None:
    batch = np.zeros((64, 1000), np.float32)
    row = Inferred((Prediction(),), Timing(0, 0, 0, 0), False, None, {"y": batch[:1]})
    assert weigh(row) > batch.nbytes


def test_threads_share_it() -> None:
    answers = Answers(20 * weigh(make_inferred(10)))

    def use(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 60, 2000).tolist():
            if answers.get(key(index)) is None:
                answers.put(key(index), make_inferred(10))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as users:
            list(users.map(use, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert len(answers) == 20
    assert answers.held_bytes == 20 * weigh(make_inferred(10))
    assert answers.hits + answers.misses == 8000


SAME = answer_key(make_request(), make_served())


@pytest.mark.parametrize(
    ("request_", "served"),
    [
        (make_request(body=b"picturf"), make_served()),
        (make_request(media_type="image/jpeg"), make_served()),
        (make_request(outputs=True), make_served()),
        (make_request(), make_served(2)),
        (make_request(tensors={"x": np.zeros(2, np.float32)}), make_served()),
    ],
)
def test_key_tells_apart_what_is_answered_differently(request_: InferenceRequest, served: ServedModel) -> None:
    assert answer_key(request_, served) not in (None, SAME)


def test_key_is_the_same_for_another_part_of_another_source() -> None:
    assert answer_key(make_request(source="camera-1", at=7.0, durable=True, door="deepstack"), make_served()) == SAME


def test_tensors_are_told_apart_by_name_type_shape_and_content() -> None:
    tensors: list[dict[str, Any]] = [
        {"x": np.zeros((1, 4), np.float32)},
        {"y": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 4), np.int32)},
        {"x": np.zeros((2, 2), np.float32)},
        {"x": np.ones((1, 4), np.float32)},
        {"x": np.zeros((1, 4), np.float32), "y": np.zeros((1, 4), np.float32)},
    ]
    keys = {answer_key(make_request(body=b"", media_type="", tensors=each), make_served()) for each in tensors}
    assert len(keys) == len(tensors)


def test_streams_have_no_key() -> None:
    assert answer_key(make_request(door="mqtt"), make_served()) is None
