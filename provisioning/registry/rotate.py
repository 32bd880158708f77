"""Change who may sign: keys of a role, and a new team. Signed by those who own the role, not by the role itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Root, Signed, Targets

from appliance.errors import RegistryError
from provisioning.registry.keys import key_name
from provisioning.registry.published import Published
from provisioning.registry.registry import DAYS_FIELD, Outcome, Registry
from provisioning.registry.roles import ONLINE, ROOT, TARGETS, TOP, check_teams, default_days, team_paths


def rotate(
    registry: Registry,
    before: Published,
    role: str,
    add: Sequence[Key],
    remove: Sequence[str],
    threshold: int | None = None,
) -> Outcome:
    """Give a role new keys and take old ones away. remove: names or ids. What a removed key had signed is signed anew.

    Raises RegistryError.
    """
    if role not in before.metadata:
        raise RegistryError(f"there is no role {role}; there are {', '.join(sorted(before.metadata))}")
    owner: Root | Targets = copy.deepcopy(before.root if role in TOP else before.targets)
    who = owner.get_delegated_role(role)
    present = {keyid: owner.get_key(keyid) for keyid in who.keyids}
    for key in add:
        if key.keyid in present:
            raise RegistryError(f"key {key_name(key)} belongs to {role} already; nothing was changed")
        owner.add_key(key, role)
    for each in remove:
        found = [keyid for keyid, key in present.items() if each in (keyid, keyid[:8], key_name(key))]
        if len(found) != 1:
            names = ", ".join(f"{key_name(key)} ({keyid[:8]})" for keyid, key in present.items())
            raise RegistryError(f"role {role} has no one key {each!r}; it has {names}")
        owner.revoke_key(found[0], role)
    who = owner.get_delegated_role(role)
    who.threshold = threshold if threshold is not None else who.threshold
    if not 1 <= who.threshold <= len(who.keyids):
        raise RegistryError(
            f"role {role} would need {who.threshold} signatures and have {len(who.keyids)} keys; add keys, or give "
            "--threshold"
        )
    changes: dict[str, Signed] = {ROOT if role in TOP else TARGETS: owner}
    if role not in (ROOT, *ONLINE) and not _holds(owner, role, before):
        changes[role] = copy.deepcopy(before.delegated(role))
    said = [f"add {key_name(key)}" for key in add] + [f"remove {each}" for each in remove]
    if threshold is not None:
        said.append(f"threshold {threshold}")
    return registry.change(f"keys of {role}: {', '.join(said) or 'signed anew'}", changes, None, before)


def add_team(
    registry: Registry, before: Published, name: str, pattern: str, keys: Sequence[Key], threshold: int
) -> Outcome:
    """Raises RegistryError."""
    check_teams({**before.teams, name: pattern})
    if name in before.teams:
        raise RegistryError(f"there is a team {name} already, for {before.teams[name]}")
    if not 1 <= threshold <= len(keys):
        raise RegistryError(f"team {name} needs {threshold} signatures and has {len(keys)} keys; give it enough --key")
    targets = copy.deepcopy(before.targets)
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[name] = DelegatedRole(name, [], threshold, True, [team_paths(pattern)])
    for key in keys:
        targets.add_key(key, name)
    fresh = Targets()
    fresh.unrecognized_fields[DAYS_FIELD] = default_days(name)
    return registry.change(f"team {name} for models {pattern}", {TARGETS: targets, name: fresh}, None, before)


def renew(registry: Registry, before: Published, roles: Sequence[str], days: int | None = None) -> Outcome:
    """The same content, signed anew with a new expiry. days: for so long from now on. Raises RegistryError."""
    for role in roles:
        if role in ONLINE or role not in before.metadata:
            known = ", ".join(sorted(set(before.metadata) - set(ONLINE)))
            raise RegistryError(
                f"{role} is no role to sign anew; there are {known} (snapshot and timestamp come by itself)"
            )
    changes = {role: copy.deepcopy(cast(Signed, before.metadata[role].signed)) for role in roles}
    for role, signed in changes.items():
        if days is not None:
            online = signed.unrecognized_fields.get(DAYS_FIELD)
            signed.unrecognized_fields[DAYS_FIELD] = {**online, role: days} if isinstance(online, dict) else days
    return registry.change(f"sign {', '.join(roles)} anew", changes, None, before)


def _holds(owner: Root | Targets, role: str, before: Published) -> bool:
    metadata = before.metadata[role]
    try:
        owner.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True
