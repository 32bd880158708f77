"""TensorFlow Serving's REST door, asked as its clients ask."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.manifest import TensorPreprocess
from appliance.core.tensors import TensorSpec
from appliance.http import tfs
from appliance.http.call import Bodies
from appliance.http.tfs import tfs_door
from appliance.pipeline import Answer
from tests.support import door as alone
from tests.support.box import Box, running_box
from tests.support.models import SIDE, picture, rows, write_model
from tests.support.records import results
from tests.support.wait import until

BRIGHT, DARK = picture(255), picture(0)
BODY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny", version="7")
    write_model(root, "shake", kind="window")
    write_model(root, "table", kind="window", preprocess={"kind": "tensor"}, golden=[])
    (root / "empty" / "1").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box"), models, http={"body_bytes_max": BODY_BYTES_MAX}) as box:
        yield box


def post(box: Box, to: str, content: object, **options: Any) -> httpx.Response:
    body = content if isinstance(content, str | bytes) else json.dumps(content)
    return box.http.post(f"/v1/models/{to}", content=body, **options)


def predict(box: Box, to: str, content: object) -> Any:
    reply = post(box, f"{to}:predict", content)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    return reply.json()


def error(reply: httpx.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    content = reply.json()
    assert list(content) == ["error"]
    assert "\n" not in content["error"]
    return str(content["error"])


def pixels(brightness: float) -> list[Any]:
    """The network's input for a picture of this brightness, 0..1."""
    return np.full((SIDE, SIDE, 3), brightness).tolist()


def b64(body: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(body).decode()}


# Status and metadata.


def test_status_of_a_model(box: Box) -> None:
    wanted = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("tiny", "tiny/versions/7", "tiny/labels/stable"):
        assert box.http.get(f"/v1/models/{path}").json() == {"model_version_status": [wanted]}


def test_status_of_a_model_that_did_not_load(box: Box) -> None:
    (status,) = box.http.get("/v1/models/empty").json()["model_version_status"]
    assert (status["state"], status["status"]["error_code"]) == ("END", "UNKNOWN")
    assert "manifest.toml" in status["status"]["error_message"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tyni", "Could not find any versions of model tyni"),
        ("tiny/versions/8", "Could not find version 8 of model tiny"),
        ("tiny/labels/night", "'night'"),
        ("tyni/metadata", "Servable not found for request: Latest(tyni)"),
        ("tiny/versions/8/metadata", "Servable not found for request: Specific(tiny, 8)"),
        ("", "Malformed request"),
        ("tiny/versions", "Malformed request"),
        ("tiny/versions/x", "Malformed request"),
        ("tiny/versions/7/8", "Malformed request"),
        ("..%2ftiny", "Could not find"),
    ],
)
def test_what_is_not_there(box: Box, path: str, words: str) -> None:
    assert words in error(box.http.get(f"/v1/models/{path}"), 404)


