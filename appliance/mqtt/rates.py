"""How many connections may come: a bucket of tokens for the listener, one for each address. No clock of its own.

A bucket fills at its rate up to `burst`: after a power cut every device comes back at once, and may.
"""

from __future__ import annotations

_ADDRESSES_MAX = 10_000


class Bucket:
    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: int, now: float) -> None:
        self._per_s = per_s
        self._burst = self._tokens = float(max(burst, 1))
        self._at = now

    def refill(self, now: float) -> bool:
        """Whether it is full."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        return self._tokens >= self._burst

    def take(self, now: float) -> bool:
        self.refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class ConnectionRates:
    """per_s: of the whole listener. per_address_per_s: of one address. burst: connections that may come at once."""

    def __init__(self, per_s: float, per_address_per_s: float, burst: int) -> None:
        self._per_address_per_s = per_address_per_s
        self._burst = burst
        self._all = Bucket(per_s, burst, 0.0)
        self._addresses: dict[str, Bucket] = {}

    def admit(self, address: str, now: float) -> bool:
        """Count a connection. One that its address may not make takes nothing from the others."""
        bucket = self._addresses.get(address)
        if bucket is None:
            self._make_room(now)
            bucket = self._addresses[address] = Bucket(self._per_address_per_s, self._burst, now)
        return bucket.take(now) and self._all.take(now)

    def _make_room(self, now: float) -> None:
        if len(self._addresses) < _ADDRESSES_MAX:
            return
        # A full bucket says no more than none at all.
        self._addresses = {address: one for address, one in self._addresses.items() if not one.refill(now)}
        if len(self._addresses) >= _ADDRESSES_MAX:
            self._addresses.clear()


class Sparing:
    """For log lines about a flood: one a second, with how many there were since the last."""

    __slots__ = ("_count", "_next")

    def __init__(self) -> None:
        self._next = 0.0
        self._count = 0

    def due(self, now: float) -> int:
        """Count one; 0: not to be told now."""
        self._count += 1
        if now < self._next:
            return 0
        count, self._count = self._count, 0
        self._next = now + 1.0
        return count
