"""A stream as fast as the box takes it, for minutes, on a database at its quota.

    python -m benchmarks.soak [--minutes 10] [--database-bytes 67108864]

Readings with keys over the built-in listener, with its access list, in the configuration of every other figure. Prints
one line of JSON: per_s over all and least_per_s of any half minute, both committed; database_mb, the most that the
database and its log took; deleted, the readings that retention removed meanwhile; pss_mb_more, what the box took at its
end beside what it took after a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks import stream
from benchmarks.lineup import Networks
from benchmarks.ratios import Measured
from benchmarks.run import SCRATCH

DATABASE_BYTES = 64 << 20
_LOOK_S = 30.0


def soak(scratch: Path, seconds: float, database_bytes: int) -> Measured:
    """Raises RuntimeError when the publisher was refused, or when the quota was not reached."""
    # The table `[store]` is the last one of the configuration.
    with stream.running("soak", [stream.BEARING], scratch, more=f"\ndatabase_bytes_max = {database_bytes}\n") as box:
        publisher = box.publishing("in/keyed/bench", "--rows", "1", "--seconds", str(seconds))
        began, first = time.monotonic(), box.rows("readings")
        rates: list[float] = []
        most, pss_mb = 0, 0.0
        before, at = first, began
        while publisher.poll() is None:
            time.sleep(_LOOK_S)
            now, there = time.monotonic(), box.rows("readings")
            if publisher.poll() is None:
                rates.append((there - before) / (now - at))
            before, at = there, now
            most = max(most, box.database_bytes())
            if not pss_mb and now - began >= 2 * _LOOK_S:
                pss_mb = box.server.process.pss_mb()
        found = stream.told(publisher)
        box.until("readings", first + int(found["messages"]))
        kept = box.kept("readings")
        if kept == found["messages"]:
            raise RuntimeError(f"all {kept} readings are still there: the quota was not reached; take more minutes")
        return {
            "seconds": found["seconds"],
            "messages": found["messages"],
            "per_s": found["messages"] / found["seconds"],
            "least_per_s": min(rates),
            "database_mb": most / 1e6,
            "deleted": found["messages"] - kept,
            "pss_mb_more": box.server.process.pss_mb() - pss_mb,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--database-bytes", type=int, default=DATABASE_BYTES)
    asked = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=SCRATCH) as folder:
        found = soak(Networks(Path(folder)).scratch, asked.minutes * 60, asked.database_bytes)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
