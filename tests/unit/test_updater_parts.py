"""The small parts of the updater: what a box has, what time it is at least, how slow a source may be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.clock import EARLIEST, Tick
from appliance.core.release import Requirements
from appliance.core.suitable import Equipment, lacks
from appliance.errors import RegistryUnavailable, UpdateBusy
from appliance.updater import equipment, local, staging
from appliance.updater.fetch import Patience
from appliance.updater.lock import only_one
from appliance.updater.trusted_time import Floor, is_behind, raised, read_floor, trusted_now, write_floor

HAS = Equipment(appliance="1.4.2", accelerators=("CPU", "GPU.0"), memory_bytes=2_000_000_000, disk_bytes=500_000_000)
MAY = 1_790_000_000.0


@pytest.mark.parametrize(
    ("requires", "missing"),
    [
        (Requirements(), []),
        (Requirements(appliance="1.4.2", accelerator="GPU", memory_mb=2_000, disk_mb=500), []),
        (Requirements(appliance="1.4"), []),
        (Requirements(appliance="1.10"), ["appliance 1.10 or newer (this is 1.4.2)"]),
        (Requirements(accelerator="GPU.1"), ["a GPU.1 (this box has CPU, GPU.0)"]),
        (Requirements(accelerator="NPU"), ["a NPU (this box has CPU, GPU.0)"]),
        (
            Requirements(memory_mb=2_001, disk_mb=501),
            ["2001 MB of free memory (2000 MB are free)", "501 MB of free disk (500 MB are free)"],
        ),
    ],
)
def test_what_a_box_lacks_is_told_with_figures(requires: Requirements, missing: list[str]) -> None:
    assert lacks(requires, HAS) == missing


def test_a_newer_development_version_is_new_enough() -> None:
    newer = Equipment(appliance="1.5.0.dev4+local", accelerators=(), memory_bytes=0, disk_bytes=0)
    assert lacks(Requirements(appliance="1.4.9"), newer) == []


def test_the_devices_of_a_box_are_read_from_the_kernel(tmp_path: Path) -> None:
    for path, vendor in (("drm/renderD128", "0x8086"), ("drm/renderD129", "0x10de"), ("accel/accel0", "0x8086")):
        folder = tmp_path / "class" / path / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    found = equipment.look(tmp_path, sys=tmp_path, proc=tmp_path)
    assert (set(found.accelerators), found.memory_bytes) == ({"CPU", "GPU.0", "NPU.0"}, 2048 * 1024)


def test_the_floor_of_time_rises_with_signatures_and_with_this_boot_and_never_falls() -> None:
    floor = raised(Floor(EARLIEST, 0.0, "", signed=False), MAY, Tick(0.0, 100.0, "a"))
    assert floor == Floor(MAY, 100.0, "a")
    assert floor.at(Tick(0.0, 160.0, "a")) == MAY + 60
    assert floor.at(Tick(0.0, 5.0, "b")) == MAY
    assert raised(floor, MAY - 500, Tick(0.0, 160.0, "a")).floor == MAY + 60


def test_time_is_the_later_of_the_clock_and_the_floor() -> None:
    floor = Floor(MAY, 100.0, "a")
    assert trusted_now(floor, Tick(0.0, 100.0, "a")) == MAY
    assert trusted_now(floor, Tick(MAY + 9, 100.0, "a")) == MAY + 9
    assert is_behind(floor, Tick(MAY - 3_600, 100.0, "a"))
    assert not is_behind(floor, Tick(MAY - 5, 100.0, "a"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"floor": "x"}', b"\xff"])
def test_a_floor_that_was_torn_is_where_every_box_begins(tmp_path: Path, content: bytes) -> None:
    write_floor(tmp_path, Floor(MAY, 1.0, "a"))
    assert read_floor(tmp_path).floor == MAY
    (tmp_path / "tuf.time").write_bytes(content)
    assert read_floor(tmp_path) == Floor(EARLIEST, 0.0, "", signed=False)


def test_a_source_that_trickles_is_given_up_after_its_grace() -> None:
    clock = itertools.count(0.0, 10.0)

    def trickle() -> Iterator[bytes]:
        while True:
            yield b"x" * 100

    with pytest.raises(RegistryUnavailable, match="at least 256 a second"):
        for _ in Patience(grace_s=60, least_bytes_s=256).check(trickle(), "https://slow.example/", lambda: next(clock)):
            pass
    assert next(clock) <= 100


def test_a_slow_line_is_slow_and_good_enough() -> None:
    clock = itertools.count(0.0, 10.0)
    chunks = [b"x" * 3_000] * 50
    assert list(Patience().check(iter(chunks), "", lambda: next(clock))) == chunks


def test_the_lock_is_free_again_when_its_holder_is_gone(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(UpdateBusy), only_one(tmp_path):
        raise AssertionError("two at once")
    with only_one(tmp_path):
        assert (tmp_path / "tuf.lock").exists()


def test_a_file_that_was_copied_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    local.copy(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert staging.sha256_of(tmp_path / "b") == staging.sha256_of(tmp_path / "a")
    with pytest.raises(OSError, match="No such file"):
        local.copy(tmp_path / "gone", tmp_path / "c")
    assert not (tmp_path / "c").exists()
