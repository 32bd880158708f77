"""`python -m tests.support.golden_check MODEL_FOLDER VARIANT`: check the golden cases, and say in which runtime."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from appliance.repository import read_golden, read_version
from appliance.runtimes import LoadOptions, default_loaders
from appliance.served import check_golden, load


def main(folder: str, variant: str) -> None:
    version = read_version(Path(folder))
    served = load(version, variant, default_loaders(), LoadOptions(), 50_000_000)
    off = {case.file: check_golden(served, case, read_golden(version, case)) for case in version.manifest.golden}
    print(json.dumps({"runtime": served.loaded.runtime, "off": off}))


if __name__ == "__main__":
    main(*sys.argv[1:])
