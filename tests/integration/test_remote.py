"""Models whose home is another server: a real MLServer, a second appliance, and servers that misbehave."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from appliance.config import EndpointConfig
from appliance.core import oip
from appliance.core.manifest import ModelManifest, parse_manifest
from appliance.core.tensors import Array
from appliance.errors import InferenceError, ModelLoadError, RemoteUnavailable
from appliance.runtimes import remote
from appliance.runtimes.remote import RETRY_S, RemoteLoaded, load_remote
from tests.clients.environments import interpreter
from tests.support.box import Box, free_port, running_box
from tests.support.models import picture, write_model
from tests.support.toml import to_toml
from tests.support.wait import until

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
START_S_MAX = 60
BRIGHT, DARK = picture(230), picture(20)
PNG = {"Content-Type": "image/png"}
GREY = np.full((1, 8, 8, 3), 0.25, np.float32)


def write_remote(root: Path, name: str, endpoint: str, model: str, **tensors: str) -> Path:
    """The picture model of the tests, but on `endpoint`, where it is called `model`."""
    folder = write_model(root, name)
    manifest = tomllib.loads((folder / "manifest.toml").read_text())
    manifest["variants"] = [
        {
            "name": "remote-f32",
            "format": "remote",
            "precision": "f32",
            "remote": {"endpoint": endpoint, "model": model},
            "tensors": tensors,
        }
    ]
    for case in manifest["golden"]:
        case["tolerances"] = {"remote-f32": 0.01}
    (folder / "manifest.toml").write_text(to_toml(manifest))
    return folder


def manifest_of(folder: Path) -> ModelManifest:
    return parse_manifest((folder / "manifest.toml").read_bytes(), "manifest.toml")


def endpoint(port: int, **more: Any) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{port}", "timeout_s": 5.0, **more}


def upload(box: Box, model: str, content: bytes) -> httpx.Response:
    return box.http.post(f"/v1/predict/{model}", content=content, headers=PNG)


def model_status(box: Box, name: str) -> Any:
    return next(each for each in box.status()["models"] if each["name"] == name)


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real MLServer with the model `brightness`; its port."""
    folder = tmp_path_factory.mktemp("mlserver")
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "brightness").mkdir()
    (folder / "brightness" / "model-settings.json").write_text(
        json.dumps({"name": "brightness", "implementation": "brightness.Brightness"})
    )
    command = [interpreter("mlserver"), "-m", "mlserver.cli.main", "start", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(CLIENTS)}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "out").read_text()[-4000:]
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v2/models/brightness/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_ready, START_S_MAX, "MLServer being ready")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory, mlserver: int) -> Iterator[tuple[Box, Box]]:
    """A box whose models are elsewhere: `cluster` on MLServer, `far` on the second box. Then that second box."""
    folder = tmp_path_factory.mktemp("boxes")
    write_model(folder / "far-models", "tiny")
    write_remote(folder / "models", "cluster", "site", "brightness")
    write_remote(folder / "models", "far", "other-box", "tiny")
    with running_box(folder / "far", folder / "far-models") as far:
        endpoints = {"site": endpoint(mlserver), "other-box": endpoint(far.port)}
        with running_box(folder / "near", folder / "models", endpoints=endpoints) as near:
            yield near, far


@pytest.mark.parametrize("model", ["cluster", "far"])
def test_remote_model_judges_as_a_local_one(boxes: tuple[Box, Box], model: str) -> None:
    near, _ = boxes
    assert upload(near, model, BRIGHT).json()["verdict"] == "ok"
    result = upload(near, model, DARK).json()
    assert (result["verdict"], result["model"], result["variant"]) == ("ng", model, "remote-f32")
    assert abs(result["prediction"]["score"] - (1 - 20 / 255)) < 0.01
    assert result["prediction"]["regions"]


def test_status_says_where_a_model_runs(boxes: tuple[Box, Box]) -> None:
    near, _ = boxes
    cluster, far = model_status(near, "cluster"), model_status(near, "far")
    assert (cluster["device"], cluster["runtime"], cluster["note"]) == ("endpoint:site", "remote mlserver 1.7.1", None)
    assert (far["device"], far["note"]) == ("endpoint:other-box", None)
    assert far["runtime"].startswith("remote edge-inference-appliance ")


def test_tensors_go_through_both_boxes(boxes: tuple[Box, Box]) -> None:
    near, far = boxes
    body, _ = oip.encode_request({"image": np.concatenate([GREY, 3 * GREY])}, ["probabilities"], binary=False)
    for model in ("cluster", "far"):
        reply = near.http.post(f"/v2/models/{model}/infer", content=body)
        assert reply.status_code == 200, reply.text
        assert np.allclose(reply.json()["outputs"][0]["data"], [0.25, 0.75, 0.75, 0.25], atol=1e-3)
    assert far.http.get("/v2/models/tiny/stats").json()["model_stats"][0]["inference_count"] >= 2


