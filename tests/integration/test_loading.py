"""Messages for models that are still loading, that failed, and more of them than memory should hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.app import Box
from appliance.config import load
from appliance.core.manifest import ModelManifest, Variant
from appliance.errors import ModelLoadError
from appliance.mqtt import intake
from appliance.runtimes import LoadedModel, Loaders, LoadOptions, default_loaders
from tests.support.box import write_config
from tests.support.models import picture
from tests.support.mqtt import device
from tests.support.records import letters, readings, results
from tests.support.routes import write_models
from tests.support.wait import until

WAIT_S = 20.0
ROUTES = [
    {"name": "slow", "topic": "slow/+", "model": "wave"},
    {"name": "tiny", "topic": "tiny/+", "model": "tiny"},
    {"name": "keyed", "topic": "keyed/+", "model": "tiny", "key_property": "seq"},
]


class Gate:
    """Loaders that let a model through when its name is opened, or refuse it."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused
        self._open: dict[str, threading.Event] = {}

    def event(self, name: str) -> threading.Event:
        return self._open.setdefault(name, threading.Event())

    def loaders(self) -> Loaders:
        return {"openvino": self._load}

    def _load(
        self, manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        assert self.event(manifest.name).wait(WAIT_S), f"{manifest.name} was never opened"
        if manifest.name in self._refused:
            raise ModelLoadError("it is broken")
        return default_loaders()["openvino"](manifest, variant, files, options)


class Running:
    def __init__(self, box: Box, data_dir: Path) -> None:
        assert box._mqtt.listener is not None
        self.port = box._mqtt.listener.address[1]
        self.data_dir = data_dir


@contextmanager
def running(folder: Path, gate: Gate) -> Iterator[Running]:
    """A box in this process, whose models load when `gate` lets them."""
    config = load(
        write_config(folder, write_models(folder / "models"), routes=ROUTES, listener={"port": 0}, http={"port": 0})
    )
    box = Box(config, gate.loaders())
    box.start()
    try:
        yield Running(box, Path(config.data_dir))
    finally:
        for name in ("level", "tiny", "wave"):
            gate.event(name).set()
        box.stop()


def test_picture_for_a_loading_model_waits_for_it(tmp_path: Path) -> None:
    gate = Gate()
    with running(tmp_path, gate) as box, device(box.port) as camera:
        mids = {camera.publish("tiny/cell", picture()) for _ in range(5)}
        gate.event("level").set()
        camera.send("slow/press", [1, 2, 3])  # the reading is committed, its model is not needed for that
        assert not mids & camera.acknowledged
        gate.event("tiny").set()
        until(lambda: mids <= camera.acknowledged, WAIT_S, "the acknowledgements")
        assert [each["verdict"] for each in results(box.data_dir, "cell")] == ["ok"] * 5


def test_windows_of_a_loading_model_are_judged_when_it_is_there(tmp_path: Path) -> None:
    gate = Gate()
    with running(tmp_path, gate) as box, device(box.port) as plc:
        for _ in range(3):
            plc.send("slow/press", [[0.1, 0.1, 0.1]] * 16)
        assert results(box.data_dir, "press") == []
        for name in ("level", "tiny", "wave"):
            gate.event(name).set()
        until(lambda: len(results(box.data_dir, "press")) == 3, WAIT_S, "the windows")


def test_readings_are_held_back_while_their_windows_lag_far_behind(tmp_path: Path) -> None:
    gate = Gate()
    with running(tmp_path, gate) as box, device(box.port, in_flight=100) as plc:
        mids = [plc.publish("slow/press", f"{[[0.1, 0.1, 0.1]] * 16}") for _ in range(40)]
        until(lambda: len(readings(box.data_dir, "press")) == 40, WAIT_S, "the readings on disk")
        until(lambda: len(plc.acknowledged) >= 16, WAIT_S, "the first acknowledgements")
        assert len(plc.acknowledged) < 20
        for name in ("level", "tiny", "wave"):
            gate.event(name).set()
        until(lambda: set(mids) <= plc.acknowledged, WAIT_S, "all acknowledgements")
        until(lambda: len(results(box.data_dir, "press")) == 40, WAIT_S, "the windows")


def test_message_for_a_failed_model_is_a_dead_letter_and_answered_with_error(tmp_path: Path) -> None:
    gate = Gate("tiny")
    with running(tmp_path, gate) as box, device(box.port) as camera:
        camera.subscribe("appliance/box/results/#")
        gate.event("level").set()
        gate.event("tiny").set()
        camera.send("tiny/cell", picture(), user={"part": "P-1"})
        (seen,) = camera.objects("appliance/box/results/tiny/cell")
        assert (seen["verdict"], seen["part"], seen["error"]["code"]) == ("error", "P-1", "model_failed")
        ((code, reason),) = letters(box.data_dir, "tiny/cell")
        assert code == "model_failed"
        assert "it is broken" in reason


def test_more_than_memory_should_hold_ends_the_connection_and_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture()
    monkeypatch.setattr(intake, "OPEN_BYTES_MAX", 4 * (len(content) + 1000))
    gate = Gate()
    with running(tmp_path, gate) as box, device(box.port, "camera", expiry_s=600) as camera:
        mids = {camera.publish("keyed/cell", content, user={"seq": str(number)}) for number in range(12)}
        until(lambda: camera.connections > 1, WAIT_S, "the end of the connection")
        assert not mids & camera.acknowledged
        for name in ("level", "tiny", "wave"):
            gate.event(name).set()
        until(lambda: mids <= camera.acknowledged, WAIT_S, "all acknowledgements")
        assert len(results(box.data_dir, "cell")) == 12
