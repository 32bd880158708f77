"""The systemd units, judged by systemd itself."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config import load
from appliance.state import State
from appliance.updater import selftest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNITS = sorted(path for path in SYSTEMD.iterdir() if path.suffix in (".service", ".timer", ".path", ".socket"))
INSTALLED = re.compile(r"/opt/appliance/bin/(appliance|python)")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The shipped units with a program that is there: where nothing is installed, systemd would complain of that."""
    for path in UNITS:
        text = path.read_text()
        assert len(INSTALLED.findall(text)) == (path.suffix == ".service")
        (tmp_path / path.name).write_text(INSTALLED.sub(sys.executable, text))
    return tmp_path


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    # Units that a unit names are looked for beside it.
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{unit.parent}:"}
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("name", [path.name for path in UNITS])
def test_systemd_finds_nothing_to_complain_about(units: Path, name: str) -> None:
    done = verify(units / name)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelt_unit_would_be_noticed(units: Path) -> None:
    unit = units / "appliance.service"
    unit.write_text(unit.read_text().replace("Type=notify", "Typo=notify"))

    assert "Typo" in verify(unit).stderr


@pytest.mark.parametrize(
    ("name", "tenths"),
    [("appliance.service", 20), ("appliance-update.service", 16), ("appliance-selftest@.service", 7)],
)
def test_a_service_is_exposed_no_more_than_it_must_be(units: Path, name: str, tenths: int) -> None:
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={tenths}"]

    done = subprocess.run([*command, str(units / name)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-200:]


def test_the_configuration_beside_the_unit_is_valid_and_keeps_its_data_in_the_state_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/appliance")

    config = load(SYSTEMD / "appliance.toml")

    assert config.data_dir == "/var/lib/appliance"
    assert {route.model for route in config.routes} == {"surface", "bearing"}


# -- the self-test's unit and what asks for it


def test_the_updater_asks_where_the_socket_listens_and_as_the_user_that_may() -> None:
    listening = setting("appliance-selftest.socket", "ListenStream")
    user = setting("appliance-selftest.socket", "SocketUser")

    assert Path(listening) == selftest.SOCKET
    assert setting("appliance-selftest.socket", "SocketMode") == "0600"
    assert setting("appliance-update.service", "User") == user
    assert "appliance-selftest.socket" in setting("appliance-update.service", "Requires")


def test_the_watcher_gives_up_before_its_unit_is_ended() -> None:
    assert float(setting("appliance-selftest@.service", "RuntimeMaxSec")) > selftest.UNIT_S_MAX


def test_a_model_under_test_may_compile_and_the_updater_may_not() -> None:
    assert setting("appliance-selftest@.service", "MemoryDenyWriteExecute") == "no"
    assert setting("appliance.service", "MemoryDenyWriteExecute") == "no"
    assert setting("appliance-update.service", "MemoryDenyWriteExecute") == "yes"


# -- two users of one group


def test_the_users_and_folders_of_the_units_are_made(tmp_path: Path) -> None:
    for folder in ("etc", "run"):
        (tmp_path / folder).mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(SYSTEMD / "appliance.sysusers.conf")]
    subprocess.run(command, check=True, capture_output=True)

    groups = {fields[0]: fields[2] for fields in colons(tmp_path / "etc" / "group")}
    users = {fields[0]: fields[3] for fields in colons(tmp_path / "etc" / "passwd")}
    assert users == dict.fromkeys(("appliance", "appliance-update"), groups["appliance"])
    for name in ("appliance.service", "appliance-update.service"):
        assert setting(name, "User") in users
        assert setting(name, "Group") in groups
    assert setting("appliance-selftest@.service", "SupplementaryGroups") in groups
    lines = [line.split() for line in (SYSTEMD / "appliance.tmpfiles.conf").read_text().splitlines() if line[0] == "d"]
    owners = {path: (owner, group, mode) for _, path, mode, owner, group, _ in lines}
    assert {owner for owner, _, _ in owners.values()} <= {"root", *users}
    assert owners["/var/lib/appliance/models"] == ("appliance-update", "appliance", "2750")
    assert owners["/var/lib/appliance/tuf"] == ("appliance-update", "appliance", "2750")
    assert owners["/var/lib/appliance/state"] == ("appliance", "appliance", "2770")
    # Sticky: neither user can move the other's folders away.
    assert owners["/var/lib/appliance"] == ("root", "appliance", "3770")


@pytest.mark.parametrize("umask", [0o007, 0o027, 0o077])
def test_both_users_may_write_where_they_meet(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        state = State(tmp_path)
        with state.transaction() as db:
            db.execute("INSERT INTO starts (at) VALUES (0)")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
        state.close()
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm"), 0o660)


def setting(unit: str, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)
    return str(value)


def colons(path: Path) -> list[list[str]]:
    return [line.split(":") for line in path.read_text().splitlines()]
