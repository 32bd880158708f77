"""Topics and topic filters (MQTT 5, section 4.7): what is a topic, which filters match it.

`+` stands for one level, `#` for all that follow and for the level before it; neither matches a first level that
starts with `$`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

LEVELS_MAX = 100
"""Levels a filter may have: each one is a node in the tree."""

_REMEMBERED_MAX = 4096
_REMEMBERED_CHARS_MAX = 256

V = TypeVar("V")


def valid_topic(topic: str) -> bool:
    """Whether a message can be published to `topic`: not empty, no wildcard, no NUL, at most 65,535 bytes."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        return False
    return len(topic) <= 16_383 or len(topic.encode()) <= 65_535


def matched_levels(topic_filter: str, topic: str) -> tuple[str, ...] | None:
    """The levels of `topic` that stand where `topic_filter` has wildcards; None when it does not match.

    `line/+/camera/#` and `line/7/camera/left/raw` give ("7", "left", "raw").
    """
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return None
    found: list[str] = []
    for index, level in enumerate(wanted):
        if level == "#":
            return (*found, *levels[index:])
        if index == len(levels):
            return None
        if level == "+":
            found.append(levels[index])
        elif level != levels[index]:
            return None
    return tuple(found) if len(wanted) == len(levels) else None


def matches(topic_filter: str, topic: str) -> bool:
    return matched_levels(topic_filter, topic) is not None


def covers(allowed: str, wanted: str) -> bool:
    """Whether every topic that the filter `wanted` matches is matched by the filter `allowed` as well."""
    have, want = allowed.split("/"), wanted.split("/")
    if have[0] in ("+", "#") and want[0].startswith("$"):
        return False
    for index, level in enumerate(have):
        if level == "#":
            return True
        if index == len(want) or want[index] == "#" or level not in ("+", want[index]):
            return False
    return len(have) == len(want)


def overlap(one: str, other: str) -> bool:
    """Whether there is a topic that both filters match: a broker may send it once, or once for each."""
    first, second = one.split("/"), other.split("/")
    for have, want in zip(first, second, strict=False):
        if "#" in (have, want):
            return True
        if "+" not in (have, want) and have != want:
            return False
    longer = max(first, second, key=len)
    shorter = min(len(first), len(second))
    return len(first) == len(second) or longer[shorter] == "#"


def shared_filter(topic_filter: str) -> tuple[str, str] | None:
    """Group and filter of `$share/<group>/<filter>` (MQTT 5, section 4.8.2), None for any other filter.

    Either may be empty, or the group a wildcard: then it is no valid one.
    """
    if not topic_filter.startswith("$share/"):
        return None
    group, _, inner = topic_filter.removeprefix("$share/").partition("/")
    return group, inner


class _Node(Generic[V]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.values: dict[Hashable, V] = {}


class FilterTree(Generic[V]):
    """Values under topic filters, found by topic in time that grows with its levels, not with the filters.

    Filters are taken as valid. Answers for recent topics are remembered until a filter changes, as devices publish
    to the same few topics all day. Belongs to one thread.
    """

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self._size = 0
        self._remembered: dict[str, tuple[V, ...]] = {}

    def __len__(self) -> int:
        return self._size

    def add(self, topic_filter: str, key: Hashable, value: V) -> None:
        """Put `value` under the filter; it replaces what `key` had there."""
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        self._size += key not in node.values
        node.values[key] = value
        self._remembered.clear()

    def remove(self, topic_filter: str, key: Hashable) -> bool:
        """Whether `key` had a value under the filter. Branches that lead nowhere are cut."""
        path: list[tuple[_Node[V], str]] = []
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                return False
            path.append((node, level))
            node = child
        if key not in node.values:
            return False
        del node.values[key]
        self._size -= 1
        self._remembered.clear()
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.values or child.children:
                break
            del parent.children[level]
        return True

    def match(self, topic: str) -> tuple[V, ...]:
        """All values whose filter matches; a key that has several such filters comes several times."""
        found = self._remembered.get(topic)
        if found is None:
            found = tuple(self._find(topic))
            if len(topic) <= _REMEMBERED_CHARS_MAX:
                if len(self._remembered) >= _REMEMBERED_MAX:
                    self._remembered.clear()
                self._remembered[topic] = found
        return found

    def _find(self, topic: str) -> list[V]:
        found: list[V] = []
        nodes = [self._root]
        wild = not topic.startswith("$")
        for level in topic.split("/"):
            following: list[_Node[V]] = []
            for node in nodes:
                names = (level, "+") if wild else (level,)
                following += [node.children[name] for name in names if name in node.children]
                if wild and "#" in node.children:
                    found += node.children["#"].values.values()
            nodes = following
            wild = True
        for node in nodes:
            found += node.values.values()
            if "#" in node.children:
                found += node.children["#"].values.values()
        return found
