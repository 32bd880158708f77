"""A folder that a camera writes into: the newest complete picture, none twice, none from before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config import FolderCamera
from appliance.plant.folder import GIVEN_UP_S, FolderWatch
from tests.support.models import picture

BRIGHT, DARK = picture(230, form=".jpg"), picture(10)


class Watched:
    def __init__(self, folder: Path) -> None:
        self.taken: list[bytes] = []
        self.watch = FolderWatch("end", FolderCamera(path=str(folder), bytes_max=100_000), self.taken.append)
        self.watch.look(0.0)

    def look(self, now: float = 1.0) -> list[bytes]:
        """Twice: the time stamp of a folder is coarse."""
        self.watch.look(now)
        self.watch.look(now)
        found, self.taken[:] = list(self.taken), []
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "old.jpg").write_bytes(BRIGHT)
    return Watched(tmp_path)


def test_what_was_there_at_the_start_is_left_alone(watched: Watched) -> None:
    assert watched.look() == []


def test_new_picture_is_taken_once(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(DARK)
    assert watched.look() == [DARK]
    assert watched.look() == []


@pytest.mark.parametrize("content", [BRIGHT, DARK])
def test_picture_that_is_being_written_waits_until_it_is_complete(
    watched: Watched, tmp_path: Path, content: bytes
) -> None:
    with (tmp_path / "slow").open("wb", buffering=0) as file:
        for start in range(0, len(content), 50):
            assert watched.look() == []
            file.write(content[start : start + 50])
    assert watched.look() == [content]


@pytest.mark.parametrize("name", [".hidden.jpg", "a.jpg.tmp", "a.part"])
def test_names_of_unfinished_files_are_left_alone(watched: Watched, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BRIGHT)
    assert watched.look() == []
    (tmp_path / name).rename(tmp_path / "done.jpg")
    assert watched.look() == [BRIGHT]


def test_same_file_written_again_is_a_new_picture(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "old.jpg").write_bytes(DARK)
    assert watched.look() == [DARK]
    (tmp_path / "old.jpg").write_bytes(BRIGHT)
    assert watched.look() == [BRIGHT]


def test_file_that_stays_unfinished_holds_up_no_other(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(BRIGHT[:-2])
    assert watched.look(1.0) == []
    (tmp_path / "whole.png").write_bytes(DARK)
    assert watched.look(2.0) == [DARK]
    assert watched.look(3.0 + GIVEN_UP_S) == []


def test_file_above_the_limit_is_left_alone(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(DARK[:8] + bytes(200_000))
    assert watched.look() == []


@pytest.mark.parametrize("spoil", [lambda folder: folder.rename(folder.with_name("gone"))])
def test_folder_that_goes_is_told_and_taken_up_again(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    watched = Watched(folder)
    away = spoil(folder)
    assert watched.look() == []
    assert watched.watch.fault is not None
    assert "give a folder" in watched.watch.fault
    away.rename(folder)
    (folder / "new.jpg").write_bytes(BRIGHT)
    assert watched.look() == [BRIGHT]
    assert watched.watch.fault is None
