"""Connections before TLS: counted, and turned away where there are too many, before a handshake costs anything.

Without TLS a client that comes too often is told why in a CONNACK; before TLS there is nothing to tell it in, so that
it finds its connection closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

import structlog

from appliance.mqtt.connection import STRANGERS_MAX, Connection
from appliance.mqtt.house import House

HANDSHAKE_S_MAX = 10.0
"""From accept to the end of the TLS handshake."""
ACCEPTED_MAX = 64
"""Connections that are looked at in one turn of the loop."""
_PAUSE_S = 1.0
"""How long to wait when no more files can be opened."""

_log = structlog.get_logger("listener")


class TlsAcceptor:
    """Accepts on `bound`, which listens and does not block, from `open` to `close`, both in the listener's thread."""

    def __init__(self, house: House, bound: socket.socket, context: ssl.SSLContext) -> None:
        self.context = context
        """For the connections to come."""
        self._house = house
        self._socket = bound
        self._handshakes: set[asyncio.Task[None]] = set()
        self._closed = False

    def open(self) -> None:
        if not self._closed:
            self._house.loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Those in the middle of their handshake are hung up on."""
        if self._closed:
            return
        self._closed = True
        self._house.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for handshake in self._handshakes:
            handshake.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_MAX):
            try:
                client, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("accept_failed", reason=error.strerror)
                self._house.loop.remove_reader(self._socket.fileno())
                self._house.loop.call_later(_PAUSE_S, self.open)
                return
            reason = self._refusal(str(address[0]))
            if reason is None:
                client.setblocking(False)
                handshake = self._house.loop.create_task(self._shake_hands(client))
                self._handshakes.add(handshake)
                handshake.add_done_callback(self._handshakes.discard)
            else:
                self._house.turn_away(reason)
                client.close()

    def _refusal(self, address: str) -> str | None:
        house = self._house
        if not house.rates.admit(address, house.now()):
            return "connections come too fast"
        if len(house.connections) + len(self._handshakes) >= house.config.clients_max + STRANGERS_MAX:
            return "too many connections"
        return None

    async def _shake_hands(self, client: socket.socket) -> None:
        house = self._house
        try:
            await house.loop.connect_accepted_socket(
                lambda: Connection(house, admitted=True),
                client,
                ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE_S_MAX,
            )
        except OSError as error:
            # Whoever speaks no TLS, or shows no certificate: strangers knock all day.
            _log.debug("handshake_failed", reason=str(error) or type(error).__name__)
