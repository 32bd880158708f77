"""The self-test of a staged version: its golden cases on this hardware, in a process that may crash, hang or run wild.

The process that loads the model (`appliance.updater.golden`) is watched: by the clock, by the memory that it takes, and
by how it ends. What it leaves behind is killed with it. On a box with systemd the watcher itself runs in
`appliance-selftest@.service`, which the updater starts by connecting to a socket: a request on one line, the outcome on
one line. That service has a user of its own, no network, no right to write, and limits that the kernel keeps. Without
systemd the watcher runs here, and the child gives away what rights it can.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from appliance.config import Config, LanesConfig, ModelConfig, TfliteConfig
from appliance.errors import UpdateError

CHILD = ("appliance.updater.golden",)
SOCKET = Path("/run/appliance-selftest.sock")
UNIT_S_MAX = 840.0
"""A little less than RuntimeMaxSec of the unit, so that the watcher is there to say what happened."""

_ANSWER_BYTES_MAX = 64 << 10
_COMPLAINT_BYTES_MAX = 4 << 10
_PIPE_BYTES = 64 << 10
_TEXT_MAX = 600
_LOOK_EVERY_S = 0.02
_GRACE_S = 15.0
_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")
_NO_MEMORY = ("bad_alloc", "MemoryError", "Cannot allocate memory")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """folder: of the version. model, tflite, lanes, pixels_max: what the site says of models like this one.

    seconds, memory_mb: what the test may take. parent: the process that watches; the child ends with it.
    """

    folder: str
    model: ModelConfig
    tflite: TfliteConfig
    lanes: LanesConfig
    pixels_max: int
    seconds: float
    memory_mb: int
    parent: int = 0


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    code: of the error, or `runtime_crashed`, `runtime_hung`, `memory_exceeded`. cases: golden cases that passed, in
    every form that this box may choose. memory_mb: at most, in millions of bytes. variant, device, infer_ms_median: of
    the form that serves first, the network alone. refused: other forms, and why this box must not choose them.
    """

    passed: bool
    code: str | None = None
    reason: str | None = None
    cases: int = 0
    seconds: float = 0.0
    memory_mb: float = 0.0
    variant: str | None = None
    device: str | None = None
    infer_ms_median: float | None = None
    refused: dict[str, str] = {}


def run(folder: Path, config: Config, *, unit: bool | None = None) -> SelfTest:
    """Test the version in `folder` (`.../<name>/<version>`) as a box with this configuration would serve it.

    unit: through systemd; None: where its socket is. Raises UpdateError when the sandbox itself does not work; whatever
    is wrong with the version is in the outcome.
    """
    request = Request(
        folder=str(folder.absolute()),
        model=config.models.get(folder.parent.name, ModelConfig()),
        tflite=config.tflite,
        lanes=config.lanes,
        pixels_max=config.pixels_max,
        seconds=config.updates.selftest_s,
        memory_mb=config.updates.selftest_mb,
    )
    if unit is None:
        unit = SOCKET.is_socket()
    if unit:
        return _ask_unit(request)
    try:
        return watch(request)
    except OSError as error:
        raise UpdateError(
            f"no process could be started for the self-test: {error}; free memory, then update"
        ) from error


def watch(request: Request) -> SelfTest:
    """Run the child to its end, which comes after `request.seconds` at the latest."""
    began = time.monotonic()
    child = _Child()
    try:
        outcome = child.follow(request, began + request.seconds)
    finally:
        code, said, complaint = child.end()
    if outcome is None:
        outcome = _outcome(code, said, complaint)
    return msgspec.structs.replace(
        outcome,
        seconds=round(time.monotonic() - began, 3),
        memory_mb=round(max(outcome.memory_mb, child.peak_bytes / 1e6), 1),
        reason=None if outcome.reason is None else " ".join(outcome.reason.split())[:_TEXT_MAX],
    )


