"""A disk that is full, at every step of an install: told with figures, nothing half shown, and the next run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.config import Config
from appliance.errors import ApplianceError, DataDirError, NoSpace
from appliance.updater import space
from appliance.updater.flow import Progress
from appliance.updater.selftest import SelfTest
from tests.support.disk import SmallDisk, small_disk
from tests.support.models import write_model
from tests.support.simulated import Simulated, add_file
from tests.support.updated import Site, shelf

DISK_BYTES = 96 << 20
LARGE_BYTES = 2_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


@pytest.fixture
def registry(tmp_path: Path) -> Simulated:
    registry = Simulated()
    folder = write_model(tmp_path / "bundles", "tiny", "1")
    add_file(folder, "openvino-f32/large.bin", np.random.default_rng(1).bytes(LARGE_BYTES))
    registry.release({"tiny": ("1", registry.publish(folder))})
    return registry


@pytest.fixture
def site(disk: SmallDisk, registry: Simulated) -> Site:
    return Site(disk.path / "site", registry.first_root)


def fails_and_goes_on(site: Site, registry: Simulated, disk: SmallDisk, *kinds: type[ApplianceError]) -> None:
    with pytest.raises(kinds or (NoSpace,)) as raised:
        site.look(shelf(registry))
    assert "\n" not in str(raised.value)
    disk.free()
    assert site.models() == {}
    assert site.look(shelf(registry)).outcome == "ready"


def test_too_little_room_is_told_before_the_first_byte_with_figures(
    site: Site, registry: Simulated, disk: SmallDisk
) -> None:
    filler = disk.path / "filler"
    filler.write_bytes(bytes(DISK_BYTES - space.KEPT_BYTES - LARGE_BYTES // 2))
    source = shelf(registry)
    with pytest.raises(NoSpace, match=r"needs 2\.0 MB and 64\.0 MB are to stay free.*free at least \d"):
        site.look(source)
    assert not [path for path in source.wire if path.startswith("blobs/")]
    assert site.installs() == [(1, "checking", "update_no_space")]
    filler.unlink()
    assert site.look(shelf(registry)).outcome == "ready"


def test_a_full_disk_at_the_check(site: Site, registry: Simulated, disk: SmallDisk) -> None:
    disk.fill()
    fails_and_goes_on(site, registry, disk, NoSpace, DataDirError)


def test_a_full_disk_in_the_middle_of_the_download(site: Site, registry: Simulated, disk: SmallDisk) -> None:
    source = shelf(registry)

    def fills(content: bytes, offset: int) -> Iterator[bytes]:
        yield content[offset : offset + 1_000_000] if len(content) == LARGE_BYTES else content[offset:]
        if len(content) == LARGE_BYTES:
            disk.fill()
            yield content[offset + 1_000_000 :]

    source.bends["blobs/"] = fills
    with pytest.raises(NoSpace, match="is full"):
        site.look(source)
    assert site.untouched()
    disk.free()
    again = shelf(registry)
    assert site.look(again).outcome == "ready"
    assert sum(count for path, count in again.wire.items() if path.startswith("blobs/")) < LARGE_BYTES


def test_a_full_disk_before_staging(site: Site, registry: Simulated, disk: SmallDisk) -> None:
    def fills(progress: Progress) -> None:
        if progress.step == "stage":
            disk.fill()

    site.on_progress = fills
    with pytest.raises(NoSpace):
        site.look(shelf(registry))
    assert site.untouched()
    disk.free()
    site.on_progress = site.seen.append
    assert site.look(shelf(registry)).outcome == "ready"


def test_a_full_disk_after_the_self_test(site: Site, registry: Simulated, disk: SmallDisk) -> None:
    passes = site.prove

    def fills(folder: Path, config: Config) -> SelfTest:
        disk.fill()
        return passes(folder, config)

    site.prove = fills
    with pytest.raises((NoSpace, DataDirError)):
        site.look(shelf(registry))
    assert not site.rows("SELECT * FROM installs WHERE status = 'ready'")
    site.prove = passes
    disk.free()
    assert site.look(shelf(registry)).outcome == "ready"
    assert site.models() == {"tiny": ["1"]}
