"""What all connections of a listener share, and the acknowledgement that leads back to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

import structlog
from mqtt5 import DisconnectReasonCode

from appliance.config import ListenerConfig
from appliance.mqtt.access import Rules, Users, rules_for
from appliance.mqtt.exactly_once import ExactlyOnce
from appliance.mqtt.exchange import Exchange
from appliance.mqtt.message import Deliver, DeliverPlain
from appliance.mqtt.rates import ConnectionRates, Sparing

BURST_MORE = 100
"""Connections that may come at once beside two for each client."""

_log = structlog.get_logger("listener")


class Peer(Protocol):
    """A connection, as far as the listener knows it. No call raises."""

    house: House

    def check(self, now: float) -> None:
        """Once a second: end what has become silent, stuck or slow to go."""

    def open_window(self) -> None:
        """Read on, if there is room again."""

    def write_acks(self, acks: list[Ack]) -> None:
        """Write the PUBACKs of those messages that still wait for one."""

    def recheck(self, before: Users, after: Users) -> None:
        """End it if its password is not good any more."""

    def disconnect(self, reason: DisconnectReasonCode, event: str) -> None:
        """End it, with a reason."""

    def abort(self) -> None:
        """End it at once."""


class Ack:
    """The acknowledgement of one message at QoS 1 on one connection; callable from any thread.

    size: bytes of its payload, 0 once they are counted off.
    """

    __slots__ = ("connection", "packet_id", "size")

    def __init__(self, connection: Peer, packet_id: int, size: int) -> None:
        self.connection = connection
        self.packet_id = packet_id
        self.size = size

    def __call__(self) -> None:
        self.connection.house.post_ack(self)


class House:
    """users: None where nobody has to log in; `passwords` checks theirs, beside the listener's thread.

    call: runs something in the listener's thread, soon; from any thread.
    """

    def __init__(
        self,
        config: ListenerConfig,
        *,
        exchange: Exchange,
        exactly_once: ExactlyOnce,
        deliver: Deliver,
        deliver_plain: DeliverPlain | None,
        reserved: Callable[[str], bool],
        users: Users | None,
        passwords: Executor,
        post_ack: Callable[[Ack], None],
        call: Callable[[Callable[[], None]], None],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        connect_s_max: float,
        stalled_s_max: float,
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.exactly_once = exactly_once
        self.deliver = deliver
        self.deliver_plain = deliver_plain
        self.reserved = reserved
        self.users = users
        self.post_ack = post_ack
        self.loop = loop
        self.now = now
        self.connect_s_max = connect_s_max
        self.stalled_s_max = stalled_s_max
        self.rates = ConnectionRates(
            config.connections_per_s_max,
            config.connections_per_s_per_address_max,
            burst=2 * config.clients_max + BURST_MORE,
        )
        self.turned_away = Sparing()
        self.connections: set[Peer] = set()
        self.held: set[Peer] = set()
        """Those whose socket is not read, since too much of what they sent is not acknowledged yet."""
        self.in_flight_bytes = 0
        """Payloads delivered and not yet acknowledged, of clients that have left as well."""
        self._passwords = passwords
        self._call = call

    def rules(self, client: str, user: str | None) -> Rules | None:
        """What the access list allows a client; None: there is no list."""
        return rules_for(self.config.access, client, user)

    def use(self, users: Users) -> None:
        """From now on these users; clients whose password is not good any more are disconnected."""
        before, self.users = self.users, users
        if before is not None:
            for connection in tuple(self.connections):
                connection.recheck(before, users)

    def turn_away(self, reason: str) -> None:
        """Count a connection that is refused before its CONNECT."""
        self.exchange.counters.refused += 1
        if (count := self.turned_away.due(self.now())) > 0:
            _log.warning("connection_refused", reason=reason, count=count)

    def verify(self, users: Users, name: str, password: bytes, tell: Callable[[bool], None]) -> None:
        """Check a password; `tell` is called in the listener's thread."""

        def check() -> None:
            right = users.check(name, password)
            self._call(lambda: tell(right))

        self._passwords.submit(check)

    def settle(self, acks: list[Ack]) -> None:
        """The appliance is done with these messages: count them off, and read on where there is room again."""
        for ack in acks:
            self.in_flight_bytes -= ack.size
            ack.size = 0
        self._read_on()

    def settle_bytes(self, size: int) -> None:
        """As `settle`, for one message at QoS 2."""
        self.in_flight_bytes -= size
        self._read_on()

    def _read_on(self) -> None:
        for connection in tuple(self.held):
            connection.open_window()
