"""The report of the faults at the end of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import faults


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not os.environ.get("FAULTS") or not faults.ALL:
        return
    lines = faults.report()
    terminalreporter.section("faults survived")
    for line in lines:
        terminalreporter.write_line(line)
    if (path := os.environ.get("FAULTS_REPORT")) is not None:
        Path(path).write_text("\n".join(lines) + "\n")
