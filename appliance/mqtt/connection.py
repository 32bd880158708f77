"""One client's connection to the listener: its packets in, its packets out, its faults.

Rules it keeps:
- A PUBACK is written when the appliance acknowledges, never before; in that order, not in the order of arrival, as
  one slow message must not hold up the others.
- An acknowledgement belongs to this connection and this message (`Ack`): when the client is back with the same packet
  id, an old one does nothing.
- Whatever a client does wrong ends its own connection with a reason, and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
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
    QoS,
    RetainHandling,
    SubAckReasonCode,
    SubscribePacket,
    TopicFilter,
    UnsubAckReasonCode,
    UnsubscribePacket,
)

from appliance.config import ListenerConfig, valid_filter
from appliance.errors import Overloaded
from appliance.mqtt import wire
from appliance.mqtt.exchange import Exchange
from appliance.mqtt.message import Deliver, InboundMessage
from appliance.mqtt.sessions import Session, Subscription, Will
from appliance.mqtt.topics import LEVELS_MAX
from appliance.mqtt.wire import ProtocolError, Wire

CONNECT_BYTES_MAX = 256 << 10
CLIENT_ID_CHARS_MAX = 256
SUBSCRIPTIONS_MAX = 1000
"""Of one session."""
IN_FLIGHT_BYTES_MAX = 128 << 20
"""Payload bytes that may be unacknowledged, of all clients together: what a full disk can hold back in memory."""
WRITE_BYTES_HIGH = 1 << 20
"""Unread bytes of one client at which messages begin to wait in its session instead."""
TURN_PACKETS = 500
TURN_BYTES = 64 << 10
"""What one client may send before the others have their turn; a socket that is never empty would starve them."""
LINGER_S = 3.0
"""How long a client that was told to go may take to hang up."""

_PINGRESP = PingRespPacket().write()

_log = structlog.get_logger("listener")


class Ack:
    """The acknowledgement of one message on one connection; callable from any thread.

    size: bytes of its payload, 0 once they are counted off.
    """

    __slots__ = ("_connection", "packet_id", "size")

    def __init__(self, connection: Connection, packet_id: int, size: int) -> None:
        self._connection = connection
        self.packet_id = packet_id
        self.size = size

    def __call__(self) -> None:
        self._connection.house.post_ack(self)

    @property
    def connection(self) -> Connection:
        return self._connection


class House:
    """What all connections of a listener share."""

    def __init__(
        self,
        config: ListenerConfig,
        *,
        exchange: Exchange,
        deliver: Deliver,
        reserved: Callable[[str], bool],
        post_ack: Callable[[Ack], None],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        connect_s_max: float,
        stalled_s_max: float,
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.deliver = deliver
        self.reserved = reserved
        self.post_ack = post_ack
        self.loop = loop
        self.now = now
        self.connect_s_max = connect_s_max
        self.stalled_s_max = stalled_s_max
        self.connections: set[Connection] = set()
        self.held: set[Connection] = set()
        """Those whose socket is not read, since too much of what they sent is not acknowledged yet."""
        self.in_flight_bytes = 0
        """Payloads delivered and not yet acknowledged, of clients that have left as well."""

    def settle(self, acks: list[Ack]) -> None:
        """The appliance is done with these messages: count them off, and read on where there is room again."""
        for ack in acks:
            self.in_flight_bytes -= ack.size
            ack.size = 0
        for connection in tuple(self.held):
            connection.open_window()


class Connection(asyncio.Protocol):
    """Lives from accept to the end of the socket; has a session from CONNECT until it leaves or is told to go."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._transport: asyncio.Transport
        self._wire: Wire | None = None
        self._session: Session | None = None
        self._resumed = False
        self._will: Will | None = None
        self._unacked: dict[int, Ack] = {}
        self._refused = False
        self._buffer = bytearray()
        self._wanted = 0
        self._bytes_max = min(CONNECT_BYTES_MAX, house.config.packet_bytes_max)
        self._client_bytes_max: int | None = None
        self._client_window = house.config.receive_max
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
        if len(self.house.connections) >= self.house.config.clients_max + 64:
            self.house.exchange.counters.refused += 1
            _log.warning("connection_refused", reason="too many connections")
            self._transport.abort()
            return
        self.house.connections.add(self)
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
            if now - self._since > self.house.connect_s_max:
                self.disconnect(DisconnectReasonCode.PROTOCOL_ERROR, "connect_missing")
        elif self._write_paused is not None and now - self._write_paused > self.house.stalled_s_max:
            self.disconnect(DisconnectReasonCode.QUOTA_EXCEEDED, "subscriber_stalled")
        elif self._keep_alive_s and not self._window_full and now - self._heard > 1.5 * self._keep_alive_s:
            self.disconnect(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT, "keep_alive_timeout")

    # -- packets in

    def _take_all(self, data: bytes | bytearray) -> None:
        """Handle the packets in `data`, at most a turn of them, and keep the rest."""
        view = memoryview(data)
        at, end = 0, len(view)
        left = TURN_PACKETS
        self._wanted = 0
        while at < end and left and not self._window_full and self._closing is None:
            if self._wire is None and view[at] != wire.CONNECT << 4:
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "connect_missing")
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
        refusal = self._why_not(packet)
        if refusal is not None:
            self._refuse(refusal)
            return
        self._on_connect(packet)

    def _why_not(self, packet: ConnectPacket) -> ConnAckReasonCode | None:
        will = packet.will
        three = self._wire is not None and self._wire.version == 4
        if packet.authentication_method is not None:
            return ConnAckReasonCode.BAD_AUTHENTICATION_METHOD
        if len(packet.client_id) > CLIENT_ID_CHARS_MAX or (three and not packet.client_id and not packet.clean_start):
            return ConnAckReasonCode.CLIENT_ID_NOT_VALID
        if will is not None and will.qos == 2 and not three:
            return ConnAckReasonCode.QUALITY_NOT_SUPPORTED
        if will is not None and self._protected(will.topic):
            return ConnAckReasonCode.NOT_AUTHORIZED
        known = self.house.exchange.sessions.get(packet.client_id)
        taking_over = known is not None and known.link is not None
        if not taking_over and self.house.exchange.clients >= self.house.config.clients_max:
            return ConnAckReasonCode.SERVER_BUSY
        return None

    def _refuse(self, reason: ConnAckReasonCode) -> None:
        assert self._wire is not None
        self.house.exchange.counters.refused += 1
        self._write(self._wire.connack(ConnAckPacket(reason_code=reason)))
        self._hang_up("client_refused", reason.name.lower())

    def _on_connect(self, packet: ConnectPacket) -> None:
        assert self._wire is not None
        config = self.house.config
        assigned = None if packet.client_id else f"auto-{secrets.token_hex(8)}"
        expiry_s = min(packet.session_expiry_interval, config.session_expiry_s_max)
        keep_alive_s = packet.keep_alive
        if self._wire.version == 5:
            keep_alive_s = min(keep_alive_s or config.keep_alive_s_max, config.keep_alive_s_max)
            self._client_window = min(packet.receive_max, config.receive_max)
            self._client_bytes_max = packet.max_packet_size
        self._session, self._resumed = self.house.exchange.open(
            assigned or packet.client_id,
            self._wire.version,
            self,
            clean_start=packet.clean_start,
            expiry_s=expiry_s,
            now=self.house.now(),
        )
        self._will = None if packet.will is None else wire.will_of(packet.will)
        self._keep_alive_s = keep_alive_s
        self._write(
            self._wire.connack(
                ConnAckPacket(
                    session_present=self._resumed,
                    session_expiry_interval=None if expiry_s == packet.session_expiry_interval else expiry_s,
                    assigned_client_id=assigned,
                    server_keep_alive=None if keep_alive_s == packet.keep_alive else keep_alive_s,
                    receive_max=config.receive_max,
                    max_qos=QoS.AT_LEAST_ONCE,
                    max_packet_size=config.packet_bytes_max,
                    shared_subscription_available=False,
                )
            )
        )
        _log.info("client_connected", client=self._session.client_id, version=self._wire.version, resumed=self._resumed)
        self.pump()

    def _on_publish(self, packet: PublishPacket) -> None:
        house = self.house
        session = self._session
        assert session is not None
        assert self._wire is not None
        house.exchange.counters.received += 1
        packet_id = packet.packet_id
        if packet_id is not None:
            if packet.qos == 2:
                raise ProtocolError(DisconnectReasonCode.QOS_NOT_SUPPORTED, "qos_not_supported")
            if packet_id in self._unacked:
                if packet.duplicate:
                    return
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "packet_id_in_flight")
            if len(self._unacked) >= house.config.receive_max:
                raise ProtocolError(DisconnectReasonCode.RECEIVE_MAX_EXCEEDED, "receive_max_exceeded")
        topic = packet.topic
        if self._protected(topic):
            self._refuse_publish(topic, packet_id)
            return
        if packet_id is None:
            acknowledge: Callable[[], None] = _nothing_to_acknowledge
        else:
            acknowledge = self._unacked[packet_id] = Ack(self, packet_id, len(packet.payload))
        properties = packet.user_properties
        # RETAIN is for the subscribers: what comes from a publisher is new, never a repeat of something retained.
        house.deliver(
            InboundMessage(
                client=session.client_id,
                topic=topic,
                payload=packet.payload,
                qos=0 if packet_id is None else 1,
                duplicate=packet.duplicate,
                packet_id=packet_id,
                session_resumed=self._resumed,
                content_type=packet.content_type,
                user_properties=tuple(properties) if properties else (),
            ),
            acknowledge,
        )
        if packet_id is not None:
            # Counted once it is taken; an acknowledgement is counted off in a later turn of this loop.
            house.in_flight_bytes += len(packet.payload)
        if packet.retain or house.exchange.wanted(topic):
            house.exchange.publish(wire.message_of(packet, house.now()), session.client_id)
        # MQTT 3.1.1 knows no window, and the window of MQTT 5 counts messages, not bytes.
        three = self._wire.version == 4
        if (three and len(self._unacked) >= house.config.receive_max) or house.in_flight_bytes > IN_FLIGHT_BYTES_MAX:
            self._window_full = True
            house.held.add(self)
            if not self._read_paused:
                self._pause()

    def open_window(self) -> None:
        """Read on, if there is room again."""
        room = self.house.in_flight_bytes <= IN_FLIGHT_BYTES_MAX // 2
        if room and len(self._unacked) <= self.house.config.receive_max // 2:
            self.house.held.discard(self)
            self._window_full = False
            self._go_on()

    def _protected(self, topic: str) -> bool:
        return topic[0] == "$" or self.house.reserved(topic)

    def _refuse_publish(self, topic: str, packet_id: int | None) -> None:
        assert self._wire is not None
        self.house.exchange.counters.refused += 1
        if not self._refused:  # one line a connection, not one a message
            self._refused = True
            _log.warning("publish_refused", client=self.client_id, topic=topic)
        if packet_id is not None:
            self._write(self._wire.puback(packet_id, PubAckReasonCode.NOT_AUTHORIZED))

    def _on_packet(self, packet: Packet) -> None:
        assert self._wire is not None
        assert self._session is not None
        match packet:
            case PubAckPacket():
                if self._session.acknowledge(packet.packet_id):
                    self.pump()
            case PingReqPacket():
                self._write(_PINGRESP)
            case SubscribePacket():
                reasons = [self._subscribe(wanted, packet.subscription_id) for wanted in packet.topic_filters]
                self._write(self._wire.suback(packet.packet_id, reasons))
                self.pump()
            case UnsubscribePacket():
                gone = [self.house.exchange.unsubscribe(self._session, pattern) for pattern in packet.patterns]
                no, yes = UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED, UnsubAckReasonCode.SUCCESS
                self._write(self._wire.unsuback(packet.packet_id, [yes if one else no for one in gone]))
            case DisconnectPacket():
                self._on_disconnect(packet)
            case _:
                raise ProtocolError(DisconnectReasonCode.PROTOCOL_ERROR, "packet_unexpected")

    def _subscribe(self, wanted: TopicFilter, identifier: int | None) -> SubAckReasonCode:
        session = self._session
        assert session is not None
        topic_filter = wanted.pattern
        if not valid_filter(topic_filter):
            return SubAckReasonCode.TOPIC_FILTER_INVALID
        if topic_filter.startswith("$share/"):
            return SubAckReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        known = topic_filter in session.subscriptions
        if topic_filter.count("/") >= LEVELS_MAX or (not known and len(session.subscriptions) >= SUBSCRIPTIONS_MAX):
            return SubAckReasonCode.QUOTA_EXCEEDED
        handling = wanted.retain_handling
        qos = min(int(wanted.max_qos), 1)
        self.house.exchange.subscribe(
            session,
            Subscription(
                topic_filter=topic_filter,
                qos=qos,
                no_local=wanted.no_local,
                retain_as_published=wanted.retain_as_published,
                identifier=identifier,
            ),
            self.house.now(),
            retained=handling == RetainHandling.SEND_ALWAYS
            or (handling == RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS and not known),
        )
        return SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE if qos else SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE

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

    def _write(self, frame: bytes) -> None:
        """Answers are not held back, but a client that reads none of them may not fill the memory."""
        self._transport.write(frame)
        if self._write_paused is not None:
            room = WRITE_BYTES_HIGH + 2 * self.house.config.packet_bytes_max
            if self._transport.get_write_buffer_size() > room:
                self.disconnect(DisconnectReasonCode.QUOTA_EXCEEDED, "client_reads_nothing")

    # -- the end

    def taken_over(self) -> None:
        self.disconnect(DisconnectReasonCode.SESSION_TAKEN_OVER, "session_taken_over")

    def disconnect(self, reason: DisconnectReasonCode, event: str) -> None:
        """End the connection from this side: the will is published, a client of MQTT 5 is told the reason."""
        if self._closing is not None:
            return
        last_words = b"" if self._wire is None else self._wire.disconnect(reason)
        self._hang_up("client_disconnected", event, last_words)

    def abort(self) -> None:
        self._transport.abort()

    def _hang_up(self, event: str, reason: str, last_words: bytes = b"") -> None:
        _log.warning(event, client=self.client_id, reason=reason)
        self._closing = self.house.now()
        self._buffer = bytearray()
        try:
            if self._write_paused is not None or self._transport.is_closing():
                self._transport.abort()
            else:
                # Closing at once could lose the last words: unread input turns a close into a reset.
                self._transport.write(last_words)
                self._transport.write_eof()
                if self._read_paused:
                    self._transport.resume_reading()
        except Exception as error:
            _log.warning("goodbye_failed", client=self.client_id, reason=str(error))
            self._transport.abort()
        finally:
            self._leave(self._will)

    def _leave(self, will: Will | None) -> None:
        """Give the session back, once."""
        session, self._session, self._will = self._session, None, None
        self._unacked = {}
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
