"""Clocks that a test sets by hand."""

from __future__ import annotations

from appliance.core.clock import Tick

DAY_S = 86_400.0
SUMMER = 1_782_864_000.0
"""2026-07-01."""


class HandClocks:
    """Wall clock, time since the boot, and the boot itself; nothing moves by itself."""

    def __init__(self, wall: float = SUMMER) -> None:
        self.wall = wall
        self.up = 100.0
        self.boot = 1
        self.synchronised = False

    def __call__(self) -> Tick:
        return Tick(self.wall, self.up, str(self.boot), self.synchronised)

    def run(self, seconds: float) -> None:
        """Time passes while the machine is on."""
        self.wall += seconds
        self.up += seconds

    def off(self, seconds: float) -> None:
        """Time passes while the machine is off."""
        self.wall += seconds
        self.boot += 1
        self.up = 1.0