def test_metadata_describes_the_tensors(box: Box) -> None:
    content = box.http.get("/v1/models/tiny/metadata").json()
    assert content["model_spec"] == {"name": "tiny", "signature_name": "", "version": "7"}
    signature = content["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    image = signature["inputs"]["image"]
    assert image["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in image["tensor_shape"]["dim"]] == ["-1", "8", "8", "3"]
    assert image["tensor_shape"]["unknown_rank"] is False
    assert set(signature["outputs"]) == {"probabilities", "heatmap"}
    assert box.http.get("/v1/models/tiny/versions/7/metadata").json() == content


# Predict, in rows.


def test_rows_of_a_model_with_several_outputs_are_objects(box: Box) -> None:
    predictions = predict(box, "tiny", {"instances": [pixels(1.0), pixels(0.25)]})["predictions"]
    assert [each["probabilities"] for each in predictions] == [[1.0, 0.0], [0.25, 0.75]]
    assert np.shape(predictions[0]["heatmap"]) == (SIDE, SIDE)


def test_rows_may_name_their_input(box: Box) -> None:
    for instances in ([{"image": pixels(0.25)}], [pixels(0.25)]):
        (prediction,) = predict(box, "tiny/versions/7", {"instances": instances})["predictions"]
        assert prediction["probabilities"] == [0.25, 0.75]


def test_rows_are_recorded_one_by_one(box: Box) -> None:
    reply = post(
        box,
        "table/labels/stable:predict",
        {"signature_name": "serving_default", "instances": [rows(0.125), rows(1.0)]},
        headers={"X-Source": "tfs-rows", "X-Part": "P-1"},
    )
    assert [each["anomaly"] for each in reply.json()["predictions"]] == [[0.125], [1.0]]
    until(lambda: len(results(box.data_dir, "tfs-rows")) == 2, 30, "the rows being recorded")
    recorded = results(box.data_dir, "tfs-rows")
    assert [(each["door"], each["verdict"], each["part"]) for each in recorded] == [
        ("tfs", "ok", "P-1"),
        ("tfs", "ng", "P-1"),
    ]


@pytest.mark.parametrize("instances", [[b64(BRIGHT), b64(DARK)], [{"image": b64(BRIGHT)}, {"image": b64(DARK)}]])
def test_pictures_are_decoded_as_the_model_wants_them(box: Box, instances: list[Any]) -> None:
    predictions = predict(box, "tiny", {"instances": instances})["predictions"]
    assert [each["probabilities"] for each in predictions] == [[1.0, 0.0], [0.0, 1.0]]


def test_picture_is_kept_with_its_result(box: Box) -> None:
    post(box, "tiny:predict", {"instances": [b64(DARK)]}, headers={"X-Source": "tfs-picture"})
    until(lambda: results(box.data_dir, "tfs-picture"), 30, "the picture being recorded")
    (result,) = results(box.data_dir, "tfs-picture")
    assert box.http.get(f"/v1/results/{result['id']}/image").content == DARK


# Predict, in columns.


@pytest.mark.parametrize("column", [[pixels(1.0), pixels(0.0)], [b64(BRIGHT), b64(DARK)]])
@pytest.mark.parametrize("named", [True, False])
def test_columns_of_a_model_with_several_outputs_are_an_object(box: Box, column: list[Any], named: bool) -> None:
    inputs = {"image": column} if named else column
    outputs = predict(box, "tiny", {"inputs": inputs})["outputs"]
    assert outputs["probabilities"] == [[1.0, 0.0], [0.0, 1.0]]
    assert np.shape(outputs["heatmap"]) == (2, SIDE, SIDE)


@pytest.mark.parametrize("inputs", [b64(DARK), {"image": b64(DARK)}])
def test_one_picture_needs_no_list(box: Box, inputs: object) -> None:
    assert predict(box, "tiny", {"inputs": inputs})["outputs"]["probabilities"] == [[0.0, 1.0]]


def test_large_body_is_judged_as_well(box: Box) -> None:
    outputs = predict(box, "table", {"inputs": [rows(0.123456)] * 300})["outputs"]
    assert np.allclose(outputs["anomaly"], 0.123456)


def test_one_output_has_no_name(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_model(
        root,
        "table",
        kind="window",
        preprocess={"kind": "tensor"},
        outputs=[{"name": "anomaly", "dtype": "float32", "shape": [-1, 1]}],
        postprocess={"score": "anomaly"},
        verdict={"score_ng_min": 0.5},
        golden=[],
    )
    with running_box(tmp_path / "box", root) as box:
        assert predict(box, "table", {"instances": [rows(0.25), rows(0.5)]}) == {"predictions": [[0.25], [0.5]]}
        assert predict(box, "table", {"inputs": [rows(0.25)]}) == {"outputs": [[0.25]]}
        assert "names no classes" in error(post(box, "table:classify", {"examples": [{"window": [0.25] * 48}]}), 400)
        reply = post(box, "table:regress", {"examples": [{"window": [0.25] * 48}, {"window": [0.5] * 48}]})
        assert reply.json() == {"results": [0.25, 0.5]}


# Classify and regress.


def test_classes_of_examples(box: Box) -> None:
    reply = post(box, "tiny:classify", {"examples": [{"image": b64(BRIGHT)}, {"image": b64(DARK)}]})
    assert reply.json() == {"results": [[["good", 1.0], ["bad", 0.0]], [["bad", 1.0], ["good", 0.0]]]}
    flat = {"signature_name": "classify", "examples": [{}], "context": {"window": [0.25] * 48}}
    assert post(box, "table:classify", flat).json() == {"results": [[["good", 0.75], ["bad", 0.25]]]}


def test_score_of_examples(box: Box) -> None:
    assert post(box, "tiny:regress", {"examples": [{"image": b64(DARK)}]}).json() == {"results": [1.0]}


def table_of(*features: int) -> Any:
    return alone.slots_with(
        preprocess=TensorPreprocess(),
        postprocess=SimpleNamespace(classes="y", score=None, normal_label=None),
        inputs=(TensorSpec("x", "float32", (-1, *features)),),
        outputs=(TensorSpec("y", "float32", (-1, 1)),),
    )


@pytest.mark.parametrize(("shape", "value"), [((5000,), [0.5] * 5000), ((2, 3), [1, 2, 3, 4, 5, 6]), ((), 7)])
def test_numbers_of_a_feature_are_no_examples(shape: tuple[int, ...], value: Any) -> None:
    asked = alone.Asked()
    door = tfs_door(asked.pipeline, table_of(*shape), Bodies(16 << 20, 256 << 20, 30.0))
    reply = alone.post(door, "/v1/models/m:classify", json={"examples": [{"x": value}, {"x": value}]})
    assert reply.status_code == 503, reply.text
    (request,) = asked.requests
    assert request.tensors is not None
    np.testing.assert_array_equal(request.tensors["x"], np.array([value, value], np.float32).reshape(2, *shape))


@pytest.mark.parametrize(("numbers", "threads"), [(6000, 0), (7000, 1)])
def test_large_answer_is_written_by_a_thread(monkeypatch: pytest.MonkeyPatch, numbers: int, threads: int) -> None:
    began = []

    async def to_thread(*args: Any) -> Any:
        began.append(args[0])
        return await asyncio.to_thread(*args)

    monkeypatch.setattr(tfs, "asyncio", SimpleNamespace(to_thread=to_thread))
    asked = alone.Asked(Answer((), "queued", outputs={"y": np.zeros((numbers, 1), np.float32)}))
    door = tfs_door(asked.pipeline, table_of(1), Bodies(16 << 20, 256 << 20, 30.0))
    reply = alone.post(door, "/v1/models/m:predict", json={"instances": [[1.0]]})
    assert len(reply.json()["predictions"]) == numbers
    assert len(began) == threads


# Bad input.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[]", "array"),
        ("[" * 5000, "array"),
        ('{"inputs": ' + "[" * 5000, "JSON"),
        ("{}", "instances"),
        ({"instances": [rows()], "inputs": [rows()]}, "either"),
        ({"signature_name": "other", "instances": [rows()]}, '"other" not found in signature def'),
        ({"instances": []}, "empty"),
        ({"instances": 5}, "array"),
        ({"instances": rows()}, "array"),
        ({"instances": [rows()[:-1]]}, "[-1, 16, 3]"),
        ({"instances": [rows(), rows()[:-1]]}, "differ in length"),
        ({"instances": [rows(), [[0.0] * 4] * 12]}, "differ in length"),
        ({"instances": [{"window": rows()}, {"winbow": rows()}]}, "different inputs"),
        ({"instances": [{"winbow": rows()}]}, "winbow"),
        ({"instances": [{"window": rows()}, rows()]}, "instances"),
        ({"instances": [[["a", 0, 0]] * 16]}, "str"),
        ({"instances": [[[None, 0, 0]] * 16]}, "null"),
        ({"instances": [[[1e300, 0, 0]] * 16]}, "NaN or infinity"),
        ({"instances": [[[float("nan"), 0, 0]] * 16]}, "NaN or Infinity"),
        ({"inputs": {"window": [[[float("inf"), 0, 0]] * 16]}}, "NaN or Infinity"),
        ({"instances": [b64(DARK)]}, "b64"),
        ({"instances": [{"window": b64(DARK)}]}, "base64 is for pictures"),
        ({"inputs": {"window": b64(DARK)}}, "base64 is for pictures"),
        ({"inputs": {}}, "expects ['window']"),
    ],
)
def test_input_that_is_wrong(box: Box, content: object, words: str) -> None:
    assert words in error(post(box, "table:predict", content), 400)
    assert predict(box, "table", {"instances": [rows(0.125)]})["predictions"][0]["anomaly"] == [0.125]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"instances": [{"b64": "%%%"}]}, "base64"),
        ({"instances": [{"b64": 5}]}, "str"),
        ({"instances": [{"b64": ""}]}, "empty"),
        ({"instances": [b64(DARK), b64(b"hello")]}, "JPEG"),
        ({"instances": [b64(DARK), b64(DARK[:-20])]}, "send it again"),
        ({"instances": [b64(DARK), pixels(0.5)]}, "instances"),
        ({"inputs": [b64(DARK), pixels(0.5)]}, '{"b64": ...}'),
        ({"inputs": {"image": [b64(DARK), pixels(0.5)]}}, '{"b64": ...}'),
    ],
)
def test_picture_that_is_wrong(box: Box, content: object, words: str) -> None:
    assert words in error(post(box, "tiny:predict", content), 400)
    assert predict(box, "tiny", {"instances": [b64(DARK)]})["predictions"][0]["probabilities"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("verb", "content", "words"),
    [
        ("classify", {"instances": [rows()]}, "examples"),
        ("classify", {"examples": []}, "no examples"),
        ("classify", {"examples": [{}]}, "expects ['window']"),
        ("classify", {"examples": [{"window": [0.5] * 47}]}, "47 values"),
        ("regress", {"examples": [{"window": "text"}]}, "str"),
        ("regress", {"examples": [5]}, "int"),
    ],
)
def test_example_that_is_wrong(box: Box, verb: str, content: object, words: str) -> None:
    assert words in error(post(box, f"table:{verb}", content), 400)


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "image", "x"]), inner)
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["instances", "inputs", "examples"]), VALUES, st.sampled_from(["predict", "classify"]))
def test_any_json_is_judged_or_refused(box: Box, field: str, value: object, verb: str) -> None:
    reply = post(box, f"tiny:{verb}", {field: value})
    error(reply, 400)


