"""What several commands share: options, tables, and how they end."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from appliance.errors import ApplianceError

F = TypeVar("F", bound=Callable[..., Any])


def place(command: F) -> F:
    """--config, --data-dir and --models, as `serve` has them."""
    for option in (
        click.option("--models", "models_dir", help="a model repository instead of the shipped models"),
        click.option("--data-dir", help="where results, images and state are kept  [default: ./appliance-data]"),
        click.option("--config", "path", type=click.Path(path_type=Path), help="appliance.toml"),
    ):
        command = option(command)
    return command


def as_json(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON, for machines")(command)


def user() -> str:
    """Who types."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell; the last one as long as it likes."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())


def run(group: click.Group, name: str, exit_codes: Mapping[type[ApplianceError], int]) -> None:
    """Run the command `name`; an error is one line on standard error, and ends it with 1, or as `exit_codes` say."""
    try:
        group.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ApplianceError as error:
        click.echo(f"{name}: {error.code}: {error}", err=True)
        sys.exit(next((code for kind, code in exit_codes.items() if isinstance(error, kind)), 1))
