"""`appliance update`: look for signed model updates, install them, hold them back."""

from __future__ import annotations

import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from appliance import log
from appliance.commands import options
from appliance.config import Config, load
from appliance.errors import ApplianceError, ConfigError

if TYPE_CHECKING:
    from appliance.updater.fetch import Source
    from appliance.updater.flow import Options, Progress, Report

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_FOR_S_MAX = 365 * 86_400.0
_BAR = 24
_DRAW_EVERY_S = 0.1


class _Duration(click.ParamType[float]):
    """`90s`, `30m`, `8h`, `2d` -> seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhd])", str(value))
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not 0 < seconds <= _FOR_S_MAX:
            self.fail(f"{value!r} is no time such as 30m, 8h or 2d, at most 365d", param, ctx)
        return seconds


@click.command()
@click.option("--from", "folder", type=click.Path(path_type=Path), help="a stick or a folder instead of updates.url")
@click.option("--dry-run", is_flag=True, help="only say what would come, and install nothing")
@click.option("--now", is_flag=True, help="outside of windows too, and once more what failed here before")
@click.option("--hold", metavar="REASON", help="begin and switch no update from now on")
@click.option("--for", "for_s", type=_Duration(), help="how long to hold, such as 8h  [default: until --release]")
@click.option("--release", is_flag=True, help="end every hold")
@click.option("--stay", is_flag=True, help="go on looking, for where no timer of systemd does")
@options.place
@options.as_json
def update(
    folder: Path | None,
    dry_run: bool,
    now: bool,
    hold: str | None,
    for_s: float | None,
    release: bool,
    stay: bool,
    path: Path | None,
    data_dir: str | None,
    models_dir: str | None,
    as_json: bool,
) -> None:
    """Look for a signed release for this box, download what is new, test it here, and hand it to the server.

    What serves goes on serving until the server has tried the new version.

    Exit codes: 0 done or nothing to do, 1 refused or not reached, 2 wrong option or configuration.
    """
    if for_s is not None and hold is None:
        raise click.UsageError("--for needs --hold")
    if sum((hold is not None, release, stay, dry_run or now or folder is not None)) > 1:
        raise click.UsageError("--hold, --release and --stay stand alone, and without --from, --dry-run and --now")
    config = load(path, data_dir=data_dir, models_dir=models_dir)
    if hold is not None:
        _hold(config, hold, for_s, as_json)
    elif release:
        _release(config, as_json)
    elif stay:
        _stay(config, as_json)
    else:
        _look(config, folder, dry_run=dry_run, now=now, as_json=as_json)


def _look(config: Config, folder: Path | None, *, dry_run: bool, now: bool, as_json: bool) -> None:
    from appliance.updater.flow import Options
    from appliance.updater.stay import SPACE_S, PollNow

    on_terminal = sys.stderr.isatty() and not as_json
    log.set_up("critical" if on_terminal or as_json else config.log_level)
    sources = _sources(config, folder)
    asked = Options(now=now, dry_run=dry_run, is_local=folder is not None)
    poll_now = PollNow(Path(config.data_dir))
    if not (now or dry_run or folder is not None):
        _space(config, SPACE_S)
    while True:
        report = _update(config, sources, asked, on_terminal)
        _print(report, as_json)
        if not poll_now.came():
            break
        time.sleep(SPACE_S)
    if report.outcome == "failed_before":
        raise SystemExit(1)


def _stay(config: Config, as_json: bool) -> None:
    from appliance.updater.check import read_root
    from appliance.updater.flow import Options
    from appliance.updater.stay import PollNow, stay

    log.set_up("critical" if as_json else config.log_level)
    sources, data_dir = _sources(config, None), Path(config.data_dir)
    read_root(config.updates, data_dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    def told(error: ApplianceError) -> None:
        click.echo(f"appliance: {error.code}: {error}", err=True)

    with suppress(KeyboardInterrupt):
        stay(
            config,
            lambda: _print(_update(config, sources, Options(), on_terminal=False), as_json),
            told,
            asked=PollNow(data_dir).came,
        )


def _sources(config: Config, folder: Path | None) -> list[Source]:
    """Raises ConfigError, RegistryUnavailable."""
    from appliance.updater.folder import FolderSource
    from appliance.updater.https import HttpsSource

    if folder is not None:
        return [FolderSource(folder)]
    if config.updates.url is None:
        raise ConfigError(
            "updates.url is not set, so there is nowhere to look; give it the address of the registry, or "
            "--from a folder"
        )
    ca = None if config.updates.ca is None else Path(config.updates.ca)
    return [HttpsSource(url, ca) for url in (config.updates.url, *config.updates.mirrors)]


def _update(config: Config, sources: list[Source], asked: Options, on_terminal: bool) -> Report:
    """Raises ConfigError, UpdateError."""
    from appliance.updater.flow import Means
    from appliance.updater.flow import update as run

    bar = _Bar()
    try:
        return run(config, sources, asked, Means(on_progress=bar.show) if on_terminal else None)
    finally:
        bar.end()


def _space(config: Config, space_s: float) -> None:
    """A message on the command topic may ask at any rate."""
    from appliance.state import State
    from appliance.updater import polls

    data_dir = Path(config.data_dir)
    if not (data_dir / "state" / "state.db").exists():
        return
    state = State(data_dir)
    try:
        passed_s = time.time() - (polls.last(state).at or 0.0)
    finally:
        state.close()
    if 0 <= passed_s < space_s:
        time.sleep(space_s - passed_s)


def _hold(config: Config, reason: str, for_s: float | None, as_json: bool) -> None:
    from appliance.core.release import format_time
    from appliance.rollouts import records
    from appliance.state import State
    from appliance.updater.space import refusals

    reason = " ".join(reason.split())
    if not 0 < len(reason) <= 128 or not reason.isprintable():
        raise click.UsageError("--hold wants a reason of 1 to 128 characters")
    with refusals(Path(config.data_dir)):
        state = State(Path(config.data_dir))
        try:
            held = records.hold(state, f"command:{options.user()}", reason, for_s, round(time.time(), 3))
        finally:
            state.close()
    until = "`appliance update --release`" if held.until is None else format_time(held.until)
    click.echo(msgspec.json.encode(held) if as_json else f"no update is begun or switched until {until}: {reason}")


def _release(config: Config, as_json: bool) -> None:
    from appliance.rollouts import records
    from appliance.state import State
    from appliance.updater.space import refusals

    with refusals(Path(config.data_dir)):
        state = State(Path(config.data_dir))
        try:
            ended = records.release_holds(state, time.time())
        finally:
            state.close()
    if as_json:
        click.echo(msgspec.json.encode({"released": ended}))
    else:
        click.echo("nothing was on hold" if ended == 0 else "updates come again")


def _print(report: Report, as_json: bool) -> None:
    from appliance.updater.space import mb

    for each in report.warnings:
        click.echo(f"warning: {each.code}: {each.reason}", err=True)
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    parts = [f"{report.outcome}:"]
    if report.number is not None:
        parts.append(f"release {report.number} of ring {report.ring} from {report.origin}:")
    if report.models:
        parts.append(", ".join(f"{name} {version}" for name, version in sorted(report.models.items())) + ":")
    parts.append(report.reason)
    if report.outcome == "ready":
        parts.append(f"({mb(report.bytes)} in {report.seconds:.1f} s)")
    click.echo(" ".join(parts))


class _Bar:
    """One line on a terminal, drawn over and over."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None
        self._drawn_at = 0.0
        self._width = 0

    def show(self, progress: Progress) -> None:
        from appliance.updater.space import mb

        now = time.monotonic()
        if self._first is None:
            self._began, self._first = now, progress.done
        if now - self._drawn_at < _DRAW_EVERY_S and progress.step == "download" and progress.done < progress.total:
            return
        self._drawn_at = now
        full = _BAR if progress.total == 0 else _BAR * progress.done // progress.total
        rate = (progress.done - self._first) / max(now - self._began, 0.001)
        text = f"{progress.step:8} [{'#' * full}{'.' * (_BAR - full)}] {mb(progress.done)} of {mb(progress.total)}"
        if progress.step == "download":
            text += f", {mb(int(rate))}/s"
        click.echo(f"\r{text:{self._width}}", nl=False, err=True)
        self._width = len(text)

    def end(self) -> None:
        if self._width:
            click.echo(f"\r{'':{self._width}}\r", nl=False, err=True)