def test_more_rows_than_a_call_may_have(box: Box) -> None:
    content = b'{"instances": [' + b",".join([b"[]"] * 5000) + b"]}"
    error(post(box, "table:predict", content), 400)
    deep = b'{"instances": [' + b",".join([b"[[0]]"] * 5000) + b"]}"
    assert "4096" in error(post(box, "table:predict", deep), 400)
    examples = b'{"examples": [' + b",".join([b'{"window": [' + b",".join([b"0"] * 48) + b"]}"] * 4097) + b"]}"
    assert "4096" in error(post(box, "table:classify", examples), 400)


def test_more_pictures_than_a_call_may_have(box: Box) -> None:
    for verb, field in (("predict", "instances"), ("predict", "inputs")):
        assert "at most 256" in error(post(box, f"tiny:{verb}", {field: [b64(DARK)] * 257}), 400)
    examples = {"examples": [{"image": b64(DARK)}] * 257}
    assert "at most 256" in error(post(box, "tiny:classify", examples), 400)


def test_compressed_body_is_refused_by_its_coding(box: Box) -> None:
    body = gzip.compress(json.dumps({"instances": [rows()]}).encode())
    assert "uncompressed" in error(post(box, "table:predict", body, headers={"Content-Encoding": "gzip"}), 400)


