"""The `appliance-provision` command: what a technician runs around the box.

Exit codes: 0 done, 1 no connection or a package is missing, 2 wrong option.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time

import click

from appliance import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Tools around the box. For now: simulated devices for a first try."""


@main.command()
@click.argument("device", type=click.Choice(["camera", "belt", "plc"]))
@click.option("--host", default="127.0.0.1", show_default=True, help="the box, or a broker")
@click.option("--port", type=click.IntRange(1, 65535), default=1883, show_default=True)
@click.option("--topic", required=True, help="where to publish, e.g. in/surface/camera-1")
@click.option("--name", default=None, help="MQTT client id  [default: the device and its seed]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="another part, another machine")
@click.option("--every", "every_s", type=click.FloatRange(0.01), default=2.0, show_default=True, help="s per picture")
@click.option("--count", type=click.IntRange(1), default=None, help="stop after so many messages")
@click.option("--with-parent", is_flag=True, help="stop when standard input closes")
def simulate(
    device: str,
    host: str,
    port: int,
    topic: str,
    name: str | None,
    seed: int,
    every_s: float,
    count: int | None,
    with_parent: bool,
) -> None:
    """Publish as a camera (over surfaces, or over a belt with parts) or a PLC (vibration) would, until stopped."""
    try:
        from provisioning.simulate import camera, plc, publish
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing; pip install 'edge-inference-appliance[demo]' brings it"
        ) from error
    boot = str(int(time.time()))
    if device == "plc":
        messages = plc(seed, boot)
    else:
        messages = camera(seed, every_s, boot, "belt" if device == "belt" else "surface")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if with_parent:
        threading.Thread(target=_stop_with_parent, args=(stop,), name="parent", daemon=True).start()
    try:
        sent = publish(itertools.islice(messages, count), host, port, topic, name or f"{device}-{seed}", stop)
    except OSError as error:
        raise click.ClickException(f"no connection to {host}:{port} ({error}); is the box running?") from error
    click.echo(f"{sent} messages acknowledged")


def _stop_with_parent(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()
