"""A new registry: its owners' keys, who may sign which models, and the first metadata of every role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Root, Targets

from appliance.errors import RegistryError
from provisioning.registry import files
from provisioning.registry.registry import DAYS_FIELD, Outcome, Registry
from provisioning.registry.roles import (
    CHANNEL_PATHS,
    CHANNELS,
    ONLINE,
    ROOT,
    TARGETS,
    TOP,
    Top,
    check_teams,
    default_days,
    default_threshold,
    team_paths,
)


class Owners(msgspec.Struct, frozen=True, kw_only=True):
    """teams: name -> pattern of model names. keys: role -> public keys. thresholds, days: of roles that differ."""

    teams: Mapping[str, str]
    keys: Mapping[str, Sequence[Key]]
    thresholds: Mapping[str, int] = {}
    days: Mapping[str, int] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        return (*TOP, CHANNELS, *self.teams)

    def threshold(self, role: str) -> int:
        return self.thresholds.get(role, min(default_threshold(role), max(1, len(self.keys.get(role, ())))))

    def days_of(self, role: str) -> int:
        return self.days.get(role, default_days(role))

    def check(self) -> None:
        """Raises RegistryError."""
        check_teams(self.teams)
        for what, said in (("--threshold", self.thresholds), ("--days", self.days), ("--key", self.keys)):
            if unknown := sorted(set(said) - set(self.roles)):
                raise RegistryError(f"{what}: there is no role {unknown[0]}; there are {', '.join(self.roles)}")
        for role in self.roles:
            ids = {key.keyid for key in self.keys.get(role, ())}
            if not 1 <= self.threshold(role) <= len(ids):
                raise RegistryError(
                    f"role {role} needs {self.threshold(role)} signatures and has {len(ids)} keys; give it more keys, "
                    "or a threshold of at least 1 that they reach"
                )
            if not 1 <= self.days_of(role) <= 3650:
                raise RegistryError(f"role {role}: {self.days_of(role)} days; give 1 to 3650")


def create(registry: Registry, owners: Owners) -> Outcome:
    """The folder, with metadata of every role: published at once when all keys that must sign are at hand.

    Raises RegistryError.
    """
    owners.check()
    root = Root(consistent_snapshot=True)
    root.unrecognized_fields[DAYS_FIELD] = {role: owners.days_of(role) for role in (ROOT, *ONLINE)}
    for role in get_args(Top):
        for key in owners.keys[role]:
            root.add_key(key, role)
        root.roles[role].threshold = owners.threshold(role)
    roles = {CHANNELS: CHANNEL_PATHS} | {team: team_paths(pattern) for team, pattern in owners.teams.items()}
    targets = _empty(owners, TARGETS)
    targets.delegations = Delegations(
        {}, {name: DelegatedRole(name, [], owners.threshold(name), True, [paths]) for name, paths in roles.items()}
    )
    for name in roles:
        for key in owners.keys[name]:
            targets.add_key(key, name)
    for name in files.SERVED:
        (registry.folder / name).mkdir(parents=True, exist_ok=True)
    changes = {ROOT: root, TARGETS: targets, **{name: _empty(owners, name) for name in roles}}
    return registry.change("the first metadata of a new registry", changes)


def check_new(folder: Path) -> None:
    """Raises RegistryError when there is something already."""
    if folder.exists() and any(folder.iterdir()):
        raise RegistryError(f"{folder} is not empty; give a new folder")


def _empty(owners: Owners, role: str) -> Targets:
    found = Targets()
    found.unrecognized_fields[DAYS_FIELD] = owners.days_of(role)
    return found
