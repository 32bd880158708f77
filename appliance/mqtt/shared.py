"""Shared subscriptions, `$share/<group>/<filter>` (MQTT 5, section 4.8.2): a message goes to one member of the group.

Members take turns. One that is not connected is passed over while another is there; when all are away, a message at
QoS 1 waits for the next in turn.
"""

from __future__ import annotations

from collections import deque

from appliance.mqtt.sessions import Session, Subscription
from appliance.mqtt.topics import FilterTree, shared_filter

Member = tuple[Session, Subscription]


class Group:
    """The members that share one filter under one name."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: deque[Member] = deque()

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def connected(self) -> bool:
        """Whether a member is there."""
        return any(session.link is not None for session, _ in self._turns)

    def put(self, session: Session, subscription: Subscription) -> None:
        """Add a member, or give it another subscription."""
        self.drop(session)
        self._turns.append((session, subscription))

    def drop(self, session: Session) -> None:
        self._turns = deque(member for member in self._turns if member[0] is not session)

    def next(self) -> Member | None:
        """Whose turn it is; None when there is no member."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if self._turns[-1][0].link is not None:
                return self._turns[-1]
        if not self._turns:
            return None
        self._turns.rotate(-1)
        return self._turns[-1]


class Groups:
    """All groups, found by topic. A group is named by its whole filter, `$share/...`."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._by_topic: FilterTree[str] = FilterTree()

    def __len__(self) -> int:
        """Members of all groups together."""
        return sum(map(len, self._groups.values()))

    def put(self, session: Session, subscription: Subscription) -> None:
        name = subscription.topic_filter
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group()
            self._by_topic.add(_inner(name), name, name)
        group.put(session, subscription)

    def drop(self, session: Session, name: str) -> None:
        group = self._groups[name]
        group.drop(session)
        if not group:
            del self._groups[name]
            self._by_topic.remove(_inner(name), name)

    def get(self, name: str) -> Group | None:
        return self._groups.get(name)

    def match(self, topic: str) -> tuple[str, ...]:
        """Names of the groups that follow `topic`."""
        return self._by_topic.match(topic) if self._groups else ()


def _inner(name: str) -> str:
    shared = shared_filter(name)
    assert shared is not None
    return shared[1]
