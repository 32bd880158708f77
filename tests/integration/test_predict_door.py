"""Plain uploads beyond one picture: several files, keys, deadlines, tables, the answer cache."""

from __future__ import annotations

import base64
import gzip
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from appliance.core.manifest import TensorPreprocess
from appliance.core.tensors import TensorSpec
from appliance.http.call import Bodies, Door
from appliance.http.predict import predict_door
from appliance.slots import Slots
from tests.support import door as alone
from tests.support.box import Box, running_box
from tests.support.models import CHANNELS, RATE_HZ, WINDOW_SIZE, picture, rows, spotted, write_model
from tests.support.records import query, results
from tests.support.wait import until

BRIGHT, MIDDLE, DARK = picture(230), picture(128), picture(20)
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny")
    write_model(root, "shake", kind="window")
    write_model(root, "table", kind="window", preprocess={"kind": "tensor"}, golden=[])
    return root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box"), models) as box:
        yield box


def post(box: Box, to: str = "tiny", **options: Any) -> httpx.Response:
    return box.http.post(f"/v1/predict/{to}", **options)


def send(box: Box, body: bytes = BRIGHT, **options: Any) -> httpx.Response:
    return post(box, content=body, headers={**PNG, **options.pop("headers", {})}, **options)


def send_files(box: Box, *bodies: bytes, to: str = "tiny", **options: Any) -> httpx.Response:
    files = [("file", (f"{index}.png", body, "image/png")) for index, body in enumerate(bodies)]
    return post(box, to, files=files, **options)


def problem(reply: httpx.Response) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status_code, reply.json()["code"]


def door_of(asked: alone.Asked, slots: Slots) -> Door:
    return predict_door(asked.pipeline, slots, cast(Any, None), Path("results.db"), Bodies(16 << 20, 256 << 20, 30.0))


def table_of(spec: TensorSpec) -> Slots:
    return alone.slots_with(preprocess=TensorPreprocess(), inputs=(spec,))


# Several files.


def test_several_files_are_judged_in_order(box: Box) -> None:
    bodies = [BRIGHT, DARK, MIDDLE] * 3
    reply = send_files(box, *bodies, data={"lot": "L-9", "source": "several"})
    judged = reply.json()["results"]
    assert reply.status_code == 200
    assert [each["verdict"] for each in judged] == ["ok", "ng", "review"] * 3
    assert {each["lot"] for each in judged} == {"L-9"}
    assert {each["recorded"] for each in judged} == {"queued"}
    assert len({each["id"] for each in judged}) == 9


def test_each_of_several_files_is_recorded(box: Box) -> None:
    reply = send_files(box, BRIGHT, DARK, data={"source": "both"}, params={"durable": "1"})
    numbers = [each["id"] for each in reply.json()["results"]]
    assert {each["recorded"] for each in reply.json()["results"]} == {"committed"}
    assert sorted(numbers) == [each["id"] for each in results(box.data_dir, "both")]
    assert [box.http.get(f"/v1/results/{number}/image").content for number in numbers] == [BRIGHT, DARK]


def test_file_that_is_wrong_does_not_stop_the_others(box: Box) -> None:
    reply = send_files(box, BRIGHT, b"hello", DARK[:-20], DARK)
    first, second, third, fourth = reply.json()["results"]
    assert reply.status_code == 200
    assert (first["verdict"], fourth["verdict"]) == ("ok", "ng")
    assert (second["error"]["code"], second["file"]) == ("media_type_unsupported", "1.png")
    assert (third["error"]["code"], third["file"]) == ("input_undecodable", "2.png")
    assert "send it again" in third["error"]["message"]


def test_files_that_are_all_wrong_are_refused_for_the_first(box: Box) -> None:
    assert problem(send_files(box, b"hello", DARK[:-20])) == (415, "media_type_unsupported")
    assert problem(send_files(box, DARK[:-20], b"hello")) == (400, "input_undecodable")
    assert problem(send_files(box, BRIGHT, DARK, to="tyni")) == (404, "model_not_found")


def test_a_drawing_is_of_one_picture(box: Box) -> None:
    reply = send_files(box, BRIGHT, DARK, headers={"Accept": "image/jpeg"})
    assert problem(reply) == (400, "field_invalid")


