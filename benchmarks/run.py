"""`make bench`: every figure, in interleaved rounds, as a table, as JSON and as a picture.

    python -m benchmarks.run [--only jpeg,tiny] [--rounds 15] [--seconds 2] [--peers fastapi,litserve,mlserver]

Each round measures everything once, in another order each time, so that a drift of the machine meets all alike.
Writes benchmarks/results/<time>.json and .md, and, of a run of jpeg, binary, json and tiny with fifteen rounds or more,
benchmarks/figures.json and docs/figures.svg. Needs wrk, mosquitto and taskset (apt).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from benchmarks import chart, inputs, stream
from benchmarks.contenders import (
    APPLIANCE,
    BARE,
    FASTAPI,
    FASTAPI_BY_HAND,
    FASTAPI_ON_LOOP,
    MLSERVER_BY_HAND,
    PEERS,
    Cell,
)
from benchmarks.figures import LITSERVE, MLSERVER, find
from benchmarks.inputs import Message
from benchmarks.lineup import WORKS, Lineup, Networks, keep_best, run_entry
from benchmarks.loading import loading
from benchmarks.ratios import Measured, best_of, interval
from benchmarks.report import Summary, losses, summarise, table, title
from benchmarks.starts import start

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FIGURES = HERE / "figures.json"
# On the disk that holds the project: /tmp may be memory, where committing costs nothing.
SCRATCH = HERE.parent / ".cache"
PICTURE = HERE.parent / "docs" / "figures.svg"

_STARTS = 15
_STARTS_OF_PEERS = 4
_STREAMS = 3
_LOADINGS = 5
_TRIAL_S = 1
_KEPT_MAX = 2
# A single short trial says no more than this.
_KEPT_SHARE = 0.85
_DRAWN = ("jpeg/1", "jpeg/32", "json/8", "tiny/32")
_DRAWN_WORKS = ("jpeg", "binary", "json", "tiny")
_IDLE_S = 2.0
_ROUNDS_TO_PUBLISH = 15

T = TypeVar("T")
Families = dict[str, dict[str, list[str]]]


def main() -> None:
    asked = _arguments()
    works = tuple(work for work in WORKS if work in asked.only)
    # So that the servers are ended, too, when this is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=SCRATCH) as folder:
        made = Networks(Path(folder))
        with Lineup(made, works, asked.peers) as lineup:
            idle = _idle_share(lineup)
            cells = [keep_best(cell, _TRIAL_S, _KEPT_SHARE, _KEPT_MAX) for cell in lineup.cells]
            if "start" in works:
                # The first start compiles and tunes; it is not counted.
                _starts(made, lineup, asked.peers, 0)
            rounds = []
            recorded = lineup.recorded()
            for number in range(asked.rounds):
                print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
                figures = one_round(cells, number, asked.seconds)
                if "start" in works:
                    figures |= _starts(made, lineup, asked.peers, number)
                if "loading" in works and number < _LOADINGS:
                    figures[f"loading/{APPLIANCE}"] = loading(made, lineup.expected)
                if "stream" in works and number < _STREAMS:
                    figures |= _streams(made)
                rounds.append(figures)
            recorded = lineup.recorded() - recorded
            tuned = lineup.tuned()
            threads = {f"threads of bare, {precision}": str(count) for precision, count in lineup.threads.items()}
    whole = set(_DRAWN_WORKS) <= set(works) and set(asked.peers) == set(PEERS) and asked.rounds >= _ROUNDS_TO_PUBLISH
    machine = _machine() | threads | idle | _recorded(cells, rounds, recorded)
    report(rounds, _families(cells), machine, tuned, whole)


def one_round(cells: Sequence[Cell], number: int, seconds: int) -> dict[str, Measured]:
    """Everything once: cells one after the other, so that what is compared is measured side by side."""
    figures: dict[str, Measured] = {}
    for cell in _rotated(cells, number):
        for entry in _rotated(cell.entries, number):
            figures[cell.key(entry)] = run_entry(entry, seconds)
    return figures


def report(
    rounds: Sequence[Mapping[str, Measured]],
    families: Families,
    machine: dict[str, str],
    tuned: dict[str, str],
    whole: bool,
) -> None:
    """Print the table, keep the run; a whole run replaces the committed summary and the picture."""
    at = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    found = find(rounds, families)
    before: Summary | None = json.loads(FIGURES.read_text()) if FIGURES.exists() else None
    text = table(found, rounds, machine, tuned, before)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    summary = summarise(found, machine, at)
    (RESULTS / f"{at}.md").write_text(text + "\n")
    kept = summary | {"tuned": tuned, "families": families, "rounds": rounds}
    (RESULTS / f"{at}.json").write_text(json.dumps(kept, indent=1) + "\n")
    if whole:
        FIGURES.write_text(json.dumps(summary, indent=1) + "\n")
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(_picture(rounds, families, machine))
    for each, old in losses(found, before):
        print(f"worse than before: {each.figure.name}: {each.interval.median:.3f}, was {old:.3f}", file=sys.stderr)


def _picture(rounds: Sequence[Mapping[str, Measured]], families: Families, machine: Mapping[str, str]) -> str:
    panels = []
    for cell in _DRAWN:
        bars = []
        for family in (
            BARE,
            APPLIANCE,
            FASTAPI,
            FASTAPI_BY_HAND,
            FASTAPI_ON_LOOP,
            LITSERVE,
            MLSERVER,
            MLSERVER_BY_HAND,
        ):
            key = best_of(rounds, families.get(cell, {}).get(family, ()))
            if key is not None:
                bars.append(chart.Bar(family, *interval([each[key]["per_s"] for each in rounds])))
        panels.append(chart.Panel(title(cell), bars))
    note = f"{machine['processor']}, {machine['cores']} cores with the load generator, f32, {len(rounds)} rounds."
    return chart.draw(panels, "The appliance beside the bare runtime and its peers", note, APPLIANCE, BARE)


def _streams(made: Networks) -> dict[str, Measured]:
    """What comes by MQTT, each with a box of its own."""
    tiny = made.folder("tiny")
    small = Message("/v2/models/tiny/infer", made.bodies.tiny, inputs.JSON, inputs.numbers, made.tiny_expected)
    picture = made.frame()
    upload = Message("/v1/predict/surface", picture, inputs.JPEG, inputs.judged, made.tiny_expected)
    found = {
        "stream": stream.listener(made.scratch),
        "stream-broker": stream.broker(made.scratch),
        "stream-acks": stream.acknowledgements(made.scratch),
        "stream-windows": stream.windows(made.scratch, tiny, small),
        "stream-frames": stream.frames(made.scratch, picture, upload),
        "stream-triggers": stream.triggers(made.scratch, picture),
        "stream-written": stream.written(made.scratch, tiny),
    }
    return {f"{cell}/{APPLIANCE}": measured for cell, measured in found.items()}


def _starts(made: Networks, lineup: Lineup, peers: Sequence[str], number: int) -> dict[str, Measured]:
    figures = {}
    if number < _STARTS:
        figures[f"start/{APPLIANCE}"] = start(APPLIANCE, made, lineup.expected)
    if number < _STARTS_OF_PEERS:
        figures |= {f"start/{PEERS[name]}": start(name, made, lineup.expected) for name in peers}
    return figures


def _families(cells: Sequence[Cell]) -> Families:
    families: Families = {}
    for cell in cells:
        for entry in cell.entries:
            families.setdefault(cell.name, {}).setdefault(entry.family, []).append(cell.key(entry))
    return families


def _rotated(items: Sequence[T], by: int) -> list[T]:
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]


def _recorded(cells: Sequence[Cell], rounds: Sequence[Mapping[str, Measured]], recorded: int) -> dict[str, str]:
    """Whether every answer that the generator counted is in the store; more are, since it hangs up on the last ones."""
    keys = [cell.key(entry) for cell in cells for entry in cell.entries if entry.family == APPLIANCE]
    answered = sum(int(each[key]["requests"]) for each in rounds for key in keys if key in each)
    return {"results recorded": f"{min(recorded, answered):,} of {answered:,} answers"} if answered else {}


def _idle_share(lineup: Lineup) -> dict[str, str]:
    """CPU that an appliance takes while nobody calls; it goes on beside what is measured."""
    if not lineup.idle:
        return {}
    before = sum(process.cpu_s() for process in lineup.idle.values())
    time.sleep(_IDLE_S)
    spent = sum(process.cpu_s() for process in lineup.idle.values()) - before
    return {"an idle appliance takes": f"{spent / _IDLE_S / len(lineup.idle):.1%} of a core"}


def _machine() -> dict[str, str]:
    """What the figures depend on; nothing that names one machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": processor,
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "openvino": version("openvino"),
        "load when it ended": f"{os.getloadavg()[2]:.1f} in 15 minutes",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").split("\n\n")[0])
    some = f"some of {','.join(WORKS)}"
    parser.add_argument("--only", type=_listed(WORKS), default=WORKS, help=some)
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "15")))
    parser.add_argument(
        "--seconds", type=int, default=int(os.environ.get("SECONDS_EACH", "2")), help="of a measurement"
    )
    parser.add_argument("--peers", type=_listed(tuple(PEERS)), default=tuple(PEERS), help="names, or `none`")
    return parser.parse_args()


def _listed(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name and name != "none")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
