"""Who signs what in a registry, with how many keys, and for how long: TUF's four roles, `channels`, and the teams."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from appliance.errors import RegistryError

ROOT: Literal["root"] = "root"
TARGETS: Literal["targets"] = "targets"
SNAPSHOT: Literal["snapshot"] = "snapshot"
TIMESTAMP: Literal["timestamp"] = "timestamp"
CHANNELS = "channels"
"""Signs the releases: `channels/<ring>.json`."""

ONLINE = (SNAPSHOT, TIMESTAMP)
TOP = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
Top: TypeAlias = Literal["root", "targets", "snapshot", "timestamp"]

CHANNEL_PATHS = "channels/*.json"

_THRESHOLDS = {ROOT: 2, TARGETS: 2}
_KEYS = {ROOT: 3, TARGETS: 3}
_DAYS = {ROOT: 365, TARGETS: 365, CHANNELS: 180, SNAPSHOT: 180, TIMESTAMP: 7}
_TEAM_DAYS = 365
_NAME = re.compile(r"^[a-z][a-z0-9-]{0,31}$")
_PATTERN = re.compile(r"^[a-z0-9*?][a-z0-9._*?-]{0,63}$")


def default_threshold(role: str) -> int:
    """Signatures that it needs."""
    return _THRESHOLDS.get(role, 1)


def default_keys(role: str) -> int:
    """How many are made when none is given: with one lost, the rest still reaches the threshold."""
    return _KEYS.get(role, 1)


def default_days(role: str) -> int:
    """For how long a signature is good. A stale timestamp is how a box notices that it is kept from what is new."""
    return _DAYS.get(role, _TEAM_DAYS)


def team_paths(pattern: str) -> str:
    """The targets of a team whose models are called like `pattern` (`*` any characters, `?` one)."""
    return f"models/{pattern}/*/manifest.toml"


def check_teams(teams: Mapping[str, str]) -> None:
    """teams: name -> pattern. Raises RegistryError for a name or a pattern that cannot be, or two that may meet."""
    for name, pattern in teams.items():
        if name in (*TOP, CHANNELS) or not _NAME.match(name):
            raise RegistryError(
                f"team {name!r}: a team is called like vision-2, with lower-case letters, digits and -, and not as one "
                f"of the roles {', '.join((*TOP, CHANNELS))}"
            )
        if not _PATTERN.match(pattern):
            raise RegistryError(
                f"team {name}: pattern {pattern!r} is none for names of models; give a name such as surface, or a "
                "beginning such as weld-*"
            )
    names = sorted(teams)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if may_meet(teams[one], teams[other]):
                raise RegistryError(
                    f"teams {one} ({teams[one]}) and {other} ({teams[other]}) could both sign a model of the same "
                    "name; give patterns that no name fits twice"
                )


def may_meet(one: str, other: str) -> bool:
    """Whether some name fits both patterns."""
    seen: set[tuple[str, str]] = set()
    waiting = [(one, other)]
    while waiting:
        pair = waiting.pop()
        if pair in seen:
            continue
        seen.add(pair)
        a, b = pair
        if not a and not b:
            return True
        if a.startswith("*"):
            waiting.append((a[1:], b))
        if b.startswith("*"):
            waiting.append((a, b[1:]))
        if a and b:
            if a[0] == "*" or b[0] == "*":
                # One character for both: a star stays, anything else is used up.
                rest_a = a if a[0] == "*" else a[1:]
                rest_b = b if b[0] == "*" else b[1:]
                if (rest_a, rest_b) != (a, b):
                    waiting.append((rest_a, rest_b))
            elif a[0] == b[0] or "?" in (a[0], b[0]):
                waiting.append((a[1:], b[1:]))
    return False


def team_of(name: str, teams: Mapping[str, str]) -> str:
    """The team that may sign models of this name. Raises RegistryError."""
    found = [team for team, pattern in teams.items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        told = _told(teams)
        raise RegistryError(
            f"no team may publish a model called {name} ({told}); rename it, or add a team (appliance-registry team)"
        )
    return found[0]


def _told(teams: Mapping[str, str]) -> str:
    parts: Iterable[str] = (f"{team}: {pattern}" for team, pattern in sorted(teams.items()))
    return ", ".join(parts) or "there is no team"
