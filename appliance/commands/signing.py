"""`appliance models sign`, and the site's key as an option of other commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.commands import options
from appliance.config import Config, load
from appliance.errors import ConfigError, ModelNotFound

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_HELP = "the site's private key (PEM, Ed25519), which the box knows by [updates] import_key"


@click.command("sign")
@click.argument("name")
@click.option("--key", required=True, type=click.Path(path_type=Path), help=KEY_HELP)
@click.option("--version", help="[default: the highest]")
@options.place
def sign_command(
    name: str, key: Path, version: str | None, path: Path | None, data_dir: str | None, models_dir: str | None
) -> None:
    """Sign model NAME with the site's key, so that a provisioned box runs it: manifest.sig beside its manifest.

    Its files are compared with their SHA-256 first. Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from appliance.repository import MANIFEST, check_files, model_roots, scan
    from appliance.site_key import SIGNATURE, sign

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    private = private_key(key, config)
    # Without regard to what may run: it is signed for that.
    good, broken = scan(model_roots(config))
    found = [each for each in good if each.manifest.name == name and version in (None, each.manifest.version)]
    if not found:
        for each in broken:
            if each.name == name and version in (None, each.version):
                raise each.error
        known = sorted({each.manifest.name for each in good})
        raise ModelNotFound(f"there is no model {name} {version or ''}".rstrip() + f"; there are {', '.join(known)}")
    newest = max(found, key=lambda each: int(each.manifest.version))
    check_files(newest)
    try:
        sign(newest.folder, private, MANIFEST)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; run this as the user that owns the models") from error
    click.echo(f"{name} {newest.manifest.version}: signed, {newest.folder / SIGNATURE}")


def private_key(path: Path, config: Config) -> Ed25519PrivateKey:
    """Raises ConfigError, also when a box with this configuration would not take its signatures."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from appliance.site_key import read_private, read_public

    key = read_private(path, lambda: _passphrase(path))
    if config.updates.import_key is not None:
        known = read_public(Path(config.updates.import_key))
        form = Encoding.Raw, PublicFormat.Raw
        if key.public_key().public_bytes(*form) != known.public_bytes(*form):
            raise ConfigError(
                f"{path} is not the private key of {config.updates.import_key} (updates.import_key); give that one, or "
                "put its public key there"
            )
    return key


def _passphrase(path: Path) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"{path} is encrypted; run this on a terminal, which asks for its passphrase")
    return str(click.prompt(f"Passphrase of {path}", hide_input=True, err=True))
