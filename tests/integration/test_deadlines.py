"""Deadlines: what nobody waits for any more is not run, and its record says so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support.box import Box, running_box, write_config
from tests.support.models import WINDOW_SIZE, picture
from tests.support.mqtt import device
from tests.support.records import letters, results, window_ends
from tests.support.routes import write_models
from tests.support.wait import until

ROUTES = [
    {"name": "hasty", "topic": "hasty/+", "model": "tiny", "expires_ms": 100, "key_property": "seq"},
    {"name": "patient", "topic": "patient/+", "model": "tiny"},
    {"name": "hasty-wave", "topic": "wave/+", "model": "wave", "expires_ms": 100},
]


@contextmanager
def busy_box(folder: Path) -> Iterator[Box]:
    """A box whose only lane is held up until the gate goes."""
    write_models(folder / "models")
    lanes = {"lanes": 1, "timeout_s": 30.0}
    module = "tests.support.odd_box"
    with running_box(folder, folder / "models", module=module, lanes=lanes, routes=ROUTES) as box:
        (folder / "gate").touch()
        with ThreadPoolExecutor() as pool:
            first = pool.submit(upload, box)
            until(lambda: box.status()["lanes"][0]["busy"] == 1, 30, "a busy lane")
            try:
                yield box
            finally:
                (folder / "gate").unlink(missing_ok=True)
            assert first.result(30) == 200


def upload(box: Box) -> int:
    reply = box.http.post("/v1/predict/tiny", content=picture(), headers={"Content-Type": "image/png"})
    return reply.status_code


def test_upload_past_its_deadline_is_told_and_never_runs(tmp_path: Path) -> None:
    with busy_box(tmp_path) as box:
        headers = {"Content-Type": "image/png", "X-Timeout-Ms": "50"}
        late = box.http.post("/v1/predict/tiny", content=picture(), headers=headers)
        assert (late.status_code, late.json()["code"]) == (504, "expired")
        ran = (tmp_path / "inferences").stat().st_size
        (tmp_path / "gate").unlink()
        assert upload(box) == 200
        # The one that held the lane, and the one after.
        until(lambda: (tmp_path / "inferences").stat().st_size == ran + 2, 30, "two inferences")


def test_message_past_its_route_s_deadline_is_committed_as_expired(tmp_path: Path) -> None:
    with busy_box(tmp_path) as box, device(box.mqtt_port) as camera:
        camera.subscribe("appliance/box/results/#")
        camera.send("hasty/cell", picture(), user={"seq": "1", "part": "P-1"})
        (seen,) = camera.objects("appliance/box/results/tiny/cell")
        assert (seen["verdict"], seen["part"], seen["error"]["code"]) == ("error", "P-1", "expired")
        assert letters(box.data_dir, "hasty/cell") == []
        (tmp_path / "gate").unlink()
        # Sent again with its key, it is known: it is not judged after all.
        camera.send("hasty/cell", picture(), user={"seq": "1", "part": "P-1"})
        camera.send("patient/cell", picture(), user={"part": "P-2"})
        until(lambda: len(results(box.data_dir, "cell")) == 2, 30, "the results")
        assert [each["verdict"] for each in results(box.data_dir, "cell")] == ["error", "ok"]


def test_pictures_and_windows_expire_while_their_model_is_loading(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    (tmp_path / "gate").touch()
    box = Box(write_config(tmp_path, models, routes=ROUTES), module="tests.support.odd_box")
    try:
        box.start(ready=False)
        with device(box.mqtt_port) as plc:
            for seq in "12":
                plc.send("hasty/cell", picture(), user={"seq": seq})
                plc.send("wave/motor", [[0.1, 0.1, 0.1]] * WINDOW_SIZE)
            until(lambda: len(results(box.data_dir, "cell") + results(box.data_dir, "motor")) == 4, 30, "the results")
            (tmp_path / "gate").unlink()
            box.wait("ready")
            plc.send("patient/cell", picture())
        assert [each.get("error", {}).get("code") for each in results(box.data_dir, "cell")] == ["expired"] * 2 + [None]
        assert [each["error"]["code"] for each in results(box.data_dir, "motor")] == ["expired"] * 2
        assert [last for last, _ in window_ends(box.data_dir, "motor")] == [1, 2]
        assert letters(box.data_dir, "window of motor") == []
    finally:
        box.kill()
