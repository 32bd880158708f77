"""The box as a whole inside this process: what it starts, it ends."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from appliance.app import Box
from appliance.config import Config, LanesConfig, ListenerConfig, StoreConfig
from appliance.errors import AddressRefused, ConfigError, PortInUse
from tests.support.box import Box as ChildBox
from tests.support.box import run_appliance, running_box, write_config
from tests.support.models import picture, write_model
from tests.support.wait import until


def make_config(folder: Path, *, listener: ListenerConfig | None = None, models: str = "models") -> Config:
    return Config(
        device="box",
        data_dir=str(folder / "data"),
        models_dir=str(folder / models),
        listener=listener or ListenerConfig(port=0),
        lanes=LanesConfig(lanes=2),
        store=StoreConfig(free_bytes_min=0),
    )


def started(config: Config) -> Box:
    box = Box(config)
    box.start()
    return box


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_stop_ends_every_thread_and_closes_every_file(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    config = make_config(tmp_path)
    assert started(config).stop()
    threads, files = set(threading.enumerate()), open_files()
    for _ in range(3):
        assert started(config).stop()
    assert set(threading.enumerate()) - threads == set()
    assert open_files() <= files


def test_box_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    config = make_config(tmp_path)
    for _ in range(2):
        assert Box(config).stop()


def test_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        box = Box(make_config(tmp_path, listener=ListenerConfig(port=taken.getsockname()[1])))
        with pytest.raises(PortInUse):
            box.start()
        assert box.stop()
    assert started(make_config(tmp_path)).stop()


def test_configuration_that_is_refused_leaves_the_data_folder_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        Box(make_config(tmp_path, models="nowhere"))
    with pytest.raises(AddressRefused, match=r"listener\.host"):
        Box(make_config(tmp_path, listener=ListenerConfig(host="0.0.0.0")))
    assert not (tmp_path / "data").exists()


def test_systemd_is_told_of_start_life_and_stop(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(30)
        box = ChildBox(write_config(tmp_path, tmp_path / "models"), environment={"NOTIFY_SOCKET": str(path)})
        try:
            box.start()
            said = {systemd.recv(100) for _ in range(2)}
            assert said == {b"READY=1", b"WATCHDOG=1"}
            assert box.stop() == 0
            while (last := systemd.recv(100)) == b"WATCHDOG=1":
                pass
            assert last == b"STOPPING=1"
        finally:
            box.kill()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--host", "0.0.0.0"], 2, ["address_refused", "http.host"]),
        (["--models", "/nowhere"], 2, ["configuration_invalid", "/nowhere is not a folder"]),
        (["--data-dir", "/dev/null/data"], 2, ["data_dir_unusable", "/dev/null/data"]),
    ],
)
def test_options_overrule_the_file_and_are_refused_alike(
    tmp_path: Path, options: list[str], code: int, words: list[str]
) -> None:
    write_model(tmp_path / "models")
    run = run_appliance("serve", "--config", write_config(tmp_path, tmp_path / "models"), *options)
    assert run.returncode == code
    (line,) = run.stderr.splitlines()
    for word in words:
        assert word in line


def test_answer_that_comes_after_its_timeout_is_not_recorded(tmp_path: Path) -> None:
    """The caller was told of a timeout: a verdict in the records would contradict it."""
    write_model(tmp_path / "models")
    lanes = {"lanes": 1, "timeout_s": 0.5}
    with running_box(tmp_path, tmp_path / "models", module="tests.support.odd_box", lanes=lanes) as box:
        gate = tmp_path / "gate"
        gate.touch()
        headers = {"Content-Type": "image/png"}
        late = box.http.post("/v1/predict/tiny?durable=1", content=picture(20), headers={**headers, "X-Part": "late"})
        assert (late.status_code, late.json()["code"]) == (504, "inference_timeout")
        ended = (tmp_path / "inferences").stat().st_size
        gate.unlink()
        # The late one, and the golden cases of the model that is compiled afresh, in each of its gears.
        until(lambda: (tmp_path / "inferences").stat().st_size >= ended + 3, 30, "the late answer")
        box.wait("ready")
        good = box.http.post("/v1/predict/tiny?durable=1", content=picture(230), headers=headers).json()
        assert [each["id"] for each in box.http.get("/v1/results").json()["results"]] == [good["id"]]
        assert box.stop() == 0
