"""`measure`, `publish`: model versions."""

from __future__ import annotations

from pathlib import Path

import click

from provisioning.registry.commands import place


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def measure(bundle: Path) -> None:
    """Write the lengths of the files into the manifest of BUNDLE (a folder .../<name>/<version>), where they miss."""
    from appliance.repository import check_files, read_version
    from provisioning.registry import lengths

    version = read_version(bundle.absolute())
    check_files(version)
    click.echo(f"{bundle / 'manifest.toml'}: {lengths.fill(version)} lengths written")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@place.registry
@place.keys
@place.as_json
def publish(bundle: Path, folder: Path, key_folders: tuple[Path, ...], as_json: bool) -> None:
    """Publish the model version in BUNDLE (a folder .../<name>/<version>). No box takes it before it is promoted.

    Its manifest, licence, provenance and lengths are checked, and its golden cases run, as a box will.

    Exit codes: 0 published, or it was; 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry.bundle import check
    from provisioning.registry.publish import download
    from provisioning.registry.publish import publish as run
    from provisioning.registry.registry import Outcome

    with place.writing(folder, key_folders) as registry:
        before = registry.published()
        found = check(bundle)
        outcome = run(registry, before, found)
        size = download(before, found.manifest, found.ref)
    test = found.test
    lines = [
        f"{found.name}: {len(found.manifest.golden)} golden cases hold in every form ({test.variant} on {test.device}, "
        f"{test.infer_ms_median} ms, {test.memory_mb:.0f} MB)"
    ]
    facts = {
        "name": found.manifest.name,
        "version": found.manifest.version,
        "manifest": found.version.digest,
        "bytes": size.whole,
        "bytes_from_previous": size.change,
        "previous": size.since,
    }
    said = f"a device downloads {_size(size.whole)}"
    if size.since is not None:
        said += f", or {_size(size.change)} when it has version {size.since}"
    lines.append(said)
    if outcome is None:
        lines.append("it was published already")
        outcome = Outcome(why=f"publish {found.name}", roles=())
    place.tell(outcome, as_json, facts, lines)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.1f} kB"
