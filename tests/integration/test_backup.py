"""Backing up a box, putting it back, exporting and erasing, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.support.box import run_appliance
from tests.unit.test_store import opened


def filled(folder: Path) -> None:
    with opened(folder) as clerk:
        for number in range(3):
            clerk.commit(
                result=clerk.result(source=f"camera-{number}", at=1000.0 * number, frame=b"picture %d" % number)
            )


def test_backup_restores_results_and_pictures_and_moves_aside_what_was_there(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    filled(data)
    with opened(data) as clerk:
        made = run_appliance("backup", copy, "--images", "--data-dir", data)
        assert made.returncode == 0, made.stderr
        told = clerk.store.next_id()
        refused = run_appliance("backup", "restore", copy, "--data-dir", data)
        assert (refused.returncode, "in use" in refused.stderr) == (2, True)
    restored = run_appliance("backup", "restore", copy, "--data-dir", data)
    assert restored.returncode == 0, restored.stderr
    with opened(data) as clerk:
        assert clerk.count("results") == 3
        assert clerk.store.next_id() > told
        assert b"picture 2" in (data / "frames" / "00000001.seg").read_bytes()


def test_backup_that_was_changed_is_refused(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    filled(data)
    assert run_appliance("backup", copy, "--data-dir", data).returncode == 0
    with (copy / "results.db").open("ab") as file:
        file.write(b"x")
    refused = run_appliance("backup", "restore", copy, "--data-dir", data)
    assert refused.returncode == 1
    assert "not as it was backed up" in refused.stderr


def test_results_are_exported_while_another_process_has_the_folder(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path):
        lines = run_appliance("results", "export", "--data-dir", tmp_path, "--from", "1000").stdout.splitlines()
        found = run_appliance("results", "export", "--format", "ndjson", "--data-dir", tmp_path, "--source", "camera-0")
    assert [row["source"] for row in csv.DictReader(lines)] == ["camera-1", "camera-2"]
    assert [json.loads(line)["source"] for line in found.stdout.splitlines()] == ["camera-0"]


def test_erased_range_leaves_nothing_of_the_picture(tmp_path: Path) -> None:
    filled(tmp_path)
    done = run_appliance(
        "results",
        "erase",
        "--source",
        "camera-1",
        "--from",
        "0",
        "--to",
        "5000",
        "--yes",
        "--json",
        "--data-dir",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 1
    content = b"".join(path.read_bytes() for path in (tmp_path / "frames").glob("*.seg"))
    assert b"picture 1" not in content
    assert b"picture 0" in content
    assert (
        b"camera-1"
        not in json.dumps(run_appliance("results", "list", "--json", "--data-dir", tmp_path).stdout).encode()
    )
