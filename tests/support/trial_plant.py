"""A box with version 1 of a picture model, somebody who asks it all the time, and versions that came by updates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from appliance.state import State
from tests.support.box import Box, write_config
from tests.support.installs import install_tiny
from tests.support.models import picture, write_model
from tests.support.wait import until

WAIT_S = 20


class Plant:
    """A box with version 1 of `tiny`, and somebody who asks it all the time."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.models = folder / "models"
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

    def install(self, version: str = "2", name: str = "tiny", **changes: Any) -> None:
        install_tiny(self.data_dir, name, version, **changes)

    def ask(self, brightness: float = 230, model: str = "tiny", version: str | None = None) -> Any:
        path = f"/v1/predict/{model}" + ("" if version is None else f"?version={version}")
        reply = self.box.http.post(path, content=picture(brightness), headers={"Content-Type": "image/png"})
        self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1
        answer = reply.json()
        if reply.status_code == 200:
            self.versions[answer["version"]] = self.versions.get(answer["version"], 0) + 1
        else:
            self.unlike.append(str(answer))
        return answer

    @contextmanager
    def asked(self, *brightness: float, model: str = "tiny") -> Iterator[None]:
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
        state = State(self.data_dir, read_only=True)
        try:
            return [dict(row) for row in state.rows(query, values)]
        finally:
            state.close()

    def execute(self, sql: str, *values: object) -> None:
        state = State(self.data_dir)
        try:
            with state.transaction() as db:
                db.execute(sql, values)
        finally:
            state.close()

    def rollout(self, number: int = 1) -> dict[str, Any]:
        """Its row; `state` is None before there is one."""
        for row in self.rows("SELECT * FROM rollouts WHERE id = ?", number):
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
        return [(row["name"], row["version"]) for row in self.rows("SELECT * FROM blocked ORDER BY name")]

    def told(self) -> list[tuple[str, str]]:
        """What was reported, by kind."""
        return [(row["kind"], row["step"]) for row in self.rows("SELECT * FROM told ORDER BY kind")]

    def serves(self, name: str = "tiny") -> str:
        return str(next(each for each in self.box.status()["models"] if each["name"] == name)["version"])

    def alarms(self) -> dict[str, str]:
        return {each["kind"]: each["text"] for each in self.box.status()["alarms"]}

    def updates(self) -> Any:
        return self.box.http.get("/v1/updates").json()
