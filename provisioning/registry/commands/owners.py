"""`init`, `key`, `team`, `rotate`, `refresh`: who may sign what, and for how long."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from appliance.errors import RegistryError
from provisioning.registry import drafts
from provisioning.registry.commands import place


@click.command()
@place.registry
@place.keys
@click.option("--team", "teams", multiple=True, metavar="NAME=MODELS", help="e.g. vision=surface*; more than once")
@click.option("--key", "cards", multiple=True, metavar="ROLE=CARD.json", help="of somebody else; more than once")
@click.option("--threshold", "thresholds", multiple=True, metavar="ROLE=N", help="signatures that a role needs")
@click.option("--days", multiple=True, metavar="ROLE=N", help="for how long its signatures are good")
def init(
    folder: Path,
    key_folders: tuple[Path, ...],
    teams: tuple[str, ...],
    cards: tuple[str, ...],
    thresholds: tuple[str, ...],
    days: tuple[str, ...],
) -> None:
    """Make a registry: a folder of static files that devices update from.

    For every role without --key, keys are made in the folder of --keys, under a passphrase. Who shall have a key of his
    own from the start makes it himself (appliance-registry key) and gives you its card.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry import files
    from provisioning.registry.create import Owners, check_new, create
    from provisioning.registry.keys import Keyring, make_key, read_card
    from provisioning.registry.registry import Registry
    from provisioning.registry.roles import CHANNELS, TOP, check_teams, default_keys
    from provisioning.registry.words import keepers, team_lines

    check_new(folder)
    patterns = _pairs("--team", teams or ("models=*",))
    check_teams(patterns)
    given: dict[str, list[Path]] = {}
    for each in cards:
        role, _, path = each.partition("=")
        given.setdefault(role, []).append(Path(path))
    keys = {role: [read_card(path).public for path in paths] for role, paths in given.items()}
    key_folder = key_folders[0] if key_folders else Path("keys")
    made = []
    for role in (*TOP, CHANNELS, *patterns):
        if role in keys:
            continue
        count = default_keys(role)
        names = [f"{role}-{number + 1}" if count > 1 else role for number in range(count)]
        keys[role] = [make_key(key_folder, name, _new_passphrase(key_folder)).public for name in names]
        made += names
    owners = Owners(
        teams=patterns,
        keys=keys,
        thresholds=_numbers("--threshold", thresholds),
        days=_numbers("--days", days),
    )
    owners.check()
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder):
        keyring = Keyring(key_folders or ((key_folder,) if made else ()), place.secret, known=_CHOSEN.values())
        registry = Registry(folder, keyring)
        outcome = create(registry, owners)
    if made:
        click.echo(f"{len(made)} keys in {key_folder}: {', '.join(made)}")
    if outcome.published:
        for line in team_lines(registry.published().targets):
            click.echo(line.strip())
    place.tell(outcome, False)
    click.echo("\n" + keepers(patterns, str(folder / "metadata" / "1.root.json")))


