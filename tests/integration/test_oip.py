"""The Open Inference Protocol door, as bytes on the wire: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import numpy as np
import pytest

from appliance.app import Box as LocalBox
from appliance.config import load
from appliance.core import oip
from appliance.core.tensors import Array
from appliance.http import oip as door_module
from appliance.http.call import Bodies
from appliance.http.oip import oip_door
from appliance.http.status import Status
from appliance.pipeline import Pipeline
from tests.support.box import Box, running_box, write_config
from tests.support.models import FEATURES, WINDOW_SIZE, picture, write_model
from tests.support.wait import until

BODY_BYTES_MAX = 1 << 20
BODY_S_MAX = 1.0
BRIGHT, DARK = picture(230), picture(20)
CHANGES = ("load", "unload")
LENGTH = "Inference-Header-Content-Length"
TENSOR = {"name": "image", "datatype": "FP32", "shape": [-1, 8, 8, 3]}
PROBABILITIES = {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}
HEATMAP = {"name": "heatmap", "datatype": "FP32", "shape": [-1, 8, 8]}
CLASSIFIED = {"name": "probabilities", "parameters": {"classification": 1}}
NO_HEATMAP = {
    "outputs": [{"name": "probabilities", "dtype": "float32", "shape": [-1, 2]}],
    "postprocess": {"classes": "probabilities", "normal_label": "good"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny")
    write_model(root, "shake", kind="window")
    write_model(root, "double", kind="tensor")
    return root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Box]:
    limits = {"body_bytes_max": BODY_BYTES_MAX, "body_s_max": BODY_S_MAX}
    with running_box(tmp_path_factory.mktemp("box"), models, http=limits) as box:
        yield box


def grey(*values: float) -> Array:
    """A row of the picture model's input for each value."""
    return np.stack([np.full((8, 8, 3), value, np.float32) for value in values])


def tensor(array: Array | None = None, **changes: Any) -> dict[str, Any]:
    array = grey(0.25) if array is None else array
    return {"name": "image", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist(), **changes}


def post(box: Box, content: Any, to: str = "tiny", headers: dict[str, str] | None = None) -> httpx.Response:
    """content: a request as an object or as bytes."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return box.http.post(f"/v2/models/{to}/infer", content=body, headers=headers)


def ask(box: Box, *inputs: dict[str, Any], to: str = "tiny", **more: Any) -> dict[str, Any]:
    """The answer as a JSON object, which it must be."""
    reply = post(box, {"inputs": inputs or [tensor()], **more}, to)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    answer: dict[str, Any] = reply.json()
    return answer


def ask_binary(box: Box, body: bytes, json_bytes: int, to: str = "tiny") -> dict[str, Array]:
    reply = post(box, body, to, {LENGTH: str(json_bytes)})
    assert reply.status_code == 200, reply.text
    return outputs_of(reply)


def outputs_of(reply: httpx.Response) -> dict[str, Array]:
    length = reply.headers.get(LENGTH)
    tensors = oip.parse_response(reply.content, None if length is None else int(length))
    return {each.name: each.array for each in tensors}


def check_refused(box: Box, reply: httpx.Response, status: int, words: str) -> None:
    """In the door's own form, on one line; and the box goes on."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    assert words in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert ask(box, tensor())["parameters"]["verdict"] == "ng"


# What it tells.


def test_server_tells_about_itself(box: Box) -> None:
    for path in ("/v2", "/v2/"):
        server = box.http.get(path).json()
        assert server["name"] == "edge-inference-appliance"
        assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])


def test_health(box: Box) -> None:
    assert box.http.get("/v2/health/live").json() == {"live": True}
    assert box.http.get("/v2/health/ready").json() == {"ready": True}
    assert box.http.head("/v2/health/ready").status_code == 200
    for path in ("/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        assert box.http.get(path).json() == {"name": "tiny", "ready": True}
    for path in ("/v2/models/nothing/ready", "/v2/models/tiny/versions/2/ready"):
        reply = box.http.get(path)
        assert (reply.status_code, reply.json()["ready"]) == (503, False)


def test_model_tells_about_itself(box: Box) -> None:
    expected = {
        "name": "tiny",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [TENSOR],
        "outputs": [PROBABILITIES, HEATMAP],
    }
    assert box.http.get("/v2/models/tiny").json() == expected
    assert box.http.get("/v2/models/tiny/versions/1").json() == expected
    config = box.http.get("/v2/models/tiny/config").json()
    assert config["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": [-1, 8, 8, 3]}]
    assert (config["name"], config["max_batch_size"]) == ("tiny", 0)


