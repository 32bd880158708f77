"""`appliance demo`: a box on free ports, with a simulated camera and PLC as child processes, and what to try."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from appliance.app import serve
from appliance.config import Config, HttpConfig, ListenerConfig, RouteConfig, shipped_models_dir
from appliance.errors import PortInUse

_PORTS_TRIED = 100
_CAMERA = "line-1/camera-1/image"
_BELT = "line-1/belt-1/parts"
_PLC = "line-1/motor-1/vibration"

_ROUTES = (
    RouteConfig(name="camera", topic="line-1/+/image", model="surface", key_property="seq"),
    RouteConfig(name="belt", topic="line-1/+/parts", model="parts", key_property="seq"),
    RouteConfig(name="vibration", topic="line-1/+/vibration", model="bearing", key_field="seq"),
)


def run(http_port: int = 8080, mqtt_port: int = 1883) -> None:
    """Serve until Ctrl-C. Ports that are taken are passed over. What is recorded goes with the demo."""
    with tempfile.TemporaryDirectory(prefix="appliance-demo-") as data_dir:
        config = Config(
            device="demo",
            data_dir=data_dir,
            log_level="warning",
            http=HttpConfig(port=_free_port(http_port)),
            listener=ListenerConfig(port=_free_port(mqtt_port)),
            routes=_ROUTES,
        )
        devices: list[subprocess.Popen[bytes]] = []
        try:
            serve(config, on_started=_begin(config, devices))
        finally:
            for device in devices:
                device.terminate()
            for device in devices:
                device.wait(10)


def _begin(config: Config, devices: list[subprocess.Popen[bytes]]) -> Callable[[str], None]:
    def started(address: str) -> None:
        port = config.listener.port
        devices.append(_simulate("camera", "camera-1", port, _CAMERA, "--seed", "2"))
        devices.append(_simulate("belt", "belt-1", port, _BELT, "--seed", "3"))
        devices.append(_simulate("plc", "motor-1", port, _PLC))
        example = shipped_models_dir() / "surface" / "1" / "golden"
        picture = next(iter(sorted(example.glob("scratch*"))), example)
        if picture.is_relative_to(Path.cwd()):
            picture = picture.relative_to(Path.cwd())
        click.echo(
            f"\nThe page:   {address}\n"
            f"MQTT:       127.0.0.1:{port}\n\n"
            "Two simulated cameras and a simulated PLC are being judged. Try, in another terminal:\n\n"
            f"  curl -F file=@{picture} {address}/v1/predict/surface\n"
            f"  curl {address}/v1/sources/camera-1/latest\n"
            f"  curl '{address}/v1/sources/camera-1/image?drawn=1' -o part.jpg\n\n"
            "Ctrl-C ends it; what it recorded goes with it.",
        )
        sys.stdout.flush()

    return started


def _simulate(device: str, name: str, port: int, topic: str, *more: str) -> subprocess.Popen[bytes]:
    """A process of its own, as a real device is; it ends with this one, however this one ends."""
    command = [sys.executable, "-m", "provisioning", "simulate", device]
    options = ["--port", str(port), "--topic", topic, "--name", name, "--with-parent", *more]
    return subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on. Raises PortInUse after 100."""
    for port in range(first, min(first + _PORTS_TRIED, 65_536)):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise PortInUse(f"ports {first} to {first + _PORTS_TRIED - 1} are all taken; stop a program that listens there")