def test_server_s_own_words_are_passed_on(boxes: tuple[Box, Box]) -> None:
    near, _ = boxes
    body, _ = oip.encode_request({"image": 8 * GREY}, ["probabilities"], binary=False)
    reply = near.http.post("/v2/models/cluster/infer", content=body)
    assert reply.status_code == 422
    assert "endpoint site refused" in reply.json()["error"]


def test_many_callers_share_the_connections(boxes: tuple[Box, Box]) -> None:
    near, _ = boxes
    failed: list[str] = []

    def call() -> None:
        with httpx.Client(base_url=near.url, timeout=30) as client:
            for _ in range(10):
                reply = client.post("/v1/predict/far", content=BRIGHT, headers=PNG)
                if reply.status_code != 200:
                    failed.append(reply.text)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_box_serves_while_the_server_is_away_and_after_it_came_back(tmp_path: Path) -> None:
    port = free_port()
    write_model(tmp_path / "far-models", "tiny")
    write_model(tmp_path / "models", "local")
    write_remote(tmp_path / "models", "far", "other-box", "tiny")
    endpoints = {"other-box": endpoint(port)}
    with running_box(tmp_path / "near", tmp_path / "models", endpoints=endpoints) as near:
        assert model_status(near, "far")["state"] == "ready"
        assert "does not answer" in model_status(near, "far")["note"]
        reply = upload(near, "far", BRIGHT)
        assert (reply.status_code, reply.json()["code"]) == (503, "remote_unavailable")
        assert f"endpoint other-box (http://127.0.0.1:{port})" in reply.json()["detail"]
        assert "\n" not in reply.json()["detail"]
        assert upload(near, "local", BRIGHT).json()["verdict"] == "ok"
        for _ in range(2):
            with running_box(tmp_path / "far", tmp_path / "far-models", http={"port": port}):
                until(lambda: upload(near, "far", BRIGHT).status_code == 200, 30, "the far box being found")
                assert model_status(near, "far")["note"] is None
            assert upload(near, "far", BRIGHT).status_code == 503
        assert upload(near, "local", BRIGHT).json()["verdict"] == "ok"


def test_unknown_endpoint_is_named_with_what_to_add(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "local")
    write_remote(tmp_path / "models", "far", "nowhere", "tiny")
    with running_box(tmp_path, tmp_path / "models") as box:
        far = model_status(box, "far")
        assert far["state"] == "failed"
        assert "add [endpoints.nowhere]" in far["reason"]
        assert upload(box, "local", BRIGHT).json()["verdict"] == "ok"


class Odd:
    """A server that answers as `reply` says: path, body -> status, headers, content."""

    def __init__(self, reply: Callable[[str, bytes], tuple[int, dict[str, str], bytes]], port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        odd = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                odd.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                status, headers, content = reply(self.path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]


@contextmanager
def running(odd: Odd) -> Iterator[int]:
    thread = threading.Thread(target=odd.server.serve_forever)
    thread.start()
    try:
        yield odd.port
    finally:
        odd.server.shutdown()
        odd.server.server_close()
        thread.join()


METADATA = {
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8, 3]}],
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "heatmap", "datatype": "FP32", "shape": [-1, 8, 8]},
    ],
}
GOOD = {"probabilities": np.array([[0.25, 0.75]], np.float32), "heatmap": np.zeros((1, 8, 8), np.float32)}


def answer(outputs: dict[str, Array], binary: bool) -> tuple[int, dict[str, str], bytes]:
    body, json_bytes = oip.encode_response("m", "1", [(name, array, binary) for name, array in outputs.items()])
    return 200, {} if json_bytes is None else {"Inference-Header-Content-Length": str(json_bytes)}, body


