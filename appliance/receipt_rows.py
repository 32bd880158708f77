"""Receipts on disk: those of one commit, client and route in one row; the oldest rows go as new ones come.

A row for each message would cost the disk more than the message. In the writer's thread only.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable

import msgspec

from appliance.writes import Receipt

KEPT_MAX = 65_535
"""Packet ids that a client can have in flight."""

_PACKED = msgspec.msgpack.Decoder(list[tuple[int, bytes]])

_Owner = tuple[str, str]
"""Client and route."""


class ReceiptRows:
    """kept: of each client and route the receipts of so many messages at least."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.kept = KEPT_MAX
        self._db = db
        self._rows: dict[_Owner, deque[tuple[int, int]]] = {}
        self._totals: dict[_Owner, int] = {}
        self.read_again()

    def read_again(self) -> None:
        """After a rollback."""
        self._rows, self._totals = {}, {}
        for number, client, route, count in self._db.execute(
            "SELECT id, client, route, count FROM receipt_rows ORDER BY id"
        ):
            self._note((client, route), number, count)

    def all(self) -> list[Receipt]:
        """In the order of their commits; `seq` counts them."""
        found: list[Receipt] = []
        for client, route, packed in self._db.execute("SELECT client, route, packed FROM receipt_rows ORDER BY id"):
            for packet_id, digest in _PACKED.decode(packed):
                found.append(Receipt(client, route, packet_id, digest, len(found) + 1))
        return found

    def insert(self, receipts: Iterable[Receipt]) -> None:
        owners: dict[_Owner, list[tuple[int, bytes]]] = {}
        for each in receipts:
            owners.setdefault((each.client, each.route), []).append((each.packet_id, each.hash))
        dropped: list[tuple[int]] = []
        for owner, pairs in owners.items():
            number = self._db.execute(
                "INSERT INTO receipt_rows (client, route, count, packed) VALUES (?, ?, ?, ?)",
                (*owner, len(pairs), msgspec.msgpack.encode(pairs)),
            ).lastrowid
            assert number is not None
            self._note(owner, number, len(pairs))
            rows = self._rows[owner]
            while self._totals[owner] - rows[0][1] >= self.kept:
                oldest, count = rows.popleft()
                self._totals[owner] -= count
                dropped.append((oldest,))
        if dropped:
            self._db.executemany("DELETE FROM receipt_rows WHERE id = ?", dropped)

    def forget(self, client: str) -> None:
        """Its session is over."""
        self._db.execute("DELETE FROM receipt_rows WHERE client = ?", (client,))
        for owner in [owner for owner in self._rows if owner[0] == client]:
            del self._rows[owner], self._totals[owner]

    def _note(self, owner: _Owner, number: int, count: int) -> None:
        self._rows.setdefault(owner, deque()).append((number, count))
        self._totals[owner] = self._totals.get(owner, 0) + count
