"""A look for updates and what it leaves: installed, held, resumed, refused. Trust is real; self-tests pass."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuf.api.metadata import TargetFile

from appliance.config import Config
from appliance.core.release import bucket
from appliance.errors import (
    ConfigError,
    RegistryUnavailable,
    ReleaseInvalid,
    SelfTestFailed,
    Unsuitable,
    UpdateBusy,
    VersionBlocked,
)
from appliance.updater.download import SYNC_BYTES
from appliance.updater.lock import only_one
from appliance.updater.selftest import SelfTest
from tests.support.models import write_model
from tests.support.simulated import DEVICE, RING, Shelf, Simulated, add_file
from tests.support.updated import Site, passes, shelf


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 3 of `tiny`."""
    folder = tmp_path_factory.mktemp("bundles")
    for version in "123":
        write_model(folder, "tiny", version, title=f"version {version}")
    return folder / "tiny"


@pytest.fixture
def registry(bundles: Path) -> Simulated:
    """Releases version 1."""
    registry = Simulated()
    registry.release({"tiny": ("1", registry.publish(bundles / "1"))})
    return registry


@pytest.fixture
def site(tmp_path: Path, registry: Simulated) -> Site:
    return Site(tmp_path / "site", registry.first_root)


def test_a_release_is_installed_and_left_ready_for_the_server(site: Site, registry: Simulated) -> None:
    report = site.look(shelf(registry))
    assert (report.outcome, report.number, report.models) == ("ready", 1, {"tiny": "1"})
    assert site.models() == {"tiny": ["1"]}
    assert site.installs() == [(1, "ready", None)]
    (row,) = site.rows("SELECT name, version, origin, signed_by FROM trusted")
    assert (row["name"], row["version"], row["origin"]) == ("tiny", "1", "https://updates.example/")
    assert b'"role":"vision"' in row["signed_by"]


def test_the_same_release_is_installed_once(site: Site, registry: Simulated) -> None:
    site.look(shelf(registry))
    source = shelf(registry)
    assert site.look(source).outcome == "up_to_date"
    assert site.installs() == [(1, "ready", None)]
    assert not [path for path in source.wire if path.startswith("blobs/")]


def test_what_serves_already_is_nothing_to_do(site: Site, registry: Simulated) -> None:
    site.look(shelf(registry))
    site.serves("tiny", "1")
    registry.release({"tiny": ("1", digest_of_target(registry, "tiny", "1"))})
    assert site.look(shelf(registry)).outcome == "up_to_date"
    assert site.installs()[-1] == (2, "superseded", None)


def test_a_release_for_a_share_of_the_boxes_gives_the_others_the_one_before(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    first = digest_of_target(registry, "tiny", "1")
    second = registry.publish(bundles / "2")
    others = {"tiny": {"version": "1", "manifest": first, "bytes": 1}}
    share = bucket(DEVICE, RING)
    registry.release({"tiny": ("2", second)}, percent=share - 0.01, others=others)
    assert site.look(shelf(registry)).models == {"tiny": "1"}
    registry.release({"tiny": ("2", second)}, percent=share + 0.01, others=others)
    assert site.look(shelf(registry)).models == {"tiny": "2"}


def test_a_box_of_another_ring_takes_nothing(tmp_path: Path) -> None:
    other = Simulated()
    other.release({}, ring="early")
    quiet = Site(tmp_path / "quiet", other.first_root)
    assert quiet.look(shelf(other)).outcome == "no_release"


def test_a_dry_run_tells_the_bytes_and_leaves_nothing(site: Site, registry: Simulated) -> None:
    report = site.look(shelf(registry), dry_run=True)
    blobs = sum(len(content) for path, content in registry.files.items() if path.startswith("blobs/"))
    assert (report.outcome, report.bytes) == ("would_install", blobs)
    assert site.untouched()
    assert site.installs() == []


def test_files_that_did_not_change_are_taken_from_this_box(site: Site, registry: Simulated, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    large = draw.bytes(14_000_000)
    for version in ("7", "8"):
        folder = write_model(tmp_path / "heavy", "tiny", version)
        add_file(folder, "openvino-f32/large.bin", large)
        add_file(folder, "openvino-f32/small.bin", draw.bytes(20_000))
        registry.release({"tiny": (version, registry.publish(folder))})
        source = shelf(registry)
        report = site.look(source)
        site.serves("tiny", version)
    assert report.outcome == "ready"
    assert 20_000 <= sum(source.wire.values()) < 64_000
    assert (site.data_dir / "models/tiny/8/openvino-f32/large.bin").read_bytes() == large


def test_a_changed_file_costs_little_with_two_hundred_versions_published(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    site.look(shelf(registry))
    for number in range(10, 210):
        registry.delegated["vision"].targets[f"models/tiny/{number}/manifest.toml"] = TargetFile(
            2_500, {"sha256": hashlib.sha256(str(number).encode()).hexdigest()}, f"models/tiny/{number}/manifest.toml"
        )
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    source = shelf(registry)
    assert site.look(source).outcome == "ready"
    assert sum(source.wire.values()) < 64_000


def test_a_hold_keeps_everything_back_until_it_ends(site: Site, registry: Simulated) -> None:
    site.execute("INSERT INTO holds (at, by, reason) VALUES (?, 'Anna', 'audit')", time.time())
    report = site.look(shelf(registry))
    assert (report.outcome, report.models) == ("on_hold", {"tiny": "1"})
    assert "on hold by Anna: audit" in report.reason
    assert site.untouched()
    site.execute("UPDATE holds SET until = at")
    assert site.look(shelf(registry)).outcome == "ready"


def test_a_paused_release_is_not_installed(site: Site, registry: Simulated, bundles: Path) -> None:
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))}, paused=True)
    assert site.look(shelf(registry)).outcome == "paused"
    assert site.untouched()


