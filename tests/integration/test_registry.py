"""Central ops and a box, over a real registry: publish, promote, take back; and what is refused before it is signed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from appliance.errors import MetadataExpired, RegistryError, RolledBack, Untrusted
from appliance.repository import read_version
from appliance.updater.folder import FolderSource
from appliance.updater.selftest import SelfTest
from provisioning.registry import bundle, channels, files, gc, history, lengths, mirror, publish, rotate, verify
from provisioning.registry.create import Owners
from provisioning.registry.keys import Keyring
from provisioning.registry.registry import Registry
from tests.support.models import write_model
from tests.support.registry import RING, RealRegistry, make_registry
from tests.support.updated import Site


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """Versions 1 and 2 of `tiny`, which share all files but the manifest."""
    first = write_model(tmp_path / "bundles", "tiny", "1")
    follow(first, "2")
    return first.parent


def follow(folder: Path, version: str) -> Path:
    """The same model as another version."""
    other = folder.parent / version
    shutil.copytree(folder, other)
    text = (other / "manifest.toml").read_text()
    (other / "manifest.toml").write_text(text.replace(f'"version" = "{folder.name}"', f'"version" = "{version}"'))
    return other


@pytest.fixture
def registry(tmp_path: Path, bundles: Path) -> RealRegistry:
    """Both versions are published, and version 1 is released."""
    registry = make_registry(tmp_path / "registry")
    for version in "12":
        registry.publish(bundles / version)
    registry.promote("tiny", "1")
    return registry


def box(registry: RealRegistry, tmp_path: Path) -> Site:
    return Site(tmp_path / "box", registry.root)


def look(site: Site, registry: RealRegistry) -> dict[str, str]:
    return dict(site.look(FolderSource(registry.folder)).models)


def test_a_box_installs_what_is_promoted_and_goes_back_when_it_is_taken_back(
    registry: RealRegistry, tmp_path: Path
) -> None:
    site = box(registry, tmp_path)
    assert look(site, registry) == {"tiny": "1"}
    registry.promote("tiny")
    assert look(site, registry) == {"tiny": "2"}
    registry.rollback()
    assert look(site, registry) == {"tiny": "1"}
    assert [row[:2] for row in site.installs()][-1] == (3, "ready")


def test_a_device_is_told_exactly_what_it_will_download(registry: RealRegistry, bundles: Path, tmp_path: Path) -> None:
    folder = follow(bundles / "2", "3")
    picture = folder / "golden" / "good.png"
    text = (folder / "manifest.toml").read_text()
    old, size = hashlib.sha256(picture.read_bytes()).hexdigest(), picture.stat().st_size
    picture.write_bytes(b"other bytes")
    fresh = hashlib.sha256(b"other bytes").hexdigest()
    (folder / "manifest.toml").write_text(
        text.replace(f'"{old}", bytes = {size}', f'"{fresh}", bytes = {len(b"other bytes")}')
    )
    registry.publish(folder)
    before = registry.published()
    manifest, ref = publish.manifest_of(before, "tiny", "3")
    told = publish.download(before, manifest, ref)
    assert told.since == "2"
    assert told.change == len(b"other bytes") + (folder / "manifest.toml").stat().st_size
    site = box(registry, tmp_path)
    look(site, registry)
    registry.promote("tiny", "3")
    report = site.look(FolderSource(registry.folder))
    assert report.bytes == len(b"other bytes")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"licence": " "}, "licence is empty"),
        ({"provenance": ""}, "provenance is empty"),
        ({"golden": []}, "there is no golden case"),
    ],
)
def test_a_bundle_that_does_not_say_what_it_is_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    folder = write_model(tmp_path, "tiny", "1", **change)
    with pytest.raises(RegistryError, match=reason):
        bundle.check(folder, passes)


def test_a_bundle_without_lengths_is_told_the_command_that_writes_them(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "tiny", "1")
    with pytest.raises(RegistryError, match=rf"gives no `bytes` for .*; write them with: .* measure {folder}"):
        bundle.check(folder, passes)


def test_a_length_that_is_wrong_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "tiny", "1")
    lengths.fill(read_version(folder))
    manifest = folder / "manifest.toml"
    size = (folder / "golden" / "good.png").stat().st_size
    manifest.write_text(manifest.read_text().replace(f"bytes = {size}", "bytes = 1", 1))
    with pytest.raises(RegistryError, match=rf"says that .* has 1 bytes, it has {size}"):
        bundle.check(folder, passes)


def test_a_bundle_whose_golden_cases_do_not_hold_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "tiny", "1")
    text = (folder / "manifest.toml").read_text().replace('"label" = "good"', '"label" = "bad"', 1)
    (folder / "manifest.toml").write_text(text)
    lengths.fill(read_version(folder))
    with pytest.raises(RegistryError, match="its golden cases do not hold here"):
        bundle.check(folder)


def test_a_version_never_changes(registry: RealRegistry, tmp_path: Path) -> None:
    other = write_model(tmp_path / "again", "tiny", "1", title="another")
    with pytest.raises(RegistryError, match=r"published already, with another manifest .* next number \(3\)"):
        registry.publish(other)


def test_a_number_is_never_given_twice(registry: RealRegistry, tmp_path: Path) -> None:
    registry.publish(write_model(tmp_path / "more", "tiny", "5"))
    with pytest.raises(RegistryError, match=r"tiny 4 is below version 5.*the next number \(6\)"):
        registry.publish(write_model(tmp_path / "more", "tiny", "4"))


def test_a_blob_that_was_lost_comes_back_with_the_same_bundle(registry: RealRegistry, bundles: Path) -> None:
    lost = next((registry.folder / "blobs").iterdir())
    lost.unlink()
    assert [each.level for each in registry_findings(registry)] == ["error"]
    registry.publish(bundles / "1")
    assert registry_findings(registry) == []


def test_a_team_cannot_publish_the_models_of_another(tmp_path: Path) -> None:
    registry = make_registry(tmp_path / "registry", teams={"vision": "surface*"})
    with pytest.raises(RegistryError, match=r"no team may publish a model called tiny \(vision: surface\*\)"):
        registry.publish(write_model(tmp_path / "b", "tiny", "1"))


def test_two_at_once_do_not_meet(registry: RealRegistry) -> None:
    refused = pytest.raises(RegistryError, match="another appliance-registry changes")
    with files.locked(registry.folder), refused, files.locked(registry.folder):
        raise AssertionError("both hold it")
    with files.locked(registry.folder):
        pass
    handle = os.open(registry.folder / ".lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


class Killed(BaseException):
    """Nothing in the code under test may catch it."""


def test_a_publication_that_is_killed_anywhere_leaves_the_old_release_whole(
    registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    registry.folder.rename(begun)
    bundle_3 = write_model(tmp_path / "more", "tiny", "3", title="version 3")
    lengths.fill(read_version(bundle_3))
    steps = 0
    # What is on the disk when the power goes is not the question here, and the test waits for no disk.
    real: dict[str, Callable[..., Any]] = {"fsync": lambda handle: None, "rename": os.rename}

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Killed
            return real[name](*arguments)

        return call

    def attempt(at: int) -> None:
        nonlocal steps
        steps = at
        registry.publish(bundle_3)
        registry.promote("tiny", "3")

    for name in real:
        monkeypatch.setattr(os, name, counted(name))
    at, seen = 0, set()
    while True:
        at += 1
        shutil.rmtree(registry.folder, ignore_errors=True)
        shutil.copytree(begun, registry.folder)
        try:
            attempt(at)
            done = True
        except Killed:
            done = False
        steps = 0
        assert registry_findings(registry) == []
        release = registry.published().release(RING)
        assert release is not None
        seen.add(release.models["tiny"].version)
        if done:
            break
        # Whoever comes next is not in the way of what was left.
        attempt(0)
        assert look(Site(tmp_path / f"box-{at}", registry.root), registry) == {"tiny": "3"}
    assert at > 20
    assert seen == {"1", "3"}


def test_what_was_put_into_the_folder_by_others_is_never_signed(registry: RealRegistry) -> None:
    thief = CryptoSigner.generate_ed25519()
    version = registry.published().version("channels")
    registry.forge(f"{version}.channels.json", lambda signed: signed.targets.clear(), [thief])
    with pytest.raises(RegistryError, match="is not signed by the keys of channels"):
        registry.promote("tiny", "2")
    with pytest.raises(RegistryError, match="somebody changed it"):
        registry.refresh()


def test_a_past_release_that_others_signed_is_no_place_to_go_back_to(registry: RealRegistry) -> None:
    registry.promote("tiny", "2")
    old = registry.published().version("channels") - 1
    registry.forge(f"{old}.channels.json", lambda signed: None, [CryptoSigner.generate_ed25519()])
    with pytest.raises(RegistryError, match="has had nothing else"):
        registry.rollback()
    assert len(history.log(registry.published())) == 2


def test_without_the_team_s_key_a_publication_waits_for_its_signature(
    registry: RealRegistry, bundles: Path, tmp_path: Path
) -> None:
    online = [registry.keys[role][0] for role in ("snapshot", "timestamp")]
    central, team = registry.with_keys(online), registry.with_keys(registry.keys["vision"])
    folder = write_model(tmp_path / "more", "tiny", "3")
    lengths.fill(read_version(folder))
    found = bundle.check(folder, passes)
    outcome = publish.publish(central, central.published(), found)
    assert outcome is not None
    assert outcome.missing == {"vision": (1, ["vision-1"])}
    with pytest.raises(RegistryError, match="tiny 3 is not published"):
        registry.promote("tiny", "3")
    with pytest.raises(RegistryError, match="vision waits for signatures already"):
        registry.publish(write_model(tmp_path / "more", "tiny", "4"))
    assert outcome.draft is not None
    draft, names = drafts_sign(outcome.draft, team)
    assert names == ["vision-1"]
    assert central.take(draft).published
    assert registry.promote("tiny").models["tiny"].version == "3"


def test_nothing_is_published_where_the_online_keys_are_not(registry: RealRegistry, tmp_path: Path) -> None:
    alone = registry.with_keys(registry.keys["vision"])
    folder = write_model(tmp_path / "more", "tiny", "3")
    lengths.fill(read_version(folder))
    with pytest.raises(RegistryError, match=r"the key of snapshot \(snapshot-1\) is not in --keys"):
        publish.publish(alone, alone.published(), bundle.check(folder, passes))
    assert registry_findings(registry) == []


def test_a_box_follows_several_rotations_at_once(registry: RealRegistry, tmp_path: Path) -> None:
    site = box(registry, tmp_path)
    look(site, registry)
    for role in ("root", "root", "timestamp", "snapshot", "targets", "channels", "vision"):
        fresh = CryptoSigner.generate_ed25519()
        before = registry.keys[role]
        everybody = [*(key for keys in registry.keys.values() for key in keys), fresh]
        registry.registry = registry.with_keys(everybody)
        rotate.rotate(registry.registry, registry.published(), role, [fresh.public_key], [before[0].public_key.keyid])
        registry.keys[role] = [*before[1:], fresh]
    registry.registry = registry.with_keys([key for keys in registry.keys.values() for key in keys])
    registry.promote("tiny", "2")
    assert look(site, registry) == {"tiny": "2"}
    assert registry_findings(registry) == []
    assert registry.published().root.version == 6


def test_a_rotation_that_is_killed_is_finished_by_the_next_refresh(
    registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = CryptoSigner.generate_ed25519()
    everybody = [*(key for keys in registry.keys.values() for key in keys), fresh]
    keyring = Keyring([tmp_path], lambda what: what, everybody)
    own = Registry(registry.folder, keyring, lambda: registry.now)
    own.refresh(own.published())
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(target).name == "timestamp.json":
            raise Killed
        real(source, target)

    before = own.published()
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with pytest.raises(Killed):
            rotate.rotate(own, before, "timestamp", [fresh.public_key], ["timestamp-1"])
    assert (registry.folder / "metadata" / "2.root.json").is_file()
    assert own.published().root.version == 2
    own.refresh(own.published())
    assert registry_findings(registry) == []
    assert look(box(registry, tmp_path), registry) == {"tiny": "1"}


def test_a_revoked_key_signs_nothing_any_more(registry: RealRegistry, tmp_path: Path) -> None:
    site = box(registry, tmp_path)
    look(site, registry)
    stolen, fresh = registry.keys["timestamp"][0], CryptoSigner.generate_ed25519()
    registry.registry = registry.with_keys([*(key for keys in registry.keys.values() for key in keys), fresh])
    rotate.rotate(registry.registry, registry.published(), "timestamp", [fresh.public_key], ["timestamp-1"])
    look(site, registry)
    registry.forge("timestamp.json", lambda signed: setattr(signed, "version", 1000), [stolen])
    with pytest.raises(Untrusted):
        look(site, registry)


def test_boxes_that_a_thief_sent_far_ahead_come_back_with_new_keys(registry: RealRegistry, tmp_path: Path) -> None:
    """Fast-forward recovery: after the keys of snapshot and timestamp were changed, versions may be lower again."""
    site = box(registry, tmp_path)
    honest = {path: path.read_bytes() for path in (registry.folder / "metadata").iterdir()}
    thief = registry.keys["timestamp"][0]
    registry.forge("timestamp.json", lambda signed: setattr(signed, "version", 1_000_000), [thief])
    assert look(site, registry) == {"tiny": "1"}
    for path, content in honest.items():
        path.write_bytes(content)
    with pytest.raises(RolledBack):
        look(site, registry)
    for role in ("timestamp", "snapshot"):
        fresh = CryptoSigner.generate_ed25519()
        registry.keys[role].append(fresh)
        registry.registry = registry.with_keys([key for keys in registry.keys.values() for key in keys])
        rotate.rotate(registry.registry, registry.published(), role, [fresh.public_key], [f"{role}-1"])
    registry.promote("tiny", "2")
    assert look(site, registry) == {"tiny": "2"}


def test_a_new_team_publishes_its_own_models(tmp_path: Path) -> None:
    registry = make_registry(tmp_path / "registry", teams={"vision": "surface*"})
    sound = CryptoSigner.generate_ed25519()
    with pytest.raises(RegistryError, match="could both sign"):
        rotate.add_team(registry.registry, registry.published(), "all", "*", [sound.public_key], 1)
    registry.registry = registry.with_keys([*(key for keys in registry.keys.values() for key in keys), sound])
    rotate.add_team(registry.registry, registry.published(), "sound", "tiny*", [sound.public_key], 1)
    registry.publish(write_model(tmp_path / "b", "tiny", "1"))
    registry.promote("tiny")
    assert look(box(registry, tmp_path), registry) == {"tiny": "1"}
    assert registry_findings(registry) == []


def test_a_stick_outlives_the_registry_and_is_older_than_what_is_online(registry: RealRegistry, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    done = mirror.mirror(registry.registry, stick, RING, 60)
    assert done.models == {"tiny": ("1",)}
    registry.later(days=59)
    site = box(registry, tmp_path)
    site.at(registry.now.timestamp(), synchronised=True)
    with pytest.raises(MetadataExpired):
        look(site, registry)
    assert site.look(FolderSource(stick), is_local=True).models == {"tiny": "1"}
    registry.promote("tiny", "2")
    assert look(site, registry) == {"tiny": "2"}
    with pytest.raises(RolledBack):
        site.look(FolderSource(stick), is_local=True)


def test_a_stick_holds_only_what_its_ring_needs_and_forgets_the_rest(registry: RealRegistry, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    registry.publish(write_model(tmp_path / "other", "window", "1", kind="window"))
    registry.promote("window", ring="other")
    mirror.mirror(registry.registry, stick, RING, 30)
    assert not list(stick.rglob("*window*"))
    assert {path.parent.name for path in stick.rglob("*.manifest.toml")} == {"1"}
    registry.promote("tiny", "2")
    done = mirror.mirror(registry.registry, stick, RING, 30)
    assert {path.parent.name for path in stick.rglob("*.manifest.toml")} == {"2"}
    assert done.copied < done.bytes / 2
    assert look(Site(tmp_path / "box", registry.root), RealRegistryAt(stick)) == {"tiny": "2"}


def test_a_stick_is_not_promised_for_longer_than_its_signatures_hold(registry: RealRegistry, tmp_path: Path) -> None:
    with pytest.raises(
        RegistryError, match=r"channels expires on .*; .*refresh channels --days 300\), or .*--days 180"
    ):
        mirror.mirror(registry.registry, tmp_path / "stick", RING, 300)
    rotate.renew(registry.registry, registry.published(), ["channels"], 300)
    mirror.mirror(registry.registry, tmp_path / "stick", RING, 300)
    with pytest.raises(RegistryError, match="ring early has no release yet; rings are: stable"):
        mirror.mirror(registry.registry, tmp_path / "stick", "early", 30)


def test_garbage_goes_after_a_week_and_nothing_that_is_needed(registry: RealRegistry, tmp_path: Path) -> None:
    registry.publish(write_model(tmp_path / "more", "tiny", "3", title="version 3", kind="window"))
    for version in ("2", "1", "3"):
        registry.promote("tiny", version)
    assert gc.find(registry.published(), 1).paths == ()
    later = registry.now.timestamp() + gc.KEEP_S + 3600
    gone, outcome = gc.retire(registry.registry, registry.published(), 1)
    assert gone == ["tiny 2"]
    assert outcome is not None
    assert outcome.published
    waste = gc.find(registry.published(), 2, later)
    assert any("/2/" in str(path) for path in waste.paths)
    gc.remove(waste)
    assert registry_findings(registry) == []
    assert look(box(registry, tmp_path), registry) == {"tiny": "3"}
    assert registry.rollback().models["tiny"].version == "1"


def test_verify_says_what_a_device_would_refuse(registry: RealRegistry) -> None:
    assert registry_findings(registry) == []
    registry.later(days=6)
    assert [(each.level, each.text[:9]) for each in registry_findings(registry)] == [("warning", "timestamp")]
    registry.later(days=2)
    found = registry_findings(registry)
    assert {each.level for each in found} == {"error"}
    assert any("a device that asks now is told: metadata_expired" in each.text for each in found)
    registry.refresh()
    assert registry_findings(registry) == []
    blob = next((registry.folder / "blobs").iterdir())
    blob.write_bytes(bytes(blob.stat().st_size))
    assert [each.text.partition(" is ")[2] for each in registry_findings(registry)] == [
        "damaged; remove it, and publish its model again, from the same bundle"
    ]


def test_the_snapshot_is_signed_anew_in_time(registry: RealRegistry) -> None:
    first = registry.published().version("snapshot")
    registry.refresh()
    assert registry.published().version("snapshot") == first
    registry.later(days=100)
    registry.refresh()
    assert registry.published().version("snapshot") == first + 1


def test_the_owners_choose_for_how_long_signatures_are_good(tmp_path: Path) -> None:
    registry = make_registry(tmp_path / "registry", days={"timestamp": 1, "channels": 20, "snapshot": 40})
    found = registry.published().metadata
    expires = {role: found[role].signed.expires - registry.now for role in ("timestamp", "channels", "snapshot")}
    assert expires == {
        "timestamp": timedelta(days=1),
        "channels": timedelta(days=20),
        "snapshot": timedelta(days=40),
    }
    registry.later(days=10)
    registry.refresh()
    assert registry.published().metadata["timestamp"].signed.expires - registry.now == timedelta(days=1)
    rotate.renew(registry.registry, registry.published(), ["channels"])
    assert registry.published().metadata["channels"].signed.expires - registry.now == timedelta(days=20)


def test_owners_who_could_not_sign_are_refused() -> None:
    key = CryptoSigner.generate_ed25519().public_key
    roles = ("root", "targets", "snapshot", "timestamp", "channels", "vision")
    keys = {role: [key] for role in roles}
    Owners(teams={"vision": "*"}, keys=keys).check()
    with pytest.raises(RegistryError, match="role root needs 2 signatures and has 1 keys"):
        Owners(teams={"vision": "*"}, keys=keys, thresholds={"root": 2}).check()
    with pytest.raises(RegistryError, match="there is no role visoin"):
        Owners(teams={"vision": "*"}, keys=keys, days={"visoin": 2}).check()


def test_rings_have_releases_of_their_own(registry: RealRegistry, tmp_path: Path) -> None:
    registry.promote("tiny", "2", ring="canary")
    before = registry.published()
    assert before.rings() == ["canary", "stable"]
    assert [each.number for each in channels.history(before, "canary")] == [1]
    assert look(box(registry, tmp_path), registry) == {"tiny": "1"}


class RealRegistryAt(RealRegistry):
    """Where a stick is looked at like a registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def passes(folder: Path) -> SelfTest:
    return SelfTest(passed=True)


def registry_findings(registry: RealRegistry) -> list[verify.Finding]:
    return verify.verify(registry.published(), registry.now)


def drafts_sign(path: Path, by: Registry) -> tuple[Any, list[str]]:
    from provisioning.registry import drafts

    return drafts.sign(drafts.load(path), by.keyring)
