"""A small Debian 12 with the shipped units, booted by systemd-nspawn; inside it runs `tests.support.in_the_box`.

The root is made by debootstrap, once. The appliance and what it imports are this environment's, mounted read-only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import msgspec

SOURCE = Path(__file__).resolve().parents[2]
SYSTEMD = SOURCE / "systemd"
ROOT = SOURCE / ".venv" / "system" / "root"

_PROGRAMS = re.compile(r"^ExecStart=.*$", re.MULTILINE)
_INSIDE = "/opt/appliance/bin/python -m tests.support.in_the_box"
_UNITS = "etc/systemd/system"


def boot(report: str) -> Any:
    """Boot, let `in_the_box` look at everything, power off; what it wrote to `report`, as JSON."""
    _make_root()
    _install()
    (ROOT / report).unlink(missing_ok=True)
    packages = sysconfig.get_path("purelib")
    binds = (f"--bind-ro={packages}:/opt/packages", f"--bind-ro={SOURCE}:/opt/source")
    command = ["systemd-nspawn", "--quiet", f"--directory={ROOT}", "--boot", "--register=no", "--keep-unit", *binds]
    # What the units allow themselves the container must not forbid.
    command.append("--system-call-filter=adjtimex clock_adjtime")
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert (ROOT / report).exists(), f"nothing was reported: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    found = msgspec.json.decode((ROOT / report).read_bytes())
    assert "polled" in found, found["journal"]
    return found


def _make_root() -> None:
    if (ROOT / "made").exists():
        return
    assert sys.version_info[:2] == (3, 11), "Debian 12 has Python 3.11, and shares this environment's packages"
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    packages = "--include=systemd,systemd-sysv,python3"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", ROOT], check=True, capture_output=True)
    (ROOT / "made").touch()


def _install() -> None:
    """As a package would; the updater runs a driver instead, and beside the self-test there is a probe."""
    shutil.rmtree(ROOT / "var" / "lib" / "appliance", ignore_errors=True)
    for name in ("packages", "source", "appliance/bin"):
        (ROOT / "opt" / name).mkdir(parents=True, exist_ok=True)
    _write("opt/appliance/pyvenv.cfg", "home = /usr/bin\n")
    _write("opt/appliance/lib/python3.11/site-packages/source.pth", "/opt/packages\n/opt/source\n")
    python, program = ROOT / "opt/appliance/bin/python", ROOT / "opt/appliance/bin/appliance"
    python.unlink(missing_ok=True)
    python.symlink_to("/usr/bin/python3")
    program.write_text("#!/opt/appliance/bin/python\nfrom appliance.cli import main\nmain()\n")
    program.chmod(0o755)
    for kind in ("sysusers", "tmpfiles"):
        _write(f"usr/lib/{kind}.d/appliance.conf", (SYSTEMD / f"appliance.{kind}.conf").read_text())
    _write("etc/appliance/appliance.toml", 'device = "box"\ntune = false\n')
    for path in SYSTEMD.glob("appliance*.*"):
        if path.suffix in (".service", ".socket", ".path", ".timer"):
            _write(f"{_UNITS}/{path.name}", path.read_text())
    _write(f"{_UNITS}/appliance-update.service.d/driver.conf", f"[Service]\nExecStart=\nExecStart={_INSIDE} updater\n")
    service = (SYSTEMD / "appliance-selftest@.service").read_text()
    socket = (SYSTEMD / "appliance-selftest.socket").read_text()
    _write(f"{_UNITS}/probe@.service", _PROGRAMS.sub(f"ExecStart={_INSIDE} probe", service))
    _write(f"{_UNITS}/probe.socket", socket.replace("/run/appliance-selftest.sock", "/run/probe.sock"))
    _write(f"{_UNITS}/look.service", f"[Unit]\nAfter=appliance.service\n[Service]\nExecStart={_INSIDE} look\n")
    for unit, target in (
        ("appliance.service", "multi-user"),
        ("look.service", "multi-user"),
        ("appliance-selftest.socket", "sockets"),
        ("probe.socket", "sockets"),
        ("appliance-update.path", "paths"),
        ("appliance-update.timer", "timers"),
    ):
        link = ROOT / _UNITS / f"{target}.target.wants" / unit
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../{unit}")


def _write(path: str, text: str) -> None:
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / path).write_text(text)
