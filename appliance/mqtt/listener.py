"""The built-in MQTT listener: MQTT 3.1.1 and 5 in a thread of its own with its own event loop.

It is a door of the appliance, not a general broker: it takes what is for the appliance, and passes messages on between
the clients of one site; it has no bridges and no clusters. What sets it apart from a broker: a message at QoS 1 or 2 is
acknowledged (PUBACK, PUBREC) when the appliance says so (`Acknowledge`), which is after its commit. To subscribers it
sends at QoS 0 and 1. Sessions, retained messages and queues live in memory; `SavedSession` and `KeepIds` carry what has
to survive the process, kept by whoever passes `save_session` and `keep_ids`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import msgspec
import structlog
import uvloop
from mqtt5 import DisconnectReasonCode

from appliance.config import ListenerConfig
from appliance.errors import ApplianceError, ConfigError, PortInUse
from appliance.mqtt.accepting import TlsAcceptor
from appliance.mqtt.access import rules_for
from appliance.mqtt.connection import Connection
from appliance.mqtt.credentials import CredentialFiles, Credentials
from appliance.mqtt.exactly_once import ExactlyOnce, KeepIds
from appliance.mqtt.exchange import Exchange, SaveSession
from appliance.mqtt.house import Ack, House, Peer
from appliance.mqtt.message import Deliver, DeliverPlain
from appliance.mqtt.sessions import Message, SavedSession
from appliance.mqtt.topics import valid_topic

LOOK_EVERY_S = 0.5
"""Between two looks at the files of users and certificates."""
STOP_S = 1.0
"""How long clients may take to hang up when the listener stops."""

T = TypeVar("T")

_log = structlog.get_logger("listener")


class ListenerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start; clients, subscriptions and retained are present values.

    received: PUBLISH packets of clients. acknowledged: PUBACKs and PUBRECs after a commit. delivered: PUBLISH packets
    to subscribers. dropped: messages that a subscriber did not get (queue full, expired, too large) or that could not
    be retained. refused: connections and publishes turned away.
    """

    clients: int
    received: int
    acknowledged: int
    delivered: int
    dropped: int
    subscriptions: int
    retained: int
    refused: int


class Inbox(Generic[T]):
    """Hands things from any thread to a loop, many at a time: one wake-up for each burst."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._handle = handle
        self._items: deque[T] = deque()
        self._woken = False

    def post(self, item: T) -> None:
        """From any thread; nothing happens once the loop is closed."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self.drain)
            except RuntimeError:
                self._woken = False
                self._items.clear()

    def drain(self) -> None:
        """In the loop's thread. The flag falls first: who posts later wakes the loop again."""
        self._woken = False
        items = []
        while self._items:
            items.append(self._items.popleft())
        if items:
            self._handle(items)


