"""What somebody between central ops and a box could try, or with some of the keys: nothing of it comes to serve."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile, Targets

from appliance.core.clock import FIRST_START_LATEST
from appliance.errors import (
    ApplianceError,
    ClockUntrusted,
    MetadataExpired,
    RegistryUnavailable,
    ReleaseInvalid,
    RolledBack,
    Untrusted,
)
from appliance.updater.folder import FolderSource
from tests.support.models import write_model
from tests.support.simulated import Shelf, Simulated, signed, with_bytes
from tests.support.toml import to_toml
from tests.support.updated import Site, shelf

DAY_S = 86_400.0
ENDLESS_BYTES_MAX = 12 << 20
"""More than any file of metadata may have, and no more than a moment's worth."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for version in "12":
        write_model(folder, "tiny", version, title=f"version {version}")
    return folder / "tiny"


@pytest.fixture
def registry(bundles: Path) -> Simulated:
    registry = Simulated()
    registry.release({"tiny": ("1", registry.publish(bundles / "1"))})
    return registry


@pytest.fixture
def site(tmp_path: Path, registry: Simulated) -> Site:
    return Site(tmp_path / "site", registry.first_root)


@pytest.fixture
def updated(site: Site, registry: Simulated) -> Site:
    """A box that has taken version 1."""
    assert site.look(shelf(registry)).outcome == "ready"
    return site


def refuse(site: Site, source: Any, *kinds: type[ApplianceError], match: str | None = None) -> None:
    """The look fails in one of these ways, in one line, and whatever there was before is there after."""
    before = (
        site.models(),
        site.rows("SELECT * FROM installs WHERE status = 'ready'"),
        site.rows("SELECT * FROM trusted"),
    )
    with pytest.raises(kinds, match=match) as raised:
        site.look(source)
    assert "\n" not in str(raised.value)
    after = (
        site.models(),
        site.rows("SELECT * FROM installs WHERE status = 'ready'"),
        site.rows("SELECT * FROM trusted"),
    )
    assert after == before


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


# Bytes that were changed on the way.


def test_a_tampered_file_is_fetched_once_more_later_and_then_no_more(site: Site, registry: Simulated) -> None:
    bent = shelf(registry)
    bent.bends["blobs/"] = lambda content, offset: iter([content[:-1] + bytes([content[-1] ^ 1])])
    refuse(site, bent, Untrusted, match="not what was signed")
    assert site.installs() == [(1, "downloading", "update_untrusted")]
    refuse(site, bent, Untrusted, match="not what was signed")
    assert site.installs() == [(1, "failed", "update_untrusted")]
    assert list((site.data_dir / "models/.incoming").iterdir()) == []
    assert site.look(bent).outcome == "failed_before"
    assert site.look(shelf(registry), now=True).outcome == "ready"


def test_a_file_that_was_tampered_with_once_comes_right_the_next_time(site: Site, registry: Simulated) -> None:
    bent = shelf(registry)
    bent.bends["blobs/"] = lambda content, offset: iter([bytes(len(content))])
    refuse(site, bent, Untrusted)
    assert site.look(shelf(registry)).outcome == "ready"


def test_a_mirror_that_tampers_does_not_keep_a_good_one_from_being_used(site: Site, registry: Simulated) -> None:
    bent, good = shelf(registry, "https://bad.example/"), shelf(registry, "https://good.example/")
    bent.bends["blobs/"] = lambda content, offset: iter([bytes(len(content))])
    assert site.look(bent, good).outcome == "ready"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "channels", "vision"])
def test_tampered_metadata_is_refused(site: Site, registry: Simulated, role: str) -> None:
    path = max((path for path in registry.files if path.endswith(f"{role}.json")), key=len)
    path = {"timestamp": "metadata/timestamp.json"}.get(role, f"metadata/{version_of(registry, role)}.{role}.json")
    registry.files[path] = replaced(registry.files[path], b'"expires":"20', b'"expires":"29')
    refuse(site, shelf(registry), Untrusted)


