"""Every HTTP door of a running box, as its clients use them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.support.box import Box, running_box, write_config
from tests.support.models import RATE_HZ, WINDOW_SIZE, picture, rows, spotted, write_model
from tests.support.wait import until

BRIGHT, MIDDLE, DARK = picture(230), picture(128), picture(20)
RECIPES = {"strict": {"tiny": {"score_ng_min": 0.05}}, "blind": {"tiny": {"class_score_min": 0.0, "classes": {}}}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny", formats=("openvino", "tflite"))
    write_model(root, "shake", kind="window")
    (root / "empty" / "1").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box"), models, recipes=RECIPES) as box:
        yield box


def upload(box: Box, body: bytes = BRIGHT, *, model: str = "tiny", **options: Any) -> Any:
    """The reply to a picture, which must be 200."""
    headers = {"Content-Type": "image/png", **options.pop("headers", {})}
    reply = box.http.post(f"/v1/predict/{model}", content=body, headers=headers, **options)
    assert reply.status_code == 200, reply.text
    return reply.json()


def commit(box: Box, body: bytes = BRIGHT, **options: Any) -> Any:
    reply = upload(box, body, params={"durable": "1"}, **options)
    assert reply["recorded"] == "committed"
    return reply


def decode(body: bytes) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


# Judging.


@pytest.mark.parametrize(
    ("body", "verdict", "label"), [(BRIGHT, "ok", "good"), (MIDDLE, "review", "good"), (DARK, "ng", "bad")]
)
def test_raw_png_is_judged(box: Box, body: bytes, verdict: str, label: str) -> None:
    result = upload(box, body)
    assert (result["verdict"], result["prediction"]["classes"][0]["label"]) == (verdict, label)


def test_result_carries_its_origin(box: Box) -> None:
    result = upload(box)
    model = next(each for each in box.status()["models"] if each["name"] == "tiny")
    assert (result["schema"], result["device"], result["door"], result["source"]) == (1, "box", "http", "upload")
    assert (result["model"], result["version"], result["variant"]) == ("tiny", "1", "openvino-f32")
    assert result["digest"] == model["digest"]
    assert len(result["digest"]) == 64
    assert result["signed"] is False
    assert result["prediction"]["score_unit"] == "probability of a defect, 0..1"
    assert set(result["timing"]) == {"queue_ms", "preprocess_ms", "infer_ms", "postprocess_ms"}
    assert result["recorded"] == "queued"
    assert result["has_image"] is True


def test_raw_jpeg_is_judged(box: Box) -> None:
    body = picture(20, form=".jpg")
    assert upload(box, body, headers={"Content-Type": "image/jpeg"})["verdict"] == "ng"


def test_picture_is_known_by_its_bytes_not_by_its_name(box: Box) -> None:
    assert upload(box, DARK, headers={"Content-Type": "application/octet-stream"})["verdict"] == "ng"


def test_finding_is_located_in_pixels_of_the_picture_as_sent(box: Box) -> None:
    (region,) = upload(box, spotted(64))["prediction"]["regions"]
    assert (region["box"], region["area"]) == ([0, 0, 32, 32], 0.25)


def test_heat_map_comes_along(box: Box) -> None:
    heat = upload(box, spotted(64))["prediction"]["heatmap"]
    cells = base64.b64decode(heat["cells"])
    assert (heat["rows"], heat["columns"], len(cells)) == (8, 8, 64)
    assert cells[0] > 200 > 50 > cells[63]


def test_form_is_judged_with_its_fields(box: Box) -> None:
    reply = box.http.post(
        "/v1/predict/tiny",
        files={"file": ("part.png", DARK, "image/png")},
        data={"part": "P-1", "lot": "L-2", "recipe": "strict", "source": "camera-9"},
    )
    result = reply.json()
    assert (result["verdict"], result["source"]) == ("ng", "camera-9")
    assert (result["part"], result["lot"], result["recipe"]) == ("P-1", "L-2", "strict")


def test_headers_name_part_lot_recipe_and_source(box: Box) -> None:
    headers = {"X-Part": "P-3", "X-Lot": "L-4", "X-Recipe": "blind", "X-Source": "camera-8"}
    result = upload(box, headers=headers)
    assert (result["part"], result["lot"], result["recipe"], result["source"]) == ("P-3", "L-4", "blind", "camera-8")


def test_header_may_have_letters_beyond_ascii(box: Box) -> None:
    assert upload(box, headers={"X-Part": "Gehäuse 7".encode()})["part"] == "Gehäuse 7"


def test_json_with_base64_is_judged_with_its_fields(box: Box) -> None:
    content = {"image": base64.b64encode(DARK).decode(), "part": 17, "lot": "L-5", "source": "plc-1"}
    result = box.http.post("/v1/predict/tiny", json=content).json()
    assert (result["verdict"], result["part"], result["lot"], result["source"]) == ("ng", "17", "L-5", "plc-1")


def test_json_may_hold_the_picture_as_a_data_address(box: Box) -> None:
    content = {"image": "data:image/png;base64," + base64.b64encode(DARK).decode()}
    assert box.http.post("/v1/predict/tiny", json=content).json()["verdict"] == "ng"


@pytest.mark.parametrize(("strength", "verdict"), [(0.1, "ok"), (0.5, "review"), (0.9, "ng")])
def test_json_rows_are_judged(box: Box, strength: float, verdict: str) -> None:
    result = box.http.post("/v1/predict/shake", json={"rows": rows(strength), "part": "M-1"}).json()
    assert (result["verdict"], result["part"]) == (verdict, "M-1")
    assert result["prediction"]["score"] == pytest.approx(strength, abs=0.001)
    assert not result.get("has_image", False)


def test_named_version_is_the_one_that_serves(box: Box) -> None:
    reply = box.http.post("/v1/predict/tiny/versions/1", content=DARK, headers={"Content-Type": "image/png"})
    assert (reply.status_code, reply.json()["version"]) == (200, "1")


def test_recipe_changes_the_verdict_and_nothing_else(box: Box) -> None:
    plain, strict = upload(box), upload(box, headers={"X-Recipe": "strict"})
    assert (plain["verdict"], strict["verdict"]) == ("ok", "ng")
    assert plain["prediction"] == strict["prediction"]


def test_recipe_that_the_configuration_does_not_know_changes_nothing(box: Box) -> None:
    result = upload(box, headers={"X-Recipe": "tuesday"})
    assert (result["verdict"], result["recipe"]) == ("ok", "tuesday")


def test_durable_reply_comes_after_the_commit(box: Box) -> None:
    number = commit(box)["id"]
    assert box.http.get(f"/v1/results/{number}").json()["id"] == number


def test_picture_with_findings_is_given_on_request(box: Box) -> None:
    reply = box.http.post(
        "/v1/predict/tiny", content=spotted(320), headers={"Content-Type": "image/png", "Accept": "image/jpeg"}
    )
    assert reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["x-verdict"] == "ok"
    assert int(reply.headers["x-result-id"]) > 0
    image = decode(reply.content)
    assert image.shape == (320, 320, 3)
    # The dark quarter has turned red, the bright rest has not.
    assert image[120, 80, 2] > 60 > image[120, 80, 0]
    assert image[300, 300].min() > 200


def test_many_callers_at_once_each_get_their_own_answer(box: Box) -> None:
    bodies = [(BRIGHT, "ok"), (MIDDLE, "review"), (DARK, "ng")]

    def call(index: int) -> bool:
        body, verdict = bodies[index % 3]
        reply = httpx.post(
            f"{box.url}/v1/predict/tiny",
            content=body,
            headers={"Content-Type": "image/png", "X-Part": f"P-{index}"},
            timeout=30,
        ).json()
        return bool((reply["verdict"], reply["part"]) == (verdict, f"P-{index}"))

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(call, range(60)))


# What has been recorded.


def test_results_are_filtered(box: Box) -> None:
    for part, lot, body in [("A", "north", BRIGHT), ("B", "north", DARK), ("C", "south", DARK)]:
        commit(box, body, headers={"X-Part": part, "X-Lot": lot, "X-Source": "filtered", "X-Recipe": "blue"})

    def parts(**wanted: Any) -> list[str]:
        found = box.http.get("/v1/results", params={"source": "filtered", **wanted}).json()["results"]
        return [each["part"] for each in found]

    assert parts() == ["C", "B", "A"]
    assert parts(lot="north") == ["B", "A"]
    assert parts(part="A") == ["A"]
    assert parts(verdict="ng") == ["C", "B"]
    assert parts(verdict="ng", lot="north") == ["B"]
    assert parts(recipe="blue", limit=1) == ["C"]
    assert parts(model="shake") == []
    at = box.http.get("/v1/results", params={"part": "B"}).json()["results"][0]["at"]
    assert parts(since=at) == ["C", "B"]
    assert parts(until=at) == ["A"]


def test_results_come_in_pages(box: Box) -> None:
    for number in range(5):
        commit(box, headers={"X-Part": str(number), "X-Source": "paged"})
    found, before = [], None
    for _ in range(3):
        wanted: dict[str, str | int] = {"source": "paged", "limit": 2}
        if before is not None:
            wanted["before_id"] = before
        page = box.http.get("/v1/results", params=wanted).json()
        found.append([each["part"] for each in page["results"]])
        before = page["next_before_id"]
    assert found == [["4", "3"], ["2", "1"], ["0"]]
    assert before is None


def test_page_that_is_exactly_full_is_known_to_be_the_last(box: Box) -> None:
    for _ in range(2):
        commit(box, headers={"X-Source": "exact"})
    assert box.http.get("/v1/results?source=exact&limit=2").json()["next_before_id"] is None


@pytest.mark.parametrize(
    "wanted", ["limit=0", "limit=501", "limit=x", "verdict=fine", "since=monday", "colour=red", "before_id=-1"]
)
def test_wrong_filter_is_refused_by_name(box: Box, wanted: str) -> None:
    reply = box.http.get(f"/v1/results?{wanted}")
    assert (reply.status_code, reply.json()["code"]) == (400, "field_invalid")
    assert wanted.partition("=")[0] in reply.json()["detail"]


@pytest.mark.parametrize("number", ["999999999", "9" * 40])
def test_result_that_is_not_there_is_not_found(box: Box, number: str) -> None:
    reply = box.http.get(f"/v1/results/{number}")
    assert (reply.status_code, reply.json()["code"]) == (404, "result_not_found")


def test_picture_comes_back_as_it_was_sent(box: Box) -> None:
    body = spotted(48, form=".jpg")
    number = commit(box, body, headers={"Content-Type": "image/jpeg"})["id"]
    reply = box.http.get(f"/v1/results/{number}/image")
    assert reply.content == body
    assert (reply.headers["content-type"], reply.headers["x-verdict"]) == ("image/jpeg", "ok")


def test_picture_is_drawn_on_request(box: Box) -> None:
    number = commit(box, spotted(320))["id"]
    reply = box.http.get(f"/v1/results/{number}/image?drawn=1")
    assert reply.headers["content-type"] == "image/jpeg"
    image = decode(reply.content)
    assert image.shape == (320, 320, 3)
    assert image[120, 80, 2] > 60 > image[120, 80, 0]


def test_window_has_no_picture(box: Box) -> None:
    reply = box.http.post("/v1/predict/shake?durable=1", json={"rows": rows()})
    assert box.http.get(f"/v1/results/{reply.json()['id']}/image").json()["code"] == "result_not_found"
    drawn = box.http.post("/v1/predict/shake", json={"rows": rows()}, headers={"Accept": "image/jpeg"})
    assert drawn.json()["code"] == "media_type_unsupported"


# Sources.


def test_sources_are_listed_with_their_last_answer(box: Box) -> None:
    for body in (BRIGHT, DARK):
        last = commit(box, body, headers={"X-Source": "listed"})
    found = {each["source"]: each for each in box.http.get("/v1/sources").json()["sources"]}["listed"]
    assert (found["kind"], found["model"], found["count"]) == ("image", "tiny", 2)
    assert (found["last_id"], found["last_at"], found["verdict"]) == (last["id"], last["at"], "ng")


def test_latest_is_one_flat_object(box: Box) -> None:
    last = commit(box, spotted(), headers={"X-Source": "flat", "X-Part": "P-1", "X-Lot": "L-1", "X-Recipe": "r"})
    latest = box.http.get("/v1/sources/flat/latest").json()
    assert not any(isinstance(value, dict | list) for value in latest.values())
    assert {name: latest[name] for name in ("id", "source", "model", "version", "verdict")} == {
        "id": last["id"],
        "source": "flat",
        "model": "tiny",
        "version": "1",
        "verdict": "ok",
    }
    assert (latest["label"], latest["regions"], latest["has_image"]) == ("good", 1, True)
    assert (latest["part"], latest["lot"], latest["recipe"]) == ("P-1", "L-1", "r")
    assert latest["age_s"] >= 0


def test_latest_that_has_been_seen_is_not_sent_again(box: Box) -> None:
    commit(box, headers={"X-Source": "tagged"})
    first = box.http.get("/v1/sources/tagged/latest")
    again = box.http.get("/v1/sources/tagged/latest", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_latest_waits_for_the_next_result(box: Box) -> None:
    commit(box, headers={"X-Source": "awaited"})
    seen = box.http.get("/v1/sources/awaited/latest").headers["etag"]
    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(
            httpx.get,
            f"{box.url}/v1/sources/awaited/latest?wait_s=30",
            headers={"If-None-Match": seen},
            timeout=60,
        )
        # Results of others do not end the wait.
        commit(box, headers={"X-Source": "another"})
        following = commit(box, DARK, headers={"X-Source": "awaited"})
        assert waiting.result(60).json()["id"] == following["id"]


def test_wait_without_news_ends_with_not_modified(box: Box) -> None:
    commit(box, headers={"X-Source": "silent"})
    seen = box.http.get("/v1/sources/silent/latest").headers["etag"]
    reply = box.http.get("/v1/sources/silent/latest?wait_s=0.1", headers={"If-None-Match": seen})
    assert reply.status_code == 304


def test_source_that_never_spoke_is_not_found(box: Box) -> None:
    for path in ("/v1/sources/nobody/latest", "/v1/sources/nobody/image"):
        reply = box.http.get(path)
        assert (reply.status_code, reply.json()["code"]) == (404, "source_not_found")


def test_last_picture_of_a_source_is_shown(box: Box) -> None:
    commit(box, BRIGHT, headers={"X-Source": "shown"})
    last = commit(box, DARK, headers={"X-Source": "shown"})
    reply = box.http.get("/v1/sources/shown/image")
    assert reply.content == DARK
    assert (reply.headers["x-result-id"], reply.headers["cache-control"]) == (str(last["id"]), "no-cache")
    assert decode(box.http.get("/v1/sources/shown/image?drawn=1").content).shape == (32, 32, 3)


# Events.


@contextmanager
def event_stream(box: Box) -> Iterator[Iterator[tuple[str, dict[str, Any], str | None]]]:
    """(event, data, id) as they come."""
    with httpx.stream("GET", f"{box.url}/v1/events", timeout=30) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield _events(reply)


def _events(reply: httpx.Response) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    fields: dict[str, str] = {}
    for line in reply.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
            fields = {}


def test_events_begin_with_the_status_and_bring_results(box: Box) -> None:
    with event_stream(box) as events:
        name, status, _ = next(events)
        assert (name, status["device"]) == ("status", "box")
        sent = upload(box, DARK, headers={"X-Source": "streamed"})
        name, data, number = next(event for event in events if event[0] == "result")
        assert (data["result"]["id"], data["result"]["verdict"], data["trace"]) == (sent["id"], "ng", None)
        assert number == str(sent["id"])


def test_event_of_a_window_brings_its_curve(box: Box) -> None:
    with event_stream(box) as events:
        next(events)
        content = [[index / 16, -index / 16, 0.0] for index in range(WINDOW_SIZE)]
        box.http.post("/v1/predict/shake", json={"rows": content})
        _, data, _ = next(event for event in events if event[0] == "result")
        trace = data["trace"]
        assert (trace["unit"], trace["channels"]) == ("g", ["x", "y", "z"])
        assert trace["duration_s"] == WINDOW_SIZE / RATE_HZ
        assert trace["low"][0] == trace["high"][0] == [round(index / 16, 4) for index in range(WINDOW_SIZE)]


def test_status_comes_again_and_again(box: Box) -> None:
    with event_stream(box) as events:
        first, second = (next(event for event in events if event[0] == "status") for _ in range(2))
        assert second[1]["at"] > first[1]["at"]


# The box itself.


def test_status_names_models_lanes_store_and_doors(box: Box) -> None:
    status = box.status()
    tiny = next(each for each in status["models"] if each["name"] == "tiny")
    assert (tiny["kind"], tiny["state"], tiny["labels"]) == ("image", "ready", ["good", "bad"])
    assert tiny["runtime"].startswith("openvino")
    assert (tiny["score_review_min"], tiny["score_ng_min"]) == (0.3, 0.7)
    shake = next(each for each in status["models"] if each["name"] == "shake")
    assert (shake["kind"], shake["rate_hz"], shake["window_size"]) == ("window", RATE_HZ, WINDOW_SIZE)
    assert status["lanes"][0]["lanes"] == 2
    assert status["store"]["state"] == "ok"
    assert status["store"]["free_bytes"] > 0
    assert status["mqtt"]["listener"]["state"] == "listening"
    assert status["mqtt"]["listener"]["address"] == f"127.0.0.1:{box.mqtt_port}"
    assert status["mqtt"]["broker"]["state"] == "off"


def test_status_counts_requests_and_errors(box: Box) -> None:
    def counts() -> tuple[int, int]:
        tiny = next(each for each in box.status()["models"] if each["name"] == "tiny")
        return tiny["requests"], tiny["errors"]

    requests, errors = counts()
    upload(box)
    box.http.post("/v1/predict/tiny", content=BRIGHT[:60], headers={"Content-Type": "image/png"})
    assert counts() == (requests + 2, errors + 1)


def test_model_that_does_not_load_is_reported_and_does_not_stop_the_others(box: Box) -> None:
    status = box.status()
    empty = next(each for each in status["models"] if each["name"] == "empty")
    assert empty["state"] == "failed"
    assert "manifest.toml" in empty["reason"]
    assert [each for each in status["problems"] if each["code"] == "model_failed" and "empty" in each["message"]]
    assert status["ready"] is True
    reply = box.http.post("/v1/predict/empty", content=BRIGHT, headers={"Content-Type": "image/png"})
    assert (reply.status_code, reply.json()["code"]) == (503, "model_failed")
    assert upload(box)["verdict"] == "ok"


def test_health_is_told_to_orchestrators(box: Box) -> None:
    assert box.http.get("/v2/health/live").json() == {"live": True}
    assert box.http.get("/v2/health/ready").json() == {"ready": True}
    assert box.http.get("/v2/models/tiny/ready").status_code == 200
    assert box.http.get("/v2/models/empty/ready").status_code == 503
    assert box.http.get("/v2/models/nothing/ready").status_code == 503


def test_not_ready_while_models_load_and_ready_afterwards(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models, module="tests.support.odd_box") as box:
        gate = tmp_path / "gate"
        gate.touch()
        box.stop()
        box.start(ready=False)
        assert box.http.get("/v2/health/ready").status_code == 503
        assert box.status()["ready"] is False
        reply = box.http.post("/v1/predict/tiny", content=BRIGHT, headers={"Content-Type": "image/png"})
        assert (reply.status_code, reply.json()["code"]) == (503, "model_not_ready")
        assert reply.headers["retry-after"] == "1"
        gate.unlink()
        box.wait("ready")
        assert upload(box)["verdict"] == "ok"


def test_required_model_that_failed_keeps_the_box_from_being_ready(tmp_path: Path, models: Path) -> None:
    box = Box(write_config(tmp_path, models, ready_requires=["tiny", "empty"]))
    try:
        box.start(ready=False)
        until(lambda: all(each["state"] != "loading" for each in box.status()["models"]), 60, "the models")
        assert box.http.get("/v2/health/ready").status_code == 503
        assert upload(box)["verdict"] == "ok"
    finally:
        box.kill()


def test_required_model_that_is_not_there_is_named(tmp_path: Path, models: Path) -> None:
    box = Box(write_config(tmp_path, models, ready_requires=["tyni"]))
    try:
        box.start(ready=False)
        assert any("tyni" in each["message"] for each in box.status()["problems"])
        assert box.http.get("/v2/health/ready").status_code == 503
    finally:
        box.kill()


def test_results_survive_a_restart(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models) as box:
        before = commit(box, DARK, headers={"X-Source": "camera-1", "X-Part": "P-1"})
        assert box.stop() == 0
        box.start()
        assert box.http.get(f"/v1/results/{before['id']}").json()["part"] == "P-1"
        assert box.http.get(f"/v1/results/{before['id']}/image").content == DARK
        assert box.http.get("/v1/sources/camera-1/latest").json()["id"] == before["id"]
        assert commit(box)["id"] > before["id"]


def test_durable_results_survive_a_kill(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models) as box:
        told = [commit(box)["id"] for _ in range(5)]
        box.kill()
        box.start()
        kept = [each["id"] for each in box.http.get("/v1/results").json()["results"]]
        assert kept == told[::-1]
        assert commit(box)["id"] > max(told)


def test_variant_and_durability_are_chosen_in_the_configuration(tmp_path: Path, models: Path) -> None:
    chosen = {"tiny": {"variant": "tflite-f32", "durable": True}}
    with running_box(tmp_path, models, models=chosen) as box:
        result = upload(box, DARK)
        assert (result["verdict"], result["variant"], result["recorded"]) == ("ng", "tflite-f32", "committed")
        tiny = next(each for each in box.status()["models"] if each["name"] == "tiny")
        assert tiny["runtime"].startswith(("ai-edge-litert", "tflite-runtime"))


def test_newest_version_serves(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version in ("9", "10"):
        write_model(root, version=version)
    with running_box(tmp_path / "box", root) as box:
        assert upload(box)["version"] == "10"
        reply = box.http.post("/v1/predict/tiny/versions/9", content=BRIGHT, headers={"Content-Type": "image/png"})
        assert (reply.status_code, reply.json()["code"]) == (404, "model_version_not_found")


def test_stop_is_prompt_and_clean_though_a_client_follows(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models) as box:
        with event_stream(box) as events:
            next(events)
            assert box.stop() == 0
            assert all(name == "status" for name, _, _ in events)
        assert box.events("stopped")
        assert "Traceback" not in box.errors() + box.output()


# Who may call.


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[", "", "10.0.0.1"])
def test_request_under_a_foreign_name_is_refused(box: Box, host: str) -> None:
    for path in ("/", "/v1/status", "/v1/events", "/v1/predict/tiny", "/hmi/index.html"):
        reply = box.http.get(path, headers={"Host": host})
        assert (reply.status_code, reply.json()["code"]) == (403, "address_refused")
    # Doors with a form of their own have no code.
    for path in ("/v2/health/live", "/v1/models/tiny", "/v1/vision/custom/list"):
        reply = box.http.get(path, headers={"Host": host})
        assert (reply.status_code, "this box" in reply.json()["error"]) == (403, True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:8080"])
def test_names_of_this_machine_are_accepted(box: Box, host: str) -> None:
    assert box.http.get("/v1/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "http://["])
def test_page_of_another_origin_may_not_send(box: Box, origin: str) -> None:
    reply = box.http.post("/v1/predict/tiny", content=BRIGHT, headers={"Content-Type": "image/png", "Origin": origin})
    assert (reply.status_code, reply.json()["code"]) == (403, "address_refused")


def test_page_of_the_box_may_send(box: Box) -> None:
    assert upload(box, headers={"Origin": box.url})["verdict"] == "ok"


@pytest.mark.parametrize("path", ["/", "/v1/status", "/v1/results/999999999", "/nowhere", "/hmi/nothing.js"])
def test_every_answer_forbids_foreign_content(box: Box, path: str) -> None:
    headers = box.http.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/hmi/../config.py", "/hmi/..%2fconfig.py", "/hmi/%2e%2e/app.py", "/hmi//etc/passwd"])
def test_page_s_files_are_all_that_is_served(box: Box, path: str) -> None:
    assert box.http.get(path).status_code in (400, 404)


# Too much.


def test_overload_is_refused_at_once_with_when_to_come_again(tmp_path: Path, models: Path) -> None:
    lanes = {"lanes": 1, "waiting_max": 1, "timeout_s": 60.0}
    with running_box(tmp_path, models, module="tests.support.odd_box", lanes=lanes) as box:
        gate = tmp_path / "gate"
        gate.touch()
        with ThreadPoolExecutor(2) as callers:

            def call(_: int) -> httpx.Response:
                return httpx.post(
                    f"{box.url}/v1/predict/tiny", content=BRIGHT, headers={"Content-Type": "image/png"}, timeout=60
                )

            first = callers.submit(call, 1)
            until(lambda: box.status()["lanes"][0]["busy"] == 1, 30, "a busy lane")
            second = callers.submit(call, 2)
            until(lambda: box.status()["lanes"][0]["waiting"] == 1, 30, "a full queue")
            refused = box.http.post("/v1/predict/tiny", content=BRIGHT, headers={"Content-Type": "image/png"})
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert "\n" not in refused.json()["detail"]
            gate.unlink()
            assert [call.result(60).json()["verdict"] for call in (first, second)] == ["ok", "ok"]
        assert upload(box)["verdict"] == "ok"
        assert box.status()["lanes"][0]["refused"] == 1


def test_too_many_event_streams_are_refused(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models, http={"sse_clients_max": 1}) as box:
        with event_stream(box) as events:
            next(events)
            refused = box.http.get("/v1/events")
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        until(lambda: stream_opens(box), 30, "room for another stream")


def stream_opens(box: Box) -> bool:
    with httpx.stream("GET", f"{box.url}/v1/events", timeout=30) as reply:
        return reply.status_code == 200


def test_hundreds_of_requests_leave_no_files_open(tmp_path: Path, models: Path) -> None:
    with running_box(tmp_path, models) as box:
        files = Path(f"/proc/{box.process.pid}/fd")

        def use() -> None:
            with ThreadPoolExecutor(8) as callers:
                for reply in callers.map(lambda _: form(box), range(40)):
                    assert reply.status_code == 200
            for _ in range(10):
                assert stream_opens(box)
                box.http.get("/v1/results")

        use()
        before = len(list(files.iterdir()))
        use()
        until(lambda: len(list(files.iterdir())) <= before + 3, 30, "files being closed")


def form(box: Box) -> httpx.Response:
    """A form above the size that is kept in memory."""
    body = picture(200, side=32) + bytes(2 << 20)
    return httpx.post(f"{box.url}/v1/predict/tiny", files={"file": ("a.png", body, "image/png")}, timeout=60)
