"""What this machine lets the process have: cores, memory, and which CPU it is.

The limits are those of the machine or of the control group, whichever is lower; versions 1 and 2 of control groups.
`cgroup` and `proc` are where the kernel shows them. A file that is not there limits nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from appliance.core.manifest import Format

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")

# Frequencies and the number of the core change from one moment to the next; these do not.
_CPU_FIELDS = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"}
)


def cores(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Cores that this process may keep busy, at least 1. Half a core counts as none: using it means being throttled."""
    quotas = [quota for folder in _groups(cgroup, proc, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, int(min([float(len(os.sched_getaffinity(0))), *quotas])))


def memory_bytes(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Memory that this process may have."""
    limits = [
        limit
        for folder in _groups(cgroup, proc, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(folder / name)) is not None
    ]
    return min([_meminfo(proc, "MemTotal"), *limits])


def memory_used_bytes(proc: Path = PROC) -> int:
    """Memory that this process has resident now."""
    return int((proc / "self" / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fingerprint(proc: Path = PROC) -> str:
    """What tells this CPU's abilities from another's: 16 hexadecimal digits of its model and flags."""
    first = (proc / "cpuinfo").read_text().strip().split("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    known = sorted((name.strip(), value.strip()) for name, _, value in fields if name.strip() in _CPU_FIELDS)
    return hashlib.sha256(repr((os.uname().machine, known)).encode()).hexdigest()[:16]


def expected_bytes(form: Format, file_bytes: int, input_bytes: int) -> int:
    """Memory that a model takes once it is loaded in two gears and warm: an estimate, meant to be rather high.

    file_bytes: of the variant's files together. input_bytes: of one input of one row.
    """
    base, per_file_byte, per_input_byte = _EXPECTED[form]
    return int(base + per_file_byte * file_bytes + per_input_byte * input_bytes)


def trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    give_back = _malloc_trim()
    if give_back is not None:
        give_back(0)


_EXPECTED: dict[Format, tuple[int, float, float]] = {
    "openvino": (12 << 20, 4.0, 24.0),
    "onnx": (12 << 20, 4.0, 24.0),
    "tflite": (4 << 20, 2.5, 24.0),
    "remote": (1 << 20, 0.0, 2.0),
}
"""Bytes of any model, per byte of its files, per byte of an input; the activations grow with the input."""


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _groups(cgroup: Path, proc: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of all above it: each may limit it."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = cgroup
        elif controller in controllers.split(","):
            root = cgroup / controller
        else:
            continue
        # In a container the path may be the host's and lead nowhere; the root is then the group itself.
        folder = root / path.lstrip("/")
        yield folder
        while folder != root and root in folder.parents:
            folder = folder.parent
            yield folder


def _quota(folder: Path) -> float | None:
    """Cores that the group may use, None: no limit. cpu.max is version 2: `<quota or max> <period>`."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        old = _number(folder / "cpu.cfs_quota_us")
        length = _number(folder / "cpu.cfs_period_us")
    return old / length if old and length and old > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _meminfo(proc: Path, field: str) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{proc / 'meminfo'} names no {field}")