def test_statistics_count_rows_calls_and_failures(box: Box) -> None:
    def stats() -> Any:
        (found,) = box.http.get("/v2/models/tiny/stats").json()["model_stats"]
        return found

    before = stats()
    ask(box, tensor(grey(0.1, 0.2, 0.3)))
    post(box, {"inputs": [tensor(np.zeros((1, 8, 8, 4), np.float32))]})
    after = stats()
    counts = after["inference_stats"]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert counts[name]["count"] - before["inference_stats"][name]["count"] == 1
        assert counts[name]["ns"] >= before["inference_stats"][name]["ns"]
    assert counts["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert abs(after["last_inference"] / 1000 - time.time()) < 60
    names = [each["name"] for each in box.http.get("/v2/models/stats").json()["model_stats"]]
    assert names == ["double", "shake", "tiny"]


# Inference.


def test_json_both_ways(box: Box) -> None:
    answer = ask(box, tensor(grey(0.25, 0.75)), id="abc")
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "abc")
    probabilities, heatmap = answer["outputs"]
    assert probabilities | {"data": []} == PROBABILITIES | {"shape": [2, 2], "data": []}
    assert np.allclose(probabilities["data"], [0.25, 0.75, 0.75, 0.25], atol=1e-3)
    assert (heatmap["shape"], len(heatmap["data"])) == ([2, 8, 8], 128)
    assert answer["parameters"]["verdict"] == "ng,ok"
    assert "id" not in ask(box, tensor())


def test_nested_data_is_the_same(box: Box) -> None:
    array = np.random.default_rng(1).random((2, 8, 8, 3), dtype=np.float32)
    flat = ask(box, tensor(array))["outputs"]
    assert ask(box, tensor(data=array.tolist(), shape=[2, 8, 8, 3]))["outputs"] == flat


def test_large_json_is_right_to_the_last_number(box: Box) -> None:
    """Above what is parsed on the loop."""
    values = np.linspace(0, 1, 128, dtype=np.float32)
    answer = ask(box, tensor(grey(*values)))
    assert np.allclose(answer["outputs"][0]["data"][::2], values, atol=1e-3)
    assert len(answer["outputs"][1]["data"]) == 128 * 64


def test_binary_both_ways(box: Box) -> None:
    body, json_bytes = oip.encode_request({"image": grey(0.25)}, ["heatmap", "probabilities"], binary=True)
    assert json_bytes is not None
    found = ask_binary(box, body, json_bytes)
    assert list(found) == ["heatmap", "probabilities"]
    assert np.allclose(found["probabilities"], [[0.25, 0.75]], atol=1e-3)
    assert np.allclose(found["heatmap"], 0.75, atol=1e-3)


def test_each_output_as_it_is_asked_for(box: Box) -> None:
    outputs = [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "heatmap"}]
    content = {"inputs": [tensor()], "outputs": outputs, "parameters": {"binary_data_output": True}}
    reply = post(box, content)
    head = json.loads(reply.content[: int(reply.headers[LENGTH])])
    assert "data" in head["outputs"][0]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 256}
    assert np.allclose(outputs_of(reply)["heatmap"], 0.75, atol=1e-3)


def test_only_the_outputs_that_are_asked_for(box: Box) -> None:
    (output,) = ask(box, tensor(), outputs=[{"name": "heatmap"}])["outputs"]
    assert output["name"] == "heatmap"


def test_raw_body_is_the_one_input(box: Box) -> None:
    found = ask_binary(box, grey(0.25, 0.75).tobytes(), 0)
    assert np.allclose(found["probabilities"], [[0.25, 0.75], [0.75, 0.25]], atol=1e-3)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_widened(box: Box, datatype: str) -> None:
    array = grey(0.25)
    data = array.astype("<f2").tobytes()
    if datatype == "BF16":
        data = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    given = {"name": "image", "datatype": datatype, "shape": [1, 8, 8, 3], "parameters": {"binary_data_size": 384}}
    head = json.dumps({"inputs": [given]}).encode()
    reply = post(box, head + data, headers={LENGTH: str(len(head))})
    assert np.allclose(outputs_of(reply)["probabilities"], [[0.25, 0.75]], atol=1e-3)