@pytest.mark.parametrize("what", ["channels/", "models/"])
def test_a_tampered_release_or_manifest_is_refused(site: Site, registry: Simulated, what: str) -> None:
    for path in [path for path in registry.files if path.startswith(f"targets/{what}")]:
        registry.files[path] = replaced(registry.files[path], b"tiny", b"tine")
    refuse(site, shelf(registry), Untrusted)


def test_a_blob_of_another_length_than_its_manifest_says_costs_nothing(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    path = "golden/good.png"
    size = (bundles / "2" / path).stat().st_size
    for said in (size - 1, size + 1):
        registry.release({"tiny": ("2", registry.publish(bundles / "2", **{path: said}))})
        refuse(site, shelf(registry), Untrusted, match=f"has {size} bytes, its manifest says {said}")


def test_a_target_of_another_length_than_was_signed_is_refused(site: Site, registry: Simulated) -> None:
    path = "channels/stable.json"
    target = registry.delegated["channels"].targets[path]
    for length in (target.length - 1, target.length + 1):
        registry.delegated["channels"].targets[path] = TargetFile(length, target.hashes, path)
        registry.delegated["channels"].version += 1
        registry.sign()
        refuse(site, shelf(registry), Untrusted)


@pytest.mark.parametrize(
    "path",
    ["metadata/2.root.json", "metadata/timestamp.json", "metadata/", "targets/channels/", "targets/models/", "blobs/"],
)
def test_endless_data_ends_at_what_was_signed(site: Site, registry: Simulated, path: str) -> None:
    source = shelf(registry)

    def endless(content: bytes, offset: int) -> Iterator[bytes]:
        while True:
            yield b"7" * (64 << 10)

    source.bends[path] = endless
    refuse(site, source, Untrusted, RegistryUnavailable)
    assert sum(source.wire.values()) < ENDLESS_BYTES_MAX


# Keys that were not given, were lost, or were replaced.


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "channels", "vision"])
def test_a_key_that_nobody_named_signs_nothing(updated: Site, registry: Simulated, bundles: Path, role: str) -> None:
    registry.keys[role] = [CryptoSigner.generate_ed25519() for _ in registry.keys[role]]
    registry.targets.version += 1
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    refuse(updated, shelf(registry), Untrusted)


@pytest.mark.parametrize("role", ["root", "targets"])
def test_one_signature_where_two_are_wanted_is_too_few(updated: Site, registry: Simulated, role: str) -> None:
    if role == "root":
        registry.root.version += 1
        registry.put_root(registry.keys["root"][:1])
    else:
        registry.keys["targets"] = registry.keys["targets"][:1]
        registry.targets.version += 1
        registry.sign()
    refuse(updated, shelf(registry), Untrusted)


def test_one_key_that_signs_twice_counts_once(updated: Site, registry: Simulated) -> None:
    registry.targets.version += 1
    registry.sign()
    path = f"metadata/{registry.targets.version}.targets.json"
    metadata = json.loads(registry.files[path])
    first = metadata["signatures"][0]
    metadata["signatures"] = [first, first]
    registry.files[path] = json.dumps(metadata).encode()
    refuse(updated, shelf(registry), Untrusted, RegistryUnavailable)


def test_a_new_root_is_followed_over_several_versions_at_once(
    updated: Site, registry: Simulated, bundles: Path
) -> None:
    for _ in range(5):
        registry.rotate_root()
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    assert updated.look(shelf(registry)).models == {"tiny": "2"}


def test_a_root_that_the_one_before_did_not_sign_is_refused(updated: Site, registry: Simulated) -> None:
    registry.rotate_root(keep=0)
    refuse(updated, shelf(registry), Untrusted)


def test_a_step_of_the_roots_cannot_be_left_out(updated: Site, registry: Simulated, bundles: Path) -> None:
    registry.rotate_root()
    registry.files["metadata/2.root.json"] = registry.files.pop("metadata/2.root.json").replace(
        b'"version":2', b'"version":3'
    )
    refuse(updated, shelf(registry), Untrusted)


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_revoked_key_signs_nothing_any_more(updated: Site, registry: Simulated, role: str) -> None:
    old = registry.replace_key(role)
    registry.release({})
    assert updated.look(shelf(registry)).number == 2
    registry.keys[role] = [old]
    registry.release({})
    refuse(updated, shelf(registry), Untrusted)


