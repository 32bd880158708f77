"""QoS 2 inward: a message is delivered once, however often its client repeats it, until the client releases its id.

PUBLISH -> commit -> the packet id on disk -> PUBREC; PUBREL -> the packet id off the disk -> PUBCOMP (MQTT 5, section
4.3.3). The steps of a session are its own, not its connection's: a client that comes back goes on where it was. When
the process ends between the commit and the packet id, the receipts of the intake recognise the repeat.

Runs in the listener's thread, but for what `begin` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from appliance.mqtt.message import Acknowledge
from appliance.mqtt.sessions import Session


class KeepIds(Protocol):
    """Where the unreleased packet ids of lasting sessions outlive the process. `done` is called from any thread."""

    def hold(self, client: str, packet_id: int, done: Callable[[], None]) -> None: ...
    def release(self, client: str, packet_id: int, done: Callable[[], None]) -> None: ...


class ExactlyOnce:
    """call: runs something in the listener's thread, soon. keep: None keeps packet ids in memory only."""

    def __init__(self, keep: KeepIds | None, call: Callable[[Callable[[], None]], None]) -> None:
        self._keep = keep
        self._call = call

    def begin(self, session: Session, packet_id: int, settle: Callable[[], None]) -> Acknowledge:
        """A new message is about to be delivered; what is returned acknowledges it, once, from any thread.

        settle: called in the listener's thread when the appliance is done with the message.
        """
        session.receiving.add(packet_id)
        open_steps = [partial(self._committed, session, packet_id, settle)]

        def acknowledge() -> None:
            # A second call finds no step: it must not speak for a later message with this packet id.
            if open_steps:
                self._call(open_steps.pop())

        return acknowledge

    def release(self, session: Session, packet_id: int) -> None:
        """PUBREL. The answer waits for the disk: an id that came back after it would be taken for a repeat."""
        found = packet_id in session.unreleased
        session.unreleased.discard(packet_id)
        link = session.link
        done = partial(self._released, session, link, packet_id, found)
        if self._keep is None or not session.lasts:
            done()
        else:
            self._keep.release(session.client_id, packet_id, partial(self._call, done))

    def _committed(self, session: Session, packet_id: int, settle: Callable[[], None]) -> None:
        settle()
        if session.over:
            return
        done = partial(self._held, session, packet_id)
        if self._keep is None or not session.lasts:
            done()
        else:
            self._keep.hold(session.client_id, packet_id, partial(self._call, done))

    def _held(self, session: Session, packet_id: int) -> None:
        session.receiving.discard(packet_id)
        session.unreleased.add(packet_id)
        if session.link is not None:
            session.link.received(packet_id)

    def _released(self, session: Session, link: object, packet_id: int, found: bool) -> None:
        if session.link is not None and session.link is link:
            session.link.released(packet_id, found)
