"""A message as it came in, whatever the way in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec


class InboundMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An MQTT PUBLISH received by the appliance.

    client: who sent it on the listener, or the name of the broker connection. packet_id: None at QoS 0.
    duplicate: the DUP flag. session_resumed: the session existed before this connection, so packet ids carry over.
    subscriptions: the filters that this copy was sent for, where a broker sends one for each that matches; empty: all.
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
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    subscriptions: tuple[str, ...] = ()


Acknowledge = Callable[[], None]
"""Sends the PUBACK, from any thread, at most once; does nothing when the connection it belongs to is gone."""

DeliverPlain = Callable[[Sequence[tuple[InboundMessage, Acknowledge]]], None]
"""As `Deliver`, for many messages of one client: at QoS 1, sent for the first time, not retained, no properties."""

Deliver = Callable[[InboundMessage, Acknowledge], None]
"""Takes a message; it is acknowledged only when `Acknowledge` is called. Never blocks for long.

Raises Overloaded, and nothing else, when too much waits already: the message was not taken, and its connection is to
be ended, so that it comes again.
"""