def test_unknown_model_and_version(box: Box) -> None:
    content = {"instances": [pixels(1.0)]}
    assert error(post(box, "tyni:predict", content), 404) == "Servable not found for request: Latest(tyni)"
    text = error(post(box, "tiny/versions/8:predict", content), 404)
    assert text == "Servable not found for request: Specific(tiny, 8)"
    error(post(box, "tiny/labels/night:predict", content), 404)
    assert "failed" in error(post(box, "empty:predict", content), 503)


def test_wrong_method_and_verb(box: Box) -> None:
    reply = box.http.get("/v1/models/tiny:predict")
    assert "GET is not allowed" in error(reply, 405)
    assert reply.headers["allow"] == "POST"
    assert post(box, "tiny", "{}").headers["allow"] == "GET, HEAD"
    assert "Malformed request" in error(post(box, "tiny:explain", "{}"), 404)


def test_body_over_the_limit(box: Box) -> None:
    assert "http.body_bytes_max" in error(post(box, "tiny:predict", bytes(BODY_BYTES_MAX + 1)), 413)


def test_foreign_page_is_refused_in_the_door_s_own_form(box: Box) -> None:
    error(post(box, "tiny:predict", "{}", headers={"Origin": "http://evil.example"}), 403)
    error(post(box, "tiny:predict", "{}", headers={"Host": "evil.example"}), 403)


def test_model_that_is_loading_or_full_says_when_to_come_again(tmp_path: Path, models: Path) -> None:
    lanes = {"lanes": 1, "waiting_max": 1, "timeout_s": 60.0}
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes=lanes) as box:
        gate = tmp_path / "gate"
        box.stop()
        gate.touch()
        box.start(ready=False)
        content = json.dumps({"instances": [pixels(1.0)]})
        reply = post(box, "tiny:predict", content)
        assert "loading" in error(reply, 503)
        assert reply.headers["retry-after"] == "1"
        (status,) = box.http.get("/v1/models/tiny").json()["model_version_status"]
        assert status["state"] == "LOADING"
        gate.unlink()
        box.wait("ready")
        gate.touch()
        with ThreadPoolExecutor(2) as callers:
            address = f"{box.url}/v1/models/tiny:predict"
            held = [callers.submit(httpx.post, address, content=content, timeout=60)]
            until(lambda: box.status()["lanes"][0]["busy"] == 1, 30, "a busy lane")
            held.append(callers.submit(httpx.post, address, content=content, timeout=60))
            until(lambda: box.status()["lanes"][0]["waiting"] == 1, 30, "a full queue")
            reply = post(box, "tiny:predict", content)
            error(reply, 503)
            assert reply.headers["retry-after"] == "1"
            gate.unlink()
            assert [each.result(60).status_code for each in held] == [200, 200]
