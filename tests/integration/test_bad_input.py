"""Bad input over HTTP, in the configuration, in model folders and on the disk.

Each gives one clear line with a stable code, and the box goes on: a good request follows.
"""

from __future__ import annotations

import base64
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.box import Box, free_port, run_appliance, running_box, write_config
from tests.support.disk import small_disk
from tests.support.models import picture, rows, write_model
from tests.support.odd_box import CRASH, HANG
from tests.support.wait import until
from tests.unit.test_codecs import jpeg_of_size, png_of_size

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
BODY_BYTES_MAX = 1 << 20
PICTURE = picture(230)
FORM = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny")
    write_model(root, "shake", kind="window")
    return root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box"), models, http={"body_bytes_max": BODY_BYTES_MAX}) as box:
        yield box


def send(box: Box, body: bytes | str = PICTURE, *, to: str = "tiny", **options: Any) -> httpx.Response:
    return box.http.post(f"/v1/predict/{to}", content=body, headers={**PNG, **options.pop("headers", {})}, **options)


def check_serves(box: Box) -> None:
    reply = send(box)
    assert (reply.status_code, reply.json()["verdict"]) == (200, "ok"), reply.text


def check_problem(reply: httpx.Response, status: int, code: str) -> str:
    """The problem is well formed; returns its one line."""
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (status, code), reply.text
    assert reply.headers["content-type"].startswith("application/problem+json")
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert problem["title"]
    detail: str = problem["detail"]
    assert detail
    assert "\n" not in detail
    return detail


# Pictures.


@pytest.mark.parametrize("body", [b"GIF89a" + bytes(100), b"%PDF-1.7", b"hello", bytes(1000), b"\xff\xd8"])
def test_wrong_file_type(box: Box, body: bytes) -> None:
    assert "JPEG" in check_problem(send(box, body), 415, "media_type_unsupported")
    check_serves(box)


@pytest.mark.parametrize("body", [PICTURE[:-20], picture(9, form=".jpg")[:300], PICTURE[:20], PICTURE[:-1]])
def test_truncated_image(box: Box, body: bytes) -> None:
    assert "send it again" in check_problem(send(box, body), 400, "input_undecodable")
    check_serves(box)


@pytest.mark.parametrize("body", [png_of_size(50_000, 50_000), jpeg_of_size(60_000, 60_000)])
def test_bomb_sized_image(box: Box, body: bytes) -> None:
    assert "above the limit of 50000000 pixels" in check_problem(send(box, body), 413, "image_too_large")
    check_serves(box)


def test_empty_body(box: Box) -> None:
    assert "empty" in check_problem(send(box, b""), 400, "body_empty")
    check_problem(send(box, b"", headers=JSON), 400, "body_empty")
    check_serves(box)


def test_body_over_the_limit(box: Box) -> None:
    assert "http.body_bytes_max" in check_problem(send(box, bytes(BODY_BYTES_MAX + 1)), 413, "body_too_large")
    check_serves(box)


def test_body_over_the_limit_that_does_not_say_its_length(box: Box) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(BODY_BYTES_MAX // 10)

    reply = box.http.post("/v1/predict/tiny", content=chunks(), headers=PNG)
    check_problem(reply, 413, "body_too_large")
    check_serves(box)


# Windows and JSON.


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "nonsense",
        '{"rows": [[1, 2, 3],]}',
        "[]",
        "null",
        "{}",
        '{"image": "aGk=", "rows": [[1]]}',
        '{"image": 5}',
        '{"image": "%%%"}',
        '{"rows": "many"}',
        '{"rows": [["a", "b", "c"]]}',
        '{"rows": [1, 2, 3]}',
        '{"rows": [[null, 1, 2]]}',
        '{"rows": [[NaN, 1, 2]]}',
        '{"rows": [[Infinity, 1, 2]]}',
        "[" * 5000,
    ],
)
def test_malformed_json(box: Box, content: str) -> None:
    for model in ("shake", "tiny"):
        check_problem(send(box, content, to=model, headers=JSON), 400, "input_undecodable")
    check_serves(box)


def test_bytes_that_are_no_text_in_json(box: Box) -> None:
    check_problem(send(box, b'{"part": "\xff\xfe"}', headers=JSON), 400, "input_undecodable")
    check_serves(box)


