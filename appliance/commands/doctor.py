"""`appliance doctor`: is everything here that the box needs."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from appliance.commands import options
from appliance.config import load


@click.command()
@options.place
@options.as_json
def doctor(path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool) -> None:
    """Examine this machine: runtimes, devices, memory, disk, models, clock, ports, broker, endpoints.

    Exit codes: 0 all that is needed works, 1 something essential fails, 2 wrong option or configuration.
    """
    from appliance.doctor import examine

    report = examine(load(path, data_dir=data_dir, models_dir=models_dir))
    if as_json:
        click.echo(msgspec.json.encode({"ok": report.ok, "checks": report.checks}))
    else:
        rows = [("CHECK", "", "FOUND")]
        for check in report.checks:
            state = "ok" if check.ok else "FAILS" if check.needed else "warning"
            rows.append((check.name, state, check.found))
            if check.todo:
                rows.append(("", "", check.todo))
        options.print_table(rows)
    if not report.ok:
        raise SystemExit(1)