def test_classes_instead_of_scores(box: Box) -> None:
    (output,) = ask(box, tensor(grey(0.25, 1.0)), outputs=[CLASSIFIED])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 1])
    assert output["data"] == ["0.750000:1:bad", "1.000000:0:good"]


def test_window_model_takes_the_network_s_input(box: Box) -> None:
    window = np.full((1, WINDOW_SIZE, 3), 0.9, np.float32)
    answer = ask(box, tensor(window, name="window"), to="shake")
    assert answer["parameters"]["verdict"] == "ng"
    assert abs(answer["outputs"][1]["data"][0] - 0.9) < 0.01


def test_named_version(box: Box) -> None:
    assert ask(box, tensor(), to="tiny/versions/1")["model_version"] == "1"


@pytest.mark.parametrize("binary", [False, True])
def test_encoded_pictures_go_through_the_model_s_own_steps(box: Box, binary: bool) -> None:
    given: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [3]}
    pictures = [BRIGHT, DARK, picture(128, form=".jpg")]
    tail = b""
    if binary:
        tail = b"".join(len(each).to_bytes(4, "little") + each for each in pictures)
        given["parameters"] = {"binary_data_size": len(tail)}
    else:
        given["data"] = [base64.b64encode(each).decode() for each in pictures]
    head = json.dumps({"inputs": [given], "parameters": {"part": "P-7", "source": "ovms"}}).encode()
    reply = post(box, head + tail, headers={LENGTH: str(len(head))} if binary else {})
    assert np.allclose(outputs_of(reply)["probabilities"][:, 0], [230 / 255, 20 / 255, 128 / 255], atol=0.01)
    assert reply.json()["parameters"]["verdict"] == "ok,ng,review"


def test_what_the_request_says_of_its_part_is_recorded(box: Box) -> None:
    parameters = {"part": "P-9", "lot": "L-1", "source": "cell-9", "durable": True, "priority": 2, "timeout": 4_000_000}
    answer = ask(box, tensor(), parameters=parameters)
    assert answer["parameters"]["recorded"] == "committed"
    result = box.http.get(f"/v1/results/{answer['parameters']['result']}").json()
    assert (result["part"], result["lot"], result["source"], result["door"]) == ("P-9", "L-1", "cell-9", "oip")
    assert result["verdict"] == "ng"


def test_headers_say_of_a_part_what_the_body_does_not(box: Box) -> None:
    content = {"inputs": [tensor()], "parameters": {"durable": True}}
    answer = post(box, content, headers={"X-Part": "P-10", "X-Source": "cell-10"}).json()
    result = box.http.get(f"/v1/results/{answer['parameters']['result']}").json()
    assert (result["part"], result["source"]) == ("P-10", "cell-10")


# Compression.


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("Deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("identity", bytes),
    ],
)
def test_compressed_request(box: Box, coding: str, compress: Any) -> None:
    body, json_bytes = oip.encode_request({"image": grey(0.25)}, ["probabilities"], binary=True)
    reply = post(box, compress(body), headers={LENGTH: str(json_bytes), "Content-Encoding": coding})
    assert np.allclose(outputs_of(reply)["probabilities"], [[0.25, 0.75]], atol=1e-3)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", None), ("br", None), ("", None)],
)
def test_answer_is_compressed_for_who_asks_for_it(box: Box, accepted: str, coding: str | None) -> None:
    reply = post(box, {"inputs": [tensor(grey(*[0.25] * 32))]}, headers={"Accept-Encoding": accepted})
    assert reply.headers.get("content-encoding") == coding
    assert reply.json()["outputs"][0]["shape"] == [32, 2]


