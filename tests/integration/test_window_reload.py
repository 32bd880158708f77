"""A model that is loaded anew with other windows takes over the streams of the one before it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.support.box import Box, running_box
from tests.support.models import CHANNELS, WINDOW_SIZE, sha256, write_model
from tests.support.mqtt import device
from tests.support.networks import openvino_files
from tests.support.records import letters, query, readings, results
from tests.support.toml import to_toml
from tests.support.wait import until

ROUTES = [{"name": "wave", "topic": "plc/+", "model": "wave"}]


def write_wave(root: Path, version: str, size: int, channels: tuple[str, ...]) -> None:
    """The window model with windows of another form."""
    folder = write_model(root, "wave", version, kind="window")
    manifest = tomllib.loads((folder / "manifest.toml").read_text())
    manifest["inputs"][0]["shape"] = [-1, size, len(channels)]
    manifest["preprocess"] |= {"channels": list(channels), "size": size}
    (variant,) = manifest["variants"]
    for name, content in openvino_files("window", (size, len(channels))).items():
        (folder / variant["name"] / name).write_bytes(content)
    for case in manifest["golden"]:
        path = folder / case["file"]
        path.write_text(f'{{"rows": {[[case["score"]] * len(channels)] * size}}}')
        case["sha256"] = sha256(path)
    for file in variant["files"]:
        file["sha256"] = sha256(folder / file["path"])
    (folder / "manifest.toml").write_text(to_toml(manifest))


def wait_windows(box: Box, count: int) -> list[str]:
    """The versions that judged them."""
    until(lambda: len(results(box.data_dir, "motor")) >= count, 30, f"{count} windows")
    return [f"{each['version']} {each['verdict']}" for each in results(box.data_dir, "motor")]


@pytest.mark.parametrize(
    ("size", "channels", "expected"),
    [
        # 24 samples of three channels, one window of 16, then 8 more: two windows of 8.
        (8, CHANNELS, ["1 ok", "2 ok", "2 ok"]),
        # The 8 samples of three channels that are left over fit into no window of one channel.
        (8, ("x",), ["1 ok", "2 ok"]),
    ],
)
def test_streams_go_on_with_the_windows_of_the_new_model(
    tmp_path: Path, size: int, channels: tuple[str, ...], expected: list[str]
) -> None:
    models = tmp_path / "models"
    write_wave(models, "1", WINDOW_SIZE, CHANNELS)
    with running_box(tmp_path, models, routes=ROUTES) as box, device(box.mqtt_port) as plc:
        plc.send("plc/motor", [[0.1] * 3] * 24)
        wait_windows(box, 1)
        write_wave(models, "2", size, channels)
        assert box.http.post("/v2/repository/models/wave/load").status_code == 200
        plc.send("plc/motor", [[0.1] * len(channels)] * size)
        assert wait_windows(box, len(expected)) == expected
        assert letters(box.data_dir, "window of motor") == []
        assert len(readings(box.data_dir, "motor")) == 2
        box.restart()
        with device(box.mqtt_port) as again:
            again.send("plc/motor", [[0.1] * len(channels)] * size)
        assert wait_windows(box, len(expected) + 1) == [*expected, "2 ok"]
        assert query(box.data_dir, "SELECT count(*) FROM dead_letters") == [(0,)]
