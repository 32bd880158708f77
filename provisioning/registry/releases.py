"""What the next release of a ring says: pure decisions over the releases before it.

The models of a ring are either with all its boxes (`percent` 100) or on their way: `percent` of the boxes have
`models`, the rest has `others`, which is what all had before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from appliance.core.release import ModelName, ModelRef, Release, Requirements, Rollout, Window
from appliance.errors import RegistryError

Refs = Mapping[str, ModelRef]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a release is taken. None: as the release before said."""

    window: Window | None = None
    no_window: bool = False
    requires: Requirements | None = None
    rollout: Rollout | None = None
    configuration: dict[str, Any] | None = None
    no_configuration: bool = False


def promote(before: Release | None, ring: str, named: Refs, percent: float, issued: str, terms: Terms) -> Release:
    """Give versions to `percent` of a ring's boxes; the others keep what they have. Raises RegistryError."""
    number = 1 if before is None else before.number + 1
    before = before or Release(ring=ring, number=1, issued=issued, models={})
    for name, ref in named.items():
        if before.blocks(name, ref.version):
            raise RegistryError(
                f"{name} {ref.version} is blocked in ring {ring}; lift that first (appliance-registry block --lift "
                f"{name}={ref.version})"
            )
    models = {**before.models, **named}
    others: Refs = {}
    if before.percent < 100:
        moving = sorted(
            name for name in {*before.models, *before.others} if before.models.get(name) != before.others.get(name)
        )
        if left := sorted(set(moving) - set(named)):
            raise RegistryError(
                f"ring {ring} is on its way with {told(before.models, moving)} at {before.percent:g}%: name "
                f"{', '.join(left)} too, or finish that first (promote it with --percent 100, or rollback)"
            )
        others = before.others
    else:
        others = before.models
    if percent >= 100:
        others = {}
    elif dict(others) == models:
        raise RegistryError(
            f"ring {ring}: {told(models, sorted(named))} is what the other boxes have as well; give --percent 100, or "
            "another version"
        )
    return _next(
        before,
        issued,
        number=number,
        models=models,
        percent=percent,
        others=dict(others),
        window=None if terms.no_window else terms.window or before.window,
        requires=terms.requires or before.requires,
        rollout=terms.rollout or before.rollout,
        configuration=None if terms.no_configuration else terms.configuration or before.configuration,
    )


def rollback(history: Sequence[Release], issued: str, to: int | None = None) -> Release:
    """Take the last promotion back from all boxes: models, configuration and requirements as they were before it.

    history: the releases of a ring, the oldest first. to: number of the release to go back to. Raises RegistryError.
    """
    now = history[-1]
    if to is not None:
        found = [each for each in history[:-1] if each.number == to]
        if not found:
            raise RegistryError(f"ring {now.ring} has no release {to} before {now.number}; see appliance-registry log")
        back = found[0]
        models: Refs = back.models
    elif now.percent < 100 and now.others:
        models = now.others
        back = next((each for each in reversed(history[:-1]) if whole(each) == dict(models)), now)
    else:
        stack = standing(history)
        if len(stack) < 2:
            raise RegistryError(
                f"ring {now.ring} has had nothing else before release {now.number}; promote what it is to have, or "
                "block the version"
            )
        back, models = stack[-2], stack[-2].models
    if bad := [name for name, ref in models.items() if now.blocks(name, ref.version)]:
        raise RegistryError(
            f"release {back.number} of ring {now.ring} has {told(models, bad)}, which is blocked; promote another "
            "version"
        )
    return _next(
        now,
        issued,
        models=dict(models),
        percent=100.0,
        others={},
        window=back.window,
        requires=back.requires,
        rollout=back.rollout,
        configuration=back.configuration,
    )


def pause(before: Release, issued: str, paused: bool) -> Release:
    """Raises RegistryError when it is so already."""
    if before.paused == paused:
        raise RegistryError(
            f"ring {before.ring} is {'paused' if paused else 'not paused'} already; nothing was changed"
        )
    return _next(before, issued, paused=paused)


def block(history: Sequence[Release], name: str, ref: ModelRef, issued: str) -> Release:
    """Take a version away from every box, for good: those that serve it go back to their previous one.

    Where the release names it, the newest version before it that the ring had takes its place. Raises RegistryError.
    """
    before = history[-1]
    if before.blocks(name, ref.version):
        raise RegistryError(f"{name} {ref.version} is blocked in ring {before.ring} already; nothing was changed")
    blocked = (*before.blocked, ModelName(name=name, version=ref.version, manifest=ref.manifest))
    probe = msgspec.structs.replace(before, models={}, others={}, blocked=blocked)
    instead = next(
        (
            found
            for release in reversed(history)
            for found in (release.others.get(name), release.models.get(name))
            if found is not None and not probe.blocks(name, found.version)
        ),
        None,
    )

    def without(models: Refs) -> dict[str, ModelRef]:
        kept = {each: found for each, found in models.items() if (each, found.version) != (name, ref.version)}
        if name in models and name not in kept and instead is not None:
            kept[name] = instead
        return kept

    models, others = without(before.models), without(before.others)
    whole_ring = before.percent >= 100 or models == others
    return _next(
        before,
        issued,
        models=models,
        others={} if whole_ring else others,
        percent=100.0 if whole_ring else before.percent,
        blocked=blocked,
    )


def lift(before: Release, name: str, version: str, issued: str) -> Release:
    """Let a blocked version be promoted again. Raises RegistryError."""
    if not before.blocks(name, version):
        raise RegistryError(f"{name} {version} is not blocked in ring {before.ring}; nothing was changed")
    blocked = tuple(each for each in before.blocked if (each.name, each.version) != (name, version))
    return _next(before, issued, blocked=blocked)


def standing(history: Sequence[Release]) -> list[Release]:
    """What all boxes of a ring had, one after the other, without what was taken back: the last is what they have."""
    stack: list[Release] = []
    for release in history:
        models = whole(release)
        if models is None:
            continue
        same = [index for index, each in enumerate(stack) if whole(each) == models]
        if same:
            del stack[same[0] + 1 :]
            stack[same[0]] = release
        else:
            stack.append(release)
    return stack


def whole(release: Release) -> dict[str, ModelRef] | None:
    """What every box of the ring is to have; None while it is on its way, or where there is nothing."""
    return dict(release.models) if release.percent >= 100 and release.models else None


def told(models: Refs, names: Sequence[str] | None = None) -> str:
    """`surface 8, bearing 2`, in words."""
    chosen = sorted(models) if names is None else names
    return (
        ", ".join(f"{name} {models[name].version}" if name in models else f"no {name}" for name in chosen) or "nothing"
    )


def _next(before: Release, issued: str, **changes: Any) -> Release:
    """issued never goes back, and RFC 3339 in UTC sorts as it passes."""
    following = {"number": before.number + 1, "issued": max(issued, before.issued)}
    return msgspec.structs.replace(before, **{**following, **changes})
