"""A box as the updater sees it: a data folder, a configuration, and looks for updates in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from appliance.clock import read_clocks
from appliance.config import Config, UpdatesConfig
from appliance.core.clock import Tick
from appliance.updater.fetch import Source
from appliance.updater.flow import Means, Options, Progress, Prove, Report, update
from appliance.updater.selftest import SelfTest
from tests.support.records import change_state, state_rows
from tests.support.simulated import DEVICE, RING, Shelf, Simulated


class Site:
    """root: the root metadata that came with the box. passes: every self-test, unless `prove` is replaced."""

    def __init__(self, folder: Path, root: bytes, **updates: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root_file = folder / "root.json"
        self.root_file.write_bytes(root)
        empty = folder / "shipped"
        empty.mkdir(exist_ok=True)
        self.data_dir = folder / "data"
        self.config = Config(
            device=DEVICE,
            data_dir=str(self.data_dir),
            models_dir=str(empty),
            updates=UpdatesConfig(url="https://updates.example/", root=str(self.root_file), ring=RING, **updates),
        )
        self.prove: Prove = passes
        self.tick: Tick | None = None
        self.slept: list[float] = []
        self.seen: list[Progress] = []
        self.on_progress: Callable[[Progress], None] = self.seen.append

    def look(self, *sources: Source, now: bool = False, dry_run: bool = False, is_local: bool = False) -> Report:
        means = Means(
            clocks=lambda: self.tick or read_clocks(),
            prove=lambda folder, config: self.prove(folder, config),
            sleep=self.slept.append,
            on_progress=self.on_progress,
        )
        return update(self.config, sources, Options(now=now, dry_run=dry_run, is_local=is_local), means)

    def at(self, wall: float, *, synchronised: bool = False) -> None:
        """What this box's clocks show from now on."""
        real = read_clocks()
        self.tick = Tick(wall, real.up, real.boot, synchronised)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        if not (self.data_dir / "state" / "state.db").exists():
            return []
        return state_rows(self.data_dir, query, *values)

    def execute(self, sql: str, *values: object) -> None:
        change_state(self.data_dir, sql, *values)

    def serves(self, name: str, version: str, previous: str | None = None) -> None:
        """As the server records it."""
        self.execute(
            "INSERT OR REPLACE INTO slots (name, current, previous, rollout, at) VALUES (?, ?, ?, NULL, ?)",
            name,
            version,
            previous,
            time.time(),
        )

    def installs(self) -> list[tuple[int, str, str | None]]:
        return [
            (row["number"], row["status"], row["code"])
            for row in self.rows("SELECT number, status, code FROM installs ORDER BY id")
        ]

    def poll(self) -> dict[str, Any]:
        (row,) = self.rows("SELECT * FROM polls")
        return {**row, "warnings": [each["code"] for each in msgspec.json.decode(row["warnings"])]}

    def models(self) -> dict[str, list[str]]:
        """What the repository shows: name -> versions."""
        root = self.data_dir / "models"
        found: dict[str, list[str]] = {}
        for folder in sorted(root.glob("*/*")):
            if not any(part.startswith(".") for part in folder.relative_to(root).parts):
                found.setdefault(folder.parent.name, []).append(folder.name)
        return found

    def untouched(self) -> bool:
        """Whether there is nothing new that could serve."""
        return not self.models() and not self.rows("SELECT * FROM installs WHERE status = 'ready'")


def passes(folder: Path, config: Config) -> SelfTest:
    return SelfTest(passed=True, cases=1)


def shelf(registry: Simulated, origin: str = "https://updates.example/") -> Shelf:
    """Of the registry as it is and as it will be."""
    return Shelf(registry.files, origin)
