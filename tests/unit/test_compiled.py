"""The folder of compiled models: bounded, never trusted, never in the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.runtimes import compiled
from tests.support.disk import small_disk

NAME = compiled.key({"files": ["a"]})
OTHER = compiled.key({"files": ["b"]})
MANY = 1 << 20


def test_what_was_written_is_read(tmp_path: Path) -> None:
    compiled.write(tmp_path / "new", NAME, b"content", MANY)
    assert compiled.read(tmp_path / "new", NAME) == b"content"
    assert compiled.read(tmp_path / "new", OTHER) is None


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert compiled.read(tmp_path / "none", NAME) is None
    compiled.forget(tmp_path / "none", NAME)


def test_key_depends_on_every_part_and_not_on_their_order() -> None:
    parts: dict[str, object] = {"device": "CPU", "cpu": "x"}
    assert compiled.key(parts) == compiled.key(dict(reversed(parts.items())))
    assert len({compiled.key(each) for each in (parts, parts | {"cpu": "y"}, parts | {"rows": 1})}) == 3


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: whole[:-1], id="truncated"),
        pytest.param(lambda whole: whole[:10], id="no head"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: whole[:-1] + b"?", id="changed"),
        pytest.param(lambda whole: whole + b"?", id="longer"),
    ],
)
def test_damaged_file_is_refused_and_removed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    compiled.write(tmp_path, NAME, b"content", MANY)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OSError, match="damaged"):
        compiled.read(tmp_path, NAME)
    assert list(tmp_path.iterdir()) == []


def test_file_under_another_name_is_refused(tmp_path: Path) -> None:
    compiled.write(tmp_path, NAME, b"content", MANY)
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / f"{OTHER}.blob")
    with pytest.raises(OSError, match="damaged"):
        compiled.read(tmp_path, OTHER)


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    names = [compiled.key({"number": number}) for number in range(4)]
    for age, name in enumerate(names[:3]):
        compiled.write(tmp_path, name, bytes(300), MANY)
        os.utime(tmp_path / f"{name}.blob", (1000.0 + age, 1000.0 + age))
    assert compiled.read(tmp_path, names[0]) is not None
    compiled.write(tmp_path, names[3], bytes(300), 1200)
    assert [compiled.read(tmp_path, name) is not None for name in names] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1200


def test_what_exceeds_the_bound_alone_is_not_kept_and_drives_nothing_out(tmp_path: Path) -> None:
    compiled.write(tmp_path, NAME, b"content", 200)
    with pytest.raises(OSError, match="bytes_max"):
        compiled.write(tmp_path, OTHER, bytes(200), 200)
    assert compiled.read(tmp_path, NAME) == b"content"


def test_leftover_of_an_interrupted_write_is_removed(tmp_path: Path) -> None:
    old, fresh = tmp_path / "old.part", tmp_path / "fresh.part"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (1000.0, 1000.0))
    compiled.write(tmp_path, NAME, b"content", MANY)
    assert not old.exists()
    assert fresh.exists()


def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            compiled.write(disk.path, NAME, bytes(1 << 16), MANY, free_bytes_min=0)
        assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_disk_fills_while_writing_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the room that was there a moment ago."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        real = os.statvfs(disk.path)

        def before_it_filled(folder: Path) -> os.statvfs_result:
            disk.fill()
            return real

        monkeypatch.setattr(os, "statvfs", before_it_filled)
        with pytest.raises(OSError, match="No space left"):
            compiled.write(disk.path, NAME, bytes(1 << 16), MANY, free_bytes_min=0)
        assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_last_bytes_of_a_disk_are_left_to_others(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        compiled.write(tmp_path, NAME, b"content", MANY, free_bytes_min=1 << 60)


def test_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        compiled.write(tmp_path / "file", NAME, b"content", MANY)
    with pytest.raises(OSError, match="file"):
        compiled.read(tmp_path / "file", NAME)
    compiled.forget(tmp_path / "file", NAME)
