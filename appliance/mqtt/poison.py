"""Which inputs may have brought the box down, so that none of them can keep it down.

After an unclean stop, what is judged again runs alone, with a mark of it committed first; the mark goes with its
result. Whatever was being judged at two unclean stops is poisonous: it is not tried again.
"""

from __future__ import annotations

import time

import msgspec

from appliance.store import Store
from appliance.writes import Write

WATCHFUL_S = 60.0
"""How long after the start every picture is suspected, once the box went down twice in a row."""

_WATCHFUL_STOPS = 2
_ONCE, _TWICE = b"\1", b"\2"


class Suspicion(msgspec.Struct, frozen=True):
    """mark: committed before the input runs, cleared with its result. replaces: an earlier mark, cleared with it."""

    mark: bytes
    replaces: bytes | None = None
    poisonous: bool = False


class Suspects:
    """The marks that the last runs left behind. Made before the store starts; then any thread may ask."""

    def __init__(self, store: Store) -> None:
        self._stops = store.unclean_stops
        self._known = frozenset(store.suspects())
        self._started = time.monotonic()
        if not self._stops:
            for mark in self._known:
                store.submit(Write(cleared=mark, must=True))

    @property
    def watching(self) -> bool:
        """Whether the last run ended uncleanly; if not, nothing is suspected."""
        return self._stops > 0

    def judge(self, digest: bytes, *, repeated: bool) -> Suspicion | None:
        """digest: stands for one input of one route. repeated: it came before the stop already. None: harmless."""
        if not self._stops:
            return None
        once, twice = digest + _ONCE, digest + _TWICE
        if twice in self._known:
            return Suspicion(twice, poisonous=True)
        if once in self._known:
            return Suspicion(twice, replaces=once)
        if repeated:
            # It was on its way when the box went down: that counts as the first time.
            return Suspicion(twice)
        watchful = self._stops >= _WATCHFUL_STOPS and time.monotonic() - self._started < WATCHFUL_S
        return Suspicion(once) if watchful else None
