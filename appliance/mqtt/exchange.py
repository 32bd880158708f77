"""Who is subscribed to what: sessions, retained messages and wills of the listener. No socket; runs in its thread.

A session begins with `open`, loses its connection with `leave`, and ends when its time is over (`expire`) or its client
asks for a clean start. All times named `now` are monotonic seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import structlog
from msgspec.structs import replace

from appliance.config import ListenerConfig
from appliance.mqtt.message import Deliver, InboundMessage
from appliance.mqtt.retained import Retained
from appliance.mqtt.sessions import Budget, Delivery, Link, Message, SavedSession, Session, Subscription, Will
from appliance.mqtt.shared import Groups
from appliance.mqtt.topics import FilterTree, shared_filter

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
        self._budget = Budget(config.queues_bytes_max)
        self._subscribed: FilterTree[tuple[Session, Subscription]] = FilterTree()
        self._shared = Groups()
        self._retained = Retained(config.retained_max, config.retained_bytes_max)
        self._retained_full = False

    @property
    def subscriptions(self) -> int:
        return len(self._subscribed) + len(self._shared)

    @property
    def retained(self) -> int:
        return len(self._retained)

    def restore(
        self, saved: Iterable[SavedSession], now: float, unreleased: Mapping[str, set[int]] | None = None
    ) -> None:
        """Take up sessions of an earlier process; those that were connected get their full time from now on.

        unreleased: by client, packet ids of QoS 2.
        """
        for one in saved:
            expiry_s = min(one.expiry_s, self._config.session_expiry_s_max)
            left = expiry_s if one.expires_at is None else min(one.expires_at - time.time(), expiry_s)
            if left <= 0:
                self._tell(_over(one))
                continue
            session = self._new(one.client_id, one.version, expiry_s)
            session.user = one.user
            session.unreleased = set((unreleased or {}).get(one.client_id, ()))
            session.ends_at = now + left
            session.saved = one
            for subscription in one.subscriptions:
                self._add(session, subscription)
            if one.expires_at is None:
                self._save(session)

    def open(
        self,
        client_id: str,
        version: int,
        link: Link,
        *,
        clean_start: bool,
        expiry_s: int,
        now: float,
        user: str | None = None,
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
        session.user = user
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
        self._pass_on(session, only_connected=True)
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
        """Publish the wills that are due, end the sessions whose time is over, let go of old retained messages."""
        self._retained.expire(now)
        for session in tuple(self.sessions.values()):
            if session.will is not None and now >= session.will_due:
                will, session.will = session.will, None
                self._publish_will(session.client_id, will, now)
            if session.ends_at is not None and now >= session.ends_at:
                self._end(session, now)

    def subscribe(self, session: Session, subscription: Subscription) -> None:
        """Add or replace a subscription; to be saved with `keep`."""
        self._add(session, subscription)

    def offer_retained(self, session: Session, subscription: Subscription, now: float) -> None:
        """Let the retained messages that match a subscription wait for its client."""
        identifiers = () if subscription.identifier is None else (subscription.identifier,)
        for message in self._retained.find(subscription.topic_filter, now):
            delivery = Delivery(message, min(message.qos, subscription.qos), True, identifiers)
            self.counters.dropped += not session.offer_retained(delivery, self._config.retained_max)

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Whether there was such a subscription; to be saved with `keep`."""
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        self._remove(session, topic_filter)
        return True

    def keep(self, session: Session) -> None:
        """The subscriptions of a session that lasts have changed."""
        self._save(session)

    def wanted(self, topic: str) -> bool:
        """Whether anybody is subscribed to `topic`: asked before a message is put together."""
        return bool(self._subscribed.match(topic) or self._shared.match(topic))

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
        for share in self._shared.match(message.topic):
            self._offer_shared(share, message)

    def _offer_shared(self, share: str, message: Message) -> None:
        """To the member of the group whose turn it is."""
        group = self._shared.get(share)
        member = None if group is None else group.next()
        if member is None:
            self.counters.dropped += 1
            return
        session, subscription = member
        delivery = Delivery(
            message,
            min(message.qos, subscription.qos),
            message.retain and subscription.retain_as_published,
            () if subscription.identifier is None else (subscription.identifier,),
            share,
        )
        self.counters.dropped += session.offer(delivery)
        if session.link is not None:
            session.link.pump()

    def _pass_on(self, session: Session, *, only_connected: bool) -> None:
        """A member is gone: what it was given and did not acknowledge is for others of its groups.

        only_connected: where nobody else is there, it waits for its member to come back.
        """
        shares = set()
        for share in session.subscriptions:
            group = self._shared.get(share)
            if group is not None and (group.connected or not only_connected):
                shares.add(share)
        if shares:
            for delivery in session.surrender(shares):
                assert delivery.share is not None
                self._offer_shared(delivery.share, delivery.message)

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
        if self._retained.put(message, bounded=origin is not None):
            self._retained_full = False
            return
        self.counters.dropped += 1
        if not self._retained_full:  # one line each time it happens, not one a message
            _log.warning("retained_messages_full", topic=message.topic, retained=len(self._retained))
        self._retained_full = True

    def _new(self, client_id: str, version: int, expiry_s: int) -> Session:
        session = Session(
            client_id,
            version,
            expiry_s=expiry_s,
            waiting_max=self._config.queue_messages_max,
            bytes_max=self._config.queue_bytes_max,
            budget=self._budget,
        )
        self.sessions[client_id] = session
        return session

    def _add(self, session: Session, subscription: Subscription) -> None:
        topic_filter = subscription.topic_filter
        session.subscriptions[topic_filter] = subscription
        if shared_filter(topic_filter) is None:
            self._subscribed.add(topic_filter, session.client_id, (session, subscription))
        else:
            self._shared.put(session, subscription)

    def _remove(self, session: Session, topic_filter: str) -> None:
        if shared_filter(topic_filter) is None:
            self._subscribed.remove(topic_filter, session.client_id)
        else:
            self._shared.drop(session, topic_filter)

    def _end(self, session: Session, now: float) -> None:
        del self.sessions[session.client_id]
        for topic_filter in session.subscriptions:
            self._remove(session, topic_filter)
        self._pass_on(session, only_connected=False)
        session.end()
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
            user=session.user,
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
