"""Loading, loading again and unloading while others are served: nobody notices, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.box import Box, running_box
from tests.support.faults import times
from tests.support.models import picture, sha256, write_model

RELOADS = times(40, 1000)
GROWTH_BYTES_MAX = 40 << 20
"""How much the process may grow over all reloads: a leak of one model each time would be far more."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_model(tmp_path / "models", "tiny")
    write_model(tmp_path / "models", "other")
    return tmp_path / "models"


@pytest.fixture
def box(tmp_path: Path, models: Path) -> Iterator[Box]:
    with running_box(tmp_path, models) as box:
        yield box


def load(box: Box, name: str) -> httpx.Response:
    return box.http.post(f"/v2/repository/models/{name}/load")


def unload(box: Box, name: str) -> httpx.Response:
    return box.http.post(f"/v2/repository/models/{name}/unload")


def judge(box: Box, name: str = "tiny") -> httpx.Response:
    return box.http.post(f"/v1/predict/{name}", content=picture(), headers={"Content-Type": "image/png"})


def test_newer_version_on_disk_serves_after_a_load(box: Box, models: Path) -> None:
    assert judge(box).json()["version"] == "1"
    write_model(models, "tiny", "2")
    assert judge(box).json()["version"] == "1"
    assert load(box, "tiny").status_code == 200
    assert judge(box).json()["version"] == "2"


def test_version_that_does_not_load_leaves_the_old_one_serving(box: Box, models: Path) -> None:
    folder = write_model(models, "tiny", "2")
    (folder / "golden" / "good.png").write_bytes(picture(20))
    manifest = (folder / "manifest.toml").read_text()
    wrong = sha256(folder / "golden" / "good.png")
    right = sha256(models / "tiny" / "1" / "golden" / "good.png")
    (folder / "manifest.toml").write_text(manifest.replace(right, wrong))
    refused = load(box, "tiny")
    assert 400 <= refused.status_code < 500
    assert "golden case golden/good.png" in refused.json()["error"]
    assert judge(box).json()["version"] == "1"
    assert judge(box, "other").status_code == 200


def test_model_that_was_never_there_cannot_be_loaded(box: Box) -> None:
    assert load(box, "nobody").status_code == 404
    assert unload(box, "nobody").status_code == 404


def test_model_that_came_later_is_loaded_beside_the_others(box: Box, models: Path) -> None:
    write_model(models, "late")
    assert judge(box, "late").status_code == 404
    assert load(box, "late").status_code == 200
    assert judge(box, "late").json()["verdict"] == "ok"


def test_unloaded_model_says_so_and_comes_back(box: Box) -> None:
    assert unload(box, "tiny").status_code == 200
    refused = judge(box)
    assert (refused.status_code, refused.json()["code"]) == (503, "model_failed")
    assert "unloaded" in refused.json()["detail"]
    assert judge(box, "other").status_code == 200
    states = {model["name"]: model["state"] for model in box.status()["models"]}
    assert states == {"tiny": "unloaded", "other": "ready"}
    assert load(box, "tiny").status_code == 200
    assert judge(box).json()["verdict"] == "ok"


def test_model_over_the_memory_budget_is_refused_with_figures(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models, lanes={"memory_bytes_max": 200 << 20}) as box:
        write_model(models, "large")
        weights = models / "large" / "1" / "openvino-f32" / "model.bin"
        manifest = models / "large" / "1" / "manifest.toml"
        before = sha256(weights)
        weights.write_bytes(weights.read_bytes() + bytes(80 << 20))
        manifest.write_text(manifest.read_text().replace(before, sha256(weights)))
        refused = load(box, "large")
        assert refused.status_code == 507
        assert "MiB" in refused.json()["error"]
        assert "memory_bytes_max" in refused.json()["error"]
        assert judge(box).status_code == 200


@contextmanager
def callers(box: Box, name: str, count: int) -> Iterator[list[httpx.Response]]:
    """`count` callers, one request after the other, until the block ends."""
    replies: list[httpx.Response] = []
    stop = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=box.url, timeout=30) as client:
            while not stop.is_set():
                replies.append(
                    client.post(f"/v1/predict/{name}", content=picture(), headers={"Content-Type": "image/png"})
                )

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(call) for _ in range(count)]
        try:
            yield replies
        finally:
            stop.set()
            for each in running:
                each.result(60)


def resident_bytes(box: Box) -> int:
    for line in Path(f"/proc/{box.process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss in smaps_rollup")


def test_reloads_under_load_fail_no_request_and_leave_memory_flat(box: Box) -> None:
    for _ in range(10):
        assert load(box, "tiny").status_code == 200
    with callers(box, "tiny", 2) as own, callers(box, "other", 1) as others:
        # Under load from the start, so that what callers need is not taken for growth.
        assert load(box, "tiny").status_code == 200
        before = resident_bytes(box)
        for _ in range(RELOADS):
            assert load(box, "tiny").status_code == 200
        grown = resident_bytes(box) - before
    assert failed(own) == []
    assert failed(others) == []
    assert grown < GROWTH_BYTES_MAX


def test_failing_loads_under_load_fail_no_request(box: Box, models: Path) -> None:
    folder = write_model(models, "bad")
    (folder / "openvino-f32" / "model.xml").write_text("<net>")
    manifest = folder / "manifest.toml"
    good = sha256(models / "tiny" / "1" / "openvino-f32" / "model.xml")
    manifest.write_text(manifest.read_text().replace(good, sha256(folder / "openvino-f32" / "model.xml")))
    with callers(box, "tiny", 2) as replies:
        while len(replies) < 50:
            assert load(box, "bad").status_code == 422
    assert failed(replies) == []


def failed(replies: list[httpx.Response]) -> list[Any]:
    assert len(replies) > 10
    return [(reply.status_code, reply.text[:200]) for reply in replies if reply.status_code != 200]
