"""Processes that are measured: started in a session of their own, with the CPU time and memory of all its members."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_STOP_S = 20.0


class Process:
    """A command and whatever it starts. cores: as `taskset` takes them, None: all."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        cores: str | None = None,
        talks: bool = False,
    ) -> None:
        self.log = log
        self._command = [*pinned(cores), *command]
        self._environment = os.environ | (environment or {})
        self._talks = talks
        self.popen = self._start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def members(self) -> list[int]:
        """Process ids of the session, this one first."""
        found = [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _session(stat) == self.pid]
        return sorted(found, key=lambda pid: (pid != self.pid, pid))

    def cpu_s(self) -> float:
        """CPU time that the members have used so far (proc(5): utime and stime)."""
        return (
            sum(sum(int(tick) for tick in _fields(Path(f"/proc/{pid}/stat"))[11:13]) for pid in self.members())
            * _TICK_S
        )

    def pss_mb(self) -> float:
        """Memory of the members in millions of bytes, as PSS would be with no other server on the machine.

        The libraries that others map as well (here all of them do) are counted in full, once for all members.
        """
        anonymous_kib = 0
        files_kib: dict[tuple[str, str], int] = {}
        for pid in self.members():
            for file, offset, rss_kib, pss_kib in _mappings(pid):
                if file.startswith("/"):
                    files_kib[file, offset] = max(rss_kib, files_kib.get((file, offset), 0))
                else:
                    anonymous_kib += pss_kib
        return (anonymous_kib + sum(files_kib.values())) * 1024 / 1e6

    def pause(self) -> None:
        """Stop the members, so that they take nothing from what is measured."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def start_again(self) -> None:
        self.end()
        self.popen = self._start()

    def end(self) -> None:
        """Ask, wait, insist."""
        self.go_on()
        members = self.members()
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(_STOP_S)
        for pid in {*members, *self.members()}:
            if _session(Path(f"/proc/{pid}/stat")) == self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()

    def check_alive(self) -> None:
        """Raise RuntimeError with the end of the log when it has gone."""
        if self.popen.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self._command)} ended with {self.popen.returncode}: {tail}")

    def _start(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE if self._talks else output,
                stdin=subprocess.PIPE if self._talks else subprocess.DEVNULL,
                stderr=output,
                env=self._environment,
                start_new_session=True,
                text=True,
            )

    def _send(self, number: signal.Signals) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def pinned(cores: str | None) -> list[str]:
    return ["taskset", "--cpu-list", cores] if cores else []


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in taken]


def until_listening(port: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on {port}")


def _fields(stat: Path) -> list[str]:
    """What follows the command's name in /proc/<pid>/stat; zeros for a process that has gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50


def _mappings(pid: int) -> Iterator[tuple[str, str, int, int]]:
    """File or name, offset, Rss and Pss in KiB of every mapping of a process (proc(5): smaps)."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return
    file, offset, rss_kib = "", "", 0
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            file, offset = (words[5] if len(words) > 5 else ""), words[2]
        elif words[0] == "Rss:":
            rss_kib = int(words[1])
        elif words[0] == "Pss:":
            yield file, offset, rss_kib, int(words[1])


def _session(stat: Path) -> int:
    return int(_fields(stat)[3])
