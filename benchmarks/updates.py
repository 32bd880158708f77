"""Model updates: from a release to answers of the new version, and what swaps cost callers.

    python -m benchmarks.updates [--promotions 5] [--rounds 10]

Prints one line of JSON for each. Promotion: a registry over HTTPS on loopback, an updater that stays and is told to
look now, 14 MB of other weights each time, the self-test, `blue_green`. Swaps: one version of `surface` for another
while pictures come over HTTP and MQTT at half of what the box can do, back to back and with a pause between two.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import shutil
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from appliance.config import shipped_models_dir
from appliance.core.release import Rollout
from benchmarks import inputs, load
from benchmarks.contenders import Server, appliance
from benchmarks.inputs import Expected, Message
from benchmarks.lineup import Networks
from benchmarks.paced import paced_p99_ms
from benchmarks.processes import Process
from benchmarks.publisher import steadily
from benchmarks.ratios import Measured
from benchmarks.run import SCRATCH
from tests.support.box import write_config
from tests.support.installs import install_copy
from tests.support.registry import make_registry
from tests.support.served_registry import serving
from tests.support.swapping_box import SlotsClient

SHARE = 0.5
PAUSE_S = 0.5
_SECONDS = 10.0
_STREAM_PER_S = 10
_SERVED_S = 60.0
_BETWEEN_LOOKS_S = 6.0
_SHIPPED = shipped_models_dir() / "surface" / "1"


def promotion(made: Networks, count: int) -> Measured:
    """median_s, max_s: from before a release is signed until an answer names its version. mb: of what changed."""
    registry = make_registry(made.scratch / "registry")
    (made.scratch / "box-updates" / "repository").mkdir(parents=True)
    seconds = []
    with serving(registry.folder, made.scratch) as served:
        more = f'\n[updates]\nurl = "{served.url}"\nca = "{served.ca}"\nroot = "{registry.root_path}"\nspread_s = 0\n'
        server, _, data = appliance("box-updates", [], made.scratch, more=more)
        config = made.scratch / "box-updates" / "appliance.toml"
        command = [sys.executable, "-m", "appliance", "update", "--stay", "--config", str(config)]
        updater = Process([*command, "--data-dir", str(data)], made.scratch / "updater.log")
        try:
            for number in range(count + 1):
                version = str(number + 1)
                registry.publish(_version(made, version))
                time.sleep(_BETWEEN_LOOKS_S)
                began = time.monotonic()
                registry.promote("mobilenet", version, rollout=Rollout(mode="blue_green", probation_s=0))
                _post(server.port, "/v1/updates/poll", b"")
                _until_served(server.port, made.bodies.jpeg.read_bytes(), version)
                seconds.append(time.monotonic() - began)
        finally:
            updater.end()
            server.process.end()
    weights = made.folder("mobilenet") / "1" / "openvino" / "model.bin"
    # The first one has to load the runtime as well.
    return {
        "median_s": statistics.median(seconds[1:]),
        "max_s": max(seconds[1:]),
        "first_s": seconds[0],
        "mb": weights.stat().st_size / 1e6,
    }


def swaps(scratch: Path, expected: Expected, rounds: int) -> Measured:
    """Ratios of p99 to that of the same callers before, medians of the rounds; swaps: how many there were in all."""
    folder = scratch / "box-swaps"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "surface").symlink_to(_SHIPPED.parent)
    install_copy(folder / "data", _SHIPPED, "2", {})
    config = write_config(folder, folder / "models")
    ports = tomllib.loads(config.read_text())
    port, mqtt_port = ports["http"]["port"], ports["listener"]["port"]
    command = [sys.executable, "-m", "tests.support.swapping_box", "serve", "--config", str(config)]
    server = Server("swaps", port, Process(command, folder / "log"))
    picture = _SHIPPED / "golden" / "scratch.png"
    message = Message("/v1/predict/surface", picture, {"Content-Type": "image/png"}, inputs.judged, expected)
    try:
        server.until_right(message)
        turn = _Turns(SlotsClient(config))
        rate = SHARE * load.measure(server.process, port, message, 8, 2, None)["per_s"] - _STREAM_PER_S
        quiet, dense, spaced = [], [], []
        with steadily(mqtt_port, "in/surface/belt", picture, _STREAM_PER_S):
            for _ in range(rounds):
                quiet.append(paced_p99_ms(port, message, rate, _SECONDS, lambda: time.sleep(0.1)))
                dense.append(paced_p99_ms(port, message, rate, _SECONDS, turn.swap))
                spaced.append(paced_p99_ms(port, message, rate, _SECONDS, lambda: turn.swap(PAUSE_S)))
    finally:
        server.process.end()
    return {
        "swaps": float(turn.count),
        "per_s": rate + _STREAM_PER_S,
        "quiet_p99_ms": statistics.median(quiet),
        "dense_ratio": statistics.median(after / before for before, after in zip(quiet, dense, strict=True)),
        "spaced_ratio": statistics.median(after / before for before, after in zip(quiet, spaced, strict=True)),
    }


class _Turns:
    """One version for the other, again and again."""

    def __init__(self, slots: SlotsClient) -> None:
        self.count = 0
        self._slots = slots

    def swap(self, pause_s: float = 0.0) -> None:
        self._slots.do("stage", {"surface": "12"[(self.count + 1) % 2]})
        self._slots.do("promote", ["surface"])
        self._slots.do("settle", ["surface"])
        self.count += 1
        time.sleep(pause_s)


def _version(made: Networks, version: str) -> Path:
    """The same network, but for the last bit of one weight: other bytes, and the same answers."""
    folder = made.scratch / "bundles" / "mobilenet" / version
    shutil.copytree(made.folder("mobilenet") / "1", folder)
    weights, manifest = folder / "openvino" / "model.bin", folder / "manifest.toml"
    content = bytearray(weights.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[-4 * int(version)] ^= 1
    weights.write_bytes(content)
    text = manifest.read_text().replace('version = "1"', f'version = "{version}"', 1)
    manifest.write_text(text.replace(before, hashlib.sha256(content).hexdigest()))
    return folder


def _until_served(port: int, picture: bytes, version: str) -> None:
    deadline = time.monotonic() + _SERVED_S
    while True:
        status, content = _post(port, "/v1/predict/mobilenet", picture)
        if status == 200 and json.loads(content)["version"] == version:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"version {version} does not serve after {_SERVED_S:g} s: {status} {content[:300]!r}")
        time.sleep(0.01)


def _post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SERVED_S)
    with contextlib.closing(connection):
        connection.request("POST", path, body, inputs.JPEG if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.updates", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--promotions", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="updates-", dir=SCRATCH) as folder:
        made = Networks(Path(folder))
        for found in (
            promotion(made, asked.promotions) if asked.promotions else {},
            swaps(made.scratch, made.tiny_expected, asked.rounds) if asked.rounds else {},
        ):
            print(json.dumps({name: round(value, 3) for name, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