class _Child:
    """The process, in a session of its own, with nothing of this environment that it does not need."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._tail = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", *CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._given, self._answer, self._errors = self._process.stdin, self._process.stdout, self._process.stderr
        self._heard = [self._errors.fileno()]
        # Whatever it started may hold them open: what is there is all there is.
        os.set_blocking(self._answer.fileno(), False)
        os.set_blocking(self._errors.fileno(), False)

    def follow(self, request: Request, ends_at: float) -> SelfTest | None:
        """Until it ends by itself; or why it must be ended. ends_at: monotonic."""
        with suppress(BrokenPipeError), self._given as given:
            given.write(msgspec.json.encode(msgspec.structs.replace(request, parent=os.getpid())) + b"\n")
        limit_mb = request.memory_mb
        ended = os.pidfd_open(self._process.pid)
        try:
            while ended not in select.select([ended, *self._heard], [], [], _LOOK_EVERY_S)[0]:
                self._listen()
                now, highest = _resident_bytes(self._process.pid)
                self.peak_bytes = max(self.peak_bytes, highest)
                if now > limit_mb * 1_000_000:
                    return _failed(
                        "memory_exceeded",
                        f"it took more than the {limit_mb} MB that a self-test may (updates.selftest_mb)",
                    )
                if time.monotonic() > ends_at:
                    return _failed("runtime_hung", f"it was not done after {request.seconds:g} s (updates.selftest_s)")
        finally:
            os.close(ended)
        return None

    def end(self) -> tuple[int, bytes, str]:
        """Kill what is left of it and of all that it started.

        Returns its exit code, below 0: the signal that ended it; the last line of its standard output; the last of what
        it wrote to standard error.
        """
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        with self._answer as answer, self._errors:
            self._listen()
            said = (answer.read(_ANSWER_BYTES_MAX) or b"").strip().rpartition(b"\n")[2]
        return code, said, self._tail.decode(errors="replace").strip()

    def _listen(self) -> None:
        """Take what came on standard error, a part at a time, so that one who never stops is still watched."""
        part = self._errors.read(_PIPE_BYTES)
        if part:
            self._tail = (self._tail + part)[-_COMPLAINT_BYTES_MAX:]
        elif part is not None:
            # Closed; to wait for more would be to wait for nothing, at once.
            self._heard = []


def _outcome(code: int, said: bytes, complaint: str) -> SelfTest:
    """Of a child that ended by itself. code: its exit code, below 0: the signal that ended it."""
    if code == 0:
        try:
            return msgspec.json.decode(said, type=SelfTest)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            return _failed("runtime_crashed", "the runtime ended the process before there was an answer")
    last = complaint.splitlines()[-1] if complaint else "it gave no reason"
    if any(sign in complaint for sign in _NO_MEMORY):
        return _failed(
            "memory_exceeded", f"it wanted more memory than a self-test may take (updates.selftest_mb): {last}"
        )
    if code < 0:
        return _failed("runtime_crashed", f"the runtime crashed ({signal.Signals(-code).name}): {last}")
    return _failed("runtime_crashed", f"the runtime ended the process with exit code {code}: {last}")


def _failed(code: str, reason: str) -> SelfTest:
    return SelfTest(passed=False, code=code, reason=reason)


def _resident_bytes(pid: int) -> tuple[int, int]:
    """Now, and at most since its start; 0 when it has just ended."""
    found = {"VmRSS:": 0, "VmHWM:": 0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, *rest = line.split()
        if name in found:
            found[name] = int(rest[0]) * 1024
    return found["VmRSS:"], found["VmHWM:"]


def _ask_unit(request: Request) -> SelfTest:
    """Raises UpdateError."""
    request = msgspec.structs.replace(request, seconds=min(request.seconds, UNIT_S_MAX))
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as unit:
            unit.settimeout(request.seconds + _GRACE_S)
            unit.connect(str(SOCKET))
            unit.sendall(msgspec.json.encode(request) + b"\n")
            while len(answer) < _ANSWER_BYTES_MAX and (part := unit.recv(_ANSWER_BYTES_MAX)):
                answer += part
        return msgspec.json.decode(bytes(answer), type=SelfTest)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UpdateError(
            f"the self-test's sandbox at {SOCKET} gave no outcome ({error}); look at: systemctl status "
            "appliance-selftest.socket, journalctl -u 'appliance-selftest@*'"
        ) from error


def main() -> None:
    """The unit: a request on standard input, the outcome on standard output."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    sys.stdout.buffer.write(msgspec.json.encode(watch(request)) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
