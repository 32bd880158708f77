"""`appliance update` as typed: over a stick and over HTTPS, with real self-tests; its one line, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.commands.update import update
from appliance.state import POLL_NOW, State
from tests.support.box import ROOT, run_appliance
from tests.support.models import write_model
from tests.support.registry_server import Server, serving
from tests.support.simulated import DEVICE, Simulated
from tests.support.toml import to_toml
from tests.support.wait import until

WAIT_S = 30.0


class Typed:
    """A box, and what a technician types. registry: releases version 1 of `tiny`."""

    def __init__(self, folder: Path, server: Server, registry: Simulated) -> None:
        self.registry = registry
        self.folder = folder
        self.data_dir = folder / "data"
        self.config = folder / "appliance.toml"
        (folder / "root.json").write_bytes(registry.first_root)
        self.write(url=server.url, ca=str(server.ca))

    def write(self, **updates: Any) -> None:
        root = str(self.folder / "root.json")
        self.config.write_text(
            to_toml({"device": DEVICE, "data_dir": str(self.data_dir), "updates": {"root": root, **updates}})
        )

    def update(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run_appliance("update", "--config", self.config, *arguments)

    def stick(self) -> Path:
        return self.registry.write(self.folder / "stick")


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Simulated]]:
    folder = tmp_path_factory.mktemp("central")
    registry = Simulated()
    registry.release({"tiny": ("1", registry.publish(write_model(folder, "tiny", "1")))})
    with serving(folder / "tls", registry.files) as server:
        yield server, registry


@pytest.fixture
def typed(tmp_path: Path, central: tuple[Server, Simulated]) -> Typed:
    return Typed(tmp_path, *central)


def test_an_update_over_https_is_tested_here_and_told_as_json(typed: Typed) -> None:
    done = typed.update("--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["outcome"], report["models"], report["warnings"]) == ("ready", {"tiny": "1"}, [])
    state = State(typed.data_dir, read_only=True)
    (row,) = state.rows("SELECT evidence FROM installs")
    state.close()
    evidence = json.loads(row["evidence"])["tiny"]
    assert (evidence["passed"], evidence["cases"], evidence["device"]) == (True, 4, "CPU")


def test_a_stick_goes_the_same_way_and_says_so_in_a_line(typed: Typed) -> None:
    stick = typed.stick()
    look = typed.update("--from", stick, "--dry-run")
    assert (look.returncode, "would_install: release 1 of ring stable" in look.stdout) == (0, True)
    done = typed.update("--from", stick)
    last = done.stdout.splitlines()[-1]
    assert (done.returncode, last.startswith("ready: release 1 of ring stable from")) == (0, True)
    assert "tiny 1" in last


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--for", "8h"), "--for needs --hold"),
        (("--hold", "audit", "--release"), "stand alone"),
        (("--stay", "--now"), "stand alone"),
        (("--hold", "audit", "--for", "8"), "no time such as"),
        (("--hold", "  "), "1 to 128 characters"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(update, ["--data-dir", str(tmp_path), *arguments])
    assert (done.exit_code, said in done.output) == (2, True)


def test_what_is_wrong_is_one_line_with_a_code(typed: Typed) -> None:
    nothing = typed.folder / "nothing"
    nothing.mkdir()
    done = typed.update("--from", nothing)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("appliance: registry_unavailable: ")
    typed.write()
    done = typed.update()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("appliance: configuration_invalid: updates.url is not set")


def test_a_hold_is_typed_seen_and_ended(typed: Typed) -> None:
    stick = typed.stick()
    assert "until 20" in typed.update("--hold", "audit today", "--for", "8h").stdout
    assert json.loads(typed.update("--from", stick, "--json").stdout)["outcome"] == "on_hold"
    assert typed.update("--release").stdout == "updates come again\n"
    assert typed.update("--release").stdout == "nothing was on hold\n"


def test_a_second_one_says_that_the_first_is_at_work_and_harms_nothing(typed: Typed) -> None:
    command = [sys.executable, "-m", "appliance", "update", "--json", "--config", str(typed.config)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ)) as first:
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
        until(children.read_text, WAIT_S, "the first one at its self-test")
        first.send_signal(signal.SIGSTOP)
        try:
            second = typed.update()
        finally:
            first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=WAIT_S)
    assert (second.returncode, second.stdout, second.stderr.count("\n")) == (1, "", 1)
    assert second.stderr.startswith("appliance: update_busy: ")
    assert (first.returncode, json.loads(output)["outcome"]) == (0, "ready")


def test_one_that_stays_looks_when_somebody_asks(typed: Typed) -> None:
    command = [sys.executable, "-m", "appliance", "update", "--stay", "--json", "--config", str(typed.config)]
    typed.data_dir.mkdir()
    State(typed.data_dir).close()
    poll_now = typed.data_dir / "state" / POLL_NOW
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

        def answered() -> bytes | None:
            poll_now.touch()
            assert process.stdout is not None
            return process.stdout.readline()

        line = until(answered, WAIT_S, "the report of a look")
        assert json.loads(line or b"")["outcome"] == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
