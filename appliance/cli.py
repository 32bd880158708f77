"""The `appliance` command.

Exit codes: 0 done, 1 refused, failed or not as it should be, 2 wrong option or configuration, 3 a port is in use, 70 a
model hung for good.
"""

from __future__ import annotations

from pathlib import Path

import click

from appliance import __version__, log
from appliance.commands.backup import backup
from appliance.commands.doctor import doctor
from appliance.commands.keys import keys
from appliance.commands.models import models
from appliance.commands.options import run
from appliance.commands.results import results
from appliance.commands.update import update
from appliance.config import load
from appliance.errors import ApplianceError, ConfigError, PortInUse

_EXIT: dict[type[ApplianceError], int] = {ConfigError: 2, PortInUse: 3}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def appliance() -> None:
    """One box that judges parts next to the machines, over HTTP and MQTT."""


@appliance.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="appliance.toml")
@click.option("--data-dir", help="where results, images and state are kept  [default: ./appliance-data]")
@click.option("--models", "models_dir", help="a model repository instead of the shipped models")
@click.option("--host", help="address of the HTTP server  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="port of the HTTP server  [default: 8080]")
def serve(path: Path | None, data_dir: str | None, models_dir: str | None, host: str | None, port: int | None) -> None:
    """Serve until stopped."""
    from appliance.app import serve as start

    config = load(path, data_dir=data_dir, models_dir=models_dir, host=host, port=port)
    log.set_up(config.log_level)
    start(config)


@appliance.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="HTTP, or the next free")
@click.option("--mqtt-port", type=click.IntRange(1, 65535), default=1883, show_default=True, help="or the next free")
def demo(port: int, mqtt_port: int) -> None:
    """Serve with a simulated camera and PLC, on free ports, and say what to try."""
    from appliance.demo import run as start

    log.set_up("warning")
    start(port, mqtt_port)


appliance.add_command(models)
appliance.add_command(doctor)
appliance.add_command(keys)
appliance.add_command(results)
appliance.add_command(backup)
appliance.add_command(update)


def main() -> None:
    """Run the command; an error is one line on standard error."""
    run(appliance, "appliance", _EXIT)
