"""Model folders on disk: which are found, and what is checked before their bytes are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.core.manifest import digest
from appliance.errors import ConfigError, HashMismatch, ManifestError
from appliance.repository import ModelVersion, read_golden, read_variant, read_version, scan
from tests.support.models import write_model


def names(root: Path, *more: Path) -> tuple[list[str], list[str]]:
    good, broken = scan([root, *more])
    return (
        sorted(f"{each.manifest.name}/{each.manifest.version}" for each in good),
        sorted(f"{each.name}/{each.version}" for each in broken),
    )


def test_every_version_folder_is_found_and_a_broken_one_hides_no_other(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "1")
    write_model(tmp_path, "a", "2")
    write_model(tmp_path, "b", "1")
    (tmp_path / "c" / "1").mkdir(parents=True)
    assert names(tmp_path) == (["a/1", "a/2", "b/1"], ["c/1"])


def test_what_is_no_model_is_passed_over(tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    (tmp_path / "train" / "surface").mkdir(parents=True)
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / ".staging").mkdir()
    (tmp_path / "README.md").write_text("")
    (tmp_path / "a" / "notes.txt").write_text("")
    assert names(tmp_path) == (["a/1"], [])


def test_later_root_replaces_the_same_version_of_an_earlier_one(tmp_path: Path) -> None:
    write_model(tmp_path / "shipped", "a", title="shipped")
    write_model(tmp_path / "installed", "a", title="installed")
    (good,), _ = scan([tmp_path / "shipped", tmp_path / "installed"])
    assert good.manifest.title == "installed"


def test_root_that_is_no_folder_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is not a folder; give --models"):
        scan([tmp_path / "nowhere"])


def test_digest_is_of_the_manifest_s_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    assert read_version(folder).digest == digest((folder / "manifest.toml").read_bytes())


def test_folder_must_be_named_like_its_manifest(tmp_path: Path) -> None:
    folder = write_model(tmp_path).rename(tmp_path / "tiny" / "7")
    with pytest.raises(ManifestError, match="names tiny/1, but the folder is tiny/7"):
        read_version(folder)


def test_bytes_that_are_loaded_are_the_bytes_that_were_checked(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    version = read_version(folder)
    variant = version.manifest.variants[0]
    files = read_variant(version, variant)
    assert files == {file.path: (folder / file.path).read_bytes() for file in variant.files}


@pytest.mark.parametrize("name", ["openvino-f32/model.bin", "golden/good.png"])
def test_file_that_was_changed_is_refused_with_both_hashes(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path)
    version = read_version(folder)
    (folder / name).write_bytes(b"changed")
    with pytest.raises(HashMismatch, match=r"has SHA-256 .*the manifest says"):
        read_everything(version)


def read_everything(version: ModelVersion) -> None:
    for variant in version.manifest.variants:
        read_variant(version, variant)
    for case in version.manifest.golden:
        read_golden(version, case)


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    version = read_version(folder)
    (folder / "openvino-f32" / "model.xml").unlink()
    with pytest.raises(ManifestError, match=r"model\.xml: No such file.*install the model again"):
        read_variant(version, version.manifest.variants[0])
