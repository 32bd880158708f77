"""Two versions of a shipped model in one box: what answers whom, and that nobody notices a swap."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance import standing
from appliance.config import shipped_models_dir
from appliance.starts import STARTS_MAX
from appliance.state import State
from tests.support.box import Box, run_appliance, write_config
from tests.support.faults import tally, times
from tests.support.installs import add_rollout, install_copy
from tests.support.mqtt import device
from tests.support.records import results
from tests.support.swapping_box import SlotsClient

SHIPPED = shipped_models_dir() / "surface" / "1"
SCRATCH = (SHIPPED / "golden" / "scratch.png").read_bytes()
LABEL = {"1": "scratch", "2": "line"}
"""What the two versions call the same finding."""

SWAPS = times(30, 1000)


class Swapped:
    """A box that has version 1 of `surface` by itself and version 2 by an update."""

    def __init__(self, folder: Path) -> None:
        (folder / "models").mkdir()
        (folder / "models" / "surface").symlink_to(SHIPPED.parent)
        install_copy(folder / "data", SHIPPED, "2", {"scratch": "line"})
        self.box = Box(write_config(folder, folder / "models"), module="tests.support.swapping_box")

    def start(self) -> None:
        self.box.start()
        self._slots = SlotsClient(self.box.config)

    def restart(self) -> None:
        self._slots.close()
        self.box.stop()
        self.start()

    def do(self, operation: str, *arguments: object) -> None:
        self._slots.do(operation, *arguments)

    def swap(self, version: str) -> None:
        self.do("stage", {"surface": version})
        self.do("promote", ["surface"])
        self.do("settle", ["surface"])

    def judge(self, path: str = "surface") -> Any:
        reply = self.box.http.post(f"/v1/predict/{path}", content=SCRATCH, headers={"Content-Type": "image/png"})
        assert reply.status_code == 200, reply.text
        return reply.json()


@pytest.fixture
def swapped(tmp_path: Path) -> Iterator[Swapped]:
    swapped = Swapped(tmp_path)
    try:
        swapped.start()
        yield swapped
    finally:
        swapped.box.kill()


def labelled(result: Any) -> str:
    """The version that a result names, checked by what only that version says."""
    assert result["prediction"]["classes"][0]["label"] == LABEL[result["version"]]
    return str(result["version"])


# Who answers.


def test_numbers_and_labels_choose_the_version_at_every_door(swapped: Swapped) -> None:
    swapped.do("stage", {"surface": "2"})
    asked = {None: "1", "1": "1", "2": "2", "stable": "1", "canary": "2"}
    seen: dict[str, list[str]] = {"uploads": [], "the path of uploads": [], "OIP": [], "TFS": []}
    for wanted in asked:
        http = swapped.box.http
        seen["uploads"].append(labelled(swapped.judge(f"surface?version={wanted}" if wanted else "surface")))
        seen["the path of uploads"].append(
            labelled(swapped.judge(f"surface/versions/{wanted}" if wanted else "surface"))
        )
        picture = base64.b64encode(SCRATCH).decode()
        asks = {
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": [picture, picture]}],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}],
        }
        path = f"surface/versions/{wanted}" if wanted else "surface"
        answer = http.post(f"/v2/models/{path}/infer", json=asks).json()
        assert [each.rpartition(":")[2] for each in answer["outputs"][0]["data"]] == [
            LABEL[answer["model_version"]]
        ] * 2
        seen["OIP"].append(answer["model_version"])
        path = f"surface/{'versions' if wanted.isdecimal() else 'labels'}/{wanted}" if wanted else "surface"
        classes = http.post(f"/v1/models/{path}:classify", json={"examples": [{"image": {"b64": picture}}]}).json()
        label = classes["results"][0][0][0]
        seen["TFS"].append(next(version for version, each in LABEL.items() if each == label))
    assert seen == {door: list(asked.values()) for door in seen}


def test_every_listing_shows_all_versions_that_are_loaded(swapped: Swapped) -> None:
    http = swapped.box.http

    def listings() -> list[Any]:
        index = http.post("/v2/repository/index").json()
        stats = http.get("/v2/models/surface/stats").json()["model_stats"]
        every = http.get("/v2/models/stats").json()["model_stats"]
        tfs = http.get("/v1/models/surface").json()["model_version_status"]
        return [
            sorted((each["version"], each["state"]) for each in index),
            sorted(each["version"] for each in stats),
            sorted(each["version"] for each in every),
            sorted(http.get("/v2/models/surface").json()["versions"]),
            [(each["version"], each["state"]) for each in tfs],
        ]

    alone = [[("1", "READY")], ["1"], ["1"], ["1"], [("1", "AVAILABLE")]]
    both = [
        [("1", "READY"), ("2", "READY")],
        ["1", "2"],
        ["1", "2"],
        ["1", "2"],
        [("2", "AVAILABLE"), ("1", "AVAILABLE")],
    ]
    assert listings() == alone
    swapped.do("stage", {"surface": "2"})
    assert listings() == both
    (model,) = swapped.box.status()["models"]
    assert (model["version"], model["candidate"]["version"], model["previous"]) == ("1", "2", None)
    swapped.do("promote", ["surface"])
    assert listings() == both
    (model,) = swapped.box.status()["models"]
    assert (model["version"], model["candidate"], model["previous"]["state"]) == ("2", None, "ready")
    swapped.do("settle", ["surface"])
    (model,) = swapped.box.status()["models"]
    assert (model["previous"]["version"], model["previous"]["state"]) == ("1", "unloaded")
    for label, version in (("stable", "2"), ("canary", "2")):
        (found,) = http.get(f"/v1/models/surface/labels/{label}").json()["model_version_status"]
        assert found["version"] == version
    for path in ("/v2/models/surface/versions/1", "/v1/models/surface/versions/1"):
        assert http.get(path).status_code == 404


# Swaps.


@contextmanager
def callers(swapped: Swapped, count: int, sent: list[str]) -> Iterator[list[tuple[float, httpx.Response]]]:
    """Over HTTP one request after the other, over MQTT a stream, until the block ends. sent: parts of the stream."""
    replies: list[tuple[float, httpx.Response]] = []
    stop = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=swapped.box.url, timeout=30) as client:
            while not stop.wait(0.02):
                began = time.monotonic()
                reply = client.post("/v1/predict/surface", content=SCRATCH, headers={"Content-Type": "image/png"})
                replies.append((time.monotonic() - began, reply))

    def stream() -> None:
        with device(swapped.box.mqtt_port, "camera") as camera:
            while not stop.wait(0.02):
                sent.append(f"P-{len(sent)}")
                camera.send("in/surface/belt", SCRATCH, user={"part": sent[-1]})

    with ThreadPoolExecutor(count + 1) as pool:
        running = [pool.submit(call) for _ in range(count)] + [pool.submit(stream)]
        try:
            yield replies
        finally:
            stop.set()
            for each in running:
                each.result(60)


def test_swaps_under_load_fail_and_lose_nothing(swapped: Swapped) -> None:
    line = tally("swap of a version under load", SWAPS)
    sent: list[str] = []
    with callers(swapped, 2, sent) as replies:
        for number in range(SWAPS):
            swapped.swap("2" if number % 2 == 0 else "1")
            line.step()
    assert [(reply.status_code, reply.text[:200]) for _, reply in replies if reply.status_code != 200] == []
    assert {labelled(reply.json()) for _, reply in replies} == {"1", "2"}
    recorded = results(swapped.box.data_dir, "belt")
    line.compare(sent, [each["part"] for each in recorded])
    assert (line.lost, line.doubled) == (0, 0)
    assert {labelled(each) for each in recorded} == {"1", "2"}
    assert len(replies) > SWAPS


def test_rejections_and_ways_back_under_load_fail_and_lose_nothing(swapped: Swapped) -> None:
    sent: list[str] = []
    with callers(swapped, 2, sent) as replies:
        for _ in range(times(5, 200)):
            swapped.do("stage", {"surface": "2"})
            swapped.do("reject", ["surface"])
            swapped.do("stage", {"surface": "2"})
            swapped.do("promote", ["surface"])
            swapped.do("roll_back", ["surface"])
    assert [(reply.status_code, reply.text[:200]) for _, reply in replies if reply.status_code != 200] == []
    assert sorted(each["part"] for each in results(swapped.box.data_dir, "belt")) == sorted(sent)
    assert labelled(swapped.judge()) == "1"


# Restarts, and taking back.


def test_promoted_version_serves_after_a_restart_and_a_staged_one_does_not(swapped: Swapped) -> None:
    swapped.do("stage", {"surface": "2"})
    swapped.restart()
    assert labelled(swapped.judge()) == "1"
    swapped.do("stage", {"surface": "2"})
    swapped.do("promote", ["surface"])
    swapped.restart()
    assert labelled(swapped.judge()) == "2"
    swapped.do("roll_back", ["surface"])
    swapped.box.kill()
    swapped.box.start()
    assert labelled(swapped.judge()) == "1"


@pytest.fixture
def on_probation(tmp_path: Path) -> Iterator[Swapped]:
    """A box that does not run, whose version 2 was promoted a moment ago."""
    swapped = Swapped(tmp_path)
    state = State(swapped.box.data_dir)
    rollout = add_rollout(state, {"surface": "2"}, {"surface": "1"}, "probation")
    standing.commit(state, [standing.served_now("surface", "2", "1", rollout, time.time())])
    state.close()
    try:
        yield swapped
    finally:
        if swapped.box.running:
            swapped.box.kill()


def test_box_that_ends_again_and_again_goes_back_by_itself(on_probation: Swapped) -> None:
    for _ in range(STARTS_MAX):
        on_probation.box.start(ready=False)
        on_probation.box.kill()
    on_probation.start()
    assert labelled(on_probation.judge()) == "1"
    listed = shown(on_probation.box)
    assert (listed["1"]["slot"], listed["2"]["slot"], listed["2"]["trial"]["state"]) == ("current", None, "rolled_back")
    assert "was started 3 times" in listed["2"]["blocked"]
    on_probation.restart()
    assert labelled(on_probation.judge()) == "1"


def test_list_tells_of_every_version_whether_the_box_runs_or_not(on_probation: Swapped) -> None:
    before = shown(on_probation.box)
    on_probation.start()
    assert shown(on_probation.box) == before
    assert {version: each["slot"] for version, each in before.items()} == {"1": "previous", "2": "current"}
    assert {each["state"] for each in before.values()} == {"ok"}
    assert (before["1"]["origin"], before["1"]["signed_by"], before["1"]["trial"]) == ("shipped", None, None)
    new = before["2"]
    assert (new["origin"], new["signed_by"]["role"]) == ("https://updates.example/", "vision")
    assert (new["self_test"]["cases"], new["trial"]["state"]) == (3, "probation")
    assert new["trial"]["evidence"] == {"inputs": 200}
    table = run_appliance("models", "list", "--config", on_probation.box.config).stdout
    assert "vision (01234567)" in table
    assert "passed, 3 cases" in table


@pytest.mark.parametrize("arguments", [(), ("surface",)])
def test_box_that_does_not_run_is_taken_back_for_its_next_start(
    on_probation: Swapped, arguments: tuple[str, ...]
) -> None:
    done = roll_back(on_probation.box, *arguments)
    assert (done.returncode, "surface is back at version 1" in done.stdout) == (0, True), done.stderr
    again = roll_back(on_probation.box, *arguments)
    assert (again.returncode, again.stderr.startswith("appliance: order_refused: ")) == (1, True)
    on_probation.start()
    assert labelled(on_probation.judge()) == "1"


def test_version_to_go_back_to_must_be_there(on_probation: Swapped, tmp_path: Path) -> None:
    (tmp_path / "models" / "surface").unlink()
    done = roll_back(on_probation.box, "surface")
    assert (done.returncode, "version 1 is not on this box" in done.stderr) == (1, True)
    assert shown(on_probation.box)["2"]["slot"] == "current"


def test_versions_of_updates_that_nothing_needs_are_removed_on_demand(on_probation: Swapped) -> None:
    data = on_probation.box.data_dir
    old = install_copy(data, SHIPPED, "3", {})
    for options, words, is_there in ((("--dry-run",), "would go", True), ((), "removed", False)):
        done = run_appliance("models", "gc", *options, "--config", on_probation.box.config)
        assert (done.returncode, "surface 3: " in done.stdout, words in done.stdout) == (0, True, True), done.stderr
        assert old.exists() is is_there
    again = run_appliance("models", "gc", "--json", "--config", on_probation.box.config)
    assert json.loads(again.stdout) == {"removed": True, "versions": []}
    assert shown(on_probation.box)["2"]["state"] == "ok"


def shown(box: Box) -> dict[str, Any]:
    done = run_appliance("models", "list", "--config", box.config, "--json")
    assert done.returncode == 0, done.stderr
    return {each["version"]: each for each in json.loads(done.stdout)}


def roll_back(box: Box, *arguments: str) -> Any:
    return run_appliance("models", "roll-back", *arguments, "--config", box.config)
