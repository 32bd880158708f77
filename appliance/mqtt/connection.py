"""One client's connection to the listener: its packets in, its packets out, its faults.

Rules it keeps:
- A PUBACK is written when the appliance acknowledges, never before; in that order, not in the order of arrival, as
  one slow message must not hold up the others.
- An acknowledgement at QoS 1 belongs to this connection and this message (`Ack`): when the client is back with the same
  packet id, an old one does nothing. At QoS 2 it belongs to the session (`ExactlyOnce`).
- Whatever a client does wrong ends its own connection with a reason, and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

import structlog
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    PubRecReasonCode,
    PubRelPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
)

from appliance.errors import Overloaded
from appliance.mqtt import admission, plain, tls, wire
from appliance.mqtt.access import Rules, Users
from appliance.mqtt.house import Ack, House
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.sessions import Message, Session, Subscription, Will
from appliance.mqtt.topics import shared_filter
from appliance.mqtt.wire import ProtocolError, Wire

CONNECT_BYTES_MAX = 256 << 10
STRANGERS_MAX = 64
"""Connections beside those of the clients: before their CONNECT, or on their way out."""
IN_FLIGHT_BYTES_MAX = 128 << 20
"""Payload bytes that may be unacknowledged, of all clients together: what a full disk can hold back in memory."""
WRITE_BYTES_HIGH = 1 << 20
"""Unread bytes of one client at which messages begin to wait in its session instead."""
TURN_PACKETS = 500
TURN_BYTES = 64 << 10
"""What one client may send before the others have their turn; a socket that is never empty would starve them."""
PLAIN_TOPICS_MAX = 1000
"""Topics of one client that are remembered as good."""
PLAIN_TOPIC_CHARS_MAX = 256
UNRELEASED_MAX = 10_000
"""Messages at QoS 2 that a session may have taken back to itself without releasing them."""
LINGER_S = 3.0
"""How long a client that was told to go may take to hang up."""

_PINGRESP = PingRespPacket().write()

_log = structlog.get_logger("listener")


class Connection(asyncio.Protocol):
    """Lives from accept to the end of the socket; has a session from CONNECT until it leaves or is told to go.

    admitted: the rate of connections was looked at before.
    """

    def __init__(self, house: House, *, admitted: bool = False) -> None:
        self.house = house
        self._admitted = admitted
        self._transport: asyncio.Transport
        self._wire: Wire | None = None
        self._session: Session | None = None
        self._resumed = False
        self._will: Will | None = None
        self._rules: Rules | None = None
        self._unacked: dict[int, Ack] = {}
        self._open: set[int] = set()
        self._too_fast = False
        self._certified: str | None = None
        self._named: str | None = None
        """The user whose password it knew."""
        self._topics: dict[bytes, str] = {}
        self._refused = False
        self._buffer = bytearray()
        self._wanted = 0
        self._bytes_max = min(CONNECT_BYTES_MAX, house.config.packet_bytes_max)
        self._client_bytes_max: int | None = None
        self._client_window = house.config.receive_max
        self._window_max = 65_535
        """Messages that may be on their way from the client; before MQTT 5 nobody counts them."""
        self._keep_alive_s = 0
        self._since = self._heard = house.now()
        self._read_paused = False
        self._window_full = False
        self._write_paused: float | None = None
        self._closing: float | None = None

    @property
    def client_id(self) -> str | None:
        return None if self._session is None else self._session.client_id

    # -- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        now = self.house.now()
        peer = self._transport.get_extra_info("peername")
        self._too_fast = not self._admitted and not self.house.rates.admit(str(peer[0]) if peer else "", now)
        if len(self.house.connections) >= self.house.config.clients_max + STRANGERS_MAX:
            self.house.turn_away("too many connections")
            self._transport.abort()
            return
        self.house.connections.add(self)
        self._certified = tls.common_name(self._transport.get_extra_info("peercert"))
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._heard = self.house.now()
        if self._closing is not None:
            return
        if self._buffer or self._read_paused:
            self._buffer += data
            if self._read_paused or len(self._buffer) < self._wanted:
                self._take_turns(len(data))
                return
            data, self._buffer = self._buffer, bytearray()  # type: ignore[assignment]
        self._guarded(lambda: self._take_all(data))
        self._take_turns(len(data))

    def pause_writing(self) -> None:
        self._write_paused = self.house.now()

    def resume_writing(self) -> None:
        self._write_paused = None
        self.pump()

    def connection_lost(self, error: Exception | None) -> None:
        self.house.connections.discard(self)
        self.house.held.discard(self)
        self._guarded(lambda: self._leave(self._will))
        self._closing = self._closing or self.house.now()

    def check(self, now: float) -> None:
        """Once a second: end what has become silent, stuck or slow to go."""
        if self._closing is not None:
            if now - self._closing > LINGER_S:
                self._transport.abort()
        elif self._session is None:
            if now - self._since > self.house.connect_s_max and not self._window_full:
                self.disconnect(DisconnectReasonCode.PROTOCOL_ERROR, "connect_missing")
        elif self._write_paused is not None and now - self._write_paused > self.house.stalled_s_max:
            self.disconnect(DisconnectReasonCode.QUOTA_EXCEEDED, "subscriber_stalled")
        elif self._keep_alive_s and not self._window_full and now - self._heard > 1.5 * self._keep_alive_s:
            self.disconnect(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT, "keep_alive_timeout")

    # -- packets in

    def _take_all(self, data: bytes | bytearray) -> None:
        """Handle the packets in `data`, at most a turn of them, and keep the rest."""
        data = bytes(data)
        view = memoryview(data)
        at, end = 0, len(view)
        left = TURN_PACKETS
        self._wanted = 0
        while at < end and left and not self._window_full and self._closing is None:
            if self._wire is None and view[at] != wire.CONNECT << 4:
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "connect_missing")
            if view[at] == plain.PLAIN and self._topics:
                taken, at = self._take_plain(data, at, left)
                left -= taken
                if taken:
                    continue
            size = wire.frame_size(view, at, end)
            if size > self._bytes_max:
                raise ProtocolError(DisconnectReasonCode.PACKET_TOO_LARGE, "packet_too_large")
            if size == 0 or at + size > end:
                self._wanted = size
                break
            frame = view[at : at + size]
            at += size
            left -= 1
            if self._wire is None:
                self._on_first(frame)
                continue
            packet = self._wire.read(frame)
            if type(packet) is PublishPacket:
                self._on_publish(packet)
            else:
                self._on_packet(packet)
        if at < end and self._closing is None:
            self._buffer = bytearray(view[at:])
        if left == 0 and self._closing is None:
            self._pause()
            self.house.loop.call_soon(self._go_on)

    def _take_plain(self, data: bytes, at: int, most: int) -> tuple[int, int]:
        """Deliver the plain messages that come next, together; returns how many, and the position after them."""
        house, session, unacked = self.house, self._session, self._unacked
        if house.deliver_plain is None or session is None or self._wire is None or self._bytes_max < plain.BYTES_MAX:
            return 0, at
        room = min(most, house.config.receive_max - len(unacked) - len(self._open))
        taken = unacked.keys() | self._open if self._open else unacked
        found, at = plain.take(data, at, self._topics, taken, self._wire.version, room)
        if not found:
            return 0, at
        client, resumed = session.client_id, self._resumed
        messages: list[tuple[InboundMessage, Acknowledge]] = []
        size = 0
        for packet_id, topic, payload in found:
            ack = unacked[packet_id] = Ack(self, packet_id, len(payload))
            size += len(payload)
            message = InboundMessage(
                client=client, topic=topic, payload=payload, qos=1, packet_id=packet_id, session_resumed=resumed
            )
            messages.append((message, ack))
        house.exchange.counters.received += len(found)
        house.deliver_plain(messages)
        house.in_flight_bytes += size
        if house.exchange.subscriptions:
            for _, topic, payload in found:
                if house.exchange.wanted(topic):
                    house.exchange.publish(Message(topic=topic, payload=payload, qos=1), client)
        self._hold_when_full()
        return len(found), at

    def _take_turns(self, received: int) -> None:
        if received >= TURN_BYTES and not self._read_paused and self._closing is None:
            self._pause()
            self.house.loop.call_soon(self._go_on)

    def _pause(self) -> None:
        self._read_paused = True
        self._transport.pause_reading()

    def _go_on(self) -> None:
        """Take what is left in the buffer, then read on, unless there is a new reason to pause."""
        if not self._read_paused or self._window_full or self._closing is not None:
            return
        self._read_paused = False
        if self._buffer and len(self._buffer) >= self._wanted:
            whole, self._buffer = self._buffer, bytearray()
            self._guarded(lambda: self._take_all(whole))
        if not self._read_paused and not self._transport.is_closing():
            self._heard = self.house.now()
            self._transport.resume_reading()

    def _on_first(self, frame: memoryview) -> None:
        version = wire.protocol_version(frame)
        if version == 0:
            self.house.exchange.counters.refused += 1
            self._write(wire.UNACCEPTABLE_VERSION)
            self.disconnect(DisconnectReasonCode.PROTOCOL_ERROR, "protocol_version_not_supported")
            return
        spoken: Wire = wire.Wire5() if version == 5 else wire.Wire4()
        packet = spoken.read(frame)
        assert isinstance(packet, ConnectPacket)
        self._wire = spoken
        self._bytes_max = self.house.config.packet_bytes_max
        if spoken.version == 5:
            self._client_bytes_max = packet.max_packet_size
        if self._too_fast:
            self._refuse(ConnAckReasonCode.CONNECTION_RATE_EXCEEDED)
            return
        self._log_in(packet)

    def _log_in(self, packet: ConnectPacket) -> None:
        """A password or a certificate says who it is, where that is asked for; nothing is read until it is known."""
        users, name = self.house.users, packet.username
        if users is None or (name is None and self._certified is not None):
            self._on_connect(packet, self._certified)
        elif name is None:
            self._refuse(ConnAckReasonCode.NOT_AUTHORIZED)
        elif users.proven(name, packet.password or b""):
            self._named = name
            self._on_connect(packet, name)
        else:
            self._window_full = True
            self._pause()
            self.house.verify(
                users,
                name,
                packet.password or b"",
                lambda right: self._guarded(lambda: self._known(packet, users, name, right)),
            )

    def _known(self, packet: ConnectPacket, users: Users, name: str, right: bool) -> None:
        """The password was checked."""
        self._window_full = False
        if self._closing is not None or self._transport.is_closing():
            return
        if self.house.users is not users:
            # Other users came meanwhile: it is for them to say.
            self._log_in(packet)
        elif right:
            self._named = name
            self._on_connect(packet, name)
        else:
            self._refuse(ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD)
        self._go_on()

    def _refuse(self, reason: ConnAckReasonCode) -> None:
        assert self._wire is not None
        self.house.exchange.counters.refused += 1
        answer = self._wire.connack(ConnAckPacket(reason_code=reason))
        quiet = reason == ConnAckReasonCode.CONNECTION_RATE_EXCEEDED and not self.house.turned_away.due(
            self.house.now()
        )
        self._hang_up("client_refused", reason.name.lower(), answer, quiet=quiet)

    def _on_connect(self, packet: ConnectPacket, user: str | None) -> None:
        assert self._wire is not None
        config, version = self.house.config, self._wire.version
        assigned = None if packet.client_id else f"auto-{secrets.token_hex(8)}"
        client = assigned or packet.client_id
        rules = self.house.rules(client, user)
        reason = admission.refusal(self.house, packet, version, user, rules)
        if reason is not None:
            self._refuse(reason)
            return
        expiry_s = min(packet.session_expiry_interval, config.session_expiry_s_max)
        keep_alive_s = packet.keep_alive
        if version == 5:
            keep_alive_s = min(keep_alive_s or config.keep_alive_s_max, config.keep_alive_s_max)
            self._client_window = min(packet.receive_max, config.receive_max)
            self._window_max = config.receive_max
        self._session, self._resumed = self.house.exchange.open(
            client,
            version,
            self,
            clean_start=packet.clean_start,
            expiry_s=expiry_s,
            now=self.house.now(),
            user=user,
        )
        self._rules = rules
        self._will = None if packet.will is None else wire.will_of(packet.will)
        self._keep_alive_s = keep_alive_s
        answer = admission.welcome(
            config, packet, resumed=self._resumed, assigned=assigned, expiry_s=expiry_s, keep_alive_s=keep_alive_s
        )
        frame = self._wire.connack(answer)
        if self._client_bytes_max is not None and len(frame) > self._client_bytes_max:
            self._hang_up("client_refused", "answer_too_large")
        else:
            self._write(frame)
            _log.info("client_connected", client=client, user=user, version=version, resumed=self._resumed)
            self.pump()

    def _on_publish(self, packet: PublishPacket) -> None:
        house = self.house
        session = self._session
        assert session is not None
        assert self._wire is not None
        house.exchange.counters.received += 1
        packet_id = packet.packet_id
        if packet_id is not None:
            two = packet.qos == 2
            if two and self._repeats(packet_id):
                return
            if packet_id in self._unacked or packet_id in self._open:
                if packet.duplicate and not two and packet_id in self._unacked:
                    return
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "packet_id_in_flight")
            if len(self._unacked) + len(self._open) >= self._window_max:
                raise ProtocolError(DisconnectReasonCode.RECEIVE_MAX_EXCEEDED, "receive_max_exceeded")
        topic = packet.topic
        if not admission.may_publish(house, self._rules, topic):
            self._refuse_publish(packet)
            return
        if packet_id is None:
            acknowledge: Acknowledge = _nothing_to_acknowledge
        elif two:
            acknowledge = self._begin(session, packet_id, len(packet.payload))
        else:
            acknowledge = self._unacked[packet_id] = Ack(self, packet_id, len(packet.payload))
        properties = packet.user_properties
        qos = 0 if packet_id is None else 2 if two else 1
        # RETAIN is for the subscribers: what comes from a publisher is new, never a repeat of something retained.
        try:
            house.deliver(
                InboundMessage(
                    client=session.client_id,
                    topic=topic,
                    payload=packet.payload,
                    qos=qos,
                    duplicate=packet.duplicate,
                    packet_id=packet_id,
                    session_resumed=self._resumed,
                    content_type=packet.content_type,
                    response_topic=packet.response_topic,
                    correlation_data=packet.correlation_data,
                    user_properties=tuple(properties) if properties else (),
                ),
                acknowledge,
            )
        except BaseException:
            if qos == 2:
                session.receiving.discard(packet_id or 0)
            raise
        if packet_id is not None:
            # Counted once it is taken; an acknowledgement is counted off in a later turn of this loop.
            house.in_flight_bytes += len(packet.payload)
        if packet.retain or house.exchange.wanted(topic):
            house.exchange.publish(wire.message_of(packet, house.now()), session.client_id)
        if packet_id is not None and len(topic) <= PLAIN_TOPIC_CHARS_MAX and len(self._topics) < PLAIN_TOPICS_MAX:
            self._topics[topic.encode()] = topic
        self._hold_when_full()

    def _hold_when_full(self) -> None:
        # MQTT 3.1.1 knows no window, and the window of MQTT 5 counts messages, not bytes.
        house = self.house
        three = self._wire is not None and self._wire.version == 4
        if (three and self._uncommitted() >= house.config.receive_max) or house.in_flight_bytes > IN_FLIGHT_BYTES_MAX:
            self._window_full = True
            house.held.add(self)
            if not self._read_paused:
                self._pause()

    def open_window(self) -> None:
        """Read on, if there is room again."""
        room = self.house.in_flight_bytes <= IN_FLIGHT_BYTES_MAX // 2
        if room and self._uncommitted() <= self.house.config.receive_max // 2:
            self.house.held.discard(self)
            self._window_full = False
            self._go_on()

    def _uncommitted(self) -> int:
        """Messages of this client that the appliance is not done with."""
        return len(self._unacked) + (0 if self._session is None else len(self._session.receiving))

    def _repeats(self, packet_id: int) -> bool:
        """Whether a message at QoS 2 came before and was not released since: it is answered, not delivered again."""
        assert self._wire is not None
        assert self._session is not None
        unreleased = packet_id in self._session.unreleased
        if not unreleased and packet_id not in self._session.receiving:
            return False
        self._open.add(packet_id)
        if unreleased:
            self._write(self._wire.pubrec(packet_id, PubRecReasonCode.SUCCESS))
        return True

    def _begin(self, session: Session, packet_id: int, size: int) -> Acknowledge:
        """A new message at QoS 2."""
        if len(session.receiving) + len(session.unreleased) >= UNRELEASED_MAX:
            raise ProtocolError(DisconnectReasonCode.QUOTA_EXCEEDED, "unreleased_too_many")
        self._open.add(packet_id)
        return self.house.exactly_once.begin(session, packet_id, lambda: self.house.settle_bytes(size))

    def received(self, packet_id: int) -> None:
        """PUBREC, to a client that has sent the message on this connection."""
        if packet_id in self._open and self._wire is not None:
            self.house.exchange.counters.acknowledged += 1
            frame = self._wire.pubrec(packet_id, PubRecReasonCode.SUCCESS)
            self._guarded(lambda: self._write(frame))
        if self in self.house.held:
            self.open_window()

    def released(self, packet_id: int, found: bool) -> None:
        """PUBCOMP."""
        self._open.discard(packet_id)
        if self._wire is not None:
            frame = self._wire.pubcomp(packet_id, found=found)
            self._guarded(lambda: self._write(frame))

    def _refuse_publish(self, packet: PublishPacket) -> None:
        assert self._wire is not None
        self.house.exchange.counters.refused += 1
        if not self._refused:  # one line a connection, not one a message
            self._refused = True
            _log.warning("publish_refused", client=self.client_id, topic=packet.topic)
        if packet.packet_id is None:
            return
        if packet.qos == 2:
            self._write(self._wire.pubrec(packet.packet_id, PubRecReasonCode.NOT_AUTHORIZED))
        else:
            self._write(self._wire.puback(packet.packet_id, PubAckReasonCode.NOT_AUTHORIZED))

    def _on_packet(self, packet: Packet) -> None:
        assert self._wire is not None
        assert self._session is not None
        match packet:
            case PubAckPacket():
                if self._session.acknowledge(packet.packet_id):
                    self.pump()
            case PingReqPacket():
                self._write(_PINGRESP)
            case PubRelPacket():
                if packet.packet_id == 0 or packet.packet_id in self._session.receiving:
                    raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "release_too_early")
                self.house.exactly_once.release(self._session, packet.packet_id)
            case SubscribePacket():
                self._on_subscribe(packet, self._session)
            case UnsubscribePacket():
                gone = [self.house.exchange.unsubscribe(self._session, pattern) for pattern in packet.patterns]
                self.house.exchange.keep(self._session)
                no, yes = UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED, UnsubAckReasonCode.SUCCESS
                self._answer(self._wire.unsuback(packet.packet_id, [yes if one else no for one in gone]))
            case DisconnectPacket():
                self._on_disconnect(packet)
            case _:
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "packet_unexpected")

    def _on_subscribe(self, packet: SubscribePacket, session: Session) -> None:
        assert self._wire is not None
        exchange = self.house.exchange
        reasons: list[SubAckReasonCode] = []
        due: deque[Subscription] = deque()
        for wanted in packet.topic_filters:
            if wanted.no_local and shared_filter(wanted.pattern) is not None:
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "no_local_of_shared")
            known = wanted.pattern in session.subscriptions
            granted = admission.subscription(self.house.config, session, self._rules, wanted, packet.subscription_id)
            if not isinstance(granted, Subscription):
                reasons.append(granted)
                continue
            exchange.subscribe(session, granted)
            if admission.wants_retained(wanted, known=known):
                due.append(granted)
            reasons.append(SubAckReasonCode(granted.qos))
        exchange.keep(session)
        self._answer(self._wire.suback(packet.packet_id, reasons))
        self._send_retained(session, due)

    def _send_retained(self, session: Session, due: deque[Subscription]) -> None:
        """One filter a turn: the search looks at every retained message, and the other clients wait meanwhile."""
        if not due or self._session is not session:
            return
        one = due.popleft()
        if session.subscriptions.get(one.topic_filter) is one:
            self.house.exchange.offer_retained(session, one, self.house.now())
            self.pump()
        self.house.loop.call_soon(self._send_retained, session, due)

    def _on_disconnect(self, packet: DisconnectPacket) -> None:
        assert self._session is not None
        expiry_s = packet.session_expiry_interval
        if expiry_s is not None:
            if expiry_s and not self._session.expiry_s:
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "session_expiry_invalid")
            self._session.expiry_s = min(expiry_s, self.house.config.session_expiry_s_max)
        _log.info("client_disconnected", client=self.client_id)
        normal = packet.reason_code == DisconnectReasonCode.NORMAL_DISCONNECTION
        self._leave(None if normal else self._will)
        self._closing = self.house.now()
        self._transport.close()

    # -- packets out

    def pump(self) -> None:
        """Send what waits, as far as the client's window and the socket allow. Never raises: it runs for others."""
        self._guarded(self._pump)

    def _pump(self) -> None:
        session, spoken, exchange = self._session, self._wire, self.house.exchange
        if session is None or spoken is None:
            return
        while self._write_paused is None and self._closing is None:
            taken = session.take(self._client_window)
            if taken is None:
                return
            packet_id, delivery, duplicate = taken
            now = self.house.now()
            expires_at = delivery.message.expires_at
            late = expires_at is not None and expires_at <= now
            frame = b"" if late else spoken.publish(delivery, packet_id, duplicate=duplicate, now=now)
            if late or (self._client_bytes_max is not None and len(frame) > self._client_bytes_max):
                exchange.counters.dropped += 1
                if packet_id is not None:
                    session.acknowledge(packet_id)
                continue
            exchange.counters.delivered += 1
            self._transport.write(frame)

    def write_acks(self, acks: list[Ack]) -> None:
        """Write the PUBACKs of those messages that still wait for one, in one piece."""
        frames = []
        for ack in acks:
            if self._unacked.get(ack.packet_id) is ack:
                del self._unacked[ack.packet_id]
                frames.append(PubAckPacket(ack.packet_id).write())
        if not frames:
            return
        self.house.exchange.counters.acknowledged += len(frames)
        self._guarded(lambda: self._write(b"".join(frames)))

    def _answer(self, frame: bytes) -> None:
        """An answer as long as what was asked: perhaps longer than the client takes."""
        if self._client_bytes_max is not None and len(frame) > self._client_bytes_max:
            raise ProtocolError(DisconnectReasonCode.PACKET_TOO_LARGE, "answer_too_large")
        self._write(frame)

    def _write(self, frame: bytes) -> None:
        """Answers are not held back, but a client that reads none of them may not fill the memory."""
        self._transport.write(frame)
        if self._write_paused is not None:
            room = WRITE_BYTES_HIGH + 2 * self.house.config.packet_bytes_max
            if self._transport.get_write_buffer_size() > room:
                self.disconnect(DisconnectReasonCode.QUOTA_EXCEEDED, "client_reads_nothing")

    # -- the end

    def recheck(self, before: Users, after: Users) -> None:
        """End it if its password is not good any more."""
        if self._named is not None and not after.agrees(before, self._named):
            self.disconnect(DisconnectReasonCode.NOT_AUTHORIZED, "user_withdrawn")

    def taken_over(self) -> None:
        self.disconnect(DisconnectReasonCode.SESSION_TAKEN_OVER, "session_taken_over")

    def disconnect(self, reason: DisconnectReasonCode, event: str) -> None:
        """End the connection from this side: the will is published, a client of MQTT 5 is told the reason."""
        if self._closing is not None:
            return
        # Before it was let in a client may be told nothing but why it is not (MQTT 5, section 3.14).
        last_words = b"" if self._wire is None or self._session is None else self._wire.disconnect(reason)
        self._hang_up("client_disconnected", event, last_words)

    def abort(self) -> None:
        self._transport.abort()

    def _hang_up(self, event: str, reason: str, last_words: bytes = b"", *, quiet: bool = False) -> None:
        if not quiet:
            _log.warning(event, client=self.client_id, reason=reason)
        if self._client_bytes_max is not None and len(last_words) > self._client_bytes_max:
            last_words = b""
        self._closing = self.house.now()
        self._buffer = bytearray()
        try:
            if self._write_paused is not None or self._transport.is_closing():
                self._transport.abort()
            else:
                # Closing at once could lose the last words: unread input turns a close into a reset.
                self._transport.write(last_words)
                if self._read_paused:
                    self._transport.resume_reading()
                if self._transport.can_write_eof():
                    self._transport.write_eof()
                else:
                    # TLS has an end of its own, and waits for the client's.
                    self._transport.close()
        except Exception as error:
            _log.warning("goodbye_failed", client=self.client_id, reason=str(error))
            self._transport.abort()
        finally:
            self._leave(self._will)

    def _leave(self, will: Will | None) -> None:
        """Give the session back, once."""
        session, self._session, self._will = self._session, None, None
        self._unacked = {}
        self._open = set()
        if session is not None:
            self.house.exchange.leave(session, will, self.house.now())

    def _guarded(self, act: Callable[[], None]) -> None:
        """A fault of one connection ends that one."""
        try:
            act()
        except ProtocolError as fault:
            self.disconnect(fault.reason, fault.event)
        except Overloaded:
            self.disconnect(DisconnectReasonCode.SERVER_BUSY, "appliance_overloaded")
        except Exception:
            _log.exception("connection_failed", client=self.client_id)
            self.disconnect(DisconnectReasonCode.UNSPECIFIED_ERROR, "internal_error")


def _nothing_to_acknowledge() -> None:
    pass