@pytest.mark.parametrize(
    "content",
    [
        rows()[:-1],
        [*rows(), [0.0, 0.0, 0.0]],
        [[0.0, 0.0]] * 16,
        [[0.0] * 16] * 3,
        [[0.0] * 4] * 12,
        [*rows()[:-1], [0.0]],
        [],
        [[]],
        [[]] * 16,
    ],
)
def test_wrong_shape(box: Box, content: list[list[float]]) -> None:
    reply = box.http.post("/v1/predict/shake", json={"rows": content})
    check_problem(reply, 400, "input_shape_wrong")
    check_serves(box)


@pytest.mark.parametrize("value", ["1e39", "-1e300"])
def test_number_that_the_model_cannot_hold(box: Box, value: str) -> None:
    content = '{"rows": [' + ",".join([f"[0, 0, {value}]"] * 16) + "]}"
    assert "NaN or infinity" in check_problem(send(box, content, to="shake", headers=JSON), 400, "input_not_finite")
    check_serves(box)


def test_picture_for_a_window_model_and_the_other_way_round(box: Box) -> None:
    assert "16 rows of 3 numbers" in check_problem(send(box, to="shake"), 415, "media_type_unsupported")
    reply = box.http.post("/v1/predict/tiny", json={"rows": rows()})
    assert "takes a picture" in check_problem(reply, 415, "media_type_unsupported")
    check_serves(box)


# Forms and fields.


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({"files": {}, "data": {"part": "P-1"}}, 415, "media_type_unsupported"),
        ({"files": {"note": (None, "no file")}}, 400, "field_invalid"),
        ({"files": {"file": ("a.png", PICTURE)}, "data": {"part": ["P-1", "P-2"]}}, 400, "field_invalid"),
        ({"files": {"file": ("a.png", b"")}}, 400, "body_empty"),
        ({"files": {"file": ("a.txt", b"hello")}}, 415, "media_type_unsupported"),
        ({"content": b"--x\r\nnonsense", "headers": {"Content-Type": FORM}}, 400, None),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data"}}, 400, None),
        ({"content": b"", "headers": {"Content-Type": FORM}}, 400, None),
    ],
)
def test_form_that_cannot_be_judged(box: Box, form: dict[str, Any], status: int, code: str | None) -> None:
    reply = box.http.post("/v1/predict/tiny", **form)
    check_problem(reply, status, code or reply.json()["code"])
    check_serves(box)


@pytest.mark.parametrize(
    ("headers", "content"),
    [(b"", b"\xff\xfe"), (b"Content-Type: text/plain; charset=nonsense\r\n", b"\xff")],
)
def test_form_field_that_is_no_text(box: Box, headers: bytes, content: bytes) -> None:
    disposition = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n'
    body = b"".join(
        (
            disposition % (b"file", b'; filename="a.png"') + b"\r\n" + PICTURE + b"\r\n",
            disposition % (b"part", b"") + headers + b"\r\n" + content + b"\r\n--x--\r\n",
        )
    )
    reply = box.http.post("/v1/predict/tiny", content=body, headers={"Content-Type": FORM})
    assert "UTF-8" in check_problem(reply, 400, "input_undecodable")
    check_serves(box)


@pytest.mark.parametrize("path", ["/hmi/%00", "/hmi/..%00", "/v1/sources/a%00b/latest"])
def test_path_with_a_nul(box: Box, path: str) -> None:
    check_problem(box.http.get(path), 404, "not_found")
    check_serves(box)


@pytest.mark.parametrize(
    ("header", "value"), [("X-Part", "x" * 200), ("X-Source", "a/b"), ("X-Source", "x" * 65), ("X-Lot", "a\tb")]
)
def test_field_that_is_no_name(box: Box, header: str, value: str) -> None:
    detail = check_problem(send(box, headers={header: value}), 400, "field_invalid")
    assert detail.startswith(header.removeprefix("X-").lower())
    check_serves(box)


@pytest.mark.parametrize("part", [[1], {"a": 1}, True, "x" * 200, "a\nb"])
def test_json_field_that_is_no_name(box: Box, part: object) -> None:
    content = {"image": base64.b64encode(PICTURE).decode(), "part": part}
    check_problem(box.http.post("/v1/predict/tiny", json=content), 400, "field_invalid")
    check_serves(box)