@click.command()
@click.argument("name")
@place.keys
@click.option(
    "--uri", help="a key that is elsewhere, such as hsm:2?label=ops (a PKCS#11 token), awskms:..., gcpkms:..."
)
@click.option("--public", type=click.Path(path_type=Path), help="its public half in PEM; a token tells it by itself")
@click.option("--scheme", help="of the signatures, where the key allows several, such as ecdsa-sha2-nistp256")
def key(name: str, key_folders: tuple[Path, ...], uri: str | None, public: Path | None, scheme: str | None) -> None:
    """Make a signing key NAME, or a card for one that is in a token: keys/NAME.json, which others may see.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from provisioning.registry.keys import add_key, make_key

    folder = key_folders[0] if key_folders else Path("keys")
    if uri is None:
        card = make_key(folder, name, _new_passphrase(folder))
        click.echo(f"{folder / name}.pem: keep it, it signs. {folder / name}.json: its card, give it to central ops")
    else:
        card = add_key(folder, name, uri, public, scheme, place.secret)
        click.echo(f"{folder / name}.json: the card of {card.uri}, give it to central ops")
    click.echo(f"key {card.keyid[:8]}, {card.key['scheme']}")


@click.command()
@click.argument("name")
@click.argument("models")
@place.registry
@place.keys
@click.option("--key", "cards", multiple=True, required=True, type=click.Path(path_type=Path), help="card of a member")
@click.option("--threshold", type=click.IntRange(1), default=1, show_default=True, help="signatures that it needs")
@place.as_json
def team(
    name: str,
    models: str,
    folder: Path,
    key_folders: tuple[Path, ...],
    cards: tuple[Path, ...],
    threshold: int,
    as_json: bool,
) -> None:
    """Let team NAME publish models whose names fit MODELS, e.g. weld-*. Signed with the keys of targets."""
    from provisioning.registry.keys import read_card
    from provisioning.registry.rotate import add_team

    with place.writing(folder, key_folders) as registry:
        keys = [read_card(path).public for path in cards]
        outcome = add_team(registry, registry.published(), name, models, keys, threshold)
    place.tell(outcome, as_json, lines=[f"team {name} may publish {models}"])


@click.command()
@click.argument("role")
@place.registry
@place.keys
@click.option("--add", multiple=True, type=click.Path(path_type=Path), help="card of a new key")
@click.option("--remove", multiple=True, metavar="KEY", help="name or id of a key that no longer counts")
@click.option("--threshold", type=click.IntRange(1), help="signatures that the role needs  [default: as before]")
@place.as_json
def rotate(
    role: str,
    folder: Path,
    key_folders: tuple[Path, ...],
    add: tuple[Path, ...],
    remove: tuple[str, ...],
    threshold: int | None,
    as_json: bool,
) -> None:
    """Change the keys of ROLE. Boxes follow by themselves, also those that were off through several such changes.

    Keys of root, targets, snapshot and timestamp are changed by the owners of root; those of channels and the teams by
    the owners of targets.
    """
    from provisioning.registry.keys import read_card
    from provisioning.registry.rotate import rotate as run

    if not add and not remove and threshold is None:
        raise click.UsageError("give --add, --remove or --threshold")
    with place.writing(folder, key_folders) as registry:
        keys = [read_card(path).public for path in add]
        outcome = run(registry, registry.published(), role, keys, remove, threshold)
    place.tell(outcome, as_json, lines=[outcome.why])


@click.command()
@click.argument("roles", nargs=-1)
@place.registry
@place.keys
@click.option("--days", type=click.IntRange(1, 3650), help="for how long ROLES are signed from now on")
@place.as_json
def refresh(
    roles: tuple[str, ...], folder: Path, key_folders: tuple[Path, ...], days: int | None, as_json: bool
) -> None:
    """Sign the timestamp anew, for a timer that runs once a day; with ROLES, also those, whose time runs out.

    Exit codes: 0 done, 1 refused or something has expired, 2 wrong option or configuration.
    """
    from provisioning.registry.rotate import renew
    from provisioning.registry.verify import expiring

    if days is not None and not roles:
        raise click.UsageError("--days needs ROLES")
    with place.writing(folder, key_folders) as registry:
        before = registry.published()
        if roles:
            place.tell(renew(registry, before, roles, days), as_json)
        else:
            registry.refresh(before)
        after = registry.published()
        found = list(expiring(after, registry.now()))
    if not roles:
        expires = {role: f"{each.signed.expires:%Y-%m-%d}" for role, each in after.metadata.items()}
        waiting = [draft.name for draft in drafts.waiting(folder).values()]
        if as_json:
            click.echo(msgspec.json.encode({"expires": expires, "findings": found, "drafts": waiting}))
        else:
            click.echo(f"good until {expires['timestamp']}")
    if not as_json:
        for each in found:
            click.echo(f"{each.level}: {each.text}", err=True)
    if any(each.level == "error" for each in found):
        raise SystemExit(1)


def _new_passphrase(folder: Path) -> str:
    """The one of the environment, or one that is typed twice, once for all keys that are made together."""
    if folder not in _CHOSEN:
        what = f"passphrase for new keys in {folder}"
        if sys.stdin.isatty():
            _CHOSEN[folder] = str(click.prompt(what.capitalize(), hide_input=True, confirmation_prompt=True, err=True))
        else:
            _CHOSEN[folder] = place.secret(what)
    return _CHOSEN[folder]


_CHOSEN: dict[Path, str] = {}


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not sign or not name or not value:
            raise click.UsageError(f"{option} {each}: give NAME=VALUE")
        if name in found:
            raise click.UsageError(f"{option}: {name} is there twice")
        found[name] = value
    return found


def _numbers(option: str, given: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for name, value in _pairs(option, given).items():
        if not value.isdecimal():
            raise RegistryError(f"{option} {name}={value}: give a whole number")
        found[name] = int(value)
    return found
