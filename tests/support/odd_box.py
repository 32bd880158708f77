"""`python -m tests.support.odd_box serve --config FILE`: a box whose runtime a test can hold up, hang or crash.

Pictures are known by their brightness after preprocessing. Beside the configuration file, `gate` holds up every load
and every inference for as long as it exists. A picture of brightness HANG hangs for good, one of brightness CRASH ends
the process as a fault in native code would. `inferences` grows by a byte with every inference that has ended.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from appliance import log
from appliance.app import serve
from appliance.config import load
from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.runtimes import Infer, LoadedModel, LoadOptions, default_loaders

HANG = 77
CRASH = 99


class OddModel:
    """A real model behind a gate."""

    def __init__(self, real: LoadedModel, folder: Path) -> None:
        self._real = real
        self._folder = folder

    @property
    def runtime(self) -> str:
        return self._real.runtime

    @property
    def device(self) -> str:
        return self._real.device

    @property
    def note(self) -> str | None:
        return self._real.note

    @property
    def gears(self) -> tuple[Gear, ...]:
        return self._real.gears

    @property
    def batches(self) -> bool:
        return self._real.batches

    def session(self, gear: Gear) -> Infer:
        infer = self._real.session(gear)

        def odd(tensors: Mapping[str, Array]) -> dict[str, Array]:
            wait_at_gate(self._folder)
            brightness = round(255 * float(next(iter(tensors.values())).mean()))
            if brightness == HANG:
                threading.Event().wait()
            if brightness == CRASH:
                os.abort()
            outputs = infer(tensors)
            with (self._folder / "inferences").open("a") as count:
                count.write(".")
            return outputs

        return odd


def wait_at_gate(folder: Path) -> None:
    while (folder / "gate").exists():
        time.sleep(0.01)


def main(path: Path) -> None:
    config = load(path)
    log.set_up("info")
    real = default_loaders()["openvino"]

    def load_odd(
        manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        wait_at_gate(path.parent)
        return OddModel(real(manifest, variant, files, options), path.parent)

    serve(config, {"openvino": load_odd})


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--config") + 1]))