@pytest.mark.parametrize("query", ["durable=perhaps", "durabel=1"])
def test_query_with_a_typo(box: Box, query: str) -> None:
    check_problem(box.http.post(f"/v1/predict/tiny?{query}", content=PICTURE, headers=PNG), 400, "field_invalid")
    check_serves(box)


# Names.


def test_unknown_model(box: Box) -> None:
    detail = check_problem(send(box, to="tyni"), 404, "model_not_found")
    assert "'tiny'" in detail
    assert "'shake'" in detail
    check_serves(box)


def test_unknown_version(box: Box) -> None:
    assert "version 1 serves" in check_problem(send(box, to="tiny/versions/7"), 404, "model_version_not_found")
    check_serves(box)


def test_unknown_path_and_method(box: Box) -> None:
    check_problem(box.http.get("/v1/nowhere"), 404, "not_found")
    check_problem(box.http.get("/v1/predict/tiny"), 405, "method_not_allowed")
    check_serves(box)


def test_what_is_not_http_at_all(box: Box) -> None:
    with socket.create_connection(("127.0.0.1", box.port), timeout=30) as client:
        client.sendall(b"\x16\x03\x01 is this TLS?\r\n\r\n")
        assert b"400" in client.recv(1000)
    check_serves(box)


@pytest.mark.parametrize("media_type", ["image/png", "application/json", FORM])
def test_caller_that_hangs_up_in_the_middle(box: Box, media_type: str) -> None:
    head = f"POST /v1/predict/tiny HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
    for sent in (b"", b"--x\r\n", PICTURE):
        with socket.create_connection(("127.0.0.1", box.port), timeout=30) as client:
            client.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode() + sent)
    check_serves(box)
    assert not box.events("unexpected")


# Configuration and start.


def check_refused(run: Any, code: int, *words: str) -> None:
    """The command ended with this code and one line that has these words."""
    assert run.returncode == code, run.stderr
    (line,) = run.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"http": {"prot": 8080}}, ["prot", "$.http"]),
        ({"pixels_max": 0}, ["pixels_max"]),
        ({"lanes": {"timeout_s": -5}}, ["$.lanes.timeout_s"]),
        ({"http": {"port": "http"}}, ["$.http.port"]),
        ({"routes": [{"name": "a", "topic": "a/#/b", "model": "tiny"}]}, ["a/#/b"]),
    ],
)
def test_configuration_with_a_typo_or_an_impossible_value(
    tmp_path: Path, models: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path = write_config(tmp_path, models, **changes)
    check_refused(run_appliance("serve", "--config", path), 2, "configuration_invalid", str(path), *words)


def test_configuration_that_is_not_there(tmp_path: Path) -> None:
    check_refused(run_appliance("serve", "--config", tmp_path / "none.toml"), 2, "none.toml", "No such file")


def test_unknown_option() -> None:
    run = run_appliance("serve", "--prot", "8080")
    assert run.returncode == 2
    assert "--prot" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("section", ["http", "listener"])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "factory.example"])
def test_address_that_is_not_loopback(tmp_path: Path, models: Path, section: str, host: str) -> None:
    path = write_config(tmp_path, models, **{section: {"host": host}})
    check_refused(run_appliance("serve", "--config", path), 2, "address_refused", f"{section}.host", host, "127.0.0.1")