def test_small_answer_is_not_compressed(box: Box) -> None:
    content = {"inputs": [tensor()], "outputs": [{"name": "probabilities"}]}
    assert "content-encoding" not in post(box, content, headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(bytes(64 << 20))),
        ("deflate", zlib.compress(bytes(64 << 20))),
        ("gzip", gzip.compress(b"x" * 1000)[:-10]),
        ("gzip", b"no gzip at all"),
        ("br", b"x"),
    ],
    ids=["bomb", "bomb-zlib", "cut", "other", "unknown"],
)
def test_bombs_and_damaged_bodies_are_refused(box: Box, coding: str, body: bytes) -> None:
    check_refused(box, post(box, body, headers={"Content-Encoding": coding}), 400, "the body")


# What is refused.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [1, 8, 8, 4]}, "needs [256]"),
        ({"shape": [1, 3, 8, 8]}, "[1, 3, 8, 8]"),
        ({"shape": [192]}, "[192]"),
        ({"shape": []}, "needs [1]"),
        ({"shape": [1 << 60, 1 << 60]}, "needs [more than 10^20]"),
        ({"shape": [1 << 30, 1 << 30, 4, 1]}, "needs [4611686018427387904]"),
        ({"shape": [-1, 8, 8, 3]}, "every size is 1 or more"),
        ({"shape": [0, 8, 8, 3], "data": []}, "every size is 1 or more"),
        ({"shape": None}, "shape"),
        ({"shape": "1,8,8,3"}, "shape"),
        ({"shape": [1] * 1000}, "shape"),
        ({"datatype": "FP128"}, "unknown datatype 'FP128'"),
        ({"datatype": "FP16"}, "JSON cannot hold"),
        ({"datatype": "INT32", "data": [1] * 192}, "data-type is 'INT32', but model 'tiny' expects 'FP32'"),
        ({"datatype": "FP64"}, "data-type is 'FP64', but model 'tiny' expects 'FP32'"),
        ({"datatype": "BYTES", "shape": [1], "data": ["text"]}, "neither JPEG nor PNG"),
        ({"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(BRIGHT[:60]).decode()]}, "cut off"),
        ({"datatype": "BYTES", "shape": [1, 1], "data": ["text"]}, "shape [n]"),
        ({"datatype": "BYTES", "shape": [257], "data": ["text"] * 257}, "at most 256"),
        ({"datatype": 5}, "datatype"),
        ({"name": "picture"}, "unexpected inference input 'picture' for model 'tiny'"),
        ({"name": "x" * 100_000}, "unexpected inference input"),
        ({"data": None}, "not an array"),
        ({"data": "AAAA"}, "not an array"),
        ({"data": [0.5] * 191}, "191 values"),
        ({"data": [0.5] * 191 + ["x"]}, "something else"),
        ({"data": [0.5] * 191 + [None]}, "something else"),
        ({"data": [0.5] * 191 + [1e39]}, "NaN or infinity"),
        ({"data": [0.5] * 191 + [float("nan")]}, "NaN and infinity"),
        ({"data": [0.5] * 191 + [float("-inf")]}, "NaN and infinity"),
        ({"parameters": {"binary_data_size": 768}}, "binary_data_size"),
    ],
)
def test_input_that_does_not_fit_is_refused(box: Box, changes: dict[str, Any], words: str) -> None:
    reply = post(box, {"inputs": [tensor(**changes)]})
    status = 415 if "neither" in words else 400
    check_refused(box, reply, status, words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"inputs": []}, "empty"),
        ({"inputs": [tensor(), tensor()]}, "expected 1 inputs but got 2 inputs"),
        ({"inputs": [{"name": "image"}]}, "datatype"),
        ({"outputs": [{"name": "nothing"}]}, "unexpected inference output 'nothing' for model 'tiny'"),
        ({"outputs": [{"name": "heatmap", "parameters": {"classification": "3"}}]}, "classification"),
        ({"parameters": {"timeout": -5}}, "timeout"),
        ({"parameters": {"timeout": "soon"}}, "timeout"),
        ({"parameters": {"timeout": True}}, "timeout"),
        ({"parameters": {"timeout": 1 << 63}}, "timeout"),
        ({"parameters": {"priority": -1}}, "priority"),
        ({"parameters": {"priority": True}}, "priority"),
        ({"parameters": {"durable": "true"}}, "durable"),
        ({"parameters": {"durable": 1}}, "durable"),
        ({"parameters": {"durable": 0}}, "durable"),
        ({"parameters": {"source": 0}}, "source"),
        ({"parameters": {"source": False}}, "source"),
        ({"parameters": {"part": False}}, "part"),
        ({"parameters": {"lot": True}}, "lot"),
        ({"parameters": {"recipe": "\n"}}, "recipe"),
        ({"parameters": {"source": "no spaces"}}, "source"),
        ({"parameters": {"part": "x" * 1000}}, "part"),
        ({"parameters": {"nested": {"a": 1}}}, "parameters"),
        ({"id": {"a": 1}}, "id"),
    ],
)
def test_options_that_do_not_fit_are_refused(box: Box, more: dict[str, Any], words: str) -> None:
    check_refused(box, post(box, {"inputs": [tensor()], **more}), 400, words)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000,
        BRIGHT,
        bytes(5000),
    ],
    ids=["empty", "half", "array", "null", "bytes", "object", "deep", "deeper", "picture", "zeros"],
)
def test_what_is_no_request_is_refused(box: Box, body: bytes) -> None:
    check_refused(box, post(box, body), 400, "")


