"""`status`, `verify`, `log`, `diff`, `gc`, `serve`, `mirror`: look after a registry, and give it to devices."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from appliance.commands.options import print_table
from provisioning.registry.commands import place


@click.command()
@place.registry
@place.keys
@place.as_json
def status(folder: Path, key_folders: tuple[Path, ...], as_json: bool) -> None:
    """What each ring serves, which models are published, until when the signatures are good, what waits."""
    from provisioning.registry import drafts
    from provisioning.registry.history import Entry
    from provisioning.registry.published import versions_of

    published = place.reading(folder, key_folders).published()
    rings = {ring: release for ring in published.rings() if (release := published.release(ring)) is not None}
    models = {
        name: versions_of(published.delegated(team), name)
        for team in published.teams
        for name in sorted({path.split("/")[1] for path in published.delegated(team).targets})
    }
    expires = {role: f"{each.signed.expires:%Y-%m-%d}" for role, each in sorted(published.metadata.items())}
    waiting = [draft.name for draft in drafts.waiting(folder).values()]
    if as_json:
        told = {"rings": rings, "models": models, "expires": expires, "drafts": waiting}
        click.echo(msgspec.json.encode(told))
        return
    for ring, release in rings.items():
        click.echo(f"ring {ring}, release {release.number}: {Entry(release=release, signed_by=()).text}")
    for name, versions in models.items():
        shown = ", ".join(versions[-10:])
        click.echo(f"model {name}: {len(versions)} versions, {'... ' if len(versions) > 10 else ''}{shown}")
    click.echo("good until " + ", ".join(f"{role} {day}" for role, day in expires.items()))
    for each in waiting:
        click.echo(f"waits for signatures: {each}")


@click.command()
@place.registry
@place.keys
@place.as_json
def verify(folder: Path, key_folders: tuple[Path, ...], as_json: bool) -> None:
    """Check every signature, expiry, hash and length, and what a device finds.

    Exit codes: 0 whole (warnings say what expires soon), 1 something is wrong, 2 wrong option or configuration.
    """
    from provisioning.registry.verify import verify as run

    registry = place.reading(folder, key_folders)
    published = registry.published()
    found = run(published, registry.now())
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        for each in found:
            click.echo(f"{each.level}: {each.text}")
        if not any(each.level == "error" for each in found):
            count = sum(len(published.delegated(team).targets) for team in published.teams)
            rings = ", ".join(published.rings()) or "none yet"
            click.echo(f"whole: every signature and file is as it should be; versions: {count}, rings: {rings}")
    if any(each.level == "error" for each in found):
        raise SystemExit(1)


@click.command()
@place.registry
@place.keys
@click.option("--ring", help="of one ring alone")
@place.as_json
def log(folder: Path, key_folders: tuple[Path, ...], ring: str | None, as_json: bool) -> None:
    """Every release, the newest first: when, what, and whose key signed it."""
    from provisioning.registry.history import log as run

    entries = run(place.reading(folder, key_folders).published(), ring)
    if as_json:
        click.echo(msgspec.json.encode(entries))
        return
    rows = [("ISSUED", "RING", "RELEASE", "SIGNED BY", "MODELS")]
    for each in entries:
        release = each.release
        rows.append((release.issued, release.ring, str(release.number), ", ".join(each.signed_by), each.text))
    print_table(rows)


@click.command()
@click.argument("ring")
@click.argument("numbers", nargs=-1, type=int, metavar="[OLD [NEW]]")
@place.registry
@place.keys
@place.as_json
def diff(ring: str, numbers: tuple[int, ...], folder: Path, key_folders: tuple[Path, ...], as_json: bool) -> None:
    """What differs between two releases of RING; by default between the last two."""
    from provisioning.registry import channels
    from provisioning.registry.history import diff as run
    from provisioning.registry.history import pick

    if len(numbers) > 2:
        raise click.UsageError("give at most two releases")
    published = place.reading(folder, key_folders).published()
    channels.has_begun(channels.history(published, ring), ring, published.rings())
    old = pick(published, ring, numbers[0]) if numbers else pick(published, ring, None, back=1)
    new = pick(published, ring, numbers[1]) if len(numbers) == 2 else pick(published, ring, None)
    assert new is not None
    lines = run(old, new)
    if as_json:
        click.echo(msgspec.json.encode({"old": old and old.number, "new": new.number, "changes": lines}))
        return
    click.echo(f"ring {ring}, release {old.number if old is not None else '-'} -> {new.number}")
    for line in lines:
        click.echo(f"  {line}")


@click.command()
@place.registry
@place.keys
@click.option("--releases", type=click.IntRange(1), default=200, show_default=True, help="to keep for log and rollback")
@click.option("--versions", type=click.IntRange(1), help="to keep of each model, beside those in use  [default: all]")
@click.option("--dry-run", is_flag=True, help="only say what would go")
@place.as_json
def gc(
    folder: Path, key_folders: tuple[Path, ...], releases: int, versions: int | None, dry_run: bool, as_json: bool
) -> None:
    """Remove files that nothing names any more, a week after they were written.

    With --versions, older versions are taken out of what their teams sign: metadata stays small, and devices load less.
    """
    from provisioning.registry.gc import find, remove, retire

    if dry_run:
        waste, retired, outcome = find(place.reading(folder, key_folders).published(), releases), list[str](), None
    else:
        with place.writing(folder, key_folders) as registry:
            before = registry.published()
            retired, outcome = retire(registry, before, versions) if versions is not None else ([], None)
            waste = find(registry.published(), releases)
            remove(waste)
    if as_json:
        told = {"removed": not dry_run, "files": len(waste.paths), "bytes": waste.bytes, "retired": retired}
        click.echo(msgspec.json.encode(told))
        return
    if outcome is not None:
        place.tell(outcome, False, lines=[f"retired {', '.join(retired)}"])
    click.echo(f"{len(waste.paths)} files, {waste.bytes / 1e6:.1f} MB {'would go' if dry_run else 'removed'}")


@click.command()
@place.registry
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8443, show_default=True)
@click.option("--certificate", type=click.Path(path_type=Path), help="of the server, PEM; devices want HTTPS")
@click.option("--key", type=click.Path(path_type=Path), help="its private key, PEM")
def serve(folder: Path, host: str, port: int, certificate: Path | None, key: Path | None) -> None:
    """Give the registry's files to devices, for a small site. Any static server or object store does the same."""
    from provisioning.registry.serve import check
    from provisioning.registry.serve import serve as run

    check(place.existing(folder), host, certificate, key)
    click.echo(f"{'http' if certificate is None else 'https'}://{host}:{port}/", err=True)
    run(folder, host, port, certificate, key)


@click.command()
@click.argument("stick", type=click.Path(path_type=Path))
@place.registry
@place.keys
@click.option("--ring", default="stable", show_default=True, help="whose boxes")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="for how long it is good")
@place.as_json
def mirror(stick: Path, folder: Path, key_folders: tuple[Path, ...], ring: str, days: int, as_json: bool) -> None:
    """Write to folder STICK what the boxes of one ring need, for `appliance update --from`.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry.mirror import mirror as run

    with place.writing(folder, key_folders) as registry:
        done = run(registry, stick, ring, days)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    models = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in done.models.items()) or "no model"
    click.echo(f"{stick}: ring {ring} with {models}; {done.bytes / 1e6:.2f} MB, {done.copied / 1e6:.2f} MB of them new")
    click.echo(f"good until {done.expires}; on the box: appliance update --from FOLDER")
