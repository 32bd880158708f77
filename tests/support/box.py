"""A box in a child process, as it runs on a device: started, asked over HTTP, stopped, killed, started again."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from tests.support.toml import to_toml
from tests.support.wait import until

ROOT = Path(__file__).resolve().parents[2]
_FIRST_PORT = 10_000 + os.getpid() % 10 * 2_000
_PORTS = itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + 2_000))
START_S_MAX = 60
STOP_S_MAX = 30


class Box:
    """`appliance serve` with a configuration of its own.

    module: what `python -m` runs instead of the appliance. log_to_nobody: its standard output is a pipe without a
    reader.
    """

    def __init__(
        self,
        config: Path,
        *,
        module: str = "appliance",
        environment: Mapping[str, str] | None = None,
        log_to_nobody: bool = False,
    ) -> None:
        content = _read(config)
        self.config = config
        self.data_dir = Path(content["data_dir"])
        self.port: int = content["http"]["port"]
        self.mqtt_port: int = content["listener"]["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", module, "serve", "--config", str(config)]
        self._environment = {**os.environ, **(environment or {})}
        self._log_to_nobody = log_to_nobody
        self._output = config.with_suffix(".out")
        self._errors = config.with_suffix(".err")
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start the process and wait until it answers; `ready`: until its models are warm as well."""
        with self._open_log() as output, self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=output, stderr=errors
            )
        self._client = httpx.Client(base_url=self.url, timeout=30)
        self.wait("ready" if ready else "live")

    def wait(self, what: str = "ready") -> None:
        """Wait until the box is `ready` or at least `live`."""
        until(lambda: self._is(what), START_S_MAX, f"the box being {what}")

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL: what was not on disk is gone."""
        if self.running:
            self.process.kill()
        self.ended()

    def restart(self, *, ready: bool = True) -> None:
        """Stop and start again on the same ports and data."""
        self.stop()
        self.start(ready=ready)

    def ended(self) -> int:
        """Wait for the process to end by itself; returns the exit code."""
        code = self.process.wait(STOP_S_MAX)
        if self._client is not None:
            self._client.close()
            self._client = None
        return code

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the box was never started"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def http(self) -> httpx.Client:
        """A client whose paths are below the box's address."""
        assert self._client is not None, "the box is not running"
        return self._client

    def status(self) -> Any:
        return self.http.get("/v1/status").json()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines with this event name, of all starts."""
        lines = [json.loads(line) for line in self._output.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def output(self) -> str:
        """All of standard output."""
        return self._output.read_text() if self._output.exists() else ""

    def errors(self) -> str:
        """All of standard error."""
        return self._errors.read_text()

    def _open_log(self) -> BinaryIO:
        if not self._log_to_nobody:
            return self._output.open("ab")
        nobody, pipe = os.pipe()
        os.close(nobody)
        return os.fdopen(pipe, "wb")

    def _is(self, what: str) -> bool:
        if not self.running:
            raise AssertionError(
                f"the box ended with {self.process.returncode}: {self.errors()}\n{self.output()[-4000:]}"
            )
        try:
            return self.http.get(f"/v2/health/{what}").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_box(folder: Path, models_dir: Path, *, module: str = "appliance", **changes: Any) -> Iterator[Box]:
    """A ready box in `folder` with the models of `models_dir`; `changes` as in `write_config`. Ended on leaving."""
    box = Box(write_config(folder, models_dir, **changes), module=module)
    try:
        box.start()
        yield box
    finally:
        box.kill()


def write_config(folder: Path, models_dir: Path | None = None, /, **changes: Any) -> Path:
    """Write `<folder>/appliance.toml` and return it: free ports, data in `<folder>/data`.

    changes: top-level keys; a table (http, listener, store, lanes) is merged into what is there, anything else
    replaces it.
    """
    content: dict[str, Any] = {
        "device": "box",
        "data_dir": str(folder / "data"),
        "models_dir": None if models_dir is None else str(models_dir),
        "http": {"port": free_port()},
        "listener": {"port": free_port()},
        "lanes": {"lanes": 2},
        "tune": False,
        "store": {"free_bytes_min": 0},
    }
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(content.get(name), dict) else value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "appliance.toml"
    path.write_text(to_toml(content))
    return path


def free_port() -> int:
    """A port of the loopback that nobody listens on now.

    It is below those that Linux gives to connections, so that no client has it when a box is restarted on it, and other
    than those that other test runs of this machine are given.
    """
    while True:
        port = next(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def run_appliance(
    *arguments: str | Path, module: str = "appliance", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, which must come by itself. environment: beside this process's own."""
    command: Sequence[str] = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _read(config: Path) -> Any:
    return tomllib.loads(config.read_text())
