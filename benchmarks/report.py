"""A run as a table for people, and what has become worse since the run before."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import WITHOUT_TARGET, Figure, Found
from benchmarks.ratios import Interval, Round, lost

Summary = dict[str, Any]

_TITLES = {
    "jpeg": "JPEG upload",
    "default": "JPEG upload, default precision",
    "binary": "binary tensor",
    "json": "JSON tensor",
    "tiny": "tiny model, JSON",
    "onecore-jpeg": "JPEG upload, one core",
    "onecore-tiny": "tiny model, one core",
}


def title(cell: str) -> str:
    """`jpeg/8` -> `JPEG upload, 8 callers`."""
    work, _, callers = cell.partition("/")
    return f"{_TITLES[work]}, {callers} caller{'' if callers == '1' else 's'}"


def summarise(found: Sequence[Found], machine: Mapping[str, object], at: str) -> Summary:
    """What is kept of a run in the repository: every figure, and no path or name of the machine."""
    return {
        "at": at,
        "machine": dict(machine),
        "figures": {
            each.figure.name: {
                "work": each.figure.work,
                "against": each.figure.against,
                "ours": round(each.ours, 4),
                "theirs": None if each.theirs is None else round(each.theirs, 4),
                "median": round(each.interval.median, 4),
                "low": round(each.interval.low, 4),
                "high": round(each.interval.high, 4),
                "unit": each.figure.unit,
                "at_least": each.figure.at_least,
                "at_most": each.figure.at_most,
                "reached": each.reached,
                "rounds": each.rounds,
            }
            for each in found
        },
    }


def table(
    found: Sequence[Found],
    rounds: Sequence[Round],
    machine: Mapping[str, object],
    tuned: Mapping[str, str],
    before: Summary | None,
) -> str:
    """Markdown: figures, every measurement, what the appliance chose for itself, comparison with the run before."""
    return "\n\n".join(
        part
        for part in (
            _head(machine, rounds),
            _figures(found),
            _notes(found, len(rounds)),
            _measurements(rounds),
            _alone(rounds),
            _tuned(tuned),
            _comparison(found, before),
        )
        if part
    )


def losses(found: Sequence[Found], before: Summary | None) -> list[tuple[Found, float]]:
    """Figures that are worse than in the run before, with their median then."""
    if before is None:
        return []
    worse = []
    for each in found:
        old = before["figures"].get(each.figure.name)
        if old is not None and lost(each.interval, old["median"], _more_is_better(each.figure)):
            worse.append((each, float(old["median"])))
    return worse


def _head(machine: Mapping[str, object], rounds: Sequence[Round]) -> str:
    facts = "; ".join(f"{name}: {value}" for name, value in machine.items())
    confidence = "95% interval" if len(rounds) >= 6 else "range (too few rounds for an interval)"
    return f"{facts}. {len(rounds)} rounds; each figure is the median of the rounds' ratios with its {confidence}."


def _figures(found: Sequence[Found]) -> str:
    lines = ["| work | against | ours | theirs | figure | to reach | |", "|---|---|---|---|---|---|---|"]
    for each in found:
        figure = each.figure
        target = "" if figure.at_least is None else f"at least {figure.at_least:g}"
        target = target if figure.at_most is None else f"at most {figure.at_most:g}"
        mark = {True: "reached", False: "**not reached**", None: ""}[each.reached]
        theirs = "" if each.theirs is None else _number(each.theirs)
        against = figure.against or ""
        value = spread(each.interval, figure.unit)
        lines.append(f"| {figure.work} | {against} | {_number(each.ours)} | {theirs} | {value} | {target} | {mark} |")
    return "\n".join(lines)


def _notes(found: Sequence[Found], rounds: int) -> str:
    """What the table cannot say: ways without a target, and figures of fewer rounds than the run."""
    shown = {each.figure.against for each in found}
    lines = [f"- {family} {what}." for family, what in WITHOUT_TARGET.items() if family in shown]
    if lines:
        told = (
            "Shown without a target, since targets are set against each framework as it is meant to be used, FastAPI "
        )
        lines = [told + "with a request per thread:", "", *lines, ""]
    lines += [f"- {each.figure.work}: of {each.rounds} rounds." for each in found if each.rounds < rounds]
    return "\n".join(lines).strip()


def _measurements(rounds: Sequence[Round]) -> str:
    """Medians of everything with a rate and CPU time, cell by cell."""
    keys = list(dict.fromkeys(key for each in rounds for key, measured in each.items() if "cpu_ms" in measured))
    lines = [
        "| work | by | requests/s | p50 ms | p99 ms | CPU ms each | per core-second |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in keys:
        work, callers, by = key.split("/", 2)
        medians = {field: _median(rounds, key, field) for field in ("per_s", "p50_ms", "p99_ms", "cpu_ms")}
        times = [("" if (value := medians[field]) is None else f"{value:.2f}") for field in ("p50_ms", "p99_ms")]
        cpu = medians["cpu_ms"] or 0.0
        per_core = f"{1000 / cpu:.0f}" if cpu else ""
        rate = _number(medians["per_s"] or 0.0)
        cell = title(f"{work}/{callers}")
        lines.append(f"| {cell} | {by} | {rate} | {times[0]} | {times[1]} | {cpu:.2f} | {per_core} |")
    return "\n".join(lines) if keys else ""


def _alone(rounds: Sequence[Round]) -> str:
    """Starts, one line for everybody."""
    keys = list(dict.fromkeys(key for each in rounds for key in each if key.startswith("start/")))
    if not keys:
        return ""
    lines = ["| start, one MobileNetV2 | seconds | memory (PSS) | starts |", "|---|---|---|---|"]
    for key in keys:
        count = sum(key in each for each in rounds)
        seconds, memory = _median(rounds, key, "start_s"), _median(rounds, key, "pss_mb")
        lines.append(f"| {key.partition('/')[2]} | {seconds:.2f} | {memory:.0f} MB | {count} |")
    return "\n".join(lines)


def _tuned(tuned: Mapping[str, str]) -> str:
    if not tuned:
        return ""
    return "\n".join(["What the appliance chose for itself:", "", *(f"- {who}: {what}" for who, what in tuned.items())])


def _comparison(found: Sequence[Found], before: Summary | None) -> str:
    if before is None:
        return "There is no earlier run to compare with."
    worse = losses(found, before)
    if not worse:
        return f"No figure is more than 5% worse than in the run of {before['at']}."
    lines = [f"Worse than in the run of {before['at']} by more than 5%:", ""]
    for each, old in worse:
        figure = each.figure
        name = f"{figure.work}{' against ' + figure.against if figure.against else ''}"
        lines.append(f"- {name}: {spread(each.interval, figure.unit)}, before {_number(old)}")
    return "\n".join(lines)


def spread(found: Interval, unit: str = "") -> str:
    """`0.93 (0.91 to 0.95)`."""
    after = "" if unit == "x" else f" {unit}"
    return f"{_number(found.median)}{after} ({_number(found.low)} to {_number(found.high)})"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _median(rounds: Sequence[Round], key: str, field: str) -> float | None:
    values = [each[key][field] for each in rounds if key in each and field in each[key]]
    return statistics.median(values) if values else None


def _more_is_better(figure: Figure) -> bool:
    return figure.how == "ratio" and figure.field == "per_s"