def test_a_team_whose_key_was_revoked_publishes_nothing(updated: Site, registry: Simulated, bundles: Path) -> None:
    assert registry.targets.delegations is not None
    old = registry.keys["vision"][0]
    registry.targets.revoke_key(old.public_key.keyid, "vision")
    fresh = CryptoSigner.generate_ed25519()
    registry.targets.add_key(fresh.public_key, "vision")
    registry.targets.version += 1
    digest = registry.publish(bundles / "2")
    registry.release({"tiny": ("2", digest)})
    refuse(updated, shelf(registry), Untrusted)
    registry.keys["vision"] = [fresh]
    registry.delegated["vision"].version += 1
    registry.sign()
    assert updated.look(shelf(registry)).models == {"tiny": "2"}


def test_versions_that_were_driven_up_by_a_thief_are_forgotten_with_the_keys(
    updated: Site, registry: Simulated, bundles: Path
) -> None:
    honest = (registry.snapshot.version, registry.timestamp.version)
    registry.snapshot.version, registry.timestamp.version = 2_000_000, 2_000_000
    registry.sign(bump=False)
    updated.look(shelf(registry))
    registry.snapshot.version, registry.timestamp.version = honest
    registry.sign()
    refuse(updated, shelf(registry), RolledBack)
    for role in ("snapshot", "timestamp"):
        registry.replace_key(role)
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    assert updated.look(shelf(registry)).models == {"tiny": "2"}


# What is old.


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "channels", "vision"])
def test_no_role_goes_back(updated: Site, registry: Simulated, bundles: Path, role: str) -> None:
    registry.later(hours=1)
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    assert updated.look(shelf(registry)).models == {"tiny": "2"}
    part = {"timestamp": registry.timestamp, "snapshot": registry.snapshot, "targets": registry.targets}
    (part.get(role) or registry.delegated[role]).version -= 1
    if role == "timestamp":
        registry.files["metadata/timestamp.json"] = signed(registry.timestamp, registry.keys["timestamp"])
    elif role == "snapshot":
        registry.timestamp.version += 1
        registry.sign(bump=False)
    else:
        registry.sign()
    refuse(updated, shelf(registry), RolledBack)


def test_a_root_does_not_go_back(updated: Site, registry: Simulated) -> None:
    registry.rotate_root()
    registry.release({})
    updated.look(shelf(registry))
    registry.files["metadata/3.root.json"] = registry.files["metadata/2.root.json"]
    refuse(updated, shelf(registry), RolledBack, Untrusted)


def test_an_old_release_that_is_signed_anew_changes_nothing(updated: Site, registry: Simulated, bundles: Path) -> None:
    old = registry.files[next(path for path in registry.files if path.startswith("targets/channels/"))]
    registry.later(hours=1)
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    updated.look(shelf(registry))
    registry.add_target("channels/stable.json", old, "channels")
    refuse(updated, shelf(registry), RolledBack, match="release 1 of ring stable")


def test_an_older_stick_changes_nothing_and_says_so(
    updated: Site, registry: Simulated, bundles: Path, tmp_path: Path
) -> None:
    stick = FolderSource(registry.write(tmp_path / "stick"))
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    updated.look(shelf(registry))
    refuse(updated, stick, RolledBack, match="older than what this box trusts already")


def test_a_registry_that_is_frozen_expires(updated: Site, registry: Simulated) -> None:
    updated.at(registry.now.timestamp() + 8 * DAY_S, synchronised=True)
    refuse(updated, shelf(registry), MetadataExpired, match="what runs goes on")
    assert updated.poll()["code"] == "metadata_expired"
    assert updated.poll()["warnings"] == ["metadata_stale"]


def test_metadata_of_two_moments_does_not_go_together(updated: Site, registry: Simulated, bundles: Path) -> None:
    old = registry.files[f"metadata/{registry.delegated['vision'].version}.vision.json"]
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    registry.files[f"metadata/{registry.delegated['vision'].version}.vision.json"] = old
    refuse(updated, shelf(registry), Untrusted, RolledBack)