def test_small_recordings_of_a_large_form_leave_the_loop_together() -> None:
    asked, slots = alone.Asked(), table_of(TensorSpec("x", "float32", (-1, 2)))
    threads: list[threading.Thread] = []
    choose = slots.choose

    def noted(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return choose(*args)

    cast(Any, slots).choose = noted
    files = [("file", (f"{index}.csv", b"1.25,2.5\n" * 2000, "text/csv")) for index in range(8)]
    assert alone.post(door_of(asked, slots), "/v1/predict/m", files=files).status_code == 503
    assert len(asked.requests) == 8
    assert len(threads) == 8
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_compressed_body_is_refused_by_its_coding(box: Box) -> None:
    reply = send(box, gzip.compress(BRIGHT), headers={"Content-Encoding": "gzip"})
    assert problem(reply) == (415, "media_type_unsupported")
    assert "'gzip'; send it uncompressed" in reply.json()["detail"]
    assert send(box, BRIGHT, headers={"Content-Encoding": "identity"}).json()["verdict"] == "ok"


# Options.


def test_version_is_named_by_query_or_path(box: Box) -> None:
    assert send(box, params={"version": "1"}).json()["version"] == "1"
    assert problem(send(box, params={"version": "7"})) == (404, "model_version_not_found")
    reply = box.http.post("/v1/predict/tiny/versions/1?version=2", content=BRIGHT, headers=PNG)
    assert problem(reply) == (400, "field_invalid")


def test_top_k_shortens_the_reply_and_not_the_record(box: Box) -> None:
    result = send(box, DARK, params={"top_k": "1", "durable": "1"}).json()
    assert [each["label"] for each in result["prediction"]["classes"]] == ["bad"]
    kept = box.http.get(f"/v1/results/{result['id']}").json()
    assert [each["label"] for each in kept["prediction"]["classes"]] == ["bad", "good"]


@pytest.mark.parametrize("wanted", ["top_k=0", "top_k=x", "version=1&version=1", "colour=red"])
def test_wrong_option_is_refused(box: Box, wanted: str) -> None:
    assert problem(box.http.post(f"/v1/predict/tiny?{wanted}", content=BRIGHT, headers=PNG)) == (400, "field_invalid")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused_with_the_right_one(box: Box, method: str) -> None:
    reply = box.http.request(method, "/v1/predict/tiny")
    assert problem(reply) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/v1/predict/", "/v1/predict/tiny/7", "/v1/predict/tiny/versions/", "/v1/predict/a/b/c/d"]
)
def test_path_that_leads_nowhere(box: Box, path: str) -> None:
    assert box.http.post(path, content=BRIGHT, headers=PNG).status_code == 404


@pytest.mark.parametrize("name", ["..%2ftiny", "%2e%2e", "tiny%00", "%ff", "x" * 5000])
def test_name_that_no_model_has(box: Box, name: str) -> None:
    assert box.http.post(f"/v1/predict/{name}", content=BRIGHT, headers=PNG).status_code == 404


# Deadlines.


@pytest.mark.parametrize("timeout", ["0", "-5", "soon", "nan", "inf", ""])
def test_deadline_that_is_none_is_refused(box: Box, timeout: str) -> None:
    assert problem(send(box, headers={"X-Timeout-Ms": timeout})) == (400, "field_invalid")


def test_upload_whose_deadline_passes_while_it_waits_is_not_run(tmp_path: Path, models: Path) -> None:
    lanes = {"lanes": 1, "timeout_s": 60.0}
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes=lanes) as box:
        gate = tmp_path / "gate"
        gate.touch()
        with ThreadPoolExecutor(1) as caller:
            first = caller.submit(httpx.post, f"{box.url}/v1/predict/tiny", content=BRIGHT, headers=PNG, timeout=60)
            until(lambda: box.status()["lanes"][0]["busy"] == 1, 30, "a busy lane")
            assert problem(send(box, DARK, headers={"X-Timeout-Ms": "50"})) == (504, "expired")
            gate.unlink()
            assert first.result(60).json()["verdict"] == "ok"
        assert send(box, headers={"X-Timeout-Ms": "30000"}).json()["verdict"] == "ok"
        assert [
            each["verdict"] for each in box.http.get("/v1/results").json()["results"] if each["verdict"] == "ng"
        ] == []


# Tables and recordings.


def test_csv_is_a_window(box: Box) -> None:
    text = "\n".join(",".join(map(str, row)) for row in rows(0.5))
    for body in (text, "z,x,y\n" + text):
        result = post(box, "shake", content=body, headers={"Content-Type": "text/csv", "X-Part": "M-1"}).json()
        assert (result["verdict"], result["part"]) == ("review", "M-1")
    reply = post(box, "shake", files={"file": ("a.csv", text, "application/octet-stream")})
    assert reply.json()["verdict"] == "review"


