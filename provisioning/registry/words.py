"""Releases, drafts and owners in plain words, for who reads before he signs."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from typing import Any

import msgspec
from tuf.api.metadata import Root, Targets

from appliance.core.release import Release, parse_release
from appliance.errors import RegistryError, ReleaseInvalid
from provisioning.registry.drafts import Draft
from provisioning.registry.keys import key_name
from provisioning.registry.registry import Outcome
from provisioning.registry.releases import told
from provisioning.registry.roles import CHANNELS


def release_lines(release: Release) -> list[str]:
    """What the boxes of a ring will do because of it."""
    lines = [f"release {release.number} of ring {release.ring}, issued {release.issued}"]
    if release.percent >= 100:
        lines.append(f"all boxes: {told(release.models)}")
    else:
        lines.append(f"{release.percent:g}% of the boxes: {told(release.models)}")
        lines.append(f"the other boxes: {told(release.others)}")
    if release.paused:
        lines.append("paused: nothing new is installed")
    if release.blocked:
        lines.append("blocked: " + ", ".join(f"{each.name} {each.version}" for each in release.blocked))
    if release.window is not None:
        lines.append(f"boxes switch between {release.window.begins} and {release.window.ends} UTC")
    needs = msgspec.to_builtins(release.requires)
    if needs:
        lines.append("needs " + ", ".join(f"{name} {value}" for name, value in needs.items()))
    policy = release.rollout
    if policy.mode == "canary":
        how = f"canary with {policy.share:.0%} of the inputs"
    else:
        how = {"shadow": "shadow: runs beside, unseen", "blue_green": "switch after the self-test alone"}[policy.mode]
    if policy.mode != "blue_green":
        how += (
            f"; ruled after {policy.inputs_min} inputs or {_duration(policy.deadline_s)}, at most "
            f"{policy.errors_max:.1%} errors, at least {policy.agreement_min:.0%} agreement, p95 at most "
            f"{policy.latency_ratio_max:g}x"
        )
    lines.append(f"{how}; back by itself within {_duration(policy.probation_s)}")
    if release.configuration is not None:
        parts = ", ".join(f"{name} ({len(value)})" for name, value in sorted(release.configuration.items()))
        lines.append(f"brings a configuration: {parts}")
    return lines


def draft_lines(draft: Draft) -> list[str]:
    """All that its signatures say yes to. Raises RegistryError when a text in it is not what would be signed."""
    lines = [draft.why]
    named: dict[str, str] = {}
    for role in sorted(draft.metadata):
        signed = draft.read(role).signed
        lines.append(f"{role} version {signed.version}, good until {signed.expires:%Y-%m-%d}")
        if isinstance(signed, Root):
            lines += owner_lines(signed)
        if isinstance(signed, Targets):
            lines += team_lines(signed)
            named |= {path: target.hashes["sha256"] for path, target in signed.targets.items()}
            lines += _named_lines(signed)
    for path, text in sorted(draft.texts.items()):
        if hashlib.sha256(text.encode()).hexdigest() != named.get(path):
            raise RegistryError(f"the draft shows another {path} than the one that would be signed; do not sign it")
        lines += [f"  {line}" for line in _text_lines(path, text)]
    return lines


def owner_lines(root: Root) -> list[str]:
    return [
        f"  {role}: {who.threshold} of {_names(root.get_key(each) for each in who.keyids)}"
        for role, who in sorted(root.roles.items())
    ]


def team_lines(targets: Targets) -> list[str]:
    delegations = targets.delegations
    if delegations is None:
        return []
    return [
        f"  {name} ({', '.join(role.paths or ())}): {role.threshold} of "
        f"{_names(targets.get_key(each) for each in role.keyids)}"
        for name, role in sorted((delegations.roles or {}).items())
    ]


def outcome_lines(outcome: Outcome) -> list[str]:
    """What became of a change, and what is to be done next."""
    if outcome.draft is None:
        return ["published"]
    lines = [f"not published yet: it waits for signatures in {outcome.draft}"]
    for role, (count, names) in sorted(outcome.missing.items()):
        lines.append(f"  {role}: {count} more, of {', '.join(names)}")
    name = outcome.draft.stem
    lines.append(
        f"appliance-registry export {name} FILE, then on the other machine: appliance-registry sign FILE, "
        "and here again: appliance-registry import FILE"
    )
    return lines


KEEPERS = """\
Who keeps which key:
  root       the owners, one key each, on a stick or token in a safe, in different places. They are needed to change
             keys, about once a year. Who has two of the three owns every box.
  targets    the same people or others, also apart. Needed to add a team or change a team's key.
  channels   who decides what runs where; on the computer they promote from.
  {teams}
             who trains these models; they can publish versions, and put none of them on a box.
  snapshot, timestamp
             on the computer that publishes, for its timer. Stolen, they can keep boxes from updates for a while; they
             cannot make a box run anything.
Copy each .pem with its .json to whom it belongs, then delete it here. A box is given
{root}, which is no secret. Keep copies of the registry's folder: all of it is public."""


def keepers(teams: Iterable[str], root: str) -> str:
    return KEEPERS.format(teams=", ".join(teams), root=root)


def _text_lines(path: str, text: str) -> list[str]:
    if path.startswith(f"{CHANNELS}/"):
        try:
            return release_lines(parse_release(text.encode(), path))
        except ReleaseInvalid as error:
            raise RegistryError(str(error)) from error
    manifest: dict[str, Any] = tomllib.loads(text)
    said = [str(manifest.get(field, "?")) for field in ("name", "version", "title", "licence", "provenance")]
    return [f"model {said[0]} version {said[1]}: {said[2]}", f"  licence {said[3]}; {said[4]}"]


def _named_lines(targets: Targets) -> list[str]:
    """What it vouches for, all of it, also what was signed before."""
    found: dict[str, list[str]] = {}
    for path in sorted(targets.targets):
        kind, _, rest = path.partition("/")
        name, _, version = rest.removesuffix("/manifest.toml").partition("/")
        found.setdefault(f"{kind}/{name}", []).append(version)
    return [f"  names {name} {', '.join(sorted(each, key=_by_number))}".rstrip() for name, each in found.items()]


def _by_number(version: str) -> tuple[int, str]:
    return len(version), version


def _names(keys: Iterable[Any]) -> str:
    return ", ".join(key_name(key) for key in keys)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
