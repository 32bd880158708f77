"""A box whose runtime crashes or hangs on marked inputs: `python -m tests.support.misbehaving serve --config FILE`.

A black picture, or a window whose first value is CRASH, aborts the process, as a fault in native code does. A white
picture never returns.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from appliance import log
from appliance.app import serve
from appliance.config import load
from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.runtimes import Infer, LoadedModel, LoadOptions, default_loaders

CRASH = 13.0
BLACK, WHITE = 0.0, 255.0


class _Misbehaving:
    """A loaded model that looks at its input before it infers."""

    def __init__(self, loaded: LoadedModel, kind: str) -> None:
        self._loaded = loaded
        self._kind = kind
        self.runtime = loaded.runtime
        self.device = loaded.device
        self.note = loaded.note
        self.gears = loaded.gears
        self.batches = loaded.batches

    def session(self, gear: Gear) -> Infer:
        infer = self._loaded.session(gear)

        def misbehave(tensors: Mapping[str, Array]) -> dict[str, Array]:
            (tensor,) = tensors.values()
            if self._kind == "image":
                if tensor.max() == 0.0:
                    os.abort()
                if tensor.min() == 1.0:
                    threading.Event().wait()
            elif np.float32(tensor.flat[0]) == CRASH:
                os.abort()
            return infer(tensors)

        return misbehave


def _load_openvino(
    manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
) -> LoadedModel:
    loaded = default_loaders()["openvino"](manifest, variant, files, options)
    return _Misbehaving(loaded, "image" if manifest.inputs[0].name == "image" else "window")


if __name__ == "__main__":
    config = load(Path(sys.argv[3]))
    log.set_up(config.log_level)
    serve(config, {"openvino": _load_openvino})