class Listener:
    """Owns the thread "mqtt-listener", from `start` to `stop`, in which `deliver` and all other callables are called.

    Raises ConfigError when a file of users or certificates cannot be used.

    on_fault: told when the thread ends without `stop`. sessions: what `save_session` got in earlier processes, the
    last of each client. unreleased, keep_ids: packet ids of QoS 2, by client. reserved: topics that clients may not
    publish to. connect_s_max: from accept to CONNECT; stalled_s_max: how long a client may leave a full buffer unread.
    """

    beat: float
    """Monotonic time of the loop's last tick, about once a second; for the watchdog."""

    def __init__(
        self,
        config: ListenerConfig,
        deliver: Deliver,
        *,
        deliver_plain: DeliverPlain | None = None,
        on_fault: Callable[[BaseException], None],
        sessions: Iterable[SavedSession] = (),
        save_session: SaveSession = lambda _: None,
        unreleased: Mapping[str, set[int]] | None = None,
        keep_ids: KeepIds | None = None,
        reserved: Callable[[str], bool] = lambda _: False,
        connect_s_max: float = 10.0,
        stalled_s_max: float = 20.0,
    ) -> None:
        self._config = config
        self._on_fault = on_fault
        self._files = CredentialFiles(config)
        credentials = self._files.read()
        self._context = credentials.context
        self._acceptor: TlsAcceptor | None = None
        self._files_fault: str | None = None
        self._loop = uvloop.new_event_loop()
        self._acks: Inbox[Ack] = Inbox(self._loop, self._acknowledge)
        self._messages: Inbox[Message] = Inbox(self._loop, self._publish)
        self._calls: Inbox[Callable[[], None]] = Inbox(self._loop, _call_all)
        self._passwords = ThreadPoolExecutor(1, "mqtt-passwords")
        self._exchange = Exchange(config, deliver=deliver, save=save_session)
        self._house = House(
            config,
            exchange=self._exchange,
            exactly_once=ExactlyOnce(keep_ids, self._calls.post),
            deliver=deliver,
            deliver_plain=deliver_plain,
            reserved=reserved,
            users=credentials.users,
            passwords=self._passwords,
            call=self._calls.post,
            post_ack=self._acks.post,
            loop=self._loop,
            now=time.monotonic,
            connect_s_max=connect_s_max,
            stalled_s_max=stalled_s_max,
        )
        self._saved = tuple(_as_allowed(one, config) for one in sessions)
        self._unreleased = unreleased or {}
        self._socket: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None
        self._address = (config.host, config.port)
        self._thread = threading.Thread(target=self._run, name="mqtt-listener", daemon=True)
        self._ready = threading.Event()
        self._stopping = False
        self.beat = time.monotonic()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on; before `start` those of the configuration."""
        return self._address

    def start(self) -> None:
        """Bind, then serve; once. Raises PortInUse, or ConfigError when the address cannot be had."""
        try:
            self._socket = _bind(self._config.host, self._config.port)
        except ApplianceError:
            self._loop.close()
            raise
        name = self._socket.getsockname()
        self._address = (name[0], name[1])
        self.beat = time.monotonic()
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Tell the clients, close, join the thread. Acknowledgements given before are still written."""
        if not self._thread.is_alive():
            self._loop.close()
            return
        self._loop.call_soon_threadsafe(self._begin_stop)
        self._thread.join()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        user_properties: tuple[tuple[str, str], ...] = (),
        content_type: str | None = None,
        correlation_data: bytes | None = None,
    ) -> None:
        """Send to the listener's subscribers, from any thread; what is published before `start` is sent then.

        Raises ValueError when `topic` is no topic or `qos` is not 0 or 1.
        """
        if not valid_topic(topic) or qos not in (0, 1):
            raise ValueError(f"cannot publish to {topic!r} at QoS {qos}")
        self._messages.post(
            Message(
                topic=topic,
                payload=payload,
                qos=qos,
                retain=retain,
                user_properties=user_properties,
                content_type=content_type,
                correlation_data=correlation_data,
            )
        )

    @property
    def subscriptions(self) -> int:
        """Topic filters that somebody follows, those of sessions that are away included."""
        return self._exchange.subscriptions

    @property
    def files_fault(self) -> str | None:
        """Why a users file or a certificate that was changed is not used; the ones before it are."""
        return self._files_fault

    def stats(self) -> ListenerStats:
        """From any thread."""
        counters = self._exchange.counters
        return ListenerStats(
            clients=self._exchange.clients,
            received=counters.received,
            acknowledged=counters.acknowledged,
            delivered=counters.delivered,
            dropped=counters.dropped,
            subscriptions=self._exchange.subscriptions,
            retained=self._exchange.retained,
            refused=counters.refused,
        )

    def _run(self) -> None:
        loop = self._loop
        try:
            loop.set_exception_handler(_on_loop_exception)
            self._exchange.restore(self._saved, time.monotonic(), self._unreleased)
            _log.info("listener_started", host=self._address[0], port=self._address[1])
            self._open_door()
            self._tick()
            self._look()
            self._ready.set()
            loop.run_forever()
            if not self._stopping:
                raise RuntimeError("the listener's loop ended by itself")
        except BaseException as error:
            _log.exception("listener_failed")
            self._on_fault(error)
        finally:
            self._ready.set()
            self._passwords.shutdown(wait=False, cancel_futures=True)
            self._close_door()
            loop.close()

    def _open_door(self) -> None:
        assert self._socket is not None
        if self._context is not None:
            self._acceptor = TlsAcceptor(self._house, self._socket, self._context)
            self._acceptor.open()
            return
        made = self._loop.create_server(lambda: Connection(self._house), sock=self._socket, backlog=128)
        self._server = self._loop.run_until_complete(made)

    def _close_door(self) -> None:
        if self._server is not None:
            self._server.close()
        elif self._acceptor is not None:
            self._acceptor.close()
        elif self._socket is not None:
            self._socket.close()

    def _tick(self) -> None:
        now = self.beat = time.monotonic()
        self._loop.call_later(1.0, self._tick)
        for connection in tuple(self._house.connections):
            connection.check(now)
        self._exchange.expire(now)

    def _look(self) -> None:
        self._loop.call_later(LOOK_EVERY_S, self._look)
        if self._files.changed():
            self._passwords.submit(self._read_files)

    def _read_files(self) -> None:
        """Beside the listener's thread."""
        try:
            credentials = self._files.read()
        except ConfigError as error:
            self._files_fault = str(error)
            _log.error("listener_files_refused", reason=str(error))
        else:
            self._files_fault = None
            self._calls.post(lambda: self._use(credentials))

    def _use(self, credentials: Credentials) -> None:
        if credentials.users is not None:
            self._house.use(credentials.users)
        if credentials.context is not None and self._acceptor is not None:
            self._acceptor.context = credentials.context
        _log.info("listener_files_read")

    def _acknowledge(self, acks: list[Ack]) -> None:
        of: dict[Peer, list[Ack]] = {}
        for ack in acks:
            of.setdefault(ack.connection, []).append(ack)
        for connection, its in of.items():
            connection.write_acks(its)
        self._house.settle(acks)

    def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            self._exchange.publish(message, None)

    def _begin_stop(self) -> None:
        self._stopping = True
        self._acks.drain()
        self._calls.drain()
        self._close_door()
        self._loop.call_soon(self._end_stop, time.monotonic() + STOP_S)
        for connection in tuple(self._house.connections):
            connection.disconnect(DisconnectReasonCode.SERVER_SHUTTING_DOWN, "listener_stopped")

    def _end_stop(self, deadline: float) -> None:
        late = time.monotonic() - deadline
        if not self._house.connections or late > STOP_S:
            self._loop.stop()
            return
        if late > 0:
            for connection in tuple(self._house.connections):
                connection.abort()
        self._loop.call_later(0.01, self._end_stop, deadline)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"listener.host {host!r} is no address of this machine ({error}); use 127.0.0.1") from error
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is taken by another program (a broker?);"
                " stop it, set listener.port in appliance.toml, or listener.enabled = false"
            ) from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; set listener.host and port") from error
    return bound


def _as_allowed(saved: SavedSession, config: ListenerConfig) -> SavedSession:
    """Without the subscriptions that the access list of today refuses."""
    rules = rules_for(config.access, saved.client_id, saved.user)
    if rules is None:
        return saved
    kept = tuple(one for one in saved.subscriptions if rules.may_subscribe(one.topic_filter))
    return msgspec.structs.replace(saved, subscriptions=kept)


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        try:
            call()
        except Exception:
            _log.exception("call_failed")


def _on_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    _log.error("loop_callback_failed", reason=str(context.get("message")), error=repr(context.get("exception")))
