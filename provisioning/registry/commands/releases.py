"""`promote`, `rollback`, `pause`, `resume`, `block`: what the boxes of a ring serve."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from appliance.core.release import Release, Requirements, Rollout, Window
from appliance.errors import RegistryError, ReleaseInvalid
from provisioning.registry.commands import place
from provisioning.registry.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", Requirements, Rollout)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class _Duration(click.ParamType[float]):
    """`90s`, `30m`, `8h`, `2d` -> seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is no time such as 30m, 8h or 2d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


def _ring(command: F) -> F:
    return click.option("--ring", default="stable", show_default=True, help="whose boxes")(command)


def _dry_run(command: F) -> F:
    return click.option("--dry-run", is_flag=True, help="only say what the release would be")(command)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="NAME[=VERSION]...")
@place.registry
@place.keys
@_ring
@click.option("--percent", type=click.FloatRange(0, 100), default=100.0, show_default=True, help="of its boxes")
@click.option("--window", metavar="HH:MM-HH:MM", help="when boxes may switch, in UTC; `any` for always")
@click.option("--mode", type=click.Choice(("canary", "shadow", "blue_green")), help="how a box comes to trust it")
@click.option("--share", type=float, help="of the inputs that a canary is given, 0..1")
@click.option("--inputs-min", type=int, help="before a box rules")
@click.option("--errors-max", type=float, help="share of the inputs that may fail, 0..1")
@click.option("--agreement-min", type=float, help="share of the inputs with the same verdict as now, 0..1")
@click.option("--latency-ratio-max", type=float, help="p95 of the new against the p95 of now")
@click.option("--deadline", "deadline_s", type=_Duration(), help="by when a box rules anyway, such as 8h")
@click.option("--probation", "probation_s", type=_Duration(), help="for how long it goes back by itself")
@click.option("--needs-appliance", "appliance", help="the least version of the appliance")
@click.option("--needs-accelerator", "accelerator", help="a device such as GPU")
@click.option("--needs-memory-mb", "memory_mb", type=int, help="free memory")
@click.option("--needs-disk-mb", "disk_mb", type=int, help="free disk beside the models")
@click.option("--configuration", type=click.Path(path_type=Path), help="TOML: routes, models, recipes, devices")
@click.option("--no-configuration", is_flag=True, help="boxes go back to their own files")
@_dry_run
@place.as_json
def promote(
    models: tuple[str, ...],
    folder: Path,
    key_folders: tuple[Path, ...],
    ring: str,
    percent: float,
    window: str | None,
    configuration: Path | None,
    no_configuration: bool,
    dry_run: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Give published versions to a ring, or to a share of its boxes: the newest of each NAME, or NAME=VERSION.

    Models that are named together switch together or not at all. What is not said is as in the release before.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry import releases
    from provisioning.registry.channels import issued
    from provisioning.registry.publish import manifest_of

    brought = None if configuration is None else _read_configuration(configuration)

    def decide(registry: Registry, past: list[Release]) -> Release:
        published = registry.published()
        named = {}
        for each in models:
            name, _, version = each.partition("=")
            known = published.versions(name)
            if not known:
                raise RegistryError(f"no version of {name} is published; publish one first")
            named[name] = manifest_of(published, name, version or known[-1])[1]
        last = past[-1] if past else None
        terms = releases.Terms(
            window=None if window in (None, "any") else _window(str(window)),
            no_window=window == "any",
            requires=_changed(Requirements, last.requires if last else Requirements(), said),
            rollout=_changed(Rollout, last.rollout if last else Rollout(), said),
            configuration=brought,
            no_configuration=no_configuration,
        )
        return releases.promote(last, ring, named, percent, issued(registry), terms)

    _release(folder, key_folders, ring, decide, f"promote {' '.join(models)} to {percent:g}%", dry_run, as_json)


@click.command()
@place.registry
@place.keys
@_ring
@click.option("--to", type=int, metavar="NUMBER", help="of the release to go back to  [default: the last one before]")
@_dry_run
@place.as_json
def rollback(
    folder: Path, key_folders: tuple[Path, ...], ring: str, to: int | None, dry_run: bool, as_json: bool
) -> None:
    """Take the last promotion of a ring back, from all its boxes: models and configuration as they were before.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry import releases
    from provisioning.registry.channels import has_begun, issued

    def decide(registry: Registry, past: list[Release]) -> Release:
        known = registry.published().rings()
        return releases.rollback(has_begun(past, ring, known), issued(registry), to)

    _release(folder, key_folders, ring, decide, "roll back", dry_run, as_json)


@click.command()
@place.registry
@place.keys
@_ring
@place.as_json
def pause(folder: Path, key_folders: tuple[Path, ...], ring: str, as_json: bool) -> None:
    """Let the boxes of a ring install nothing new for now; what serves goes on."""
    _pause(folder, key_folders, ring, True, as_json)


@click.command()
@place.registry
@place.keys
@_ring
@place.as_json
def resume(folder: Path, key_folders: tuple[Path, ...], ring: str, as_json: bool) -> None:
    """End a pause."""
    _pause(folder, key_folders, ring, False, as_json)


@click.command()
@click.argument("model", metavar="NAME=VERSION")
@place.registry
@place.keys
@click.option("--ring", "rings", multiple=True, help="whose boxes  [default: of every ring]")
@click.option("--lift", is_flag=True, help="let it be promoted again")
@_dry_run
@place.as_json
def block(
    model: str,
    folder: Path,
    key_folders: tuple[Path, ...],
    rings: tuple[str, ...],
    lift: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Withdraw a version: boxes that serve it go back to the one before, and no box takes it again.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry import releases
    from provisioning.registry.channels import has_begun, history, issued, publish_releases
    from provisioning.registry.publish import manifest_of
    from provisioning.registry.words import release_lines

    name, sign, version = model.partition("=")
    if not sign or not version:
        raise click.UsageError(f"{model}: give NAME=VERSION")
    with place.writing(folder, key_folders) as registry:
        before = registry.published()
        made = []
        for ring in rings or before.rings():
            past = has_begun(history(before, ring), ring, before.rings())
            if lift:
                if rings or past[-1].blocks(name, version):
                    made.append(releases.lift(past[-1], name, version, issued(registry)))
            elif rings or not past[-1].blocks(name, version):
                made.append(releases.block(past, name, manifest_of(before, name, version)[1], issued(registry)))
        if not made:
            raise RegistryError(
                f"{name} {version} is {'blocked in no ring' if lift else 'blocked in every ring'}; nothing was changed"
            )
        lines = [line for release in made for line in release_lines(release)]
        if dry_run:
            _would(made, lines, as_json)
            return
        outcome = publish_releases(registry, before, made, f"{'lift' if lift else 'block'} {name} {version}")
    place.tell(outcome, as_json, {"releases": msgspec.to_builtins(made)}, lines)


def _pause(folder: Path, key_folders: tuple[Path, ...], ring: str, paused: bool, as_json: bool) -> None:
    from provisioning.registry import releases
    from provisioning.registry.channels import has_begun, issued

    def decide(registry: Registry, past: list[Release]) -> Release:
        last = has_begun(past, ring, registry.published().rings())[-1]
        return releases.pause(last, issued(registry), paused)

    _release(folder, key_folders, ring, decide, "pause" if paused else "resume", False, as_json)


def _release(
    folder: Path,
    key_folders: tuple[Path, ...],
    ring: str,
    decide: Callable[[Registry, list[Release]], Release],
    why: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    from provisioning.registry.channels import history, publish_releases
    from provisioning.registry.words import release_lines

    with place.writing(folder, key_folders) as registry:
        before = registry.published()
        release = decide(registry, history(before, ring))
        check_release(release)
        if dry_run:
            _would([release], release_lines(release), as_json)
            return
        outcome = publish_releases(registry, before, [release], f"ring {ring}: {why}")
    place.tell(outcome, as_json, {"releases": msgspec.to_builtins([release])}, release_lines(release))


def check_release(release: Release) -> None:
    """Values that the type forbids were put together without a look at them. Raises RegistryError."""
    try:
        msgspec.json.decode(msgspec.json.encode(release), type=Release)
    except (msgspec.ValidationError, ValueError) as error:
        raise RegistryError(f"{error}; nothing was changed") from error


def _would(made: list[Release], lines: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"releases": msgspec.to_builtins(made), "published": False}))
        return
    for line in [*lines, "nothing was changed"]:
        click.echo(line)


def _changed(form: type[S], before: S, said: dict[str, Any]) -> S:
    given = {name: value for name, value in said.items() if name in form.__struct_fields__ and value is not None}
    try:
        return msgspec.convert({**msgspec.to_builtins(before), **given}, form)
    except msgspec.ValidationError as error:
        raise RegistryError(f"{error}; nothing was changed") from error


def _window(text: str) -> Window:
    begins, _, ends = text.partition("-")
    try:
        return Window(begins=begins, ends=ends)
    except ValueError as error:
        raise RegistryError(f"--window {text}: {error}; give 22:00-05:00, in UTC") from error


def _read_configuration(path: Path) -> dict[str, Any]:
    """Raises RegistryError."""
    from appliance.release_config import read_configuration

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        read_configuration(content)
        msgspec.json.encode(content)
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}; give a file in TOML") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ReleaseInvalid, TypeError) as error:
        raise RegistryError(f"{path}: {error}") from error
    return content
