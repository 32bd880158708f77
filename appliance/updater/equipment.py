"""What this box has, as a release may require it. Nothing is opened: no runtime runs in the updater."""

from __future__ import annotations

from pathlib import Path

from appliance import __version__
from appliance.core.suitable import Equipment
from appliance.disk import free_bytes

SYS = Path("/sys")
PROC = Path("/proc")

_INTEL = "0x8086"
"""The maker whose devices OpenVINO's plug-ins GPU and NPU are for."""


def look(folder: Path, sys: Path = SYS, proc: Path = PROC) -> Equipment:
    """folder: whose disk counts. sys, proc: where the kernel shows its devices and memory. Raises OSError."""
    return Equipment(
        appliance=__version__,
        accelerators=("CPU", *_devices(sys, "drm/renderD*", "GPU"), *_devices(sys, "accel/accel*", "NPU")),
        memory_bytes=_available(proc),
        disk_bytes=free_bytes(folder),
    )


def _devices(sys: Path, pattern: str, name: str) -> tuple[str, ...]:
    found = [each for each in sorted(sys.glob(f"class/{pattern}/device/vendor")) if each.read_text().strip() == _INTEL]
    return tuple(f"{name}.{index}" for index in range(len(found)))


def _available(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{proc / 'meminfo'} names no MemAvailable")
