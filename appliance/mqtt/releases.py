"""Packet ids of QoS 2 between PUBREC and PUBREL, on disk: the table `unreleased`."""

from __future__ import annotations

from collections.abc import Callable

from appliance.mqtt.receipts import Receipts
from appliance.schema import open_reader
from appliance.store import Store
from appliance.writes import Write


class Releases:
    """What the listener's `ExactlyOnce` keeps its packet ids in."""

    def __init__(self, store: Store, receipts: Receipts) -> None:
        self._store = store
        self._receipts = receipts

    def load(self) -> dict[str, set[int]]:
        """Client -> packet ids, as the last process left them."""
        found: dict[str, set[int]] = {}
        rows = open_reader(self._store.path)
        try:
            for client, packet_id in rows.execute("SELECT client, packet_id FROM unreleased"):
                found.setdefault(client, set()).add(packet_id)
        finally:
            rows.close()
        return found

    def hold(self, client: str, packet_id: int, done: Callable[[], None]) -> None:
        self._store.submit(
            Write(
                also=(("INSERT OR IGNORE INTO unreleased VALUES (?, ?)", (client, packet_id)),),
                must=True,
                done=lambda _: done(),
            )
        )

    def release(self, client: str, packet_id: int, done: Callable[[], None]) -> None:
        """The id is free again: a repeat of what it stood for can come no more, so its receipts go as well."""
        self._store.submit(
            Write(
                also=(("DELETE FROM unreleased WHERE client = ? AND packet_id = ?", (client, packet_id)),),
                receipts=self._receipts.release(client, packet_id),
                must=True,
                done=lambda _: done(),
            )
        )