@pytest.mark.parametrize("length", ["-1", "99999", "x", "1.5", "9" * 40, "3"])
def test_header_length_that_lies_is_refused(box: Box, length: str) -> None:
    body, _ = oip.encode_request({"image": grey(0.25)}, ["heatmap"], binary=True)
    check_refused(box, post(box, body, headers={LENGTH: length}), 400, "")


@pytest.mark.parametrize("change", [-769, -1, 1, 1000])
def test_missing_and_surplus_bytes_are_refused(box: Box, change: int) -> None:
    body, json_bytes = oip.encode_request({"image": grey(0.25)}, ["heatmap"], binary=True)
    wrong = body + bytes(change) if change > 0 else body[:change]
    check_refused(box, post(box, wrong, headers={LENGTH: str(json_bytes)}), 400, "")
    check_refused(box, post(box, wrong[json_bytes:], headers={LENGTH: "0"}), 400, "")


def test_not_finite_numbers_in_binary_are_refused(box: Box) -> None:
    body, json_bytes = oip.encode_request({"image": grey(np.nan)}, ["heatmap"], binary=True)
    check_refused(box, post(box, body, headers={LENGTH: str(json_bytes)}), 400, "NaN or infinity")


def test_body_over_the_limit_is_refused(box: Box) -> None:
    check_refused(box, post(box, bytes(BODY_BYTES_MAX + 1)), 413, "http.body_bytes_max")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v2/models/nothing", "Request for unknown model"),
        ("/v2/models/tiny/versions/9", "Request for unknown model"),
        ("/v2/models/nothing/config", "Request for unknown model"),
        ("/v2/models/%2e%2e", "Request for unknown model"),
        ("/v2/models/..%2F..%2Fetc%2Fpasswd", "Request for unknown model"),
        ("/v2/models/tiny%00", "nothing"),
        ("/v2/models/" + "x" * 5000, "Request for unknown model"),
        ("/v2/models", "there is nothing at /v2/models;"),
        ("/v2/nothing", "there is nothing at /v2/nothing;"),
        ("/v2/models/tiny/nothing", "there is nothing at"),
        ("/v2/models/tiny/versions/1/..", "there is nothing at"),
        ("/v2/repository", "there is nothing at"),
        ("/v2/repository/models/tiny/reload", "there is nothing at"),
    ],
)
def test_what_is_not_there(box: Box, path: str, words: str) -> None:
    # As it is written: the client would take out what leads up.
    check_refused(box, raw_get(box, path), 404, words)


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models/tiny/nothing", "/v2/models", "/v2/repository/other"])
def test_nothing_is_there_by_another_method_either(box: Box, path: str) -> None:
    for method in ("POST", "DELETE"):
        reply = box.http.request(method, path)
        assert "allow" not in reply.headers
        check_refused(box, reply, 404, "there is nothing at")


@pytest.mark.parametrize("to", ["nothing", "tiny/versions/9", "..%2F..%2Fetc", "%2e%2e"])
def test_unknown_model_is_called_so(box: Box, to: str) -> None:
    check_refused(box, post(box, {"inputs": [tensor()]}, to), 404, "Request for unknown model")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v2/models/tiny/infer", "POST"),
        ("PUT", "/v2/models/tiny/versions/1/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("DELETE", "/v2/models/tiny", "GET, HEAD"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("POST", "/v2/models/tiny/versions/1/stats", "GET, HEAD"),
        ("GET", "/v2/repository/models/tiny/load", "POST"),
    ],
)
def test_wrong_method(box: Box, method: str, path: str, allow: str) -> None:
    reply = box.http.request(method, path)
    assert reply.headers["allow"] == allow
    check_refused(box, reply, 405, f"{method} is not allowed")


