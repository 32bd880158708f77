"""The last message of each topic that was to be retained, within bounds. In memory, like all the listener keeps."""

from __future__ import annotations

from appliance.mqtt.sessions import Message
from appliance.mqtt.topics import matches


class Retained:
    """count_max, bytes_max: for what clients retain; the appliance itself is let through, it retains little."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._messages: dict[str, Message] = {}
        self._expiring: set[str] = set()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message, *, bounded: bool) -> bool:
        """Retain it in place of the topic's last one; without a payload it only clears that. False: no room for it."""
        self._drop(message.topic)
        if not message.payload:
            return True
        if bounded and (len(self._messages) >= self._count_max or self.bytes + message.weight > self._bytes_max):
            return False
        self._messages[message.topic] = message
        self.bytes += message.weight
        if message.expires_at is not None:
            self._expiring.add(message.topic)
        return True

    def find(self, topic_filter: str, now: float) -> list[Message]:
        """Those that match and have not expired."""
        if "+" in topic_filter or "#" in topic_filter:
            found = [message for topic, message in self._messages.items() if matches(topic_filter, topic)]
        else:
            found = [self._messages[topic_filter]] if topic_filter in self._messages else []
        return [message for message in found if message.expires_at is None or message.expires_at > now]

    def expire(self, now: float) -> None:
        """Let go of what has expired."""
        for topic in tuple(self._expiring):
            expires_at = self._messages[topic].expires_at
            if expires_at is not None and expires_at <= now:
                self._drop(topic)

    def _drop(self, topic: str) -> None:
        old = self._messages.pop(topic, None)
        if old is not None:
            self.bytes -= old.weight
            self._expiring.discard(topic)
