"""`appliance backup`: a copy of what the box knows, and putting it back."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from appliance.commands import options
from appliance.config import load


class _MakeUnlessNamed(click.Group):
    """`appliance backup FOLDER` is `appliance backup make FOLDER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_MakeUnlessNamed)
def backup() -> None:
    """Back up results and state: `appliance backup FOLDER`; put them back: `appliance backup restore FOLDER`."""


@backup.command("make")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", is_flag=True, help="with the pictures")
@options.place
@options.as_json
def make_command(
    folder: Path, images: bool, path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool
) -> None:
    """Copy the database as it is now, and with --images the pictures, into FOLDER. The box may be running.

    Models, keys and the configuration file are not in it.

    Exit codes: 0 done, 1 refused or failed, 2 wrong option or configuration.
    """
    from appliance.backup import back_up

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    contents = back_up(Path(config.data_dir).absolute(), folder, images=images, now=time.time())
    if as_json:
        click.echo(msgspec.json.encode(contents))
    else:
        click.echo(f"{len(contents.files)} files in {folder}; put them back: appliance backup restore {folder}")


@backup.command("restore")
@click.argument("folder", type=click.Path(path_type=Path))
@options.place
@options.as_json
def restore_command(
    folder: Path, path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool
) -> None:
    """Put the backup in FOLDER in the place of what the box has, which is moved aside.

    A box that runs goes on with what it has and takes the backup at its next start: start it again then.

    The backup is verified before anything is changed.

    Exit codes: 0 done, 1 refused or failed, 2 wrong option or configuration.
    """
    from appliance.backup import restore

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    done = restore(folder, Path(config.data_dir).absolute(), config.store)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    if done.at_next_start:
        click.echo(
            f"the box runs: it goes on with these {done.results} results when it is started again "
            "(systemctl restart appliance)"
        )
        return
    click.echo(f"{done.results} results are back{', with their pictures' if done.images else ''}")
    if done.aside is not None:
        click.echo(f"what was there before is in {Path(config.data_dir) / done.aside}")
