"""Clocks that a test sets by hand: those of a part of the box, and the one of a whole box in a child process."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path

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


class ShiftedClock:
    """The wall clock of processes that get `environment`. It goes on, and a test may set it while they run.

    folder: for its files. Needs a C compiler.
    """

    def __init__(self, folder: Path) -> None:
        source, library = Path(__file__).with_name("shifted_clock.c"), folder / "libshifted_clock.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
        done = subprocess.run([*command, "-lm"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"this test needs a C compiler (apt install gcc): {done.stderr}"
        self._offset = folder / "offset"
        self._offset.write_bytes(struct.pack("d", 0.0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}

    def show(self, wall: float) -> None:
        """Set it, to seconds since 1970."""
        file = os.open(self._offset, os.O_WRONLY)
        try:
            # In one piece: the processes have this file in their memory.
            os.pwrite(file, struct.pack("d", wall - time.time()), 0)
        finally:
            os.close(file)
