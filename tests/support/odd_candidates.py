"""`python -m tests.support.odd_candidates serve --config FILE`: a box whose runtime does what a model's title says.

`wrong` says what it would say of a black picture, `fails` raises, `slow` takes 60 ms, `hangs` never returns, `aborts`
ends the process: on pictures of middling brightness alone, which no golden case has. So such a version passes its
self-test and shows itself on trial. It looks for updates more often than others do.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from appliance import log
from appliance.app import serve
from appliance.config import load
from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.errors import InferenceError
from appliance.rollouts import rollouts
from appliance.runtimes import Infer, LoadedModel, LoadOptions, default_loaders

MIDDLING = 128.0
"""The brightness of a picture that shows it, 0..255."""

SLOW_S = 0.06


class _Odd:
    def __init__(self, loaded: LoadedModel, what: str) -> None:
        self._loaded = loaded
        self._what = what
        self.runtime = loaded.runtime
        self.device = loaded.device
        self.note = loaded.note
        self.gears = loaded.gears
        self.batches = loaded.batches

    def session(self, gear: Gear) -> Infer:
        infer = self._loaded.session(gear)

        def odd(tensors: Mapping[str, Array]) -> dict[str, Array]:
            (tensor,) = tensors.values()
            if 0.4 < tensor.mean() < 0.6:
                if self._what == "wrong":
                    return infer({name: np.zeros_like(array) for name, array in tensors.items()})
                if self._what == "fails":
                    raise InferenceError("this input is too much for it")
                if self._what == "slow":
                    time.sleep(SLOW_S)
                if self._what == "hangs":
                    threading.Event().wait()
                if self._what == "aborts":
                    os.abort()
            return infer(tensors)

        return odd


def _load_openvino(
    manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
) -> LoadedModel:
    loaded = default_loaders()["openvino"](manifest, variant, files, options)
    return _Odd(loaded, manifest.title) if manifest.title in ("wrong", "fails", "slow", "hangs", "aborts") else loaded


if __name__ == "__main__":
    rollouts.POLL_S = 0.02
    config = load(Path(sys.argv[3]))
    log.set_up(config.log_level)
    serve(config, {"openvino": _load_openvino})
