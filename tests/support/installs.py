"""Versions that came by an update, as the updater leaves them: in the data folder, with a row that says who signed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.manifest import digest
from appliance.core.release import parse_release
from appliance.state import State
from tests.support.models import write_model

ORIGIN = "https://updates.example/"
SIGNED_BY = {"role": "vision", "keys": ["0123456789abcdef"]}


def install_tiny(data_dir: Path, name: str, version: str, origin: str = ORIGIN, **changes: Any) -> Path:
    """A picture model of the tests as an installed version, changes as in `write_model`; returns its folder."""
    folder = write_model(data_dir / "models", name, version, **changes)
    trust(data_dir, name, version, origin)
    return folder


def install_copy(data_dir: Path, shipped: Path, version: str, labels: Mapping[str, str]) -> Path:
    """A shipped version again, under another number and with other labels; returns its folder.

    labels: old -> new, wherever the manifest has them.
    """
    folder = data_dir / "models" / shipped.parent.name / version
    shutil.copytree(shipped, folder)
    path = folder / "manifest.toml"
    text = path.read_text().replace(f'version = "{shipped.name}"', f'version = "{version}"', 1)
    for old, new in labels.items():
        text = text.replace(f'"{old}"', f'"{new}"').replace(f"\n{old} = ", f"\n{new} = ")
    path.write_text(text)
    trust(data_dir, shipped.parent.name, version)
    return folder


def trust(data_dir: Path, name: str, version: str, origin: str = ORIGIN) -> str:
    """As after a check of its signatures; returns the digest of the manifest."""
    manifest = digest((data_dir / "models" / name / version / "manifest.toml").read_bytes())
    state = State(data_dir)
    try:
        with state.transaction() as db:
            db.execute(
                "INSERT INTO trusted (manifest, name, version, at, origin, signed_by) VALUES (?, ?, ?, ?, ?, ?)",
                (manifest, name, version, time.time(), origin, msgspec.json.encode(SIGNED_BY)),
            )
    finally:
        state.close()
    return manifest


def add_rollout(state: State, models: Mapping[str, str], before: Mapping[str, str | None], is_now: str) -> int:
    """A rollout in the state `is_now`, with the install that it came from; returns its id."""
    with state.transaction() as db:
        install = db.execute(
            """INSERT INTO installs (at, ring, number, status, models, release, origin, evidence)
            VALUES (?, 'stable', 7, 'ready', ?, '{}', ?, ?)""",
            (
                time.time(),
                msgspec.json.encode({name: {"version": version} for name, version in models.items()}),
                ORIGIN,
                msgspec.json.encode({"passed": True, "cases": 3, "seconds": 0.4}),
            ),
        ).lastrowid
        rollout = db.execute(
            """INSERT INTO rollouts (install, at, state, mode, models, before, evidence)
            VALUES (?, ?, ?, 'canary', ?, ?, '{"inputs": 200}')""",
            (install, time.time(), is_now, msgspec.json.encode(models), msgspec.json.encode(before)),
        ).lastrowid
    assert rollout is not None
    return rollout


def rollout_state(state: State, rollout: int) -> str:
    (row,) = state.rows("SELECT state FROM rollouts WHERE id = ?", (rollout,))
    return str(row["state"])


def make_ready(data_dir: Path, models: Mapping[str, str], *, at: float | None = None, **changes: Any) -> int:
    """Versions on the disk as the updater leaves them for the server; returns the id of the install.

    at: when it became ready, None: now. changes: of the release, as in its JSON; `rollout` over a policy that rules
    after twenty inputs, all of them tried.
    """
    rollout = {"share": 1.0, "inputs_min": 20, "latency_ratio_max": 100.0, "probation_s": 0.0}
    state = State(data_dir)
    try:
        (row,) = state.rows("SELECT coalesce(max(number), 0) + 1 AS number FROM installs")
        refs = {
            name: {"version": version, "manifest": _digest(data_dir, name, version), "bytes": 1}
            for name, version in models.items()
        }
        release = {
            "ring": "stable",
            "number": row["number"],
            "issued": "2026-11-24T10:00:00Z",
            "models": refs,
            **changes,
            "rollout": {**rollout, **changes.get("rollout", {})},
        }
        parse_release(msgspec.json.encode(release), "the test's release")
        with state.transaction() as db:
            install = db.execute(
                """INSERT INTO installs (at, ring, number, status, models, release, origin, evidence)
                VALUES (?, 'stable', ?, 'ready', ?, ?, ?, '{}')""",
                (at or time.time(), row["number"], msgspec.json.encode(refs), msgspec.json.encode(release), ORIGIN),
            ).lastrowid
    finally:
        state.close()
    assert install is not None
    return install


def _digest(data_dir: Path, name: str, version: str) -> str:
    path = data_dir / "models" / name / version / "manifest.toml"
    return digest(path.read_bytes()) if path.exists() else "0" * 64
