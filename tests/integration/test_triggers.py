"""Triggers at a box with real cameras: a folder, a snapshot URL, a topic. Each gets exactly one answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.config import load
from appliance.errors import ConfigError
from tests.support.box import Box, running_box, write_config
from tests.support.models import picture, write_model
from tests.support.mqtt import Device, device
from tests.support.records import query, results
from tests.support.wait import until

WAIT_S = 20.0
ANSWERS = "appliance/box/answers"
BRIGHT, DARK = picture(230), picture(10)


class Camera(BaseHTTPRequestHandler):
    """`/still` gives a picture, `/slow` keeps it back, `/moved` sends elsewhere; `/page` is none, `/off` an error."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/still")
            self.end_headers()
            return
        if self.path == "/slow":
            time.sleep(0.6)
        self.send_response(500 if self.path == "/off" else 200)
        self.end_headers()
        body = {"/page": b"<html>", "/huge": bytes(100_000)}.get(self.path, DARK)
        try:
            self.wfile.write(body)
        except OSError:
            return  # the box does not wait any more

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny")
    return root


def settings(url: str, spool: Path) -> dict[str, Any]:
    spool.mkdir(parents=True, exist_ok=True)
    stills = {name: {"kind": "http", "url": f"{url}/{name}"} for name in ("still", "slow", "moved", "page", "off")}
    common = {"model": "tiny", "frame_age_ms_max": 5000}
    return {
        "cameras": {
            "last": {"kind": "mqtt", "topic": "cell/last"},
            "spool": {"kind": "folder", "path": str(spool)},
            "huge": {"kind": "http", "url": f"{url}/huge", "bytes_max": 2000},
            "nobody": {"kind": "http", "url": "http://127.0.0.1:9/still"},
            **stills,
        },
        "triggers": [
            {**common, "name": "end", "topic": "plc/end", "cameras": ["last"]},
            {**common, "name": "both", "topic": "plc/both", "cameras": ["last", "still"]},
            {**common, "name": "spool", "cameras": ["spool"], "answer_within_ms": 400},
            {**common, "name": "fresh", "cameras": ["last"], "frame_age_ms_max": 50, "answer_within_ms": 300},
            {**common, "name": "long", "topic": "plc/long", "cameras": ["slow"], "answer_within_ms": 10_000},
            {**common, "name": "hurry", "cameras": ["slow"], "answer_within_ms": 200},
            *({**common, "name": f"of-{name}", "cameras": [name]} for name in (*stills, "huge", "nobody")),
        ],
    }


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path, camera: str, spool: Path) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box"), models, **settings(camera, spool)) as running:
        yield running


@pytest.fixture
def plc(box: Box) -> Iterator[Device]:
    with device(box.mqtt_port) as one:
        yield one.subscribe(f"{ANSWERS}/+")


def pull(box: Box, name: str, body: Any = None) -> Any:
    reply = box.http.post(f"/v1/triggers/{name}", json=body if body is not None else {})
    assert reply.status_code == 200, reply.text
    return reply.json()


def counts(box: Box, name: str) -> Any:
    return next(each for each in box.status()["triggers"] if each["name"] == name)


def test_trigger_over_mqtt_is_answered_with_its_part(box: Box, plc: Device) -> None:
    plc.send("cell/last", DARK)
    plc.send("plc/end", b"P-100")
    (answer,) = plc.objects(f"{ANSWERS}/end")
    assert (answer["part"], answer["verdict"], answer["trigger"]) == ("P-100", "ng", "end")
    (shot,) = answer["cameras"]
    result = box.http.get(f"/v1/results/{shot['result']}").json()
    assert (result["part"], result["source"], result["route"]) == ("P-100", "last", "end")


def test_trigger_over_http_is_answered_in_the_reply(box: Box, plc: Device) -> None:
    plc.send("cell/last", BRIGHT)
    answer = pull(box, "end", {"part": "P-200", "lot": "L-1", "recipe": "r"})
    assert (answer["part"], answer["lot"], answer["recipe"], answer["verdict"]) == ("P-200", "L-1", "r", "ok")
    assert box.http.post("/v1/triggers/end", headers={"X-Part": "P-201"}).json()["part"] == "P-201"
    assert box.http.post("/v1/triggers/end", content=b"0042").json()["part"] == "0042"


def test_worst_camera_decides_and_each_result_is_kept(box: Box, plc: Device) -> None:
    plc.send("cell/last", BRIGHT)
    answer = pull(box, "both", {"part": "P-300"})
    assert {each["camera"]: each["verdict"] for each in answer["cameras"]} == {"last": "ok", "still": "ng"}
    assert answer["verdict"] == "ng"
    for each in answer["cameras"]:
        assert box.http.get(f"/v1/results/{each['result']}").json()["part"] == "P-300"


def test_picture_in_a_folder_that_follows_the_trigger_is_used(box: Box, spool: Path) -> None:
    writing = threading.Timer(0.1, (spool / "part.png").write_bytes, (DARK,))
    writing.start()
    answer = pull(box, "spool", {"part": "P-400"})
    writing.join()
    assert answer["verdict"] == "ng"
    assert answer["cameras"][0]["frame_age_ms"] == 0.0


def test_no_picture_or_only_an_old_one_is_an_error(box: Box, plc: Device) -> None:
    plc.send("cell/last", BRIGHT)
    until(lambda: pull(box, "fresh")["verdict"] == "error", WAIT_S, "the picture growing old")
    answer = pull(box, "fresh", {"part": "P-500"})
    assert (answer["part"], answer["error"]["code"]) == ("P-500", "frame_too_old")
    assert results(box.data_dir, "last")[-1]["error"]["code"] == "frame_too_old"


