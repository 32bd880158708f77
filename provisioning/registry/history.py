"""What was released when, and what differs between two releases."""

from __future__ import annotations

from typing import Any

import msgspec

from appliance.core.release import ModelRef, Release
from appliance.errors import RegistryError
from provisioning.registry import channels
from provisioning.registry.keys import key_name
from provisioning.registry.published import Published
from provisioning.registry.releases import told


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A release, and the names of the keys that signed it."""

    release: Release
    signed_by: tuple[str, ...]

    @property
    def text(self) -> str:
        """What it gives, in a few words."""
        said = told(self.release.models)
        if self.release.percent < 100:
            said = f"{self.release.percent:g}%: {said}; the others: {told(self.release.others)}"
        if self.release.blocked:
            said += "; blocked " + ", ".join(f"{each.name} {each.version}" for each in self.release.blocked)
        return f"{said}; paused" if self.release.paused else said


def log(published: Published, ring: str | None = None) -> list[Entry]:
    """Of one ring or of all, the newest first. Raises RegistryError."""
    delegations = published.targets.delegations
    names = {keyid: key_name(key) for keyid, key in (delegations.keys if delegations is not None else {}).items()}
    found = [
        Entry(release=each.release, signed_by=tuple(names.get(keyid, keyid[:8]) for keyid in each.keys))
        for name in (published.rings() if ring is None else [ring])
        for each in channels.past(published, name)
    ]
    return sorted(found, key=lambda entry: (entry.release.issued, entry.release.number), reverse=True)


def diff(old: Release | None, new: Release) -> list[str]:
    """What changes, a line each."""
    lines = []
    before: dict[str, ModelRef] = dict(old.models) if old is not None else {}
    for name in sorted({*before, *new.models}):
        one, two = before.get(name), new.models.get(name)
        if one == two:
            continue
        lines.append(f"{name}: {'-' if one is None else one.version} -> {'-' if two is None else two.version}")
    was, will = (told(each.others) if each is not None and each.others else "-" for each in (old, new))
    if was != will:
        lines.append(f"the other boxes: {was} -> {will}")
    skip = {"models", "others", "number", "issued", "schema"}
    a: dict[str, Any] = msgspec.to_builtins(old) if old is not None else {}
    b: dict[str, Any] = msgspec.to_builtins(new)
    for field in sorted({*a, *b} - skip):
        if a.get(field) != b.get(field):
            lines.append(f"{field}: {_short(a.get(field))} -> {_short(b.get(field))}")
    return lines or ["nothing"]


def pick(published: Published, ring: str, number: int | None, back: int = 0) -> Release | None:
    """A release by its number, or the newest but `back`. None: there is none so far back. Raises RegistryError."""
    found = channels.history(published, ring)
    if number is None:
        return found[-1 - back] if len(found) > back else None
    for release in found:
        if release.number == number:
            return release
    raise RegistryError(f"ring {ring} has no release {number} here; see appliance-registry log")


def _short(value: Any) -> str:
    if value is None or value == {} or value == ():
        return "-"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 120 else f"{text[:117]}..."