@pytest.mark.parametrize("section", ["http", "listener"])
def test_port_in_use(tmp_path: Path, models: Path, section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = write_config(tmp_path, models, **{section: {"port": port}})
        check_refused(run_appliance("serve", "--config", path), 3, "port_in_use", str(port))
    # Nothing was left behind: the same configuration serves as soon as the port is free, after a clean stop.
    box = Box(path)
    try:
        box.start()
        check_serves(box)
        assert box.stop() == 0
    finally:
        box.kill()
    with closing(sqlite3.connect(box.data_dir / "results.db")) as database:
        assert database.execute("SELECT count(*) FROM runs WHERE stopped_at IS NULL").fetchone() == (0,)


def test_data_folder_that_cannot_be_written(tmp_path: Path, models: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "data", Path("/proc/appliance")):
        path = write_config(tmp_path, models, data_dir=str(folder))
        run = run_appliance("serve", "--config", path)
        check_refused(run, 2, "data_dir_unusable", str(folder), "--data-dir")


def test_data_folder_in_use_by_another_box(box: Box, tmp_path: Path, models: Path) -> None:
    path = write_config(tmp_path, models, data_dir=str(box.data_dir))
    check_refused(run_appliance("serve", "--config", path), 2, "data_dir_unusable", "in use by another appliance")
    check_serves(box)


def test_database_that_is_damaged(tmp_path: Path, models: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "results.db").write_bytes(b"rubbish " * 1000)
    with running_box(tmp_path, models, data_dir=str(tmp_path / "data")) as box:
        aside = list((tmp_path / "data").glob("results.db.corrupt.*"))
        assert [each.read_bytes()[:8] for each in aside] == [b"rubbish "]
        assert send(box, params={"durable": "1"}).json()["recorded"] == "committed"
        # An alarm is raised at the next look, and a row of it committed after that.
        until(
            lambda: "database_saved" in [each["kind"] for each in box.http.get("/v1/alarms").json()["alarms"]],
            30.0,
            "the alarm",
        )
        assert box.stop() == 0


def test_models_folder_that_is_not_there(tmp_path: Path) -> None:
    path = write_config(tmp_path, tmp_path / "nowhere")
    check_refused(run_appliance("serve", "--config", path), 2, "configuration_invalid", "nowhere", "not a folder")


def test_password_file_that_cannot_be_read(tmp_path: Path, models: Path) -> None:
    broker = {"host": "127.0.0.1", "port": free_port(), "username": "u", "password_file": str(tmp_path / "none")}
    path = write_config(tmp_path, models, broker=broker)
    check_refused(run_appliance("serve", "--config", path), 2, "configuration_invalid", "broker.password_file")


# Models.


def damage_weights(folder: Path) -> None:
    weights = next(folder.glob("openvino-f32/model.bin"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")


def remove_graph(folder: Path) -> None:
    (folder / "openvino-f32" / "model.xml").unlink()


def misspell_manifest(folder: Path) -> None:
    path = folder / "manifest.toml"
    path.write_text(path.read_text().replace('"licence"', '"license"'))


def cut_manifest(folder: Path) -> None:
    path = folder / "manifest.toml"
    path.write_text(path.read_text()[:200])


def rename_folder(folder: Path) -> None:
    folder.rename(folder.with_name("2"))


def expect_too_much(folder: Path) -> None:
    path = folder / "manifest.toml"
    path.write_text(path.read_text().replace('"score" = 0.9', '"score" = 0.5'))


def name_another_tensor(folder: Path) -> None:
    path = folder / "manifest.toml"
    path.write_text(
        path.read_text().replace('"precision" = "f32"', '"precision" = "f32", "tensors" = {image = "pixels"}')
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_weights, ["model.bin", "SHA-256", "install the model again"]),
        (remove_graph, ["model.xml", "install the model again"]),
        (misspell_manifest, ["manifest.toml", "license"]),
        (cut_manifest, ["manifest.toml"]),
        (rename_folder, ["names bad/1, but the folder is bad/2"]),
        (expect_too_much, ["golden/bad.png", "score 0.500"]),
        (name_another_tensor, ["pixels", "correct the manifest"]),
    ],
)
def test_model_folder_that_is_wrong(tmp_path: Path, damage: Callable[[Path], None], words: list[str]) -> None:
    root = tmp_path / "models"
    write_model(root, "tiny")
    damage(write_model(root, "bad"))
    with running_box(tmp_path, root) as box:
        bad = next(each for each in box.status()["models"] if each["name"] == "bad")
        assert bad["state"] == "failed"
        for word in words:
            assert word in bad["reason"]
        assert "\n" not in bad["reason"]
        detail = check_problem(send(box, to="bad"), 503, "model_failed")
        assert bad["reason"] in detail
        assert [each["code"] for each in box.status()["problems"]] == ["model_failed"]
        check_serves(box)


def test_no_models_at_all(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    box = Box(write_config(tmp_path, tmp_path / "models"))
    try:
        box.start(ready=False)
        assert [each["code"] for each in box.status()["problems"]] == ["no_models"]
        check_problem(send(box), 404, "model_not_found")
        assert box.http.get("/v2/health/ready").status_code == 503
        assert box.stop() == 0
    finally:
        box.kill()


# The disk.


def test_full_disk(tmp_path: Path, models: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 6 << 20) as disk,
        running_box(tmp_path, models, data_dir=str(disk.path / "data")) as box,
    ):
        before = [send(box, params={"durable": "1"}).json()["id"] for _ in range(5)]
        disk.fill()
        noise = picture(230, side=200) + bytes(200_000)
        detail = check_problem(send(box, noise, params={"durable": "1"}), 507, "store_full")
        assert "delete files or shorten the retention" in detail
        reply = send(box)
        assert (reply.status_code, reply.json()["recorded"]) == (200, "no")
        status = box.status()
        assert status["store"]["state"] == "full"
        assert [each["code"] for each in status["problems"]] == ["store_full"]
        assert all("\n" not in each["message"] for each in status["problems"])
        disk.free()
        until(lambda: box.status()["store"]["state"] == "ok", 30, "the store recovering")
        after = send(box, params={"durable": "1"}).json()
        assert after["recorded"] == "committed"
        assert "store_full" not in [each["code"] for each in box.status()["problems"]]
        kept = [each["id"] for each in box.http.get("/v1/results").json()["results"]]
        assert kept[0] == after["id"]
        assert kept[-5:] == before[::-1]
        assert box.stop() == 0
        box.start()
        # Its picture may have been given up to make room; the result never is.
        assert box.http.get(f"/v1/results/{before[0]}").json()["id"] == before[0]
        assert box.stop() == 0


def test_start_and_stop_on_a_full_disk(tmp_path: Path, models: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 6 << 20) as disk,
        running_box(tmp_path, models, data_dir=str(disk.path / "data")) as box,
    ):
        send(box, params={"durable": "1"})
        disk.fill()
        send(box, picture(230, side=200) + bytes(200_000))
        until(lambda: box.status()["store"]["state"] == "full", 30, "the store being full")
        assert box.stop() == 0
        assert "Traceback" not in box.errors() + box.output()
        check_refused(run_appliance("serve", "--config", box.config), 2, "data_dir_unusable", "free")
        disk.free()
        box.start()
        check_serves(box)