def test_outside_of_its_window_an_install_is_ready_and_the_server_is_told_to_wait(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    noon = 1_790_000_000 // 86_400 * 86_400 + 12 * 3_600.0
    registry = Simulated(datetime.fromtimestamp(noon, UTC))
    site = Site(site.data_dir.parent / "windowed", registry.first_root)
    window = {"begins": "22:00", "ends": "05:00"}
    registry.release({"tiny": ("1", registry.publish(bundles / "1"))}, window=window)
    site.at(noon)
    report = site.look(shelf(registry))
    assert report.outcome == "ready"
    assert "T22:00:00Z" in report.reason
    assert [row["at_once"] for row in site.rows("SELECT at_once FROM installs")] == [0]
    assert site.look(shelf(registry), now=True).outcome == "up_to_date"
    assert [row["at_once"] for row in site.rows("SELECT at_once FROM installs")] == [1]


def test_a_failed_self_test_is_kept_and_not_tried_again_unless_asked(site: Site, registry: Simulated) -> None:
    asked: list[Path] = []

    def fails(folder: Path, config: Config) -> SelfTest:
        asked.append(folder)
        return SelfTest(passed=False, code="golden_case_failed", reason="case 1: 0.2, expected 0.9")

    site.prove = fails
    with pytest.raises(SelfTestFailed, match="tiny version 1: golden_case_failed: case 1"):
        site.look(shelf(registry))
    assert site.installs() == [(1, "failed", "self_test_failed")]
    assert site.untouched()
    assert site.look(shelf(registry)).outcome == "failed_before"
    registry.release({"tiny": ("1", digest_of_target(registry, "tiny", "1"))})
    with pytest.raises(SelfTestFailed, match="before"):
        site.look(shelf(registry))
    assert len(asked) == 1
    site.prove = passes
    assert site.look(shelf(registry), now=True).outcome == "ready"


def test_a_version_that_was_rejected_here_does_not_come_again(site: Site, registry: Simulated) -> None:
    site.look(shelf(registry))
    digest = digest_of_target(registry, "tiny", "1")
    site.execute("INSERT INTO blocked VALUES ('tiny', '1', ?, 1.0, 'worse than version 0')", digest)
    registry.release({"tiny": ("1", digest)})
    for now in (False, True):
        with pytest.raises(VersionBlocked, match="worse than version 0"):
            site.look(shelf(registry), now=now)


def test_a_configuration_that_comes_or_goes_is_told_to_the_server(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    released = {"tiny": ("1", registry.publish(bundles / "1"))}
    site.look(shelf(registry))
    site.serves("tiny", "1")
    registry.release(released, configuration={"models": {"tiny": {"verdict": {"score_ng_min": 0.4}}}})
    assert site.look(shelf(registry)).outcome == "ready"
    site.execute(
        """INSERT INTO rollouts (install, at, state, mode, models, before, configuration)
        VALUES (2, 2, 'done', 'blue_green', '{}', '{}', '{"ring": "stable", "number": 2, "content": {}}')"""
    )
    registry.release(released)
    assert site.look(shelf(registry)).outcome == "ready"


def test_what_serves_and_is_withdrawn_is_told_to_the_server_though_its_successor_fails(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    site.look(shelf(registry))
    site.serves("tiny", "1")
    first = digest_of_target(registry, "tiny", "1")
    blocked = [{"name": "tiny", "version": "1", "manifest": first}]
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))}, blocked=blocked)
    site.prove = lambda folder, config: SelfTest(passed=False, code="model_load_failed", reason="no")
    with pytest.raises(SelfTestFailed):
        site.look(shelf(registry))
    assert site.look(shelf(registry)).outcome == "failed_before"
    assert site.installs()[1:] == [(2, "ready", None), (2, "failed", "self_test_failed")]
    (row,) = site.rows("SELECT models, release FROM installs WHERE number = 2 AND status = 'ready'")
    assert row["models"] == b"{}"
    assert b'"blocked"' in row["release"]


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ({"appliance": "99.0"}, "appliance 99.0 or newer"),
        ({"accelerator": "NPU9"}, "a NPU9"),
        ({"memory_mb": 99_000_000}, "99000000 MB of free memory"),
        ({"disk_mb": 99_000_000_000}, "99000000000 MB of free disk"),
    ],
)
def test_a_release_that_needs_more_than_the_box_has_is_refused_before_a_byte(
    site: Site, registry: Simulated, bundles: Path, requires: dict[str, Any], said: str
) -> None:
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))}, requires=requires)
    source = shelf(registry)
    with pytest.raises(Unsuitable, match=said):
        site.look(source)
    assert not [path for path in source.wire if path.startswith("blobs/")]
    assert site.installs() == [(2, "checking", "release_unsuitable")]


