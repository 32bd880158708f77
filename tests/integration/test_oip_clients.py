"""The clients that people have, unmodified, each in an environment of its own: tritonclient and KServe's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance import __version__
from tests.clients.environments import run_client
from tests.support.box import Box, running_box
from tests.support.models import picture, write_model

TENSOR = {"name": "image", "datatype": "FP32", "shape": [-1, 8, 8, 3]}
OUTPUTS = [
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    {"name": "heatmap", "datatype": "FP32", "shape": [-1, 8, 8]},
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("clients")
    write_model(folder / "models")
    with running_box(folder, folder / "models") as box:
        yield box


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "bright.png"
    path.write_bytes(picture(230))
    return path


def check_metadata(seen: dict[str, Any]) -> None:
    assert seen["server"]["name"] == "edge-inference-appliance"
    assert seen["server"]["version"] == __version__
    assert "binary_tensor_data" in seen["server"]["extensions"]
    assert (seen["model"]["name"], seen["model"]["versions"]) == ("tiny", ["1"])
    assert seen["model"]["inputs"] == [TENSOR]
    assert seen["model"]["outputs"] == OUTPUTS
    assert seen["config"]["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": [-1, 8, 8, 3]}]
    assert seen["index"] == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]


def test_tritonclient(box: Box, bright: Path) -> None:
    seen = run_client("triton_sync.py", f"127.0.0.1:{box.port}", str(bright))
    assert (seen["live"], seen["ready"], seen["model ready"], seen["unknown ready"]) == (True, True, True, False)
    check_metadata(seen)
    two = np.array([[0.25, 0.75], [0.75, 0.25]])
    pictures = np.array([[230 / 255, 25 / 255]] * 2)
    assert len(seen["probabilities"]) == 10
    for name, found in seen["probabilities"].items():
        assert np.allclose(found, pictures if name == "pictures" else two, atol=1e-3), name
    assert np.allclose(seen["async"], pictures, atol=1e-3)
    assert seen["heatmap"] == [2, 8, 8]
    assert seen["classes"] == [["0.750000:1:bad", "0.250000:0:good"], ["0.750000:0:good", "0.250000:1:bad"]]
    assert seen["classes as json"] == [["0.750000:1:bad"], ["0.750000:0:good"]]
    assert seen["id"] == "id-7"
    assert seen["parameters"]["verdict"] == "ng,ok"
    assert "unexpected inference output 'nothing' for model 'tiny'" in seen["unknown output"]
    assert "Request for unknown model" in seen["unknown version"]
    assert seen["unloaded ready"] is False
    assert "unloaded" in seen["unloaded"]
    assert np.allclose(seen["again"], two, atol=1e-3)
    assert seen["stats"] == seen["all stats"]
    (stats,) = seen["stats"]["model_stats"]
    assert (stats["name"], stats["version"]) == ("tiny", "1")
    # It was loaded again since, and has answered one request of two rows.
    assert (stats["inference_count"], stats["execution_count"]) == (2, 1)
    assert stats["inference_stats"]["success"]["count"] == 1
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0


def test_what_tritonclient_says_of_a_part_is_recorded(box: Box, bright: Path) -> None:
    run_client("triton_sync.py", f"127.0.0.1:{box.port}", str(bright))
    page = box.http.get("/v1/results", params={"source": "cell-3"}).json()
    found = page["results"] if isinstance(page, dict) else page
    assert {(each["part"], each["door"], each["verdict"]) for each in found[:2]} == {
        ("P-1", "oip", "ng"),
        ("P-1", "oip", "ok"),
    }


def test_tritonclient_asyncio(box: Box, bright: Path) -> None:
    seen = run_client("triton_async.py", f"127.0.0.1:{box.port}", str(bright))
    assert (seen["live"], seen["ready"], seen["model ready"]) == (True, True, True)
    check_metadata(seen)
    assert np.allclose(seen["many"], np.linspace(0, 1, 32), atol=1e-3)
    assert np.allclose(seen["packed"], [[1, 0]], atol=1e-3)
    assert np.allclose(seen["pictures"], [[230 / 255, 25 / 255]], atol=1e-3)
    assert "Request for unknown model" in seen["unknown"]
    assert seen["stats"]["model_stats"][0]["inference_stats"]["success"]["count"] >= 33


def test_kserve_client(box: Box) -> None:
    seen = run_client("kserve_rest.py", box.url)
    assert (seen["live"], seen["ready"], seen["model ready"]) == (True, True, True)
    assert len(seen["probabilities"]) == 6
    for name, found in seen["probabilities"].items():
        assert np.allclose(found, [[0.25, 0.75]], atol=1e-3), name
    assert seen["outputs"] == ["probabilities", "heatmap"]
    assert seen["id"] == "id-7"
    assert "Request for unknown model" in seen["unknown"]
    assert "404" in seen["unknown"]
