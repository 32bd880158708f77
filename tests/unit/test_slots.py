"""Loading, trying, promoting and going back: one model's trouble is its own, and nobody sees half of a change."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance import standing
from appliance.core.manifest import ModelManifest, Variant
from appliance.errors import (
    ModelFailed,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    OrderRefused,
    StoreUnavailable,
    VersionNotFound,
)
from appliance.loading import LOAD_S_MAX
from appliance.runtimes import LoadedModel, Loaders, LoadOptions, default_loaders
from appliance.served import ServedModel
from appliance.slot import Slot
from appliance.slots import Slots
from appliance.state import State
from appliance.tuning import Tuner
from tests.support.installs import add_rollout, install_tiny, rollout_state
from tests.support.models import write_model
from tests.support.wait import until

WAIT_S = 30.0


class Gate:
    """Loaders whose next load waits until it is let through. broken: `<name> <version>` of what does not load."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.reached = threading.Event()
        self.broken: set[str] = set()

    def loaders(self) -> Loaders:
        return {"openvino": self._load}

    def close(self) -> None:
        self.reached.clear()
        self.opened.clear()

    def _load(
        self, manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        self.reached.set()
        self.opened.wait(60)
        if f"{manifest.name} {manifest.version}" in self.broken:
            raise ModelLoadError("it is broken")
        return default_loaders()["openvino"](manifest, variant, files, options)


class House:
    """The disk of a box: what it came with, what updates brought, and its state."""

    def __init__(self, folder: Path) -> None:
        self.shipped = folder / "shipped"
        self.data = folder / "data"
        self.shipped.mkdir()
        self.data.mkdir()
        self.state = State(self.data)
        self.gate = Gate()
        self.fatal: list[str] = []
        self.told: list[tuple[str, tuple[str, ...]]] = []

    def slots(self) -> Slots:
        """As at a start, nothing loaded."""
        tuner = Tuner(None, self.gate.loaders(), LoadOptions(), 10_000)
        slots = Slots(self._roots, {}, tuner, self.state, tune=False, fatal=self.fatal.append)
        slots.on_candidate_lost = lambda names, reason: self.told.append(("lost", names))
        slots.on_rolled_back = lambda names, reason: self.told.append(("back", names))
        return slots

    @contextmanager
    def running(self) -> Iterator[Slots]:
        """All loaded; nothing may have been fatal in the end."""
        slots = self.slots()
        slots.start()
        assert slots.loaded.wait(WAIT_S)
        until(lambda: all(each.state != "loading" for each in slots.slots()), WAIT_S, "the models")
        yield slots
        self.gate.opened.set()
        assert slots.stop()
        assert self.fatal == []

    def rows(self) -> dict[str, tuple[str, str | None, int | None]]:
        found = standing.standings(self.state)
        return {name: (row.current, row.previous, row.rollout) for name, row in found.items()}

    def _roots(self) -> list[Path]:
        installed = self.data / "models"
        return [self.shipped, installed] if installed.is_dir() else [self.shipped]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def pair(house: House) -> House:
    """Two models in version 1, and version 2 of both by an update."""
    for name in ("aaa", "bbb"):
        write_model(house.shipped, name)
        install_tiny(house.data, name, "2")
    return house


def slot(slots: Slots, name: str) -> Slot:
    return next(each for each in slots.slots() if each.name == name)


def serves(slots: Slots, asked: str | None = None) -> list[str]:
    return [slots.choose(name, asked).manifest.version for name in ("aaa", "bbb")]


BOTH = {"aaa": "2", "bbb": "2"}


# Loading.


def test_a_model_that_hangs_in_its_first_load_is_given_up_and_the_others_load(house: House) -> None:
    for name in ("aaa", "bbb"):
        write_model(house.shipped, name)
    house.gate.close()
    slots = house.slots()
    slots.start()
    until(lambda: slot(slots, "aaa").loading_since is not None, WAIT_S, "the first load")
    slots.check(time.monotonic() + LOAD_S_MAX - 1)
    assert [each.state for each in slots.slots()] == ["loading", "loading"]

    slots.check(time.monotonic() + LOAD_S_MAX + 1)

    assert slot(slots, "aaa").state == "failed"
    house.gate.opened.set()
    until(lambda: slot(slots, "bbb").state == "ready", WAIT_S, "the second model being ready")
    assert slots.ready(())
    assert slots.stop()
    assert slot(slots, "aaa").state == "failed"
    assert house.fatal == []


def test_reload_that_hangs_is_given_up_and_others_get_their_turn(pair: House) -> None:
    with pair.running() as slots:
        pair.gate.close()
        before = slots.choose("aaa")
        stuck = slots.load("aaa")
        assert pair.gate.reached.wait(WAIT_S)
        behind = slots.unload("bbb")
        slots.check(time.monotonic() + LOAD_S_MAX + 1)
        with pytest.raises(ModelLoadError, match="did not load within"):
            stuck.result(WAIT_S)
        # What waited for the turn of the one that is lost has to be asked again; what comes now has a turn.
        slots.unload("bbb").result(WAIT_S)
        assert slots.choose("aaa") is before
        pair.gate.opened.set()
        behind.result(WAIT_S)
        assert slots.choose("aaa") is before


def test_model_that_is_unloaded_while_it_loads_stays_unloaded(house: House) -> None:
    write_model(house.shipped, "aaa")
    house.gate.close()
    slots = house.slots()
    slots.start()
    assert house.gate.reached.wait(WAIT_S)
    slots.unload("aaa").result(WAIT_S)
    house.gate.opened.set()
    assert slots.loaded.wait(WAIT_S)
    assert (slot(slots, "aaa").state, slot(slots, "aaa").served) == ("unloaded", None)
    assert slots.stop()


def test_whatever_leaves_a_slot_is_freed_at_once(pair: House) -> None:
    def freed(served: weakref.ref[ServedModel]) -> None:
        until(lambda: served() is None, WAIT_S, "the end of what was replaced")

    with pair.running() as slots:
        gc.collect()
        gc.disable()
        try:
            current = weakref.ref(slots.choose("aaa"))
            slots.load("aaa").result(WAIT_S)
            freed(current)
            slots.stage({"aaa": "2"}).result(WAIT_S)
            candidate = weakref.ref(slots.choose("aaa", "2"))
            slots.reject(["aaa"])
            freed(candidate)
            slots.stage({"aaa": "2"}).result(WAIT_S)
            current = weakref.ref(slots.choose("aaa"))
            slots.promote(["aaa"])
            assert current() is not None
            slots.settle(["aaa"])
            freed(current)
            current = weakref.ref(slots.choose("aaa"))
            slots.roll_back(["aaa"]).result(WAIT_S)
            freed(current)
            current = weakref.ref(slots.choose("aaa"))
            slots.unload("aaa").result(WAIT_S)
            freed(current)
        finally:
            gc.enable()


# What serves.


def test_what_came_by_an_update_and_was_never_promoted_does_not_serve(pair: House) -> None:
    with pair.running() as slots:
        assert serves(slots) == ["1", "1"]
        slots.load("aaa").result(WAIT_S)
        assert serves(slots) == ["1", "1"]


def test_what_somebody_brought_serves_in_its_newest_version(house: House) -> None:
    write_model(house.shipped, "aaa")
    install_tiny(house.data, "aaa", "3", origin=standing.BY_HAND)
    write_model(house.data / "models", "aaa", "4")
    with house.running() as slots:
        assert slots.choose("aaa").manifest.version == "4"


def test_shipped_version_that_is_published_as_well_still_serves(house: House) -> None:
    write_model(house.shipped, "aaa")
    install_tiny(house.data, "aaa", "1")
    assert house.slots().on_disk("aaa").folder.parent.parent == house.shipped


def test_promoted_version_serves_after_a_restart_and_a_rejected_one_does_not(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa"])
        slots.reject(["bbb"])
    with pair.running() as slots:
        assert serves(slots) == ["2", "1"]
        assert slots.slots()[0].previous is not None
    assert pair.rows() == {"aaa": ("2", "1", None)}


def test_staged_version_is_forgotten_by_a_restart(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        assert serves(slots, "2") == ["2", "2"]
    with pair.running() as slots:
        assert serves(slots) == ["1", "1"]
        with pytest.raises(VersionNotFound, match="version 1 serves"):
            slots.choose("aaa", "2")


@pytest.mark.parametrize("gone", ["the folder", "its files"])
def test_promoted_version_that_is_gone_leaves_the_one_before_it(pair: House, gone: str) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa"])
    folder = pair.data / "models" / "aaa" / "2"
    if gone == "the folder":
        folder.rename(pair.data / "elsewhere")
    else:
        (folder / "openvino-f32" / "model.bin").write_bytes(b"damaged")
    with pair.running() as slots:
        until(lambda: slot(slots, "aaa").served is not None, WAIT_S, "the version before")
        assert serves(slots) == ["1", "1"]


# Trying.


def test_labels_and_numbers_choose_among_what_is_loaded(pair: House) -> None:
    with pair.running() as slots:
        assert serves(slots, "stable") == serves(slots, "canary") == serves(slots, "1") == ["1", "1"]
        slots.stage({"aaa": "2"}).result(WAIT_S)
        assert serves(slots) == serves(slots, "stable") == serves(slots, "1") == ["1", "1"]
        assert serves(slots, "canary") == ["2", "1"]
        slots.promote(["aaa"])
        assert serves(slots) == serves(slots, "stable") == serves(slots, "canary") == ["2", "1"]
        assert serves(slots, "1") == ["1", "1"]
        slots.settle(["aaa"])
        with pytest.raises(VersionNotFound):
            slots.choose("aaa", "1")
        for unknown in ("7", "night", ""):
            with pytest.raises(VersionNotFound):
                slots.choose("aaa", unknown)


def test_of_several_that_are_staged_all_are_there_or_none(pair: House) -> None:
    pair.gate.broken = {"bbb 2"}
    with pair.running() as slots:
        with pytest.raises(ModelLoadError, match="broken"):
            slots.stage(BOTH).result(WAIT_S)
        assert [slots.candidate(name) for name in ("aaa", "bbb")] == [None, None]
        with pytest.raises(OrderRefused):
            slots.promote(["aaa", "bbb"])
        pair.gate.broken = set()
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa", "bbb"])
        assert serves(slots) == ["2", "2"]


def test_stage_that_hangs_is_given_up_and_leaves_nothing(pair: House) -> None:
    with pair.running() as slots:
        pair.gate.close()
        staged = slots.stage(BOTH)
        assert pair.gate.reached.wait(WAIT_S)
        with pytest.raises(OrderRefused, match="on trial"):
            slots.stage({"bbb": "2"})
        slots.check(time.monotonic() + LOAD_S_MAX + 1)
        with pytest.raises(ModelLoadError, match="did not load within"):
            staged.result(WAIT_S)
        pair.gate.opened.set()
        slots.stage(BOTH).result(WAIT_S)
        assert serves(slots, "canary") == ["2", "2"]


def test_candidate_that_is_rejected_while_it_loads_does_not_come(pair: House) -> None:
    with pair.running() as slots:
        pair.gate.close()
        staged = slots.stage(BOTH)
        assert pair.gate.reached.wait(WAIT_S)
        slots.reject(["aaa"])
        pair.gate.opened.set()
        with pytest.raises(ModelNotReady, match="given up"):
            staged.result(WAIT_S)
        assert [slots.candidate(name) for name in ("aaa", "bbb")] == [None, None]


def test_what_is_not_there_or_serves_already_cannot_be_staged(pair: House) -> None:
    with pair.running() as slots:
        with pytest.raises(ModelLoadError, match="not on this box"):
            slots.stage({"aaa": "9"}).result(WAIT_S)
        with pytest.raises(OrderRefused, match="already"):
            slots.stage({"aaa": "1"})


def test_model_that_is_new_to_the_box_serves_from_its_promotion_on(house: House) -> None:
    write_model(house.shipped, "aaa")
    install_tiny(house.data, "new", "1")
    with house.running() as slots:
        with pytest.raises(ModelNotFound):
            slots.choose("new")
        slots.stage({"new": "1"}).result(WAIT_S)
        assert slots.choose("new", "canary").manifest.version == "1"
        assert slots.ready(())
        with pytest.raises(ModelFailed, match="on trial"):
            slots.choose("new")
        slots.reject(["new"])
        with pytest.raises(ModelNotFound):
            slots.choose("new", "canary")
        slots.stage({"new": "1"}).result(WAIT_S)
        slots.promote(["new"], rollout=1)
        assert slots.choose("new").manifest.version == "1"
        slots.roll_back(["new"]).result(WAIT_S)
        with pytest.raises(ModelNotFound):
            slots.choose("new")
    assert house.rows() == {}


def test_nobody_sees_half_of_a_promotion_or_of_a_way_back(pair: House) -> None:
    tables: list[list[str]] = []
    forward: list[list[str]] = []
    looking, promoting, ends = threading.Event(), threading.Event(), threading.Event()
    with pair.running() as slots:

        def look() -> None:
            while not ends.is_set():
                looking.wait()
                tables.append([each.version for each in slots.slots()])
                before = promoting.is_set()
                versions = serves(slots)
                if before and promoting.is_set():
                    forward.append(versions)

        watchers = [threading.Thread(target=look) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        for _ in range(15):
            slots.stage(BOTH).result(WAIT_S)
            looks = len(forward)
            promoting.set()
            looking.set()
            slots.promote(["aaa", "bbb"])
            until(lambda looks=looks: len(forward) > looks + 4, WAIT_S, "somebody looking")  # type: ignore[misc]
            promoting.clear()
            slots.roll_back(["aaa", "bbb"]).result(WAIT_S)
            looking.clear()
        ends.set()
        looking.set()
        for watcher in watchers:
            watcher.join()
    assert {tuple(versions) for versions in tables} == {("1", "1"), ("2", "2")}
    # Asked for one after the other, the second is never older than the first.
    assert ["2", "1"] not in forward


# What is committed.


def test_promotion_is_committed_with_what_belongs_to_it_or_not_at_all(pair: House) -> None:
    order = ("INSERT INTO orders (at, kind, by) VALUES (0, 'promote', ?)", ("test",))
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        with pytest.raises(StoreUnavailable):
            slots.promote(["aaa", "bbb"], also=[order, ("INSERT INTO nowhere VALUES (1)", ())])
        assert serves(slots) == ["1", "1"]
        assert (pair.rows(), pair.state.rows("SELECT * FROM orders")) == ({}, [])
        slots.promote(["aaa", "bbb"], rollout=3, also=[order])
        assert pair.rows() == {"aaa": ("2", "1", 3), "bbb": ("2", "1", 3)}
        assert len(pair.state.rows("SELECT * FROM orders")) == 1
        with pytest.raises(StoreUnavailable):
            slots.roll_back(["aaa"], also=[("INSERT INTO nowhere VALUES (1)", ())]).result(WAIT_S)
        assert serves(slots) == ["2", "2"]
        slots.roll_back(["aaa"]).result(WAIT_S)
        assert pair.rows() == {"aaa": ("1", None, None), "bbb": ("2", "1", 3)}
        with pytest.raises(OrderRefused, match="no version to go back to"):
            slots.roll_back(["aaa"])


def test_way_back_after_a_restart_is_loaded_first(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa", "bbb"], rollout=3)
    with pair.running() as slots:
        pair.gate.broken = {"bbb 1"}
        with pytest.raises(ModelLoadError, match="broken"):
            slots.roll_back(["aaa", "bbb"]).result(WAIT_S)
        assert serves(slots) == ["2", "2"]
        pair.gate.broken = set()
        slots.roll_back(["aaa", "bbb"]).result(WAIT_S)
        assert serves(slots) == ["1", "1"]


# Hangs.


def test_candidate_that_hangs_is_dropped_and_the_box_goes_on(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        for _ in range(3):
            slots.hung(slots.choose("aaa", "canary").flow) if slots.candidate("aaa") else None
        assert pair.told == [("lost", ("aaa",))]
        assert (serves(slots), serves(slots, "canary")) == (["1", "1"], ["1", "2"])


def test_hang_on_probation_takes_everything_back_at_once(pair: House) -> None:
    rollout = add_rollout(pair.state, BOTH, {"aaa": "1", "bbb": "1"}, "probation")
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa", "bbb"], rollout=rollout)
        slots.hung(slots.choose("bbb").flow)
        assert serves(slots) == ["1", "1"]
        assert pair.told == [("back", ("aaa", "bbb"))]
    assert rollout_state(pair.state, rollout) == "rolled_back"
    assert [row["name"] for row in pair.state.rows("SELECT name FROM blocked WHERE version = '2'")] == ["aaa", "bbb"]
    assert pair.rows() == {"aaa": ("1", None, None), "bbb": ("1", None, None)}


def test_hang_on_probation_after_a_restart_goes_back_as_well(pair: House) -> None:
    rollout = add_rollout(pair.state, BOTH, {"aaa": "1", "bbb": "1"}, "probation")
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa", "bbb"], rollout=rollout)
    with pair.running() as slots:
        pair.gate.close()
        slots.hung(slots.choose("bbb").flow)
        with pytest.raises(ModelNotReady):
            slots.choose("bbb")
        pair.gate.opened.set()
        until(lambda: pair.told == [("back", ("aaa", "bbb"))], WAIT_S, "the way back")
        assert serves(slots) == ["1", "1"]
    assert rollout_state(pair.state, rollout) == "rolled_back"


def test_what_is_settled_is_compiled_afresh_when_it_hangs_and_given_up_the_second_time(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa", "bbb"])
        slots.settle(["aaa", "bbb"])
        slots.hung(slots.choose("aaa").flow)
        until(lambda: slot(slots, "aaa").state == "ready", WAIT_S, "the model compiled afresh")
        assert (serves(slots), pair.told) == (["2", "2"], [])
        slots.hung(slots.choose("aaa").flow)
        assert ["aaa version 2 hung 2 times" in reason for reason in pair.fatal] == [True]
        pair.fatal.clear()


def test_version_on_probation_that_does_not_load_at_a_start_goes_back(pair: House) -> None:
    rollout = add_rollout(pair.state, BOTH, {"aaa": "1", "bbb": "1"}, "probation")
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa", "bbb"], rollout=rollout)
    pair.gate.broken = {"bbb 2"}
    with pair.running() as slots:
        until(lambda: pair.told == [("back", ("aaa", "bbb"))], WAIT_S, "the way back")
        assert serves(slots) == ["1", "1"]
    assert rollout_state(pair.state, rollout) == "rolled_back"


def test_version_that_does_not_load_and_has_no_way_back_has_failed_with_both_reasons(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.promote(["aaa"])
    pair.gate.broken = {"aaa 1", "aaa 2"}
    with pair.running() as slots:
        until(lambda: slot(slots, "aaa").state == "failed", WAIT_S, "the end of both")
        reason = str(slot(slots, "aaa").reason)
        assert "version 2 did not load" in reason
        assert "the version before it does not load either" in reason
        assert slots.choose("bbb").manifest.version == "1"


def test_unloading_a_model_on_trial_ends_its_trial(pair: House) -> None:
    with pair.running() as slots:
        slots.stage(BOTH).result(WAIT_S)
        slots.unload("aaa").result(WAIT_S)
        assert pair.told == [("lost", ("aaa",))]
        with pytest.raises(ModelFailed, match="unloaded"):
            slots.choose("aaa", "canary")
        slots.load("aaa").result(WAIT_S)
        assert serves(slots, "canary") == ["1", "2"]
