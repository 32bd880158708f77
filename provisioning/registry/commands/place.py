"""Options that every command of `appliance-registry` has, and what they open."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from appliance.errors import ConfigError, RegistryError
from provisioning.registry import files
from provisioning.registry.keys import Keyring, environment_secret
from provisioning.registry.registry import Outcome, Registry

F = TypeVar("F", bound=Callable[..., Any])


def registry(command: F) -> F:
    """--registry."""
    return click.option(
        "--registry",
        "folder",
        type=click.Path(path_type=Path),
        envvar="APPLIANCE_REGISTRY",
        default=Path("registry"),
        show_default=True,
        help="its folder; also APPLIANCE_REGISTRY",
    )(command)


def keys(command: F) -> F:
    """--keys."""
    return click.option(
        "--keys",
        "key_folders",
        type=click.Path(path_type=Path),
        envvar="APPLIANCE_REGISTRY_KEYS",
        multiple=True,
        help="a folder of keys, more than once for more; also APPLIANCE_REGISTRY_KEYS  [default: keys]",
    )(command)


def as_json(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON, for machines")(command)


def key_folders_or_default(given: tuple[Path, ...]) -> tuple[Path, ...]:
    """Raises ConfigError when one is no folder."""
    folders = given or (Path("keys"),)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder; give --keys the folder with your keys")
    return folders


def keyring(given: tuple[Path, ...]) -> Keyring:
    """Raises ConfigError, RegistryError."""
    return Keyring(key_folders_or_default(given), secret)


def reading(folder: Path, given: tuple[Path, ...]) -> Registry:
    """To look only: without keys the first root of the folder itself is believed."""
    default = (Path("keys"),) if Path("keys").is_dir() else ()
    return Registry(existing(folder), Keyring(given or default, secret))


@contextmanager
def writing(folder: Path, given: tuple[Path, ...]) -> Iterator[Registry]:
    """Nobody else changes it meanwhile. Raises ConfigError, RegistryError."""
    ring = keyring(given)
    with files.locked(existing(folder)):
        yield Registry(folder, ring)


def existing(folder: Path) -> Path:
    """Raises ConfigError."""
    if not (folder / files.METADATA).is_dir():
        raise ConfigError(
            f"{folder} is not a registry; give --registry its folder, or make one (appliance-registry init)"
        )
    return folder


def secret(what: str) -> str:
    """From the environment, a file, or the terminal. Raises RegistryError."""
    return environment_secret(os.environ, _ask)(what)


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        raise RegistryError(
            f"nobody is there to type the {what}; set APPLIANCE_REGISTRY_PASSPHRASE_FILE (or _PASSPHRASE, or _PIN)"
        )
    return str(click.prompt(what[0].upper() + what[1:], hide_input=True, err=True))


def tell(outcome: Outcome, as_json: bool, facts: dict[str, Any] | None = None, lines: list[str] | None = None) -> None:
    """What became of a change. facts: more for machines. lines: more for people, before it."""
    from provisioning.registry.words import outcome_lines

    if as_json:
        said = msgspec.to_builtins(outcome, enc_hook=str)
        click.echo(msgspec.json.encode({**(facts or {}), **said, "published": outcome.published}))
        return
    for line in [*(lines or []), *outcome_lines(outcome)]:
        click.echo(line)