def wav(strength: float, *, channels: int = len(CHANNELS), rate: int = int(RATE_HZ)) -> bytes:
    """A window of the window model as 32-bit floats."""
    data = np.full((WINDOW_SIZE, channels), strength, "<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, channels, rate, rate * channels * 4, channels * 4, 32)
    body = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


@pytest.mark.parametrize(("strength", "verdict"), [(0.1, "ok"), (0.5, "review"), (0.9, "ng")])
def test_wav_is_a_window(box: Box, strength: float, verdict: str) -> None:
    reply = post(box, "shake", content=wav(strength), headers={"Content-Type": "audio/wav"})
    assert reply.json()["verdict"] == verdict
    assert post(box, "shake", files={"file": ("a.wav", wav(strength))}).json()["verdict"] == verdict


def test_recording_that_does_not_fit_the_model_is_refused(box: Box) -> None:
    for body in (wav(0.1, channels=1), wav(0.1, rate=44_100)):
        reply = post(box, "shake", content=body, headers={"Content-Type": "audio/wav"})
        assert problem(reply) == (400, "input_shape_wrong")
        assert "3 at 1024 Hz" in reply.json()["detail"]
    short = post(box, "shake", content="1,2,3\n", headers={"Content-Type": "text/csv"})
    assert problem(short) == (400, "input_shape_wrong")


@pytest.mark.parametrize(("body", "media_type"), [(wav(0.1), "audio/wav"), (b"1,2\n", "text/csv")])
def test_samples_are_no_picture(box: Box, body: bytes, media_type: str) -> None:
    reply = post(box, content=body, headers={"Content-Type": media_type})
    assert problem(reply) == (415, "media_type_unsupported")


def test_picture_is_known_by_its_bytes_though_it_is_called_csv(box: Box) -> None:
    assert post(box, content=DARK, headers={"Content-Type": "text/csv"}).json()["verdict"] == "ng"


# Tensors.


def test_tensors_are_judged_row_by_row(box: Box) -> None:
    content = {"inputs": {"window": [rows(0.1), rows(0.9)]}, "part": "T-1"}
    judged = post(box, "table", json=content).json()["results"]
    assert [each["verdict"] for each in judged] == ["ok", "ng"]
    assert {each["part"] for each in judged} == {"T-1"}


def test_one_row_is_one_result(box: Box) -> None:
    for content in ({"inputs": {"window": [rows(0.9)]}}, {"rows": [rows(0.9)]}):
        result = post(box, "table", json=content).json()
        assert (result["verdict"], result["recorded"]) == ("ng", "queued")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"inputs": {"winbow": [rows()]}}, "input_shape_wrong"),
        ({"inputs": {}}, "input_shape_wrong"),
        ({"inputs": {"window": [rows()], "more": [1]}}, "input_shape_wrong"),
        ({"inputs": {"window": []}}, "input_shape_wrong"),
        ({"inputs": {"window": rows()}}, "input_shape_wrong"),
        ({"inputs": {"window": [rows()[:-1]]}}, "input_shape_wrong"),
        ({"inputs": {"window": [rows(), rows()[:-1]]}}, "input_shape_wrong"),
        ({"inputs": {"window": [[["a", 0, 0]] * 16]}}, "input_type_wrong"),
        ({"inputs": {"window": [[[None, 0, 0]] * 16]}}, "input_type_wrong"),
        ({"inputs": {"window": [[[1e300, 0, 0]] * 16]}}, "input_not_finite"),
        ({"inputs": [1, 2]}, "input_undecodable"),
        ({"inputs": {"window": [rows()]}, "rows": [rows()]}, "input_undecodable"),
    ],
)
def test_tensors_that_do_not_fit(box: Box, content: dict[str, Any], code: str) -> None:
    assert problem(post(box, "table", json=content)) == (400, code)


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("16777217,-1", "int32", [[16777217, -1]]),
        ("a,b\n255,0\n", "uint8", [[255, 0]]),
        ("1.5,2", "int32", None),
        ("256,0", "uint8", None),
        ("nan,0", "int64", None),
        ("1e30,0", "int64", None),
        ("1,0", "bool", None),
    ],
)
def test_csv_for_whole_numbers_is_taken_whole_or_refused(text: str, dtype: Any, expected: list[Any] | None) -> None:
    asked = alone.Asked()
    door = door_of(asked, table_of(TensorSpec("x", dtype, (-1, 2))))
    reply = alone.post(door, "/v1/predict/m", content=text, headers={"Content-Type": "text/csv"})
    if expected is None:
        assert problem(reply) == (400, "input_type_wrong")
        assert asked.requests == []
        return
    (request,) = asked.requests
    assert request.tensors is not None
    assert (request.tensors["x"].dtype, request.tensors["x"].tolist()) == (np.dtype(dtype), expected)