def test_several_models_of_a_release_come_together_or_not_at_all(
    site: Site, registry: Simulated, bundles: Path, tmp_path: Path
) -> None:
    other = registry.publish(write_model(tmp_path / "more", "other", "1", title="another"))
    registry.release({"tiny": ("2", registry.publish(bundles / "2")), "other": ("1", other)})
    site.prove = lambda folder, config: SelfTest(passed=folder.parent.name == "tiny", code="x", reason="bad")
    with pytest.raises(SelfTestFailed, match="other version 1"):
        site.look(shelf(registry))
    assert site.untouched()
    site.prove = passes
    assert site.look(shelf(registry), now=True).models == {"tiny": "2", "other": "1"}
    assert site.models() == {"other": ["1"], "tiny": ["2"]}


def test_versions_that_nothing_needs_are_removed_after_an_install(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    for version in "123":
        registry.release({"tiny": (version, registry.publish(bundles / version))})
        site.look(shelf(registry))
        site.serves("tiny", version, str(int(version) - 1))
        site.execute(
            "INSERT INTO rollouts (install, at, state, mode, models, before) SELECT max(id), 1, 'done', 'blue_green', "
            "'{}', '{}' FROM installs"
        )
    registry.release({"tiny": ("2", digest_of_target(registry, "tiny", "2"))})
    site.look(shelf(registry))
    assert site.models() == {"tiny": ["2", "3"]}


def test_a_damaged_version_that_serves_is_brought_again_when_asked(site: Site, registry: Simulated) -> None:
    site.look(shelf(registry))
    site.serves("tiny", "1")
    (file,) = (site.data_dir / "models/tiny/1/golden").glob("good.*")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert site.look(shelf(registry)).outcome == "up_to_date"
    assert site.look(shelf(registry), now=True).outcome == "ready"
    assert file.read_bytes() == content


def test_a_folder_of_somebody_elses_is_left_alone(site: Site, registry: Simulated, bundles: Path) -> None:
    theirs = site.data_dir / "models" / "tiny" / "1"
    shutil.copytree(bundles / "2", theirs)
    with pytest.raises(ReleaseInvalid, match="is there already, with another manifest"):
        site.look(shelf(registry))
    assert (theirs / "manifest.toml").read_bytes() == (bundles / "2" / "manifest.toml").read_bytes()


def test_a_download_that_was_cut_goes_on_where_it_stopped(site: Site, registry: Simulated, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "heavy", "tiny", "7")
    content = np.random.default_rng(1).bytes(3_000_000)
    add_file(folder, "openvino-f32/large.bin", content)
    registry.release({"tiny": ("7", registry.publish(folder))})
    source = shelf(registry)
    blob = f"blobs/{hashlib.sha256(content).hexdigest()}"

    def cut(content: bytes, offset: int) -> Iterator[bytes]:
        yield content[offset : offset + 1_200_000]
        raise RegistryUnavailable("cut", again=False)

    source.bends[blob] = cut
    with pytest.raises(RegistryUnavailable):
        site.look(source)
    (row,) = site.rows("SELECT status, code FROM installs")
    assert tuple(row.values()) == ("downloading", "registry_unavailable")
    assert site.poll()["code"] == "registry_unavailable"
    source.bends.clear()
    report = site.look(source)
    assert report.outcome == "ready"
    assert source.wire[blob] <= 3_000_000 + SYNC_BYTES
    assert site.seen[-1].step == "test"
    assert max(each.done for each in site.seen) == site.seen[-1].total


def test_a_newer_release_takes_the_place_of_one_that_is_half_there(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    broken = shelf(registry)
    broken.bends["blobs/"] = lambda content, offset: iter([content[offset : offset + 10]])
    with pytest.raises(RegistryUnavailable):
        site.look(broken)
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    site.look(shelf(registry))
    assert site.installs() == [(1, "superseded", "registry_unavailable"), (2, "ready", None)]
    assert list((site.data_dir / "models/.incoming").iterdir()) == []


def test_a_mirror_is_asked_when_the_first_address_fails(site: Site, registry: Simulated) -> None:
    dead, mirror = Shelf({}, "https://dead.example/"), shelf(registry, "https://mirror.example/")
    assert site.look(dead, mirror).origin == "https://mirror.example/"
    (row,) = site.rows("SELECT origin FROM trusted")
    assert row["origin"] == "https://mirror.example/"


def test_a_registry_that_wants_to_be_left_alone_is(site: Site, registry: Simulated) -> None:
    busy = shelf(registry)

    def later(content: bytes, offset: int) -> Iterator[bytes]:
        raise RegistryUnavailable("busy", answered=True, retry_after_s=600)
        yield content

    busy.bends["metadata/timestamp.json"] = later
    with pytest.raises(RegistryUnavailable, match="busy"):
        site.look(busy)
    assert site.look(shelf(registry)).outcome == "not_asked"
    assert site.look(shelf(registry), is_local=True).outcome == "ready"


def test_what_a_poll_found_is_there_for_whoever_watches(site: Site, registry: Simulated) -> None:
    with pytest.raises(RegistryUnavailable):
        site.look(Shelf({}))
    assert (site.poll()["failures"], site.poll()["code"]) == (1, "registry_unavailable")
    site.look(shelf(registry))
    poll = site.poll()
    assert (poll["failures"], poll["code"], poll["origin"]) == (0, None, "https://updates.example/")
    assert poll["expires_at"] == registry.timestamp.expires.timestamp()
    with pytest.raises(RegistryUnavailable):
        site.look(Shelf({}))
    assert site.poll()["fresh_at"] == poll["fresh_at"]


def test_a_registry_that_signs_nothing_new_for_days_raises_an_alarm(site: Site, registry: Simulated) -> None:
    began = registry.now.timestamp()
    site.at(began + 60)
    assert site.look(shelf(registry)).warnings == ()
    site.at(began + 4 * 86_400)
    (warning,) = site.look(shelf(registry)).warnings
    assert warning.code == "metadata_stale"
    assert site.poll()["warnings"] == ["metadata_stale"]
    registry.later(days=4)
    site.at(began + 4 * 86_400 + 60)
    assert site.look(shelf(registry)).warnings == ()


def test_two_updaters_do_not_meet(site: Site, registry: Simulated) -> None:
    site.data_dir.mkdir()
    with only_one(site.data_dir), pytest.raises(UpdateBusy, match="another updater works"):
        site.look(shelf(registry))
    assert site.look(shelf(registry)).outcome == "ready"


def test_a_box_without_a_root_is_told_to_get_one(site: Site, registry: Simulated) -> None:
    site.root_file.unlink()
    with pytest.raises(ConfigError, match=r"updates\.root"):
        site.look(shelf(registry))
    site.root_file.write_bytes(registry.first_root)
    site.look(shelf(registry))
    site.root_file.unlink()
    assert site.look(shelf(registry)).outcome == "up_to_date"


def test_another_root_than_the_one_that_was_trusted_is_refused(site: Site, registry: Simulated) -> None:
    site.look(shelf(registry))
    site.root_file.write_bytes(Simulated().first_root)
    with pytest.raises(ConfigError, match="another root"):
        site.look(shelf(registry))


def digest_of_target(registry: Simulated, name: str, version: str) -> str:
    return registry.delegated["vision"].targets[f"models/{name}/{version}/manifest.toml"].hashes["sha256"]
