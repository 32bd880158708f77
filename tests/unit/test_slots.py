"""Loading: one model's trouble is its own."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.core.manifest import ModelManifest, Variant
from appliance.errors import ModelLoadError
from appliance.runtimes import LoadedModel, Loaders, LoadOptions, default_loaders
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
    slots = Slots(lambda: [tmp_path], {}, tuner, fatal=fatal.append)
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


class Gate:
    """Loaders whose next load waits until it is let through."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.reached = threading.Event()

    def loaders(self) -> Loaders:
        return {"openvino": self._load}

    def _load(
        self, manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        self.reached.set()
        self.opened.wait(60)
        return default_loaders()["openvino"](manifest, variant, files, options)


@contextmanager
def loaded_slots(root: Path, gate: Gate) -> Iterator[Slots]:
    """Slots whose models are all loaded, and a gate that is closed from then on."""
    fatal: list[str] = []
    tuner = Tuner(None, gate.loaders(), LoadOptions(), 10_000)
    slots = Slots(lambda: [root], {}, tuner, tune=False, fatal=fatal.append)
    slots.start()
    assert slots.loaded.wait(30)
    gate.reached.clear()
    gate.opened.clear()
    yield slots
    gate.opened.set()
    assert slots.stop()
    assert fatal == []


def test_reload_that_hangs_is_given_up_and_others_get_their_turn(tmp_path: Path) -> None:
    for name in ("aaa", "bbb"):
        write_model(tmp_path, name)
    gate = Gate()
    with loaded_slots(tmp_path, gate) as slots:
        before = slots.choose("aaa")
        stuck = slots.load("aaa")
        assert gate.reached.wait(30)
        behind = slots.unload("bbb")
        slots.check(time.monotonic() + LOAD_S_MAX + 1)
        with pytest.raises(ModelLoadError, match="did not load within"):
            stuck.result(30)
        # What waited for the turn of the one that is lost has to be asked again; what comes now has a turn.
        slots.unload("bbb").result(30)
        assert slots.choose("aaa") is before
        gate.opened.set()
        behind.result(30)
        assert slots.choose("aaa") is before


def test_model_that_is_unloaded_while_it_loads_stays_unloaded(tmp_path: Path) -> None:
    write_model(tmp_path, "aaa")
    gate = Gate()
    gate.opened.clear()
    slots = Slots(lambda: [tmp_path], {}, Tuner(None, gate.loaders(), LoadOptions(), 10_000), fatal=lambda _: None)
    slots.start()
    assert gate.reached.wait(30)
    slots.unload("aaa").result(30)
    gate.opened.set()
    assert slots.loaded.wait(30)
    (slot,) = slots.slots()
    assert (slot.state, slot.served) == ("unloaded", None)
    assert slots.stop()


def test_model_that_is_replaced_or_unloaded_is_freed_at_once(tmp_path: Path) -> None:
    write_model(tmp_path, "aaa")
    gate = Gate()
    with loaded_slots(tmp_path, gate) as slots:
        gate.opened.set()
        gc.collect()
        gc.disable()
        try:
            first = weakref.ref(slots.choose("aaa"))
            slots.load("aaa").result(30)
            until(lambda: first() is None, 30, "the end of the first")
            second = weakref.ref(slots.choose("aaa"))
            slots.unload("aaa").result(30)
            until(lambda: second() is None, 30, "the end of the second")
        finally:
            gc.enable()