def test_numbers_are_not_drawn_and_not_judged_for_it() -> None:
    asked = alone.Asked()
    door = door_of(asked, table_of(TensorSpec("x", "float32", (-1, 2))))
    reply = alone.post(door, "/v1/predict/m", json={"inputs": {"x": [[1, 2]]}}, headers={"Accept": "image/jpeg"})
    assert problem(reply) == (415, "media_type_unsupported")
    assert "numbers cannot be drawn" in reply.json()["detail"]
    assert asked.requests == []


def test_more_rows_than_a_call_may_have(box: Box) -> None:
    reply = post(box, "table", json={"rows": [[[0]]] * 4097})
    assert problem(reply) == (400, "input_shape_wrong")
    assert "at most 4096" in reply.json()["detail"]


def test_large_json_is_judged_as_well(box: Box) -> None:
    judged = post(box, "table", json={"inputs": {"window": [rows(0.123456)] * 200}}).json()["results"]
    assert {each["verdict"] for each in judged} == {"ok"}
    assert len(judged) == 200
    content = {"image": base64.b64encode(DARK + bytes(100_000)).decode()}
    assert post(box, json=content).json()["verdict"] == "ng"


# Keys.


def keyed(box: Box, key: str, body: bytes = DARK, **options: Any) -> httpx.Response:
    return send(box, body, headers={"Idempotency-Key": key, **options.pop("headers", {})}, **options)


def count(box: Box) -> int:
    ((number,),) = query(box.data_dir, "SELECT count(*) FROM results")
    return int(number)


def test_upload_that_is_sent_again_returns_the_first_result(box: Box) -> None:
    first = keyed(box, "a-1")
    assert (first.json()["recorded"], first.headers.get("idempotency-replayed")) == ("committed", None)
    before = count(box)
    again = keyed(box, "a-1")
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert count(box) == before


def test_key_belongs_to_its_source(box: Box) -> None:
    first = keyed(box, "a-2", headers={"X-Source": "one"})
    other = keyed(box, "a-2", BRIGHT, headers={"X-Source": "two"})
    assert (first.json()["verdict"], other.json()["verdict"]) == ("ng", "ok")


@pytest.mark.parametrize("change", [{"body": BRIGHT}, {"headers": {"X-Part": "P-2"}}, {"params": {"version": "1"}}])
def test_key_with_another_input_is_refused(box: Box, change: dict[str, Any]) -> None:
    key = f"a-3 {sorted(change)}"
    assert keyed(box, key).status_code == 200
    assert problem(keyed(box, key, **change)) == (409, "idempotency_key_reused")
    assert keyed(box, key).headers["idempotency-replayed"] == "true"


def test_key_that_begins_like_another_is_another(box: Box) -> None:
    first = keyed(box, "a-4")
    for key in ("a-", "a-4 ", "a-4%", "a-4\\n0", "a-40"):
        reply = keyed(box, f"{key}.")
        assert reply.headers.get("idempotency-replayed") is None
        assert reply.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_key_that_is_none_is_refused(box: Box, key: str) -> None:
    assert problem(keyed(box, key)) == (400, "field_invalid")


def test_key_of_an_upload_that_failed_is_free_again(box: Box) -> None:
    assert problem(keyed(box, "a-5", DARK[:-20])) == (400, "input_undecodable")
    assert keyed(box, "a-5").json()["verdict"] == "ng"


def test_several_files_under_one_key(box: Box) -> None:
    headers = {"Idempotency-Key": "a-6", "X-Source": "keyed-files"}
    first = send_files(box, BRIGHT, b"hello", DARK, headers=headers)
    again = send_files(box, BRIGHT, b"hello", DARK, headers=headers)
    assert [each.get("verdict") for each in first.json()["results"]] == ["ok", None, "ng"]
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(results(box.data_dir, "keyed-files")) == 2
    assert problem(send_files(box, BRIGHT, headers=headers)) == (409, "idempotency_key_reused")


