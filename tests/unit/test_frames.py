"""Frames: appended to segments, read from any thread, dropped by segment."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.frames import Frames, Location


def test_frames_come_back_in_any_order(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 1000)
    places = [frames.append(bytes([value]) * 10) for value in range(5)]
    frames.sync()
    for value in (3, 0, 4):
        assert frames.read(places[value]) == bytes([value]) * 10
    frames.close()


def test_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 100)
    places = [frames.append(bytes(60)) for _ in range(3)]
    assert [place.segment for place in places] == [1, 2, 3]
    assert [place.offset for place in places] == [0, 0, 0]
    assert all(frames.read(place) == bytes(60) for place in places)
    frames.close()


def test_frame_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 100)
    place = frames.append(bytes(500))
    assert frames.read(place) == bytes(500)
    assert frames.append(b"x").segment == place.segment + 1
    frames.close()


def test_restart_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    first = Frames(tmp_path / "frames", 1000)
    before = first.append(b"before")
    first.close()
    second = Frames(tmp_path / "frames", 1000)
    after = second.append(b"after")
    assert (after.segment, after.offset) == (before.segment, 6)
    assert (second.read(before), second.read(after)) == (b"before", b"after")
    second.close()


def test_group_that_failed_gives_its_space_back(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 1000)
    kept = frames.append(b"kept")
    frames.sync()
    frames.settle()
    frames.append(b"failed")
    frames.sync()
    frames.append(b"as well")
    frames.forget_unsettled()
    again = frames.append(b"again")
    assert again.offset == kept.offset + 4
    assert (frames.read(kept), frames.read(again)) == (b"kept", b"again")
    frames.close()


def test_segment_that_cannot_be_begun_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    frames = Frames(folder, 100)
    kept = frames.append(bytes(60))
    frames.sync()
    frames.settle()
    (folder / "00000002.seg").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        frames.append(bytes(60))
    frames.forget_unsettled()
    assert frames.read(kept) == bytes(60)
    (folder / "00000002.seg").rmdir()
    assert frames.append(bytes(60)).segment == 2
    frames.close()


def test_segments_are_dropped_whole_but_never_the_current_one(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 100)
    places = [frames.append(bytes(60)) for _ in range(3)]
    frames.sync()
    assert frames.size == 180
    assert frames.drop([1, 2, 3]) == 2
    assert [frames.has(place.segment) for place in places] == [False, False, True]
    assert [frames.read(place) for place in places] == [None, None, bytes(60)]
    assert frames.size == 60
    frames.close()


def test_segment_that_somebody_removed_does_not_stop_the_others_from_being_dropped(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 100)
    places = [frames.append(bytes(60)) for _ in range(3)]
    (tmp_path / "frames" / "00000001.seg").unlink()
    assert frames.drop(frames.numbers) == 2
    assert frames.has(places[2].segment)
    frames.close()


def test_number_of_a_segment_that_is_gone_never_comes_again(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 100, after=7)
    assert frames.append(b"x").segment == 8
    frames.roll()
    assert frames.append(b"y").segment == 9
    frames.close()


def test_blanked_frame_is_zeros_on_the_disk_and_its_neighbours_stay(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 1000)
    places = [frames.append(word) for word in (b"before", b"secret", b"after")]
    frames.sync()
    gone = Location(9, 0, 5)
    assert frames.blank([places[1], gone]) == 1
    assert (tmp_path / "frames" / "00000001.seg").read_bytes() == b"before" + bytes(6) + b"after"
    frames.close()


def test_place_that_was_never_written_reads_as_nothing(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "frames", 100)
    frames.append(b"x")
    assert frames.read(Location(1, 0, 50)) is None
    assert frames.read(Location(9, 0, 1)) is None
    frames.close()


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "copy of 1.seg").write_bytes(b"x")
    frames = Frames(folder, 100)
    assert frames.append(b"y").segment == 1
    frames.close()
    assert (folder / "copy of 1.seg").read_bytes() == b"x"
