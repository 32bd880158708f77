"""`python -m tests.support.dying_box serve --config FILE`: a box that is killed at one of its commits in `state.db`.

`DIES_AT` is `<n>` and `before` or `after`: SIGKILL as the nth transaction is about to be committed, or just was.
Without it the box lives. `COMMITS` names a file that gets a byte for each commit.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance import app, log
from appliance.config import load
from appliance.rollouts import rollouts
from appliance.state import State


class DyingState(State):
    count = 0
    dies_at = os.environ.get("DIES_AT", "0 never").split()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with super().transaction() as db:
            yield db
            # Under the lock of the connection, so one at a time.
            DyingState.count += 1
            number = DyingState.count
            self._die(number, "before")
        self._die(number, "after")
        with Path(os.environ["COMMITS"]).open("ab") as file:
            file.write(b".")

    def _die(self, number: int, when: str) -> None:
        if self.dies_at == [str(number), when]:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    config = load(Path(sys.argv[sys.argv.index("--config") + 1]))
    log.set_up(config.log_level)
    vars(app)["State"] = DyingState
    rollouts.POLL_S = 0.02
    app.serve(config)
