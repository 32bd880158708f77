"""A message as it came in, whatever the way in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class InboundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An MQTT PUBLISH received by the appliance.

    client: who sent it on the listener, or the name of the broker connection. packet_id: None at QoS 0.
    duplicate: the DUP flag. session_resumed: the session existed before this connection, so packet ids carry over.
    """

    client: str
    topic: str
    payload: bytes
    qos: int
    retain: bool = False
    duplicate: bool = False
    packet_id: int | None = None
    session_resumed: bool = False
    content_type: str | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


Acknowledge = Callable[[], None]
"""Sends the PUBACK, from any thread, at most once; does nothing when the connection it belongs to is gone."""

Deliver = Callable[[InboundMessage, Acknowledge], None]
"""Takes a message; it is acknowledged only when `Acknowledge` is called. Never blocks for long.

Raises Overloaded, and nothing else, when too much waits already: the message was not taken, and its connection is to
be ended, so that it comes again.
"""