def test_a_snapshot_that_leaves_a_role_out_is_refused(updated: Site, registry: Simulated) -> None:
    registry.release({})
    del registry.snapshot.meta["vision.json"]
    registry.snapshot.version += 1
    registry.timestamp.version += 1
    path = f"metadata/{registry.snapshot.version}.snapshot.json"
    registry.files[path] = signed(registry.snapshot, registry.keys["snapshot"])
    registry.timestamp.snapshot_meta = MetaFile(registry.snapshot.version)
    registry.files["metadata/timestamp.json"] = signed(registry.timestamp, registry.keys["timestamp"])
    refuse(updated, shelf(registry), Untrusted)


# Who may say what.


def test_a_team_cannot_release(site: Site, registry: Simulated) -> None:
    registry.delegated["channels"].targets.clear()
    registry.release({})
    content = registry.files[f"targets/channels/{digest(registry, 'channels', 'channels/stable.json')}.stable.json"]
    registry.delegated["channels"].targets.clear()
    registry.delegated["channels"].version += 1
    registry.add_target("channels/stable.json", content, "vision")
    assert site.look(shelf(registry)).outcome == "no_release"
    assert site.untouched()


def test_a_team_cannot_publish_the_model_of_another(tmp_path: Path, bundles: Path) -> None:
    registry = Simulated(teams={"vision": "models/tiny/*/manifest.toml", "sound": "models/motor/*/manifest.toml"})
    site = Site(tmp_path / "site", registry.first_root)
    registry.publish(bundles / "1")
    path = "models/tiny/1/manifest.toml"
    content = registry.files[f"targets/models/tiny/1/{digest(registry, 'vision', path)}.manifest.toml"]
    del registry.delegated["vision"].targets[path]
    registry.add_target(path, content, "sound")
    registry.release({"tiny": ("1", hashlib.sha256(content).hexdigest())})
    refuse(site, shelf(registry), Untrusted, match="no team that may publish it")


def test_a_team_cannot_hand_its_right_on(site: Site, registry: Simulated) -> None:
    """A delegation below a team's is nothing that the registry's owners agreed to."""
    key = CryptoSigner.generate_ed25519()
    team = registry.delegated["vision"]
    team.delegations = Delegations({}, {"friend": DelegatedRole("friend", [], 1, False, ["models/*/*/manifest.toml"])})
    team.add_key(key.public_key, "friend")
    registry.keys["friend"] = [key]
    registry.delegated["friend"] = Targets(expires=team.expires)
    path = "models/tiny/1/manifest.toml"
    registry.delegated["friend"].targets[path] = team.targets.pop(path)
    team.version += 1
    registry.sign()
    refuse(site, shelf(registry), Untrusted, match="did not name themselves")


