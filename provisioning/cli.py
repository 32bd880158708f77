"""The `appliance-provision` command: what a technician runs around the box."""

from __future__ import annotations

import click

from appliance import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Tools around the box: simulated devices for a first try; enrolment and kits follow."""
