"""Which recipe runs: committed before it counts, with who changed it, and still there after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from appliance.config import StoreConfig
from appliance.core.recipe import Recipe
from appliance.core.verdict import VerdictRule
from appliance.errors import DecodeError, FieldError, RecipeUnknown, StoreUnavailable
from appliance.plant.alarms import Alarms
from appliance.plant.recipes import RecipeChange, RecipeOrder, Recipes, read_order
from appliance.store import Store
from appliance.writes import Write
from tests.support.by_hand import StoreByHand

KNOWN = {name: Recipe(models={"tiny": VerdictRule(score_ng_min=0.5)}) for name in ("brackets", "covers")}


class Kitchen:
    """Recipes of a real store."""

    def __init__(self, folder: Path, known: dict[str, Recipe] = KNOWN) -> None:
        self.store = Store(folder, StoreConfig(free_bytes_min=0))
        self.alarms = Alarms(self.store)
        self.recipes = Recipes(known, self.store, self.alarms, now=lambda: 7.0)
        self.store.start()
        self.recipes.start()

    def change(self, recipe: str | None, source: str | None = None, by: str | None = None) -> RecipeChange:
        order = RecipeOrder(recipe=recipe, source=source, by=by)
        return self.recipes.change(order, "http", "127.0.0.1").result(20)

    def audit(self) -> list[tuple[str | None, str | None, str | None]]:
        return [(change.source, change.old, change.new) for change in self.recipes.changes(50)]


@pytest.fixture
def kitchen(tmp_path: Path) -> Iterator[Kitchen]:
    opened = Kitchen(tmp_path)
    yield opened
    opened.store.stop()


def test_at_first_no_recipe_runs(kitchen: Kitchen) -> None:
    report = kitchen.recipes.report()
    assert (report.recipe, report.since, report.sources) == (None, None, {})
    assert [(each.name, each.about) for each in report.known] == [
        ("brackets", "tiny: NG from 0.5"),
        ("covers", "tiny: NG from 0.5"),
    ]
    assert kitchen.recipes.active("camera-1") is None


def test_change_is_audited_with_who_when_and_from_where(kitchen: Kitchen) -> None:
    kitchen.change("brackets")
    change = kitchen.change("covers", by="Anna")
    assert (change.old, change.new, change.changed) == ("brackets", "covers", True)
    assert kitchen.recipes.active("camera-1") == "covers"
    assert kitchen.recipes.report().since == 7.0
    (last, first) = kitchen.recipes.changes(50)
    assert (last.at, last.old, last.new, last.door, last.client, last.by) == (
        7.0,
        "brackets",
        "covers",
        "http",
        "127.0.0.1",
        "Anna",
    )
    assert (first.old, first.new, first.by) == (None, "brackets", None)


def test_source_may_run_another_and_go_back_to_that_of_the_box(kitchen: Kitchen) -> None:
    kitchen.change("brackets")
    kitchen.change("covers", "camera-2")
    assert (kitchen.recipes.active("camera-1"), kitchen.recipes.active("camera-2")) == ("brackets", "covers")
    kitchen.change(None, "camera-2")
    assert kitchen.recipes.active("camera-2") == "brackets"
    kitchen.change(None)
    assert kitchen.recipes.active("camera-1") is None
    assert kitchen.audit() == [
        (None, "brackets", None),
        ("camera-2", "covers", None),
        ("camera-2", None, "covers"),
        (None, None, "brackets"),
    ]


def test_what_runs_already_leaves_no_row(kitchen: Kitchen) -> None:
    kitchen.change("brackets")
    assert not kitchen.change("brackets").changed
    assert not kitchen.change(None, "camera-1").changed
    assert len(kitchen.audit()) == 1


def test_recipe_survives_a_restart(tmp_path: Path) -> None:
    first = Kitchen(tmp_path)
    first.change("covers")
    first.change("brackets", "camera-2")
    first.change("covers", "camera-3")
    first.change(None, "camera-3")
    first.store.stop()
    second = Kitchen(tmp_path)
    report = second.recipes.report()
    assert (report.recipe, report.sources) == ("covers", {"camera-2": "brackets"})
    assert second.alarms.active() == ()
    second.store.stop()


def test_recipe_that_left_the_configuration_is_an_alarm_until_another_runs(tmp_path: Path) -> None:
    first = Kitchen(tmp_path)
    first.change("covers")
    first.store.stop()
    second = Kitchen(tmp_path, {"brackets": Recipe()})
    (alarm,) = second.alarms.active()
    assert alarm.kind == "recipe_missing"
    assert "covers" in alarm.text
    second.change("brackets")
    assert second.alarms.active() == ()
    second.store.stop()


def test_unknown_recipe_is_refused_with_the_list(kitchen: Kitchen) -> None:
    with pytest.raises(RecipeUnknown, match=r"'bracket'; the recipes are brackets, covers"):
        kitchen.change("bracket")
    assert kitchen.audit() == []


def test_without_any_recipe_the_refusal_says_where_to_put_one(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, {})
    with pytest.raises(RecipeUnknown, match=r"none; add \[recipes\.<name>\]"):
        kitchen.change("brackets")
    kitchen.store.stop()


@pytest.mark.parametrize("fields", [{"source": "cam 1"}, {"source": ""}, {"by": "a\nb"}, {"by": "x" * 129}])
def test_order_with_odd_fields_is_refused(kitchen: Kitchen, fields: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        kitchen.recipes.change(RecipeOrder(recipe="brackets", **fields), "http", "127.0.0.1")


class FullStore(StoreByHand):
    """Takes a write and then refuses it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def submit(self, write: Write) -> None:
        self.writes.append(write)
        assert write.done is not None
        self._refuse = write.done

    def refuse(self) -> None:
        self._refuse(StoreUnavailable("the disk is read-only"))


def test_what_cannot_be_recorded_does_not_run(kitchen: Kitchen) -> None:
    store: Any = FullStore(kitchen.store.path)
    recipes = Recipes(KNOWN, store, kitchen.alarms)
    order = RecipeOrder(recipe="brackets")
    refused: list[Future[RecipeChange]] = [recipes.change(order, "http", "127.0.0.1")]
    # While it waits for its commit, nothing runs yet, and the same order is no repeat of what runs.
    assert recipes.active("camera-1") is None
    refused.append(recipes.command(b"brackets", "plc"))
    assert [write.must for write in store.writes] == [False, True]
    store.refuse()
    with pytest.raises(StoreUnavailable):
        refused[1].result(1)
    assert recipes.active("camera-1") is None


@pytest.mark.parametrize(
    ("payload", "order"),
    [
        (b"brackets", RecipeOrder(recipe="brackets")),
        (b" brackets\r\n", RecipeOrder(recipe="brackets")),
        (b'{"recipe": "brackets"}', RecipeOrder(recipe="brackets")),
        (b'{"recipe": null, "source": "camera-1"}', RecipeOrder(recipe=None, source="camera-1")),
        (b'{"recipe": "covers", "by": "PLC 3"}', RecipeOrder(recipe="covers", by="PLC 3")),
    ],
)
def test_order_is_text_or_json(payload: bytes, order: RecipeOrder) -> None:
    assert read_order(payload) == order


@pytest.mark.parametrize(
    "payload",
    [b"", b"  ", b"\xff\xfe", b"{", b"{}", b'{"recipe": 7}', b'{"recipe": "a", "recipee": "b"}', b'{"\xff":1}'],
)
def test_order_that_is_neither_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read_order(payload)