def test_foreign_page_may_not_call(box: Box) -> None:
    headers = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    check_refused(box, post(box, {"inputs": [tensor()]}, headers=headers), 403, "evil.example")


def test_caller_that_hangs_up_and_one_that_is_slow(box: Box) -> None:
    start = (
        f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:{box.port}\r\nContent-Length: 100\r\n\r\n{{".encode()
    )
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", box.port)) as caller:
            caller.sendall(start)
    with socket.create_connection(("127.0.0.1", box.port), timeout=20) as caller:
        caller.sendall(start)
        assert b"400 Bad Request" in caller.recv(200)
    assert ask(box, tensor())["parameters"]["verdict"] == "ng"
    assert box.events("unexpected") == []


def test_more_rows_than_a_call_may_have_are_refused(box: Box) -> None:
    rows = np.zeros((5000, FEATURES), np.float32)
    check_refused(box, post(box, rows.tobytes(), "double", {LENGTH: "0"}), 400, "5000 rows")


@pytest.mark.parametrize("path", ["/v2/repository/index", *(f"/v2/repository/models/tiny/{x}" for x in CHANGES)])
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"\xff": 1}', 400, "not a JSON object"),
        (b'{"a": "\xff"}', 400, "not a JSON object"),
        (b"[" * 5000, 400, "not a JSON object"),
        (b'{"a": "' + b"x" * (64 << 10) + b'"}', 413, "at most 65536"),
    ],
    ids=["name", "value", "deep", "large"],
)
def test_repository_refuses_what_is_no_object(box: Box, path: str, body: bytes, status: int, words: str) -> None:
    check_refused(box, box.http.post(path, content=body), status, words)


def bad_requests() -> list[tuple[str, bytes, dict[str, str]]]:
    """For each door, what it refuses at several depths: path, body, headers."""
    body, json_bytes = oip.encode_request({"image": grey(0.25)}, ["heatmap"], binary=True)
    oip_path, tfs_path = "/v2/models/tiny/infer", "/v1/models/tiny:predict"
    form = b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%s\r\n--xyz--\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=xyz"}
    return [
        (oip_path, b"[" * 5000, {}),
        (oip_path, json.dumps({"inputs": [tensor(shape=[1 << 60])]}).encode(), {}),
        (oip_path, json.dumps({"inputs": [tensor(data=["x"] * 192)]}).encode(), {}),
        (oip_path, body[:-1], {LENGTH: str(json_bytes)}),
        (oip_path, gzip.compress(bytes(BODY_BYTES_MAX + 1)), {"Content-Encoding": "gzip"}),
        (tfs_path, b"[" * 5000, {}),
        (tfs_path, json.dumps({"instances": grey(0.25)[:, 1:].tolist()}).encode(), {}),
        (tfs_path, json.dumps({"instances": [{"b64": base64.b64encode(BRIGHT[:60]).decode()}]}).encode(), {}),
        *[(path, form % BRIGHT[:60], multipart) for path in ("/v1/predict/tiny", "/v1/vision/detection")],
        *[(path, form[:40], multipart) for path in ("/v1/predict/tiny", "/v1/vision/detection")],
    ]


