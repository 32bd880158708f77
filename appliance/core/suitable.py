"""Whether a release fits a box: what it requires against what the box has."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from appliance.core.release import Requirements

_MB = 1_000_000


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What a box has. appliance: its version. accelerators: devices that a runtime can use. memory, disk: free."""

    appliance: str
    accelerators: Collection[str]
    memory_bytes: int
    disk_bytes: int


def lacks(requires: Requirements, has: Equipment) -> list[str]:
    """What the box does not have, in words with figures; empty when it has everything."""
    missing = []
    if requires.appliance is not None and _numbers(has.appliance) < _numbers(requires.appliance):
        missing.append(f"appliance {requires.appliance} or newer (this is {has.appliance})")
    if requires.accelerator is not None and not _has_device(requires.accelerator, has.accelerators):
        missing.append(f"a {requires.accelerator} (this box has {', '.join(sorted(has.accelerators)) or 'none'})")
    if has.memory_bytes < requires.memory_mb * _MB:
        missing.append(f"{requires.memory_mb} MB of free memory ({has.memory_bytes // _MB} MB are free)")
    if has.disk_bytes < requires.disk_mb * _MB:
        missing.append(f"{requires.disk_mb} MB of free disk ({has.disk_bytes // _MB} MB are free)")
    return missing


def _has_device(wanted: str, devices: Collection[str]) -> bool:
    """`GPU` is any of GPU.0, GPU.1."""
    return any(each == wanted or each.startswith(f"{wanted}.") for each in devices)


def _numbers(version: str) -> tuple[int, int, int]:
    """Of `1.2.3`, `1.2`, `1.2.3.dev4+local`: what it begins with; what is missing is 0."""
    numbers: list[int] = []
    for part in version.split(".")[:3]:
        if not part.isdecimal():
            break
        numbers.append(int(part))
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch
