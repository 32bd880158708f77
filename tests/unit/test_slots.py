"""Loading: one model's trouble is its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from appliance.core.manifest import ModelManifest, Variant
from appliance.runtimes import LoadedModel, LoadOptions, default_loaders
from appliance.slots import LOAD_S_MAX, Slots
from appliance.tuning import Tuner
from tests.support.models import write_model
from tests.support.wait import until


def test_a_model_that_hangs_in_its_first_load_is_given_up_and_the_others_load(tmp_path: Path) -> None:
    for name in ("aaa", "bbb"):
        write_model(tmp_path, name)
    opened = threading.Event()
    load = default_loaders()["openvino"]

    def hang_on_aaa(
        manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        if manifest.name == "aaa":
            opened.wait(60)
        return load(manifest, variant, files, options)

    fatal: list[str] = []
    tuner = Tuner(None, {"openvino": hang_on_aaa}, LoadOptions(), 10_000)
    slots = Slots([tmp_path], {}, tuner, fatal=fatal.append)
    first, second = slots.slots()
    slots.start()
    until(lambda: first.loading_since is not None, 30, "the first load")
    slots.check(time.monotonic() + LOAD_S_MAX - 1)
    assert (first.state, second.state) == ("loading", "loading")

    slots.check(time.monotonic() + LOAD_S_MAX + 1)

    assert first.state == "failed"
    until(lambda: second.state == "ready", 30, "the second model being ready")
    assert slots.ready(())
    opened.set()
    assert slots.stop()
    assert first.state == "failed"
    assert fatal == []
