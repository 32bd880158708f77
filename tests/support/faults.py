"""How often a fault is made, and what came of it.

`FAULTS` unset: the short form, for `make test`. `FAULTS=long`: the long form, `make faults`. `FAULTS=60`: the same with
60 at most of each fault.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

_FORM = os.environ.get("FAULTS", "")
_BAR = 30


def times(short: int, long: int) -> int:
    """How often a fault is made in this run."""
    if not _FORM:
        return short
    return long if _FORM == "long" else min(long, int(_FORM))


@dataclass
class Tally:
    """One line of the report. lost, doubled: None until it was looked at."""

    what: str
    planned: int
    done: int = 0
    messages: int = 0
    lost: int | None = None
    doubled: int | None = None
    began: float = field(default_factory=time.monotonic)
    took_s: float = 0.0

    def step(self, count: int = 1) -> None:
        """So many more are behind us."""
        self.done += count
        self.took_s = time.monotonic() - self.began
        if _FORM:
            _show(self)

    def compare(self, expected: Collection[object], found: Sequence[object]) -> None:
        """expected: what must be there; found: what is there, as often as it is."""
        self.messages += len(expected)
        self.lost = (self.lost or 0) + len(set(expected) - set(found))
        self.doubled = (self.doubled or 0) + len(found) - len(set(found))
        self.took_s = time.monotonic() - self.began


ALL: list[Tally] = []


def tally(what: str, planned: int) -> Tally:
    """A new line of the report."""
    ALL.append(Tally(what, planned))
    return ALL[-1]


def report() -> list[str]:
    """The lines of the table, a head first."""
    rows: list[tuple[str, ...]] = [("fault", "times", "messages", "lost", "doubled", "seconds")]
    for each in ALL:
        counts = ("-" if count is None else str(count) for count in (each.lost, each.doubled))
        rows.append((each.what, f"{each.done} of {each.planned}", f"{each.messages}", *counts, f"{each.took_s:.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _show(line: Tally) -> None:
    """To the terminal itself: pytest keeps what a test prints. Without one, a line at every tenth."""
    if sys.__stderr__ is None:
        return
    try:
        with open("/dev/tty", "w") as terminal:
            full = _BAR * line.done // max(1, line.planned)
            end = "\n" if line.done >= line.planned else ""
            bar = "#" * full + "." * (_BAR - full)
            terminal.write(f"\r{line.what[:40]:40} [{bar}] {line.done}/{line.planned} {line.took_s:.0f} s{end}")
    except OSError:
        return
