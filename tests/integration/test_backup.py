"""Backing up a box, putting it back, exporting and erasing, from the command line."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
from pathlib import Path

import pytest

from appliance.backup import back_up, restore, take_waiting
from appliance.config import StoreConfig
from appliance.errors import DataDirError
from appliance.writes import Outgoing, Written
from tests.support.box import Box, run_appliance, running_box
from tests.support.models import picture, write_model
from tests.support.records import query
from tests.unit.test_store import Clerk, opened, rows

SOURCES = ["camera-0", "camera-1", "camera-2"]


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
    restored = run_appliance("backup", "restore", copy, "--data-dir", data)
    assert restored.returncode == 0, restored.stderr
    with opened(data) as clerk:
        assert clerk.count("results") == 3
        assert clerk.store.next_id() > told
        assert b"picture 2" in (data / "frames" / "00000001.seg").read_bytes()


def test_box_that_runs_takes_the_backup_when_it_is_started_again(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    copy = tmp_path / "copy"
    with running_box(tmp_path, tmp_path / "models") as box:
        before = [judge(box) for _ in range(2)]
        place = ("--config", box.config)
        made = run_appliance("backup", copy, "--images", *place)
        assert made.returncode == 0, made.stderr
        after = judge(box)
        restored = run_appliance("backup", "restore", copy, *place)
        assert restored.returncode == 0, restored.stderr
        assert "goes on with these 2 results when it is started again" in restored.stdout
        last = judge(box)
        box.restart()
        assert [each["id"] for each in box.http.get("/v1/results").json()["results"]] == before[::-1]
        assert box.http.get(f"/v1/results/{before[0]}/image").status_code == 200
        assert judge(box) > max(after, last)
        (aside,) = box.data_dir.glob("before-restore.*")
        assert query(aside, "SELECT count(*) FROM results") == [(4,)]
        assert box.events("backup_restored")[0]["aside"] == aside.name
        assert not (box.data_dir / "restore-next").exists()


def judge(box: Box) -> int:
    reply = box.http.post("/v1/predict/tiny?durable=1", content=picture(), headers={"Content-Type": "image/png"})
    assert reply.status_code == 200, reply.text
    return int(reply.json()["id"])


@pytest.mark.parametrize("step", range(6))
def test_restore_that_a_power_cut_ends_is_completed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each step is a rename; the one that is never made is the first, the second, ..."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    filled(data)
    back_up(data, copy, images=True, now=0.0)
    with opened(data) as clerk:
        clerk.commit(result=clerk.result(source="later", frame=b"later"))
        assert restore(copy, data, StoreConfig()).at_next_start
    made = 0
    rename = Path.rename

    def cut(path: Path, target: Path) -> Path:
        nonlocal made
        if made == step:
            raise OSError("the power is off")
        made += 1
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", cut)
        with contextlib.suppress(DataDirError):
            take_waiting(data, StoreConfig())
    take_waiting(data, StoreConfig())
    take_waiting(data, StoreConfig())
    with opened(data) as clerk:
        assert [source for (source,) in rows(data, "SELECT source FROM results ORDER BY id")] == SOURCES
        assert b"picture 2" in (data / "frames" / "00000001.seg").read_bytes()
        assert clerk.commit(result=clerk.result()) == Written()
    segments = [path.read_bytes() for path in data.glob("before-restore.*/frames/*.seg")]
    assert any(b"later" in content for content in segments), "nothing that was there is deleted"


def test_key_that_central_knows_is_not_given_again_after_a_restore(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"

    def send(clerk: Clerk) -> int:
        row = Outgoing("central", "t", "application/json", b"{}", 2)
        clerk.commit(result=clerk.result(), outbox=(row,))
        (number,) = rows(data, "SELECT max(id) FROM outbox")[0]
        clerk.commit(sent=(number,))
        return int(number)

    with opened(data) as clerk:
        send(clerk)
        back_up(data, copy, images=False, now=0.0)
        told = [send(clerk) for _ in range(5)]
    assert restore(copy, data, StoreConfig()).results == 1
    with opened(data) as clerk:
        assert send(clerk) > max(told)


def test_newer_database_stops_the_start_with_one_line(tmp_path: Path) -> None:
    filled(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as database:
        database.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('results', 'new', '')"
        )
    refused = run_appliance("serve", "--data-dir", tmp_path, "--port", "0")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "written by a newer appliance" in line
    assert "install that version" in line


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
