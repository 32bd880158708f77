"""Which destination wants what: from a result or an event to the rows that are committed with it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec

from appliance.config import AnyUpstream, Config, EventKind, MqttUpstream
from appliance.core.protocol import Result
from appliance.plant.answer import TriggerAnswer
from appliance.plant.recipes import RecipeChange
from appliance.writes import DeadLetter, Outgoing

SITE = "broker"
"""The queue of the site broker, where nothing else is said about it."""

IMAGES = "/images"
EVENT_SCHEMA = 1

_JSON = "application/json"
_FINDINGS = ("ng", "review")


def destinations(config: Config) -> dict[str, AnyUpstream]:
    """By the name of their queue. A site broker that no upstream stands for gets results, as it always did."""
    shared = any(isinstance(each, MqttUpstream) and each.broker is None for each in config.upstreams.values())
    named: dict[str, AnyUpstream] = dict(config.upstreams)
    if config.broker is not None and not shared:
        named[SITE] = MqttUpstream(events=())
    return named


class Desk:
    """Any thread may call it. What a full queue refuses is counted, for whoever asks with `refused`."""

    def __init__(self, device: str, named: Mapping[str, AnyUpstream]) -> None:
        self._prefix = f"appliance/{device}"
        self._device = device
        self._named = named
        self._lock = threading.Lock()
        self._refused: dict[str, int] = {}
        self.full: frozenset[str] = frozenset()
        """Queues that take nothing new, by their policy."""

    def result(self, result: Result, body: bytes, picture_bytes: int) -> tuple[Outgoing, ...]:
        """body: the result as JSON, sent as it is. picture_bytes: of the picture that is kept with it; 0: none."""
        rows: list[Outgoing] = []
        place = f"{result.model}/{result.source}"
        for name, wanted in self._named.items():
            if not _wants(wanted, result):
                continue
            if self._open(name):
                rows.append(Outgoing(name, f"{self._prefix}/results/{place}", _JSON, body, len(body)))
            if wanted.images and picture_bytes and result.verdict in _FINDINGS and self._open(name + IMAGES):
                topic = f"{self._prefix}/images/{place}"
                rows.append(Outgoing(name + IMAGES, topic, "", b"", picture_bytes, result.id))
        return tuple(rows)

    def event(self, kind: EventKind, at: float, content: Mapping[str, object]) -> tuple[Outgoing, ...]:
        """The rows of what happened; `content` is beside its kind and its time. at: wall clock."""
        wanting = [name for name, wanted in self._named.items() if kind in wanted.events and self._open(name)]
        if not wanting:
            return ()
        body = msgspec.json.encode({"schema": EVENT_SCHEMA, "event": kind, "at": at, "device": self._device, **content})
        return tuple(Outgoing(name, f"{self._prefix}/events/{kind}", _JSON, body, len(body)) for name in wanting)

    def recipe(self, change: RecipeChange) -> tuple[Outgoing, ...]:
        """The rows of a change of recipe; `old` is what ran when it was asked for."""
        content = {name: getattr(change, name) for name in ("source", "old", "new", "door", "client", "by")}
        return self.event("recipe", change.at, content)

    def answer(self, answer: TriggerAnswer) -> tuple[Outgoing, ...]:
        """The rows of the answer to a trigger. Several cameras may have given it, each with a result of its own."""
        return self.event("trigger", answer.at, {"answer": answer})

    def letter(self, letter: DeadLetter) -> tuple[Outgoing, ...]:
        """The rows of a dead letter; its payload stays on the box."""
        content = {
            "topic": letter.topic,
            "client": letter.client,
            "code": letter.code,
            "reason": letter.reason,
            "bytes": len(letter.payload),
        }
        return self.event("dead_letter", letter.at, content)

    def refused(self) -> dict[str, int]:
        """Rows that full queues refused since this was last asked."""
        with self._lock:
            refused, self._refused = self._refused, {}
        return refused

    def _open(self, queue: str) -> bool:
        if queue not in self.full:
            return True
        with self._lock:
            self._refused[queue] = self._refused.get(queue, 0) + 1
        return False


def _wants(wanted: AnyUpstream, result: Result) -> bool:
    return (not wanted.verdicts or result.verdict in wanted.verdicts) and (
        not wanted.models or result.model in wanted.models
    )