def test_a_manifest_that_is_not_the_released_one_is_refused_though_its_team_signed_it(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    registry.publish(bundles / "2")
    registry.release({"tiny": ("2", digest(registry, "vision", "models/tiny/1/manifest.toml"))})
    refuse(site, shelf(registry), Untrusted, match="is not the one that the release names")


def test_a_manifest_under_the_name_of_another_version_is_refused(
    site: Site, registry: Simulated, bundles: Path
) -> None:
    registry.release({"tiny": ("3", registry.add_manifest("tiny", "3", with_bytes(bundles / "2")))})
    refuse(site, shelf(registry), Untrusted, match="its manifest says tiny version 2")


def test_a_stick_of_another_site_is_refused(updated: Site, bundles: Path, tmp_path: Path) -> None:
    other = Simulated()
    other.release({"tiny": ("2", other.publish(bundles / "2"))}, number=99)
    refuse(updated, FolderSource(other.write(tmp_path / "stick")), Untrusted, match="nothing was changed")


def test_a_release_of_another_ring_under_this_rings_name_is_refused(site: Site, registry: Simulated) -> None:
    registry.release({}, ring="early")
    content = next(content for path, content in registry.files.items() if path.endswith(".early.json"))
    registry.add_target("channels/stable.json", content, "channels")
    refuse(site, shelf(registry), Untrusted, match="is a release for ring early")


def test_a_release_cannot_send_the_boxes_time_beyond_its_signatures(site: Site, registry: Simulated) -> None:
    registry.release({}, issued="2090-01-01T00:00:00Z")
    refuse(site, shelf(registry), Untrusted, match="after its signatures expire")
    assert not (site.data_dir / "tuf.time").exists()


# Names.


@pytest.mark.parametrize(
    "path",
    [
        "../evil.bin",
        "/etc/evil",
        "a/../../evil",
        ".hidden",
        "a/.hidden/b",
        "manifest.toml",
        "manifest.toml/a",
        "",
        "a\x00b",
    ],
)
def test_a_name_that_leaves_its_folder_is_refused(site: Site, registry: Simulated, bundles: Path, path: str) -> None:
    manifest = tomllib.loads(with_bytes(bundles / "2").decode())
    manifest["variants"][0]["files"][0]["path"] = path
    content = to_toml(manifest).encode()
    registry.release({"tiny": ("2", registry.add_manifest("tiny", "2", content))})
    source = shelf(registry)
    refuse(site, source, Untrusted, ReleaseInvalid)
    assert not [each for each in source.wire if each.startswith("blobs/")]


def test_names_that_stand_in_each_others_way_are_refused(site: Site, registry: Simulated, bundles: Path) -> None:
    manifest = tomllib.loads(with_bytes(bundles / "2").decode())
    files = manifest["variants"][0]["files"]
    files[0]["path"], files[1]["path"] = "a/b", "a"
    registry.release({"tiny": ("2", registry.add_manifest("tiny", "2", to_toml(manifest).encode()))})
    refuse(site, shelf(registry), Untrusted, match="stands below a file")


@pytest.mark.parametrize("name", ["../tiny", "/tiny", ".tiny", "", "a/b"])
def test_a_model_cannot_be_named_out_of_its_folder(site: Site, registry: Simulated, name: str) -> None:
    registry.release({name: ("1", digest(registry, "vision", "models/tiny/1/manifest.toml"))})
    refuse(site, shelf(registry), ReleaseInvalid)


def test_a_link_a_pipe_and_a_folder_on_a_stick_are_no_files(site: Site, registry: Simulated, tmp_path: Path) -> None:
    stick = registry.write(tmp_path / "stick")
    timestamp = stick / "metadata" / "timestamp.json"
    content = timestamp.read_bytes()
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(content)
    timestamp.unlink()
    timestamp.symlink_to(elsewhere)
    refuse(site, FolderSource(stick), RegistryUnavailable)
    timestamp.unlink()
    os.mkfifo(timestamp)
    refuse(site, FolderSource(stick), RegistryUnavailable)
    timestamp.unlink()
    timestamp.mkdir()
    refuse(site, FolderSource(stick), RegistryUnavailable)
    timestamp.rmdir()
    timestamp.write_bytes(content)
    assert site.look(FolderSource(stick), is_local=True).outcome == "ready"


# Nonsense that is signed, and answers that are none.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "truncated|JSON|malformed"),
        (b"[]", "object"),
        (b'{"ring":"stable"}', "missing required field"),
        (b'{"ring":"stable","number":0,"issued":"2026-01-01T00:00:00Z","models":{}}', "number"),
        (b'{"ring":"stable","number":2,"issued":"yesterday","models":{}}', "yesterday"),
        (b'{"ring":"stable","number":2,"issued":"2026-01-01T00:00:00Z","models":{},"surprise":1}', "surprise"),
    ],
)
def test_a_signed_release_that_makes_no_sense_is_refused(
    site: Site, registry: Simulated, content: bytes, said: str
) -> None:
    registry.add_target("channels/stable.json", content, "channels")
    refuse(site, shelf(registry), ReleaseInvalid, match=said)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html><body>Log in</body></html>", b"{}", b"\xff\x00\xfe", b"null", b"[" * 5_000]
)
def test_what_is_no_metadata_is_no_registry(updated: Site, registry: Simulated, content: bytes) -> None:
    source = shelf(registry)
    source.bends["metadata/"] = lambda _, offset: iter([content])
    refuse(updated, source, RegistryUnavailable, Untrusted)


