"""A box with version 1 of a picture model, somebody who asks it all the time, and versions that came by updates.

A box takes most of a second to start, so tests may use one in turn, each with a model of its own.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.support.box import Box, write_config
from tests.support.installs import install_tiny, make_ready
from tests.support.models import picture, write_model
from tests.support.records import change_state, state_rows
from tests.support.wait import until

WAIT_S = 20


class Plant:
    """model: the one that a test is about. Rollouts are counted from the test's first."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.models = folder / "models"
        self.model = "tiny"
        self._turn = 0
        self._rollouts_before = 0
        write_model(self.models, "tiny", "1")
        lanes = {"lanes": 2, "timeout_s": 1.0}
        self.box = Box(
            write_config(folder, self.models, **{"lanes": lanes, **changes}), module="tests.support.odd_candidates"
        )
        self.statuses: dict[int, int] = {}
        self.versions: dict[str, int] = {}
        self.unlike: list[str] = []

    @property
    def data_dir(self) -> Path:
        return self.box.data_dir

    def install(self, version: str = "2", name: str | None = None, **changes: Any) -> None:
        install_tiny(self.data_dir, name or self.model, version, **changes)

    def ready(self, version: str = "2", **changes: Any) -> int:
        """It is ready to be rolled out; changes as in `make_ready`."""
        return make_ready(self.data_dir, {self.model: version}, **changes)

    def add(self, name: str) -> None:
        """Version 1 of one more model, brought by hand."""
        write_model(self.models, name, "1")
        assert self.box.http.post(f"/v2/repository/models/{name}/load").status_code == 200

    @contextmanager
    def turn(self) -> Iterator[Plant]:
        """For one test of several: a model of its own, and nothing of it left at the end."""
        self._turn += 1
        self.model = f"turn-{self._turn}"
        self.statuses, self.versions, self.unlike = {}, {}, []
        self._rollouts_before = self.rows("SELECT coalesce(max(id), 0) AS id FROM rollouts")[0]["id"]
        if not self.box.running:
            self.box.start()
        self.add(self.model)
        try:
            yield self
        finally:
            self.execute("UPDATE holds SET until = at")
            # What is begun from here on would be the next test's first.
            until(lambda: not self.box.running or not self.waiting(), WAIT_S, "every rollout having begun")
            self.execute("UPDATE rollouts SET state = 'rejected' WHERE state IN ('loading', 'running', 'probation')")
            for root in (self.models, self.data_dir / "models"):
                shutil.rmtree(root / self.model, ignore_errors=True)

    def waiting(self) -> list[Any]:
        """What is ready and not begun."""
        return self.rows(
            "SELECT id FROM installs WHERE status = 'ready' AND id > (SELECT coalesce(max(install), 0) FROM rollouts)"
        )

    def ask(self, brightness: float = 230, model: str | None = None, version: str | None = None) -> Any:
        path = f"/v1/predict/{model or self.model}" + ("" if version is None else f"?version={version}")
        reply = self.box.http.post(path, content=picture(brightness), headers={"Content-Type": "image/png"})
        self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1
        answer = reply.json()
        if reply.status_code == 200:
            self.versions[answer["version"]] = self.versions.get(answer["version"], 0) + 1
        else:
            self.unlike.append(str(answer))
        return answer

    @contextmanager
    def asked(self, *brightness: float, model: str | None = None) -> Iterator[None]:
        """Somebody asks all the time, with these pictures in turn."""
        ended = threading.Event()

        def ask() -> None:
            turn = 0
            while not ended.is_set():
                self.ask(brightness[turn % len(brightness)], model)
                turn += 1

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            ended.set()
            asking.join()

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        return state_rows(self.data_dir, query, *values)

    def execute(self, sql: str, *values: object) -> None:
        change_state(self.data_dir, sql, *values)

    def number(self, rollout: int = 1) -> int:
        """Its id."""
        return self._rollouts_before + rollout

    def rollout(self, number: int = 1) -> dict[str, Any]:
        """Its row; `state` is None before there is one."""
        for row in self.rows("SELECT * FROM rollouts WHERE id = ?", self.number(number)):
            return {**row, "evidence": msgspec.json.decode(row["evidence"] or b"[]")}
        return {"state": None}

    def ends(self, *states: str, number: int = 1) -> dict[str, Any]:
        """Wait until a rollout is in one of these states."""
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(self.rollout(number))
            return found["state"] in states

        until(reached, WAIT_S, f"rollout {number} being {' or '.join(states)}, it is {found}")
        return found

    def blocked(self) -> list[tuple[str, str]]:
        """Since the test began."""
        rows = self.rows("SELECT name, version FROM blocked ORDER BY name")
        return [(row["name"], row["version"]) for row in rows if self._turn == 0 or row["name"].startswith(self.model)]

    def told(self) -> list[tuple[str, str]]:
        """What was reported of the last install and the last rollout, by kind."""
        rows = self.rows("SELECT kind, max(id), step FROM told GROUP BY kind ORDER BY kind")
        return [(row["kind"], row["step"]) for row in rows]

    def shown(self, name: str | None = None) -> Any:
        """What the status says of a model."""
        return next(each for each in self.box.status()["models"] if each["name"] == (name or self.model))

    def serves(self, name: str | None = None) -> str:
        return str(self.shown(name)["version"])

    def alarms(self) -> dict[str, str]:
        return {each["kind"]: each["text"] for each in self.box.status()["alarms"]}

    def updates(self) -> Any:
        return self.box.http.get("/v1/updates").json()


@contextmanager
def running_plant(folder: Path, **changes: Any) -> Iterator[Plant]:
    """Changes as in `write_config`."""
    plant = Plant(folder, **changes)
    try:
        plant.box.start()
        yield plant
    finally:
        plant.box.kill()
