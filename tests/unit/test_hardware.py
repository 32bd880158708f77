"""What the machine lets the process have, read from folders as the kernel would show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance import hardware

MEMINFO = "MemTotal:        8000 kB\nMemFree:         1000 kB\n"
INTEL = "processor\t: 0\nmodel name\t: One\nflags\t\t: fpu avx2\ncpu MHz\t: 800\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("group", "files", "count"),
    [
        ("0::/", {}, 8),
        ("0::/box", {"box/cpu.max": "max 100000"}, 8),
        ("0::/box", {"box/cpu.max": "300000 100000"}, 3),
        ("0::/box", {"box/cpu.max": "350000 100000"}, 3),
        ("0::/box", {"box/cpu.max": "50000 100000"}, 1),
        ("0::/slice/box", {"slice/cpu.max": "200000 100000", "slice/box/cpu.max": "max 100000"}, 2),
        ("0::/gone/of/the/host", {"cpu.max": "400000 100000"}, 4),
        ("4:cpu,cpuacct:/box", {"cpu/box/cpu.cfs_quota_us": "200000", "cpu/box/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/box", {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, 8),
        ("0::/box", {"box/cpu.max": "nonsense"}, 8),
    ],
)
def test_cores_follow_affinity_and_the_lowest_quota(
    tmp_path: Path, group: str, files: dict[str, str], count: int
) -> None:
    cgroup = write(tmp_path / "cgroup", files)
    proc = write(tmp_path / "proc", {"self/cgroup": group + "\n"})
    assert hardware.cores(cgroup, proc) == count


def test_cores_without_control_groups_are_those_of_the_affinity(tmp_path: Path) -> None:
    assert hardware.cores(tmp_path, tmp_path) == 8


@pytest.mark.parametrize(
    ("group", "files", "size"),
    [
        ("0::/box", {"box/memory.max": "max"}, 8000 * 1024),
        ("0::/box", {"box/memory.max": "1000000"}, 1_000_000),
        ("0::/slice/box", {"slice/memory.max": "500000", "slice/box/memory.max": "1000000"}, 500_000),
        ("9:memory:/box", {"memory/box/memory.limit_in_bytes": "2000000"}, 2_000_000),
        ("9:memory:/box", {"memory/box/memory.limit_in_bytes": "9223372036854771712"}, 8000 * 1024),
    ],
)
def test_memory_follows_the_machine_and_the_lowest_limit(
    tmp_path: Path, group: str, files: dict[str, str], size: int
) -> None:
    cgroup = write(tmp_path / "cgroup", files)
    proc = write(tmp_path / "proc", {"self/cgroup": group + "\n", "meminfo": MEMINFO})
    assert hardware.memory_bytes(cgroup, proc) == size


def test_memory_in_use_grows_with_what_is_written() -> None:
    before = hardware.memory_used_bytes()
    held = bytearray(b"x" * (64 << 20))
    assert hardware.memory_used_bytes() - before > 32 << 20
    assert len(held) == 64 << 20


def test_fingerprint_is_of_model_and_flags_alone(tmp_path: Path) -> None:
    def of(text: str) -> str:
        return hardware.fingerprint(write(tmp_path, {"cpuinfo": text}))

    here = of(INTEL)
    assert len(here) == 16
    assert of(INTEL.replace("800", "3000")) == here
    assert of(INTEL + "\n" + INTEL.replace("processor\t: 0", "processor\t: 1")) == here
    assert of(INTEL.replace("avx2", "avx2 avx512f")) != here
    assert of(INTEL.replace("One", "Two")) != here


def test_fingerprint_of_this_machine_stays() -> None:
    assert hardware.fingerprint() == hardware.fingerprint()


def test_larger_models_and_inputs_are_expected_to_take_more() -> None:
    small = hardware.expected_bytes("openvino", 1 << 20, 1 << 10)
    assert hardware.expected_bytes("openvino", 100 << 20, 1 << 10) > 100 << 20
    assert hardware.expected_bytes("openvino", 1 << 20, 1 << 20) > small
    assert hardware.expected_bytes("remote", 0, 1 << 10) < small


def test_trim_can_be_called_at_any_time() -> None:
    hardware.trim()
    hardware.trim()
