"""kill -9 at every write, sync and rename of an install: the old or the new version serves, and the next run completes.

The real `appliance update` under strace, which sends SIGKILL as the process enters its nth call that changes the disk.
The same for a power cut, which also takes what was not synced: the traced calls are made again on a disk that forgets.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from appliance.config import Config, load
from appliance.errors import RegistryUnavailable
from appliance.installed import Installed
from appliance.repository import check_files, model_roots
from appliance.state import State
from appliance.trust import trust_of
from appliance.updater.download import Downloader, Wanted
from appliance.updater.flow import Means, update
from appliance.updater.folder import FolderSource
from appliance.updater.https import HttpsSource
from tests.support import unsynced
from tests.support.box import ROOT
from tests.support.faults import tally, times
from tests.support.models import write_model
from tests.support.registry_server import serving
from tests.support.simulated import DEVICE, Simulated
from tests.support.toml import to_toml
from tests.support.unsynced import Disk
from tests.support.updated import passes

CALLS = (
    "write,pwrite64,writev,pwritev,sendfile,copy_file_range,ftruncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
POINTS = times(6, 1000)
KILLED = 137
CUT_EVERY = times(9, 1)
CUT_BYTES = times(5, 50) * 1_000_000


class Plant:
    """A box that serves version 1 of `tiny`, which came by an update, and a stick with version 2."""

    def __init__(self, folder: Path) -> None:
        registry = Simulated()
        bundles = folder / "bundles"
        registry.release({"tiny": ("1", registry.publish(write_model(bundles, "tiny", "1", title="old")))})
        self.first = registry.write(folder / "first")
        registry.release({"tiny": ("2", registry.publish(write_model(bundles, "tiny", "2", title="new")))})
        self.stick = registry.write(folder / "stick")
        (folder / "root.json").write_bytes(registry.first_root)
        (folder / "shipped").mkdir()
        self.data_dir = folder / "data"
        self.config_file = folder / "appliance.toml"
        content = {
            "device": DEVICE,
            "data_dir": str(self.data_dir),
            "models_dir": str(folder / "shipped"),
            "updates": {"root": str(folder / "root.json")},
        }
        self.config_file.write_text(to_toml(content))
        self.look(self.first)
        state = State(self.data_dir)
        with state.transaction() as db:
            db.execute(
                "INSERT INTO rollouts (install, at, state, mode, models, before) VALUES (1, 1, 'done', '', '{}', '{}')"
            )
            db.execute("INSERT INTO slots (name, current, previous, rollout, at) VALUES ('tiny', '1', NULL, 1, 1)")
        state.close()
        self.before = folder / "before"
        shutil.copytree(self.data_dir, self.before)

    @property
    def config(self) -> Config:
        return load(self.config_file)

    def look(self, stick: Path, data_dir: Path | None = None) -> str:
        """The next run, in this process."""
        config = self.config if data_dir is None else load(self.config_file, data_dir=str(data_dir))
        return update(config, [FolderSource(stick)], means=Means(prove=passes)).outcome

    def reset(self) -> None:
        shutil.rmtree(self.data_dir)
        shutil.copytree(self.before, self.data_dir)

    def run(self, *strace: str) -> int:
        """The command under strace; its exit code, 137 when it was killed."""
        command = [
            sys.executable,
            "-m",
            "appliance",
            "update",
            "--config",
            str(self.config_file),
            "--from",
            str(self.stick),
        ]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["strace", "-qq", *strace, *command],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return done.returncode if done.returncode >= 0 else 128 - done.returncode

    def serves(self, data_dir: Path | None = None) -> str:
        """The version that a box serves after a start with this disk, every file of it whole."""
        config = self.config if data_dir is None else load(self.config_file, data_dir=str(data_dir))
        state = State(Path(config.data_dir))
        try:
            installed = Installed(lambda: model_roots(config), state, lambda: trust_of(config))
            version = installed.to_serve("tiny")
            check_files(version)
            ready = state.rows("SELECT 1 FROM installs WHERE number = 2 AND status = 'ready'")
            if ready:
                check_files(installed.named("tiny", "2"))
            assert not [each for each in installed.broken if each.version == "1"]
            return "2" if ready else version.manifest.version
        finally:
            state.close()


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    return Plant(tmp_path_factory.mktemp("plant"))


def test_a_kill_at_any_change_of_the_disk_leaves_one_version_and_the_next_run_completes(
    plant: Plant, tmp_path: Path
) -> None:
    points = calls_of(plant, tmp_path / "trace")
    planned = sorted(points, key=spread)[:POINTS]
    line = tally("SIGKILL at a call that changes the disk", len(planned))
    line.lost = 0
    found = Counter[str]()
    for call, number in planned:
        plant.reset()
        code = plant.run("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        assert code == KILLED, f"{call} {number} was not reached"
        serves = plant.serves()
        outcome = plant.look(plant.stick)
        assert outcome == ("up_to_date" if serves == "2" else "ready"), f"after a kill at {call} {number}"
        assert plant.serves() == "2"
        found[serves] += 1
        line.step()
    assert sum(found.values()) == len(planned)
    assert found["1"] > 0


def calls_of(plant: Plant, trace: Path) -> list[tuple[str, int]]:
    """Every call that changes the disk in a run that nobody disturbs: its name, and which of this name it is."""
    plant.reset()
    assert plant.run("-o", str(trace), "-e", f"trace={CALLS}") == 0
    assert plant.serves() == "2"
    counts = Counter[str]()
    points = []
    for line in trace.read_text().splitlines():
        found = re.match(r"([a-z0-9]+)\(", line)
        if found:
            counts[found[1]] += 1
            points.append((found[1], counts[found[1]]))
    assert {"pwrite64", "fsync", "fdatasync", "rename", "write"} <= set(counts)
    return points


def spread(point: tuple[str, int]) -> tuple[int, str]:
    """So that a few of them are of every kind and every part of a run."""
    call, number = point
    return (number * 7919 + len(call) * 104729) % 211, call


def test_a_power_cut_that_takes_all_that_was_not_synced_leaves_one_version_and_the_next_run_completes(
    plant: Plant, tmp_path: Path
) -> None:
    plant.reset()
    trace = tmp_path / "trace"
    disk = Disk(plant.data_dir)
    assert plant.run("-x", "-s", "67108864", "-o", str(trace), "-e", f"trace={unsynced.CALLS}") == 0
    line = tally("power cut that takes what was not synced", 0)
    line.lost = 0
    found = Counter[str]()
    for number, call in enumerate(disk.replay(trace)):
        line.planned += 1
        if number % CUT_EVERY:
            continue
        left = tmp_path / "left"
        disk.write_synced(left)
        serves = plant.serves(left)
        outcome = plant.look(plant.stick, left)
        assert outcome == ("up_to_date" if serves == "2" else "ready"), f"after call {number}, {call}"
        assert plant.serves(left) == "2"
        shutil.rmtree(left)
        found[serves] += 1
        line.step()
    assert set(found) == {"1", "2"}
    present = {
        str(path.relative_to(plant.data_dir)): path.read_bytes()
        for path in plant.data_dir.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert disk.files() == present


def test_a_connection_that_is_cut_again_and_again_costs_little_more_than_the_file(tmp_path: Path) -> None:
    size = CUT_BYTES
    content = np.random.default_rng(3).bytes(size)
    sha256 = hashlib.sha256(content).hexdigest()
    cuts = [size * share // 20 for share in range(1, 20)]
    line = tally("connection cut every 5 % of a download", len(cuts))
    line.lost = 0

    def kept() -> int:
        return Downloader(tmp_path, []).has(Wanted(sha256, size))

    with serving(tmp_path / "tls", {f"blobs/{sha256}": content}) as server:
        for cut in cuts:
            server.cut_after = cut
            had, given = kept(), server.blob_bytes
            # A new process each time: what was not on the disk for certain comes again.
            source = HttpsSource(server.url, server.ca)
            with pytest.raises(RegistryUnavailable):
                Downloader(tmp_path, [source], sleep=lambda seconds: None).get(Wanted(sha256, size))
            assert server.blob_bytes - given - (kept() - had) <= 1 << 20
            line.step()
        server.cut_after = None
        path = Downloader(tmp_path, [HttpsSource(server.url, server.ca)]).get(Wanted(sha256, size))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