def behaving(
    infer: Callable[[bytes], tuple[int, dict[str, str], bytes]] = lambda body: answer(GOOD, True),
    metadata: Any = METADATA,
    extensions: tuple[str, ...] = ("binary_tensor_data",),
) -> Callable[[str, bytes], tuple[int, dict[str, str], bytes]]:
    """A server whose inference is `infer`, and the rest as it should be."""

    def reply(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/infer"):
            return infer(body)
        if path.endswith("/v2"):
            return 200, {}, json.dumps({"name": "odd", "version": "9", "extensions": extensions}).encode()
        return 200, {}, b"{}" if path.endswith("/ready") else json.dumps(metadata).encode()

    return reply


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    return manifest_of(write_remote(tmp_path / "models", "far", "odd", "m"))


def loaded(manifest: ModelManifest, port: int, **more: Any) -> RemoteLoaded:
    config = EndpointConfig(url=more.pop("url", f"http://127.0.0.1:{port}"), **{"timeout_s": 2.0, **more})
    return load_remote(manifest, manifest.variants[0], {"odd": config})


def test_binary_tensors_go_where_they_are_understood(manifest: ModelManifest) -> None:
    odd = Odd(behaving())
    with running(odd) as port:
        model = loaded(manifest, port)
        outputs = model.session("throughput")({"image": GREY})
    assert np.array_equal(outputs["probabilities"], GOOD["probabilities"])
    assert (model.runtime, model.device, model.note) == ("remote odd 9", "endpoint:odd", None)
    assert (model.gears, model.batches) == (("throughput",), True)
    path, headers, body = odd.requests[-1]
    assert path == "/v2/models/m/infer"
    assert "inference-header-content-length" in headers
    assert np.array_equal(oip.parse_request(body, int(headers[oip.HEADER_LENGTH])).inputs[0].array, GREY)


def test_json_goes_to_a_server_that_knows_nothing_else_and_this_is_remembered(manifest: ModelManifest) -> None:
    def infer(body: bytes) -> tuple[int, dict[str, str], bytes]:
        try:
            json.loads(body)
        except ValueError:
            return 500, {}, b"Internal Server Error"
        return answer(GOOD, False)

    odd = Odd(behaving(infer, extensions=()))
    with running(odd) as port:
        session = loaded(manifest, port).session("throughput")
        for _ in range(3):
            assert np.array_equal(session({"image": GREY})["heatmap"], GOOD["heatmap"])
    asked = [headers for path, headers, _ in odd.requests if path.endswith("/infer")]
    assert [oip.HEADER_LENGTH in headers for headers in asked] == [True, False, False, False]


def test_tensors_are_called_as_the_file_s_author_called_them(tmp_path: Path) -> None:
    folder = write_remote(tmp_path, "far", "odd", "m", image="in:0", probabilities="p", heatmap="h")
    metadata = {
        "inputs": [METADATA["inputs"][0] | {"name": "in:0"}],
        "outputs": [METADATA["outputs"][0] | {"name": "p"}, METADATA["outputs"][1] | {"name": "h"}],
    }
    outputs = {"h": GOOD["heatmap"], "p": GOOD["probabilities"]}
    with running(Odd(behaving(lambda body: answer(outputs, True), metadata))) as port:
        found = loaded(manifest_of(folder), port).session("throughput")({"image": GREY})
    assert sorted(found) == ["heatmap", "probabilities"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"inputs": [METADATA["inputs"][0] | {"shape": [-1, 3, 8, 8]}]},
        {"inputs": [METADATA["inputs"][0] | {"datatype": "UINT8"}]},
        {"inputs": [METADATA["inputs"][0] | {"name": "pixels"}]},
        {"outputs": [METADATA["outputs"][0]]},
        {"outputs": [METADATA["outputs"][0] | {"shape": 5}]},
    ],
)
def test_another_model_is_refused_at_load(manifest: ModelManifest, metadata: Any) -> None:
    with (
        running(Odd(behaving(metadata={**METADATA, **metadata}))) as port,
        pytest.raises(ModelLoadError, match=r"endpoint odd: .*correct the manifest or the endpoint"),
    ):
        loaded(manifest, port)


@pytest.mark.parametrize("metadata", [{}, {"inputs": [], "outputs": []}, {"inputs": None}, {"inputs": [5]}])
def test_server_that_tells_no_tensors_is_taken_at_its_word(manifest: ModelManifest, metadata: Any) -> None:
    with running(Odd(behaving(metadata=metadata))) as port:
        assert loaded(manifest, port).note is None


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((400, {}, b'{"error": "no such\\n thing"}'), "no such thing"),
        ((404, {}, b'{"detail": "Not Found"}'), "Not Found"),
        ((422, {}, b"plain words"), "plain words"),
        ((500, {}, b""), "no reason given"),
        ((302, {"Location": "/"}, b""), "status 302"),
        ((200, {}, b"<html>"), "not JSON"),
        ((200, {}, b"[" * 100_000), "no inference"),
        ((200, {}, b'{"outputs": []}'), "without the output"),
        ((200, {"Inference-Header-Content-Length": "9999"}, b"{}"), "Inference-Header-Content-Length"),
        (answer({"probabilities": np.zeros((1, 3), np.float32), "heatmap": GOOD["heatmap"]}, True), "[1, 3]"),
        (answer({"probabilities": np.array([[b"a", b"b"]], object), "heatmap": GOOD["heatmap"]}, True), "object"),
    ],
)
def test_refusals_and_nonsense_are_inference_errors(
    manifest: ModelManifest, reply: tuple[int, dict[str, str], bytes], words: str
) -> None:
    with running(Odd(behaving(lambda body: reply))) as port:
        session = loaded(manifest, port).session("throughput")
        with pytest.raises(InferenceError, match="endpoint odd") as caught:
            session({"image": GREY})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(503, "cannot answer now"), (429, "cannot answer now"), (401, "correct token_file"), (403, "correct token_file")],
)
def test_refusals_for_now_and_of_this_box_are_unavailability(manifest: ModelManifest, status: int, words: str) -> None:
    with running(Odd(behaving(lambda body: (status, {}, b'{"error": "busy"}')))) as port:
        session = loaded(manifest, port).session("throughput")
        with pytest.raises(RemoteUnavailable, match=words):
            session({"image": GREY})


