"""Alarms by looking: sources that fall silent or cannot see, the store, the site broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from appliance.config import SourceConfig
from appliance.core.picture_quality import PictureQuality, Standing, fault_of, follow
from appliance.plant.alarms import Alarms
from appliance.store import StoreStatus

AWAY_S = 10.0
"""How long a broker may be away: a restart of it is no alarm."""

_FAULTS = {
    "dark": "Pictures of {source} are dark; check its light, its exposure and that nothing covers the lens",
    "blurred": "Pictures of {source} are blurred; check its focus, clean the lens, look for what moves",
}


class WatchedSource(msgspec.Struct, frozen=True, kw_only=True):
    """silent_s: since it sent anything, or since the start. brightness, sharpness: of its last picture, where measured.

    images: whose pictures are kept. masked: whether some of each picture is painted black.
    """

    source: str
    silent_s: float | None
    expected_every_s: float | None
    brightness: float | None
    sharpness: float | None
    images: str
    masked: bool


class SourceWatch:
    """`heard` is called for every input, from any thread; `tick` by the watchdog. now: the monotonic clock."""

    def __init__(
        self, sources: Mapping[str, SourceConfig], alarms: Alarms, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources = sources
        self._alarms = alarms
        self._now = now
        self._lock = threading.Lock()
        self._heard_at = dict.fromkeys(sources, now())
        self._standing: dict[str, Standing] = {}
        self._quality: dict[str, PictureQuality] = {}

    def heard(self, source: str, quality: PictureQuality | None = None) -> None:
        """It sent something; quality: of a picture of it, once it was measured."""
        config = self._sources.get(source)
        if config is None:
            return
        self._heard_at[source] = self._now()
        if quality is None:
            return
        with self._lock:
            before = self._standing.get(source, Standing())
            now = follow(before, fault_of(quality, config.dark_below, config.blurred_below))
            self._standing[source] = now
            self._quality[source] = quality
        if now.fault != before.fault:
            for fault, text in _FAULTS.items():
                self._alarms.hold(
                    f"picture_{fault}", text.format(source=source) if fault == now.fault else None, source
                )

    def tick(self, now: float) -> None:
        for source, config in self._sources.items():
            every_s = config.expected_every_s
            if every_s is None:
                continue
            text = None
            if now - self._heard_at[source] > every_s:
                text = (
                    f"Nothing came from {source} within the {every_s:g} s in which it is expected; check that it runs, "
                    "its cable, and where it sends to"
                )
            self._alarms.hold("source_silent", text, source)

    def report(self) -> list[WatchedSource]:
        now = self._now()
        reports = []
        for source, config in self._sources.items():
            quality = self._quality.get(source)
            reports.append(
                WatchedSource(
                    source=source,
                    silent_s=round(max(0.0, now - self._heard_at[source]), 1),
                    expected_every_s=config.expected_every_s,
                    brightness=None if quality is None else quality.brightness,
                    sharpness=None if quality is None else quality.sharpness,
                    images=config.images,
                    masked=bool(config.masks),
                )
            )
        return reports


class BoxWatch:
    """store: asked for its state. broker: what is wrong with the connection to the site broker, None: nothing."""

    def __init__(self, alarms: Alarms, store: Callable[[], StoreStatus], broker: Callable[[], str | None]) -> None:
        self._alarms = alarms
        self._store = store
        self._broker = broker
        self._broker_well_at: float | None = None

    def tick(self, now: float) -> None:
        """now: monotonic."""
        store = self._store()
        for state in ("full", "failing"):
            text = f"Results are not recorded: {store.reason}" if store.state == state else None
            self._alarms.hold(f"store_{state}", text)
        away = self._broker()
        if away is None or self._broker_well_at is None:
            self._broker_well_at = now
        self._alarms.hold("broker_away", away if now - self._broker_well_at > AWAY_S else None)
