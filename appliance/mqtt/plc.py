"""What the box says for PLCs: answers to triggers, results in a form of fixed size, and a beat.

Out: `appliance/<device>/answers/<trigger>`, `.../flat/<model>/<source>`, `.../packed/<model>/<source>`, and `.../beat`
and `.../beat/packed` every second. None of it is retained: an old verdict must never look like a new one.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.config import RouteConfig
from appliance.core.brief import brief_of
from appliance.core.forms import MEDIA_TYPES, write
from appliance.core.packed import packed_beat
from appliance.core.protocol import Result
from appliance.mqtt.client import BrokerClient
from appliance.mqtt.listener import Listener
from appliance.plant.answer import AnswerForm, TriggerAnswer, encode, media_type
from appliance.plant.asked import ReplyTo


class ForPlcs:
    """May be called from any thread."""

    def __init__(
        self, prefix: str, routes: Iterable[RouteConfig], listener: Listener | None, broker: BrokerClient | None
    ) -> None:
        self._prefix = prefix
        self._listener = listener
        self._broker = broker
        self.follow(routes)

    def follow(self, routes: Iterable[RouteConfig]) -> None:
        """From now on the forms of these routes."""
        self._forms = {route.name: route.also for route in routes if route.also}

    def tell(self, answer: TriggerAnswer, form: AnswerForm, reply: ReplyTo) -> bool:
        """Whether the door that the trigger came by could be reached, and at the listener somebody listens."""
        topic = reply.topic or f"{self._prefix}/answers/{answer.trigger}"
        return self.reply(topic, encode(answer, form), reply, media_type(form))

    def reply(self, topic: str, body: bytes, reply: ReplyTo, content_type: str = "application/json") -> bool:
        """To a response topic only where the asker is; elsewhere for all who follow."""
        reached = {"listener": False, "broker": False}
        if self._listener is not None and self._listener.subscriptions and _is_for("listener", reply):
            self._listener.publish(topic, body, qos=1, content_type=content_type, correlation_data=reply.correlation)
            reached["listener"] = True
        if self._broker is not None and _is_for("broker", reply):
            sent = self._broker.publish(topic, body, correlation_data=reply.correlation, content_type=content_type)
            reached["broker"] = sent is not None
        return reached[reply.via]

    def result(self, result: Result) -> None:
        """A committed result, where its route asks for more forms than JSON."""
        for form in self._forms.get(result.route or "", ()):
            topic = f"{self._prefix}/{form}/{result.model}/{result.source}"
            self._publish(topic, write(brief_of(result), form), MEDIA_TYPES[form], qos=1)

    def beat(self, count: int) -> None:
        self._publish(f"{self._prefix}/beat", str(count).encode(), "application/json", qos=0)
        self._publish(f"{self._prefix}/beat/packed", packed_beat(count), "application/octet-stream", qos=0)

    def _publish(self, topic: str, body: bytes, content_type: str, qos: int) -> None:
        # Waking the listener's thread for nobody would cost as much as the work.
        if self._listener is not None and self._listener.subscriptions:
            self._listener.publish(topic, body, qos=qos, content_type=content_type)
        if self._broker is not None:
            self._broker.publish(topic, body, qos=qos, content_type=content_type)


def _is_for(door: str, reply: ReplyTo) -> bool:
    return reply.topic is None or reply.via == door