def test_server_that_hangs_is_given_up_after_its_time(manifest: ModelManifest) -> None:
    over = threading.Event()

    def hang(body: bytes) -> tuple[int, dict[str, str], bytes]:
        over.wait(20)
        return answer(GOOD, True)

    with running(Odd(behaving(hang))) as port:
        model = loaded(manifest, port, timeout_s=0.2)
        with pytest.raises(RemoteUnavailable, match=r"did not answer within 0\.2 s"):
            model.session("throughput")({"image": GREY})
        over.set()
        assert "did not answer" in str(model.note)


def test_answer_that_is_cut_off_is_unavailability(manifest: ModelManifest) -> None:
    with running(Odd(behaving(lambda body: (200, {"Content-Length": "1000", "Connection": "close"}, b"{}")))) as port:
        session = loaded(manifest, port).session("throughput")
        with pytest.raises(RemoteUnavailable, match="does not answer"):
            session({"image": GREY})


def test_connection_that_was_closed_meanwhile_is_opened_again(manifest: ModelManifest) -> None:
    odd = Odd(behaving())
    with running(odd) as port:
        session = loaded(manifest, port).session("throughput")
        session({"image": GREY})
    # The same port again: the kept connection is dead, the server is there.
    with running(Odd(behaving(), port)):
        until(lambda: _answers(session), 10, "the answer of the server that came back")


def test_away_server_is_tried_once_a_second(manifest: ModelManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: now))
    port = free_port()
    session = loaded(manifest, port).session("throughput")
    came: list[str] = []

    def turn_away(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        came.append(path)
        return 200, {"Content-Length": "9", "Connection": "close"}, b""

    with running(Odd(turn_away, port)):
        for seconds in range(4):
            for _ in range(200):
                with pytest.raises(RemoteUnavailable, match="check the network"):
                    session({"image": GREY})
            assert len(came) == seconds
            now += RETRY_S


def test_token_and_path_are_sent(manifest: ModelManifest, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    odd = Odd(behaving())
    with running(odd) as port:
        model = loaded(manifest, port, url=f"http://127.0.0.1:{port}/serving/", token_file=str(token))
        model.session("throughput")({"image": GREY})
    assert {headers["authorization"] for _, headers, _ in odd.requests} == {"Bearer s3cret"}
    assert odd.requests[-1][0] == "/serving/v2/models/m/infer"


def test_server_is_believed_by_its_certificate(manifest: ModelManifest, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=odd", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    odd = Odd(behaving())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    odd.server.socket = context.wrap_socket(odd.server.socket, server_side=True)
    with running(odd) as port:
        url = f"https://127.0.0.1:{port}"
        model = loaded(manifest, port, url=url, ca_file=str(certificate))
        assert np.array_equal(model.session("throughput")({"image": GREY})["heatmap"], GOOD["heatmap"])
        stranger = loaded(manifest, port, url=url)
        assert "certificate verify failed" in str(stranger.note)
        with pytest.raises(RemoteUnavailable, match="certificate verify failed"):
            stranger.session("throughput")({"image": GREY})


@pytest.mark.parametrize("more", [{"token_file": "/nowhere/token"}, {"url": "https://h", "ca_file": "/nowhere/ca"}])
def test_missing_files_are_named_at_load(manifest: ModelManifest, more: dict[str, str]) -> None:
    with pytest.raises(ModelLoadError, match=r"endpoints\.odd.*nowhere"):
        loaded(manifest, 1, **more)


def _answers(session: Callable[[Any], Any]) -> bool:
    try:
        session({"image": GREY})
    except RemoteUnavailable:
        return False
    return True
