"""`drafts`, `export`, `sign`, `import`, `drop`: signatures by people whose keys are on another machine."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from appliance.errors import RegistryError
from provisioning.registry import drafts as waiting
from provisioning.registry import files
from provisioning.registry.commands import place


@click.command()
@place.registry
@place.as_json
def drafts(folder: Path, as_json: bool) -> None:
    """What waits for signatures."""
    found = waiting.waiting(place.existing(folder)).values()
    if as_json:
        click.echo(
            msgspec.json.encode([{"name": each.name, "why": each.why, "missing": each.missing()} for each in found])
        )
        return
    for each in found:
        click.echo(f"{each.name}: {each.why}")
        for role, (count, names) in sorted(each.missing().items()):
            click.echo(f"  {role}: {count} more, of {', '.join(names)}")
    if not found:
        click.echo("nothing waits for signatures")


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@place.registry
def export(name: str, folder: Path, file: Path) -> None:
    """Write draft NAME to FILE, to be signed elsewhere. It holds no secret."""
    path = _draft(folder, name)
    waiting.save(file, waiting.load(path))
    click.echo(f"{file}: sign it with  appliance-registry sign {file} --keys FOLDER")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@place.keys
@click.option("--yes", is_flag=True, help="do not ask")
def sign(file: Path, key_folders: tuple[Path, ...], yes: bool) -> None:
    """Read what FILE would have you sign, and sign it with the keys here. Needs no registry and no network.

    Exit codes: 0 signed, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry.words import draft_lines

    draft = waiting.load(file)
    for line in draft_lines(draft):
        click.echo(line)
    keyring = place.keyring(key_folders)
    if not yes:
        click.confirm("Sign this?", abort=True, err=True)
    signed, names = waiting.sign(draft, keyring)
    if not names:
        raise RegistryError(f"no key in --keys is asked for here; {_missing(draft)}")
    waiting.save(file, signed)
    click.echo(f"signed by {', '.join(names)}; bring {file} back and import it")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@place.registry
@place.keys
@place.as_json
def import_command(file: Path, folder: Path, key_folders: tuple[Path, ...], as_json: bool) -> None:
    """Take the signatures in FILE; with the last one that is needed, what waits is published."""
    with place.writing(folder, key_folders) as registry:
        outcome = registry.take(waiting.load(file))
    place.tell(outcome, as_json, lines=[outcome.why])


@click.command()
@click.argument("name")
@place.registry
def drop(name: str, folder: Path) -> None:
    """Forget draft NAME. Nothing that is published changes."""
    with files.locked(place.existing(folder)):
        _draft(folder, name).unlink()
    click.echo(f"{name} is dropped")


def _draft(folder: Path, name: str) -> Path:
    found = {draft.name: path for path, draft in waiting.waiting(place.existing(folder)).items()}
    if name not in found:
        raise RegistryError(f"no draft {name} waits for signatures; there are: {', '.join(found) or 'none'}")
    return found[name]


def _missing(draft: waiting.Draft) -> str:
    parts = [f"{role}: {count} of {', '.join(names)}" for role, (count, names) in sorted(draft.missing().items())]
    return "; ".join(parts) or "it has all its signatures: import it"
