"""`appliance results`: what was judged, as a list or a stream, and erasing a stretch of time."""

from __future__ import annotations

import json
import sqlite3
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from appliance.commands import options
from appliance.config import Config, load
from appliance.errors import DataDirError, StoreUnavailable

if TYPE_CHECKING:
    from appliance.export import Wanted

F = TypeVar("F", bound=Callable[..., Any])

_ERASE_S = 310.0


@click.group()
def results() -> None:
    """See, export or erase what was judged."""


def _filters(command: F) -> F:
    for option in (
        click.option("--to", "until", help="up to this time, not included"),
        click.option("--from", "since", help="ISO 8601 (UTC unless it says otherwise), or seconds since 1970"),
        click.option("--recipe"),
        click.option("--lot"),
        click.option("--part"),
        click.option("--verdict", type=click.Choice(("ok", "ng", "review", "error", "none"))),
        click.option("--source"),
        click.option("--model"),
    ):
        command = option(command)
    return command


@results.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@_filters
@options.place
@options.as_json
def list_command(
    limit: int, path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool, **filters: str | None
) -> None:
    """List results, newest first; the box may be running.

    Exit codes: 0 done, 2 wrong option or configuration.
    """
    import msgspec

    from appliance.core.moments import iso
    from appliance.core.protocol import Result
    from appliance.export import bodies

    database, wanted = _database(path, data_dir, models_dir), _wanted(filters)
    found = list(islice(_guarded(bodies(database, wanted, newest_first=True), database), limit))
    if as_json:
        click.echo(b"[" + b",".join(found) + b"]")
        return
    rows = [("ID", "TIME", "SOURCE", "MODEL", "VERDICT", "PART")]
    for body in found:
        each = msgspec.json.decode(body, type=Result)
        rows.append((str(each.id), iso(each.at), each.source, each.model, each.verdict, each.part or ""))
    options.print_table(rows)


@results.command("export")
@click.option("--format", "form", type=click.Choice(("csv", "ndjson")), default="csv", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="a file  [default: standard output]")
@_filters
@options.place
def export_command(
    form: str,
    output: Path | None,
    path: Path | None,
    data_dir: str | None,
    models_dir: str | None,
    **filters: str | None,
) -> None:
    """Write results, oldest first, as CSV or one JSON object a line; the box may be running.

    Exit codes: 0 done, 1 the file cannot be written, 2 wrong option or configuration.
    """
    from appliance.export import as_csv, as_ndjson, bodies

    database, wanted = _database(path, data_dir, models_dir), _wanted(filters)
    found = _guarded(bodies(database, wanted), database)
    chunks = as_csv(found) if form == "csv" else as_ndjson(found)
    try:
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        with output.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except BrokenPipeError:
        # Whoever reads has seen enough, such as `head`.
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        raise click.ClickException(f"{output or 'standard output'}: {error.strerror}") from error


@results.command("erase")
@click.option("--source", required=True)
@click.option("--from", "since", required=True, help="ISO 8601 (UTC unless it says otherwise), or seconds since 1970")
@click.option("--to", "until", required=True, help="up to this time, not included")
@click.option("--yes", is_flag=True, help="do not ask")
@options.place
@options.as_json
def erase_command(
    source: str,
    since: str,
    until: str,
    yes: bool,
    path: Path | None,
    data_dir: str | None,
    models_dir: str | None,
    as_json: bool,
) -> None:
    """Erase what SOURCE gave from one time to another: results, pictures, readings. It cannot be taken back.

    A box that runs is asked to do it; otherwise it is done here. What was sent to others, exported or backed up stays.

    Exit codes: 0 done, 1 refused or failed, 2 wrong option or configuration.
    """
    from appliance.http.erase import erasure

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    wanted = erasure(source, since, until)
    if not yes:
        click.confirm(f"Erase everything of {source} from {since} to {until}, for good?", abort=True, err=True)
    _database(path, data_dir, models_dir)
    try:
        done = _erase_here(config, wanted)
    except DataDirError as error:
        if "in use" not in str(error):
            raise
        done = _ask_the_box(config, source, since, until)
    if as_json:
        click.echo(json.dumps(done))
    else:
        words = "erased: {results} results, {images} pictures, {readings} readings, {letters} unusable messages"
        click.echo((words + ", {unsent} results that waited for central").format(**done))


def _erase_here(config: Config, wanted: Any) -> dict[str, int]:
    import msgspec

    from appliance.store import Store

    store = Store(Path(config.data_dir).absolute(), config.store)
    store.start()
    try:
        done: dict[str, int] = msgspec.structs.asdict(store.erase(wanted).result())
    finally:
        store.stop()
    return done


def _ask_the_box(config: Config, source: str, since: str, until: str) -> dict[str, int]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.http.host, config.http.host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{config.http.port}"
    query = urllib.parse.urlencode({"source": source, "from": since, "to": until})
    request = urllib.request.Request(f"{address}/v1/results?{query}", method="DELETE")
    try:
        with urllib.request.urlopen(request, timeout=_ERASE_S) as answer:
            done: dict[str, int] = json.load(answer)
            return done
    except urllib.error.HTTPError as error:
        raise StoreUnavailable(f"the box at {address} answered {error.code}: {_detail(error)}") from error
    except (OSError, ValueError) as error:
        raise StoreUnavailable(
            f"the box runs and does not answer at {address} ({error}); give its --config, or stop it first"
        ) from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, OSError):
        return error.reason


def _database(path: Path | None, data_dir: str | None, models_dir: str | None) -> Path:
    config = load(path, data_dir=data_dir, models_dir=models_dir)
    database = Path(config.data_dir).absolute() / "results.db"
    if not database.exists():
        raise DataDirError(f"{database.parent} has no results.db; give --data-dir the folder of the box")
    return database


def _wanted(filters: dict[str, str | None]) -> Wanted:
    from appliance.core.moments import parse_moment
    from appliance.export import Wanted

    moments: dict[str, float | None] = {}
    for name, option in (("since", "--from"), ("until", "--to")):
        text = filters.pop(name)
        try:
            moments[name] = None if text is None else parse_moment(text)
        except ValueError as error:
            raise click.UsageError(f"{option}: {error}") from error
    return Wanted(
        model=filters["model"],
        source=filters["source"],
        verdict=filters["verdict"],
        part=filters["part"],
        lot=filters["lot"],
        recipe=filters["recipe"],
        since=moments["since"],
        until=moments["until"],
    )


def _guarded(found: Any, database: Path) -> Any:
    try:
        yield from found
    except sqlite3.Error as error:
        raise DataDirError(f"{database}: {error}; `appliance serve` puts a damaged database aside") from error
