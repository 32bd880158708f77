"""Options that several commands share."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

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
