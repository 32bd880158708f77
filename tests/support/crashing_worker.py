"""In the place of the import's worker: a runtime that crashes, hangs or fails on the file. `python -m ... HOW`."""

from __future__ import annotations

import os
import signal
import sys
import time


def main(how: str) -> None:
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(60)
    raise SystemExit("the runtime gave up")


if __name__ == "__main__":
    main(sys.argv[1])