def test_rows_under_one_key(box: Box) -> None:
    headers = {"Idempotency-Key": "a-7", "X-Source": "keyed-rows"}
    content = {"inputs": {"window": [rows(0.1), rows(0.9)]}}
    first = post(box, "table", json=content, headers=headers)
    again = post(box, "table", json=content, headers=headers)
    assert [each["verdict"] for each in again.json()["results"]] == ["ok", "ng"]
    assert again.json() == first.json()
    assert len(results(box.data_dir, "keyed-rows")) == 2


def test_drawing_of_a_key_is_drawn_again(box: Box) -> None:
    headers = {"Accept": "image/jpeg"}
    first = keyed(box, "a-8", spotted(320), headers=headers)
    again = keyed(box, "a-8", spotted(320), headers=headers)
    assert (again.headers["content-type"], again.headers["idempotency-replayed"]) == ("image/jpeg", "true")
    assert again.content == first.content
    assert again.headers["x-result-id"] == first.headers["x-result-id"]


def test_repeat_whose_picture_is_gone_is_answered_by_its_result(box: Box) -> None:
    headers = {"Accept": "image/jpeg"}
    first = keyed(box, "a-9", spotted(320), headers=headers)
    segments = list(box.data_dir.rglob("*.seg"))
    assert segments
    for segment in segments:
        segment.rename(segment.with_suffix(".away"))
    try:
        again = keyed(box, "a-9", spotted(320), headers=headers)
    finally:
        for segment in segments:
            segment.with_suffix(".away").rename(segment)
    assert (again.status_code, again.headers["content-type"]) == (200, "application/json")
    assert again.headers["idempotency-replayed"] == "true"
    assert (str(again.json()["id"]), again.json()["verdict"]) == (
        first.headers["x-result-id"],
        first.headers["x-verdict"],
    )


def test_key_holds_across_a_kill(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models) as box:
        first = keyed(box, "k-1").json()
        box.kill()
        box.start()
        again = keyed(box, "k-1")
        assert (again.json(), again.headers["idempotency-replayed"]) == (first, "true")
        assert problem(keyed(box, "k-1", BRIGHT)) == (409, "idempotency_key_reused")
        assert count(box) == 1


def test_key_that_is_in_flight_waits_for_the_first(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes={"lanes": 2, "timeout_s": 60.0}) as box:
        gate = tmp_path / "gate"
        gate.touch()
        started = threading.Barrier(4)

        def call(_: int) -> httpx.Response:
            with httpx.Client(base_url=box.url, timeout=60) as client:
                started.wait(30)
                return client.post("/v1/predict/tiny", content=DARK, headers={**PNG, "Idempotency-Key": "k-2"})

        with ThreadPoolExecutor(4) as callers:
            replies = callers.map(call, range(4))
            until(lambda: box.status()["lanes"][0]["busy"] == 1, 30, "a busy lane")
            assert problem(keyed(box, "k-2", BRIGHT)) == (409, "idempotency_key_reused")
            gate.unlink()
            done = list(replies)
        assert len({reply.json()["id"] for reply in done}) == 1
        assert sorted(reply.headers.get("idempotency-replayed", "") for reply in done) == ["", "true", "true", "true"]
        assert count(box) == 1


# The answer cache.


def test_answer_that_was_given_before_is_recorded_as_another(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models, http={"cache_bytes": 1 << 20}) as box:
        first, again = (send(box, DARK, headers={"X-Part": part}, params={"durable": "1"}) for part in ("A", "B"))
        assert [reply.headers["x-cache"] for reply in (first, again)] == ["miss", "hit"]
        assert first.json()["prediction"] == again.json()["prediction"]
        assert [each["part"] for each in results(box.data_dir, "upload")] == ["A", "B"]
        assert box.http.get(f"/v1/results/{again.json()['id']}/image").content == DARK
        assert send(box, BRIGHT).headers["x-cache"] == "miss"
        drawn = send(box, DARK, headers={"Accept": "image/jpeg"})
        assert drawn.headers["content-type"] == "image/jpeg"
        instances = [{"b64": base64.b64encode(MIDDLE).decode()}]
        for path, body in (
            ("/v1/models/tiny:predict", {"json": {"instances": instances}}),
            ("/v1/vision/detection", {"files": {"image": ("image", spotted())}}),
        ):
            assert [box.http.post(path, **cast(Any, body)).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]


def test_nothing_is_said_of_a_cache_that_is_off(box: Box) -> None:
    assert "x-cache" not in send(box).headers
