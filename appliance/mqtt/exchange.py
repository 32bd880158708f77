"""Who is subscribed to what: sessions, retained messages and wills of the listener. No socket; runs in its thread.

A session begins with `open`, loses its connection with `leave`, and ends when its time is over (`expire`) or its client
asks for a clean start. All times named `now` are monotonic seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog
from msgspec.structs import replace

from appliance.config import ListenerConfig
from appliance.mqtt.message import Deliver, InboundMessage
from appliance.mqtt.sessions import Delivery, Link, Message, SavedSession, Session, Subscription, Will
from appliance.mqtt.topics import FilterTree, matches

RETAINED_BYTES_MAX = 64 << 20
"""Payload bytes of all retained messages, beside the count that the configuration allows."""

SESSIONS_PER_CLIENT_MAX = 10
"""Sessions kept for every client that may be connected; past that, those nearest their end are ended early."""

SaveSession = Callable[[SavedSession], None]

_log = structlog.get_logger("listener")


class Counters:
    """Written by the listener's thread alone, read by any."""

    __slots__ = ("acknowledged", "delivered", "dropped", "received", "refused")

    def __init__(self) -> None:
        self.received = self.acknowledged = self.delivered = self.dropped = self.refused = 0


class Exchange:
    """Messages in, messages out. `deliver` gets the wills; `save` is told of each change of a session that lasts."""

    def __init__(self, config: ListenerConfig, *, deliver: Deliver, save: SaveSession) -> None:
        self.counters = Counters()
        self.sessions: dict[str, Session] = {}
        self.clients = 0
        self._config = config
        self._deliver = deliver
        self._save_session = save
        self._subscribed: FilterTree[tuple[Session, Subscription]] = FilterTree()
        self._retained: dict[str, Message] = {}
        self._retained_bytes = 0
        self._retained_full = False

    @property
    def subscriptions(self) -> int:
        return len(self._subscribed)

    @property
    def retained(self) -> int:
        return len(self._retained)

    def restore(self, saved: Iterable[SavedSession], now: float) -> None:
        """Take up sessions of an earlier process; those that were connected get their full time from now on."""
        for one in saved:
            expiry_s = min(one.expiry_s, self._config.session_expiry_s_max)
            left = expiry_s if one.expires_at is None else min(one.expires_at - time.time(), expiry_s)
            if left <= 0:
                self._tell(_over(one))
                continue
            session = self._new(one.client_id, one.version, expiry_s)
            session.ends_at = now + left
            session.saved = one
            for subscription in one.subscriptions:
                self._add(session, subscription)
            if one.expires_at is None:
                self._save(session)

    def open(
        self, client_id: str, version: int, link: Link, *, clean_start: bool, expiry_s: int, now: float
    ) -> tuple[Session, bool]:
        """The session of a client that connects, and whether it was there before. An older connection is ended."""
        session = self.sessions.get(client_id)
        if session is not None and session.link is not None:
            session.link.taken_over()
            session = self.sessions.get(client_id)
        if session is not None and clean_start:
            self._end(session, now)
            session = None
        present = session is not None
        if session is None:
            session = self._new(client_id, version, expiry_s)
        session.version = version
        session.expiry_s = expiry_s
        session.ends_at = None
        session.will = None
        session.link = link
        self.clients += 1
        self._save(session)
        return session, present

    def leave(self, session: Session, will: Will | None, now: float) -> None:
        """The connection of `session` is gone; `will` is what is to be published for it."""
        session.detach()
        self.clients -= 1
        if will is not None and min(will.delay_s, session.expiry_s) > 0:
            session.will = will
            session.will_due = now + min(will.delay_s, session.expiry_s)
        elif will is not None:
            self._publish_will(session.client_id, will, now)
        if session.expiry_s == 0:
            self._end(session, now)
            return
        session.ends_at = now + session.expiry_s
        self._save(session)
        if len(self.sessions) > SESSIONS_PER_CLIENT_MAX * self._config.clients_max:
            away = [one for one in self.sessions.values() if one.ends_at is not None]
            self._end(min(away, key=lambda one: one.ends_at or 0.0), now)
            _log.warning("session_ended_early", reason="too many sessions")

    def expire(self, now: float) -> None:
        """Publish the wills that are due, end the sessions whose time is over."""
        for session in tuple(self.sessions.values()):
            if session.will is not None and now >= session.will_due:
                will, session.will = session.will, None
                self._publish_will(session.client_id, will, now)
            if session.ends_at is not None and now >= session.ends_at:
                self._end(session, now)

    def subscribe(self, session: Session, subscription: Subscription, now: float, *, retained: bool) -> None:
        """Add or replace a subscription; `retained`: let the retained messages that match it wait for the client."""
        self._add(session, subscription)
        self._save(session)
        if not retained:
            return
        identifiers = () if subscription.identifier is None else (subscription.identifier,)
        for message in self._retained_for(subscription.topic_filter, now):
            qos = min(message.qos, subscription.qos)
            self.counters.dropped += session.offer(Delivery(message, qos, True, identifiers))

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Whether there was such a subscription."""
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        self._subscribed.remove(topic_filter, session.client_id)
        self._save(session)
        return True

    def wanted(self, topic: str) -> bool:
        """Whether anybody is subscribed to `topic`: asked before a message is put together."""
        return bool(self._subscribed.match(topic))

    def publish(self, message: Message, origin: str | None) -> None:
        """Retain the message if it asks for that, and let it wait for each subscriber.

        origin: the client it came from, None for the appliance itself.
        """
        if message.retain:
            self._retain(message, origin)
        found = self._subscribed.match(message.topic)
        deliveries: dict[Session, Delivery] = {}
        for session, subscription in found:
            if subscription.no_local and session.client_id == origin:
                continue
            other = deliveries.get(session)
            identifiers = () if subscription.identifier is None else (subscription.identifier,)
            deliveries[session] = Delivery(
                message,
                max(min(message.qos, subscription.qos), 0 if other is None else other.qos),
                message.retain and (subscription.retain_as_published or (other is not None and other.retain)),
                identifiers if other is None else other.identifiers + identifiers,
            )
        for session, delivery in deliveries.items():
            self.counters.dropped += session.offer(delivery)
            if session.link is not None:
                session.link.pump()

    def _publish_will(self, client_id: str, will: Will, now: float) -> None:
        message = will.message
        if will.expiry_s is not None:
            message = replace(message, expires_at=now + will.expiry_s)
        _log.info("will_published", client=client_id, topic=message.topic)
        self._deliver(
            InboundMessage(
                client=client_id,
                topic=message.topic,
                payload=message.payload,
                qos=0,
                content_type=message.content_type,
                user_properties=message.user_properties,
            ),
            _nothing_to_acknowledge,
        )
        self.publish(message, client_id)

    def _retain(self, message: Message, origin: str | None) -> None:
        """The bounds are for clients: they may not crowd out what the appliance retains, which is little."""
        old = self._retained.pop(message.topic, None)
        if old is not None:
            self._retained_bytes -= len(old.payload)
        if not message.payload:
            return
        room = RETAINED_BYTES_MAX - self._retained_bytes
        full = len(self._retained) >= self._config.retained_max or len(message.payload) > room
        if full and origin is not None:
            self.counters.dropped += 1
            if not self._retained_full:  # one line each time it happens, not one a message
                _log.warning("retained_messages_full", topic=message.topic, retained=len(self._retained))
            self._retained_full = True
            return
        self._retained_full = False
        self._retained[message.topic] = message
        self._retained_bytes += len(message.payload)

    def _retained_for(self, topic_filter: str, now: float) -> list[Message]:
        if "+" in topic_filter or "#" in topic_filter:
            found = [message for topic, message in self._retained.items() if matches(topic_filter, topic)]
        else:
            found = [self._retained[topic_filter]] if topic_filter in self._retained else []
        return [message for message in found if message.expires_at is None or message.expires_at > now]

    def _new(self, client_id: str, version: int, expiry_s: int) -> Session:
        session = Session(client_id, version, expiry_s=expiry_s, waiting_max=self._config.queue_messages_max)
        self.sessions[client_id] = session
        return session

    def _add(self, session: Session, subscription: Subscription) -> None:
        session.subscriptions[subscription.topic_filter] = subscription
        self._subscribed.add(subscription.topic_filter, session.client_id, (session, subscription))

    def _end(self, session: Session, now: float) -> None:
        del self.sessions[session.client_id]
        for topic_filter in session.subscriptions:
            self._subscribed.remove(topic_filter, session.client_id)
        if session.saved is not None:
            self._tell(_over(session.saved))
        if session.will is not None:
            will, session.will = session.will, None
            self._publish_will(session.client_id, will, now)

    def _save(self, session: Session) -> None:
        """Sessions that end with their connection are not worth a write, unless a lasting one becomes such."""
        if session.expiry_s == 0:
            if session.saved is not None:
                self._tell(_over(session.saved))
                session.saved = None
            return
        left_s = None if session.ends_at is None else session.expiry_s
        saved = SavedSession(
            client_id=session.client_id,
            version=session.version,
            subscriptions=tuple(session.subscriptions.values()),
            expiry_s=session.expiry_s,
            expires_at=None if left_s is None else time.time() + left_s,
        )
        if saved != session.saved:
            session.saved = saved
            self._tell(saved)

    def _tell(self, saved: SavedSession) -> None:
        try:
            self._save_session(saved)
        except Exception as error:
            _log.error("session_not_saved", client=saved.client_id, reason=str(error))


def _over(saved: SavedSession) -> SavedSession:
    return replace(saved, subscriptions=(), expires_at=0.0)


def _nothing_to_acknowledge() -> None:
    pass