def test_ten_thousand_refusals_at_all_doors_leave_nothing_behind(box: Box) -> None:
    bad = bad_requests()

    def refuse(times: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", box.port)) as caller:
            for turn in range(times):
                path, body, headers = bad[turn % len(bad)]
                caller.request("POST", path, body, headers)
                reply = caller.getresponse()
                assert (reply.status, reply.read(1)) == (400, b"{"), path
                reply.read()

    refuse(1000)
    before = memory_bytes(box)
    refuse(10_000)
    assert memory_bytes(box) - before < 16 << 20


def memory_bytes(box: Box) -> int:
    status = Path(f"/proc/{box.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) << 10


def raw_get(box: Box, path: str) -> httpx.Response:
    """A path byte for byte as it is written."""
    with socket.create_connection(("127.0.0.1", box.port), timeout=20) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{box.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=content)


# Time and room.


def test_timeout_of_the_request_is_kept_and_overload_is_told(tmp_path: Path, models: Path) -> None:
    lanes = {"lanes": 1, "waiting_max": 1, "timeout_s": 60.0}
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes=lanes) as box:
        gate = tmp_path / "gate"
        gate.touch()
        with ThreadPoolExecutor(5) as callers:
            running = callers.submit(post, box, {"inputs": [tensor()]})
            until(lambda: any(each["busy"] for each in box.status()["lanes"]), 4, "the only lane being busy")
            late = post(box, {"inputs": [tensor()], "parameters": {"timeout": 100_000}})
            asked = [callers.submit(post, box, {"inputs": [tensor()]}) for _ in range(4)]
            until(lambda: sum(each.done() for each in asked) == 3, 4, "one of four callers waiting, the others refused")
            gate.unlink()
        check_refused(box, late, 504, "deadline")
        replies = [each.result() for each in (running, *asked)]
        assert sorted(each.status_code for each in replies) == [200, 200, 503, 503, 503]
        for refused in replies:
            if refused.status_code == 503:
                assert refused.headers["retry-after"] == "1"
                check_refused(box, refused, 503, "try again")


# The repository.


def test_index_load_and_unload(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "tiny")
    with running_box(tmp_path, models) as box:
        ready = {"name": "tiny", "version": "1", "state": "READY", "reason": ""}
        assert box.http.post("/v2/repository/index").json() == [ready]

        write_model(models, "tiny", "2")
        write_model(models, "late")
        for name in ("tiny", "late"):
            assert box.http.post(f"/v2/repository/models/{name}/load", json={}).status_code == 200
        index = box.http.post("/v2/repository/index").json()
        assert [(each["name"], each["version"], each["state"]) for each in index] == [
            ("late", "1", "READY"),
            ("tiny", "2", "READY"),
        ]
        assert ask(box, tensor())["model_version"] == "2"

        assert box.http.post("/v2/repository/models/late/unload", json={}).status_code == 200
        check_refused(box, post(box, {"inputs": [tensor()]}, "late"), 503, "unloaded")
        assert box.http.get("/v2/models/late/ready").status_code == 503
        index = box.http.post("/v2/repository/index", json={"ready": True}).json()
        assert [each["name"] for each in index] == ["tiny"]


def test_load_that_fails_says_why_and_leaves_the_old_one_serving(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "tiny")
    with running_box(tmp_path, models) as box:
        broken = write_model(models, "tiny", "2")
        (broken / "openvino-f32" / "model.bin").write_bytes(b"not these")
        check_refused(box, box.http.post("/v2/repository/models/tiny/load"), 422, "model.bin")
        check_refused(box, box.http.post("/v2/repository/models/nothing/load"), 404, "Request for unknown model")
        check_refused(box, box.http.post("/v2/repository/models/..%2Fx/load"), 404, "Request for unknown model")
        overrides = {"parameters": {"config": "{}"}}
        check_refused(box, box.http.post("/v2/repository/models/tiny/load", json=overrides), 400, "no parameters")
        check_refused(box, box.http.post("/v2/repository/models/tiny/load", content=b"x"), 400, "JSON object")
        assert ask(box, tensor())["model_version"] == "1"
        shutil.rmtree(broken)
        assert box.http.post("/v2/repository/models/tiny/load").status_code == 200


# What is decided inside.


class Replacing:
    """The pipeline of a box; before one of the requests, a new version takes the model's place."""

    def __init__(self, box: LocalBox, models: Path) -> None:
        self._box = box
        self._models = models
        self._changes: dict[str, Any] = {}
        self._before = -1

    def replace_before(self, request: int, **changes: Any) -> None:
        """request: counted from 0; changes: of the new version's manifest."""
        self._before, self._changes = request, changes

    def submit(self, *asked: Any) -> Any:
        if self._before == 0:
            write_model(self._models, "tiny", "2", **self._changes)
            self._box._slots.load("tiny").result(60)
        self._before -= 1
        return self._box._pipeline.submit(*asked)


class Door(NamedTuple):
    """The door in the process of the test, its box, and a client."""

    box: LocalBox
    http: httpx.AsyncClient
    pipeline: Replacing

    async def post(self, content: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return await self.http.post("/v2/models/tiny/infer", content=body, headers=headers)


@contextmanager
def local_door(folder: Path, **http_config: Any) -> Iterator[Door]:
    write_model(folder / "models", "tiny")
    config = load(write_config(folder, folder / "models", http={"port": 0, **http_config}, listener={"port": 0}))
    box = LocalBox(config)
    box.start()
    try:
        until(lambda: box._slots.ready(()), 60, "the model being ready")
        pipeline = Replacing(box, folder / "models")
        bodies = Bodies(config.http.body_bytes_max, config.http.bodies_bytes_max, config.http.body_s_max)
        door = oip_door(cast(Pipeline, pipeline), box._slots, cast(Status, None), bodies)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://127.0.0.1")
        yield Door(box, client, pipeline)
    finally:
        assert box.stop()


def test_answer_names_the_version_that_gave_it(tmp_path: Path) -> None:
    with local_door(tmp_path) as door:
        door.pipeline.replace_before(0)
        reply = asyncio.run(door.post({"inputs": [tensor()]}))
        assert (reply.status_code, reply.json()["model_version"]) == (200, "2")


@pytest.mark.parametrize(
    ("before", "changes", "content"),
    [
        (0, NO_HEATMAP, {"inputs": [tensor()]}),
        (0, {}, {"inputs": [tensor()], "outputs": [CLASSIFIED]}),
        (
            1,
            {},
            {
                "inputs": [
                    {
                        "name": "image",
                        "datatype": "BYTES",
                        "shape": [2],
                        "data": [base64.b64encode(BRIGHT).decode(), base64.b64encode(BRIGHT).decode()],
                    }
                ]
            },
        ),
    ],
    ids=["other outputs", "other labels, perhaps", "between two pictures"],
)
def test_answer_that_does_not_fit_the_model_that_was_asked_is_not_given(
    tmp_path: Path, before: int, changes: dict[str, Any], content: dict[str, Any]
) -> None:
    with local_door(tmp_path) as door:
        door.pipeline.replace_before(before, **changes)
        reply = asyncio.run(door.post(content))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert "was replaced meanwhile; send it again" in reply.json()["error"]
        assert asyncio.run(door.post({"inputs": [tensor()]})).json()["model_version"] == "2"


def test_answer_says_whether_it_comes_from_the_cache(tmp_path: Path) -> None:
    with local_door(tmp_path, cache_bytes=1 << 20) as door:
        said = [asyncio.run(door.post({"inputs": [tensor()]})).headers.get("x-cache") for _ in range(2)]
        assert said == ["miss", "hit"]


def test_nothing_is_said_of_a_cache_that_is_not_there(box: Box) -> None:
    assert "x-cache" not in post(box, {"inputs": [tensor()]}).headers


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("what", ["json", "bytes", "classes"])
def test_what_is_large_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, large: bool
) -> None:
    name = "_encode_answer" if what == "classes" else "_read"
    real, on_loop = getattr(door_module, name), []

    def noting(*arguments: Any) -> Any:
        on_loop.append(threading.current_thread() is threading.main_thread())
        return real(*arguments)

    monkeypatch.setattr(door_module, name, noting)
    rows = grey(*[0.25] * (500 if large else 1))
    headers = {}
    body, json_bytes = b"", 0
    if what == "json":
        body = json.dumps({"inputs": [tensor(rows)]}).encode()
    elif what == "bytes":
        element = BRIGHT + bytes(200_000 if large else 0)
        data = len(element).to_bytes(4, "little") + element
        given = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
        head = json.dumps({"inputs": [given]}).encode()
        body, json_bytes = head + data, len(head)
    else:
        given = tensor(rows, parameters={"binary_data_size": rows.nbytes})
        del given["data"]
        head = json.dumps({"inputs": [given], "outputs": [CLASSIFIED]}).encode()
        body, json_bytes = head + rows.tobytes(), len(head)
    headers = {LENGTH: str(json_bytes)} if json_bytes else {}
    with local_door(tmp_path) as door:
        reply = asyncio.run(door.post(body, headers))
    assert reply.status_code == 200, reply.text
    assert on_loop == [not large]