# A runtime that hangs or crashes.


def test_image_that_hangs_the_runtime(tmp_path: Path, models: Path) -> None:
    lanes = {"lanes": 2, "timeout_s": 1.0}
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes=lanes) as box:
        detail = check_problem(send(box, picture(HANG)), 504, "inference_timeout")
        assert "1 s" in detail
        box.wait("ready")
        check_serves(box)
        assert box.events("lane_hung")
        assert len([each for each in box.events("model_ready") if each["model"] == "tiny"]) == 2
        with ThreadPoolExecutor(1) as caller:
            second = caller.submit(send, box, picture(HANG))
            assert box.ended() == 70
            assert isinstance(second.exception(60), httpx.TransportError) or second.result().status_code == 504
        assert box.events("giving_up")
        box.start()
        check_serves(box)


def test_box_that_has_a_hung_lane_still_stops(tmp_path: Path, models: Path) -> None:
    lanes = {"lanes": 2, "timeout_s": 1.0}
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes=lanes) as box:
        told = send(box, params={"durable": "1"}).json()["id"]
        check_problem(send(box, picture(HANG)), 504, "inference_timeout")
        box.wait("ready")
        assert box.stop() == 0
        assert "Traceback" not in box.errors() + box.output()
        box.start()
        assert box.http.get("/v1/results").json()["results"][0]["id"] == told


def test_image_that_crashes_the_runtime(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models, module="tests.support.odd_box") as box:
        told = send(box, params={"durable": "1"}).json()["id"]
        with pytest.raises(httpx.TransportError):
            send(box, picture(CRASH))
        assert box.ended() == -signal.SIGABRT
        box.start()
        check_serves(box)
        assert told in [each["id"] for each in box.http.get("/v1/results").json()["results"]]


def test_output_that_is_gone_does_not_stop_the_box(tmp_path: Path, models: Path) -> None:
    """Its log is a pipe whose reader has ended, as in `appliance serve | head -1`."""
    box = Box(write_config(tmp_path, models), log_to_nobody=True)
    try:
        box.start()
        check_serves(box)
        check_problem(send(box, b"hello"), 415, "media_type_unsupported")
        check_serves(box)
    finally:
        box.kill()
