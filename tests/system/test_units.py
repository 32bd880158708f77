"""The systemd unit, judged by systemd itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config import load

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
INSTALLED = "/opt/appliance/bin/appliance"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The shipped unit with a program that is there: where nothing is installed, systemd would complain of that."""
    text = (SYSTEMD / "appliance.service").read_text()
    assert text.count(INSTALLED) == 1
    path = tmp_path / "appliance.service"
    path.write_text(text.replace(INSTALLED, sys.executable))
    return path


def test_systemd_finds_nothing_to_complain_about_in_the_unit(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelt_unit_would_be_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("Type=notify", "Typo=notify"))

    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)

    assert "Typo" in done.stderr


def test_the_configuration_beside_the_unit_is_valid_and_keeps_its_data_in_the_state_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/appliance")

    config = load(SYSTEMD / "appliance.toml")

    assert config.data_dir == "/var/lib/appliance"
    assert {route.model for route in config.routes} == {"surface", "bearing"}
