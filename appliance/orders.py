"""Orders to the box: taken by the server that runs, or carried out in `state.db` while none does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from appliance import opening, standing
from appliance.config import Config
from appliance.errors import DataDirError, ModelError, OrderRefused
from appliance.installed import Installed
from appliance.repository import model_roots
from appliance.standing import Statement, WayBack
from appliance.state import State
from appliance.trust import trust_of

REFUSED = "refused: "
"""How the outcome of an order begins that was not carried out."""

_POLL_S = 0.05


class Outcome(msgspec.Struct, frozen=True):
    """running: whether a server carried it out, so that it serves already."""

    text: str
    running: bool


def roll_back(config: Config, model: str | None, by: str, wait_s: float) -> Outcome:
    """Serve what served before: of a model and what was promoted with it, or, None, of the last rollout.

    Raises OrderRefused when there is nothing to go back to, the server refused, or did not answer within `wait_s`.
    """
    data_dir = Path(config.data_dir).absolute()
    if not (data_dir / "state" / "state.db").exists():
        raise OrderRefused(f"{data_dir} knows of no update; give --data-dir the folder of the box")
    state = State(data_dir)
    try:
        way = standing.way_back(state, model)
        try:
            lock = opening.lock(data_dir, config.store)
        except DataDirError as error:
            if "in use" not in str(error):
                raise
            return Outcome(_by_server(state, model, by, wait_s), running=True)
        try:
            return Outcome(_here(state, config, way, by), running=False)
        finally:
            os.close(lock)
    finally:
        state.close()


def told(way: WayBack) -> str:
    """A way back that was taken, in words."""
    return (
        ", ".join(
            f"{name} is back at version {version}" if version is not None else f"{name} is gone, it was new"
            for name, version in sorted(way.versions.items())
        )
        or "the configuration is the one before it"
    )


def _by_server(state: State, model: str | None, by: str, wait_s: float) -> str:
    with state.transaction() as db:
        order = db.execute(
            "INSERT INTO orders (at, kind, model, by) VALUES (?, 'roll_back', ?, ?)", (time.time(), model, by)
        ).lastrowid
    ends_at = time.monotonic() + wait_s
    while time.monotonic() < ends_at:
        (row,) = state.rows("SELECT done_at, outcome FROM orders WHERE id = ?", (order,))
        if row["done_at"] is not None:
            text = str(row["outcome"])
            if text.startswith(REFUSED):
                raise OrderRefused(text.removeprefix(REFUSED))
            return text
        time.sleep(_POLL_S)
    raise OrderRefused(f"the box has not answered within {wait_s:g} s; order {order} stays, /v1/rollouts shows its end")


def _here(state: State, config: Config, way: WayBack, by: str) -> str:
    """No server runs: its next start serves the version before."""
    installed, now = Installed(lambda: model_roots(config), state, lambda: trust_of(config)), time.time()
    statements: list[Statement] = []
    for name, version in way.versions.items():
        if version is not None:
            try:
                installed.named(name, version)
            except ModelError as error:
                raise OrderRefused(f"model {name} cannot go back: {error}") from error
        statements.append(standing.went_back(name, version, now))
    if way.rollout is not None:
        statements += standing.given_up(state, way.rollout, f"rolled back by {by}", now)
    standing.commit(state, statements)
    return told(way)
