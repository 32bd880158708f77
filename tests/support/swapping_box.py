"""`python -m tests.support.swapping_box serve --config FILE`: a box whose slots are told over a socket what to do.

Beside the configuration file, at `slots.sock`, each line is a JSON array: the name of an operation of `Slots` and its
arguments. It is answered, when the operation has ended, by `null` or by the text of its error.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from appliance import app, log
from appliance.config import Config, load
from appliance.errors import ApplianceError
from appliance.runtimes import Loaders


class SlotsClient:
    """The other end, in the test."""

    def __init__(self, config: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(_address(config)))
        self._lines = self._socket.makefile("rw")

    def do(self, operation: str, *arguments: object) -> None:
        """Raises AssertionError with what the box says when it refuses."""
        self._lines.write(json.dumps([operation, *arguments]) + "\n")
        self._lines.flush()
        error = json.loads(self._lines.readline())
        assert error is None, error

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class SwappingBox(app.Box):
    """Of its own slots it does what it is told."""

    at: Path

    def __init__(self, config: Config, loaders: Loaders | None = None) -> None:
        super().__init__(config, loaders)
        self._listening = socket.socket(socket.AF_UNIX)
        self.at.unlink(missing_ok=True)
        self._listening.bind(str(self.at))
        self._listening.listen()
        threading.Thread(target=self._answer, name="slots-socket", daemon=True).start()

    def _answer(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    lines.write(json.dumps(self._do(*json.loads(line))) + "\n")
                    lines.flush()

    def _do(self, operation: str, *arguments: Any) -> str | None:
        try:
            done = getattr(self._slots, operation)(*arguments)
            if isinstance(done, Future):
                done.result(60)
        except ApplianceError as error:
            return f"{error.code}: {error}"
        return None


def _address(config: Path) -> Path:
    return config.with_name("slots.sock")


def main(path: Path) -> None:
    config = load(path)
    log.set_up("info")
    SwappingBox.at = _address(path)
    app.Box = SwappingBox  # type: ignore[misc]
    app.serve(config)


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--config") + 1]))