# Clocks.


def test_a_clock_of_1970_is_not_believed(updated: Site, registry: Simulated) -> None:
    updated.at(3_600.0)
    (warning,) = updated.look(shelf(registry)).warnings
    assert warning.code == "clock_untrusted"
    updated.at(3_600.0)
    assert updated.poll()["warnings"] == ["clock_untrusted"]


def test_with_a_clock_of_1970_what_expired_by_signed_time_is_refused(tmp_path: Path, bundles: Path) -> None:
    registry = Simulated()
    registry.release({"tiny": ("1", registry.publish(bundles / "1"))})
    site = Site(tmp_path / "site", registry.first_root)
    site.look(shelf(registry))
    frozen = dict(registry.files)
    registry.later(days=30)
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    site.at(registry.now.timestamp())
    site.look(shelf(registry))
    for name in ("timestamp", "snapshot", "targets"):
        (site.data_dir / "tuf" / f"{name}.json").unlink()
    site.at(3_600.0)
    refuse(site, Shelf(frozen), MetadataExpired)


@pytest.mark.parametrize("year_s", [2_147_483_647.0 + 3_600, 4_070_908_800.0])
def test_a_clock_of_2038_or_2099_is_called_wrong_and_not_the_metadata(
    updated: Site, registry: Simulated, year_s: float
) -> None:
    updated.at(year_s)
    refuse(updated, shelf(registry), ClockUntrusted, match="set the clock")
    updated.at(year_s, synchronised=True)
    refuse(updated, shelf(registry), MetadataExpired)
    updated.at(registry.now.timestamp() + 60)
    assert updated.look(shelf(registry)).outcome == "up_to_date"


def test_the_first_look_with_a_clock_far_ahead_says_so(site: Site, registry: Simulated) -> None:
    site.at(FIRST_START_LATEST + DAY_S)
    refuse(site, shelf(registry), ClockUntrusted)


# The folder of what is trusted.


FILES = ["root.json", "timestamp.json", "snapshot.json", "targets.json", "channels.json", "vision.json", "tuf.time"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["emptied", "halved", "gone", "garbage"])
def test_what_a_power_cut_did_to_the_trusted_metadata_heals(
    updated: Site, registry: Simulated, bundles: Path, name: str, harm: str
) -> None:
    path = updated.data_dir / ("" if name == "tuf.time" else "tuf") / name
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes({"emptied": b"", "halved": content[: len(content) // 2], "garbage": b"\x00" * 700}[harm])
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    assert updated.look(shelf(registry)).models == {"tiny": "2"}


@pytest.mark.parametrize("harm", ["emptied", "removed", "history halved"])
def test_a_lost_folder_of_trusted_metadata_is_made_again_from_the_first_root(
    updated: Site, registry: Simulated, bundles: Path, harm: str
) -> None:
    registry.rotate_root()
    registry.release({})
    updated.look(shelf(registry))
    folder = updated.data_dir / "tuf"
    for path in sorted(folder.rglob("*"), reverse=True):
        if harm == "history halved":
            if path.parent.name == "root_history":
                path.write_bytes(path.read_bytes()[:100])
        elif path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    if harm == "removed":
        folder.rmdir()
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    assert updated.look(shelf(registry)).models == {"tiny": "2"}


def test_a_lost_folder_still_takes_no_older_release(updated: Site, registry: Simulated, bundles: Path) -> None:
    old = dict(registry.files)
    registry.later(hours=1)
    registry.release({"tiny": ("2", registry.publish(bundles / "2"))})
    updated.look(shelf(registry))
    for path in (updated.data_dir / "tuf").glob("*.json"):
        path.unlink()
    refuse(updated, Shelf(old), RolledBack)


def version_of(registry: Simulated, role: str) -> int:
    parts = {"snapshot": registry.snapshot, "targets": registry.targets, "timestamp": registry.timestamp}
    return (parts.get(role) or registry.delegated[role]).version


def digest(registry: Simulated, role: str, path: str) -> str:
    return registry.delegated[role].targets[path].hashes["sha256"]