@pytest.mark.parametrize("name", ["moved", "page", "off", "huge", "nobody"])
def test_camera_that_gives_no_picture_is_an_error_that_says_why(box: Box, name: str) -> None:
    answer = pull(box, f"of-{name}", {"part": "P-600"})
    assert (answer["verdict"], answer["error"]["code"]) == ("error", "camera_unavailable")
    assert f"camera {name}" in answer["error"]["message"]


def test_slow_camera_is_answered_in_time(box: Box) -> None:
    assert pull(box, "hurry", {"part": "P-700"})["error"]["code"] == "camera_unavailable"


def test_trigger_that_cannot_be_read_is_answered_too(box: Box, plc: Device) -> None:
    plc.send("plc/end", b"{not json")
    answer = plc.objects(f"{ANSWERS}/end")[-1]
    assert (answer["verdict"], answer["error"]["code"]) == ("error", "input_undecodable")
    reply = box.http.post("/v1/triggers/end", content=b"{not json")
    assert (reply.status_code, reply.json()["code"]) == (400, "input_undecodable")


def test_unknown_trigger_is_named(box: Box) -> None:
    reply = box.http.post("/v1/triggers/nothing")
    assert (reply.status_code, reply.json()["code"]) == (404, "trigger_not_found")
    assert "end" in reply.json()["detail"]


def test_same_key_gets_the_first_answer_again(box: Box, plc: Device) -> None:
    plc.send("cell/last", BRIGHT)
    first = pull(box, "end", {"part": "P-800", "key": "k-1"})
    plc.send("cell/last", DARK)
    before = counts(box, "end")["duplicates"]
    again = pull(box, "end", {"part": "P-800", "key": "k-1"})
    assert again == {**first, "duplicate": True}
    assert counts(box, "end")["duplicates"] == before + 1


def test_same_part_while_one_is_open_is_a_duplicate_and_another_an_overlap(box: Box, plc: Device) -> None:
    before = counts(box, "long")
    for part in ("P-900", "P-900", "P-901"):
        plc.send("plc/long", part.encode())
    answers = plc.objects(f"{ANSWERS}/long", 2)
    assert sorted(each["part"] for each in answers) == ["P-900", "P-901"]
    after = counts(box, "long")
    assert after["duplicates"] == before["duplicates"] + 1
    assert after["overlaps"] == before["overlaps"] + 1


def test_picture_that_is_none_is_a_dead_letter_and_leaves_the_last_one(box: Box, plc: Device) -> None:
    plc.send("cell/last", DARK)
    plc.send("cell/last", b"no picture")
    assert query(box.data_dir, "SELECT code FROM dead_letters WHERE topic = 'cell/last'") == [
        ("media_type_unsupported",)
    ]
    assert pull(box, "end")["verdict"] == "ng"


def test_box_that_went_down_answers_what_it_had_taken(tmp_path: Path, models: Path, camera: str) -> None:
    box = Box(write_config(tmp_path / "box", models, **settings(camera, tmp_path / "spool")))
    plc = Device(box.mqtt_port, "plc", expiry_s=600)
    try:
        box.start()
        plc.connect().subscribe(f"{ANSWERS}/+")
        plc.send("plc/long", {"part": "P-1", "key": 1})
        box.kill()
        assert plc.messages == []
        box.start()
        (answer,) = plc.objects(f"{ANSWERS}/long")
        assert (answer["part"], answer["verdict"]) == ("P-1", "error")
        assert answer["error"]["code"] == "interrupted"
        # The same trigger again, which a PLC may send when it is unsure, is answered from the record.
        plc.send("plc/long", {"part": "P-1", "key": 1})
        again = plc.objects(f"{ANSWERS}/long", 2)[1]
        assert again == {**answer, "duplicate": True}
        assert counts(box, "long")["interrupted"] == 1
        until(lambda: query(box.data_dir, "SELECT part, sent FROM triggers") == [("P-1", 1)], WAIT_S, "it being noted")
        box.restart()
        assert len(plc.received(f"{ANSWERS}/long", 2)) == 2
    finally:
        plc.close()
        box.kill()


def test_stop_answers_what_is_open(tmp_path: Path, models: Path, camera: str) -> None:
    config = settings(camera, tmp_path / "spool")
    with running_box(tmp_path / "box", models, **config) as box, device(box.mqtt_port) as plc:
        plc.subscribe(f"{ANSWERS}/+")
        plc.send("plc/long", b"P-1")
        box.stop()
        (answer,) = plc.objects(f"{ANSWERS}/long")
        assert answer["error"]["code"] == "interrupted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cameras": ["nothing"]}, "names camera 'nothing'; the cameras are last"),
        ({"cameras": ["last", "last"]}, "names a camera twice"),
        ({"topic": "plc/+"}, "not an MQTT topic without wildcards"),
        ({"name": "camera"}, "a route or another trigger has this name"),
        ({"answer_within_ms": 1}, "answer_within_ms"),
    ],
)
def test_configuration_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    trigger = {"name": "end", "cameras": ["last"], "model": "tiny", **change}
    path = write_config(
        tmp_path,
        cameras={"last": {"kind": "mqtt", "topic": "cell/last"}},
        routes=[{"name": "camera", "topic": "in/+", "model": "tiny"}],
        triggers=[trigger],
    )
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert reason in str(refused.value)
    assert str(path) in str(refused.value)
