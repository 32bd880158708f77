"""Which recipe runs: on the whole box, and on a source that has its own. Every change is committed before it counts.

The table `recipe_changes` is the memory and the audit at once: who changed what, when and from where; the last row of
a source says what runs there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from appliance.core.recipe import Recipe, about
from appliance.errors import DecodeError, FieldError, RecipeUnknown, StoreError
from appliance.fields import check_source
from appliance.plant.alarms import Alarms
from appliance.schema import open_reader
from appliance.store import Store
from appliance.writes import Outgoing, Write, Written

log = structlog.get_logger("recipes")

_PERSON_MAX = 128

Door = Literal["http", "mqtt"]


class RecipeOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a recipe run: on the whole box or on one source. recipe: null for none, on a source for that of the box.

    by: who wants it, as they say.
    """

    recipe: str | None
    source: str | None = None
    by: str | None = None


class RecipeChange(msgspec.Struct, frozen=True, kw_only=True):
    """What ran before and what runs now. client: an address or an MQTT client. changed: false when it ran already."""

    at: float
    source: str | None
    old: str | None
    new: str | None
    door: Door
    client: str
    by: str | None
    changed: bool = True


class KnownRecipe(msgspec.Struct, frozen=True):
    """about: what it changes, in one line."""

    name: str
    about: str


class RecipeReport(msgspec.Struct, frozen=True, kw_only=True):
    """recipe: what runs on the box, null for none. sources: those that run another. since: of the box's, null: never.

    known: what the configuration has.
    """

    recipe: str | None
    since: float | None
    sources: dict[str, str]
    known: tuple[KnownRecipe, ...]


class Recipes:
    """Any thread may call it. It reads the last run's recipe from the store's database when it is made."""

    def __init__(
        self, known: Mapping[str, Recipe], store: Store, alarms: Alarms, *, now: Callable[[], float] = time.time
    ) -> None:
        self._set_known(known)
        self._store = store
        self._alarms = alarms
        self._now = now
        self._lock = threading.Lock()
        self._box: str | None = None
        self._since: float | None = None
        self._sources: dict[str, str] = {}
        self._waiting = 0
        """Changes that wait for their commit."""
        self.outgoing: Callable[[RecipeChange], tuple[Outgoing, ...]] = lambda _: ()
        """The rows for central that are committed with a change."""
        for change in _last_changes(store.path):
            self._take(change)

    def start(self) -> None:
        """Say so when what runs is not in the configuration any more."""
        for source, recipe in [(None, self._box), *self._sources.items()]:
            self._tell_if_missing(source, recipe)

    def follow(self, known: Mapping[str, Recipe]) -> None:
        """From now on the configuration has these. What runs, runs on, even if it is not among them any more."""
        self._set_known(known)
        self.start()

    def active(self, source: str) -> str | None:
        """The recipe that runs for a source now."""
        return self._sources.get(source, self._box)

    def report(self) -> RecipeReport:
        with self._lock:
            return RecipeReport(
                recipe=self._box, since=self._since, sources=dict(sorted(self._sources.items())), known=self._known
            )

    def changes(self, limit: int) -> list[RecipeChange]:
        """The newest first. Reads the database; call it from a thread."""
        return _read(self._store.path, "SELECT {} FROM recipe_changes ORDER BY id DESC", limit)

    def change(self, order: RecipeOrder, door: Door, client: str) -> Future[RecipeChange]:
        """The future ends after the commit; what runs, runs on until then.

        Raises RecipeUnknown and FieldError at once, StoreError and Overloaded when it cannot be recorded; so does the
        future.
        """
        self._check(order)
        done: Future[RecipeChange] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            runs = self._box if order.source is None else self._sources.get(order.source)
            change = RecipeChange(
                at=round(self._now(), 3),
                source=order.source,
                old=runs,
                new=order.recipe,
                door=door,
                client=client,
                by=order.by,
                changed=order.recipe != runs or self._waiting > 0,
            )
            if not change.changed:
                done.set_result(change)
                return done
            # What ran before is taken from the table, where changes that wait for their commit come before this one.
            self._store.submit(
                Write(
                    also=(
                        (
                            "INSERT INTO recipe_changes (at, source, old, new, door, client, person) VALUES (?, ?, "
                            "(SELECT new FROM recipe_changes WHERE source IS ? ORDER BY id DESC LIMIT 1), ?, ?, ?, ?)",
                            (change.at, order.source, order.source, order.recipe, door, client, order.by),
                        ),
                    ),
                    outbox=self.outgoing(change),
                    # A message is acknowledged after the commit, so it can wait for a disk that is full.
                    must=door == "mqtt",
                    done=partial(self._committed, change, done),
                )
            )
            self._waiting += 1
        return done

    def command(self, payload: bytes, client: str) -> Future[RecipeChange]:
        """A change by message: a recipe's name as plain text, or a `RecipeOrder` as JSON.

        Raises as `change`, and DecodeError for a payload that is neither.
        """
        return self.change(read_order(payload), "mqtt", client)

    def _set_known(self, known: Mapping[str, Recipe]) -> None:
        self._known = tuple(KnownRecipe(name, about(recipe)) for name, recipe in sorted(known.items()))
        self._names = [each.name for each in self._known]

    def _check(self, order: RecipeOrder) -> None:
        if order.source is not None:
            check_source(order.source)
        if order.by is not None and (len(order.by) > _PERSON_MAX or not order.by.isprintable()):
            raise FieldError(f"by {order.by[:40]!r}: expected at most {_PERSON_MAX} printable characters")
        if order.recipe is not None and order.recipe not in self._names:
            there = ", ".join(self._names) or "none; add [recipes.<name>] to the configuration"
            raise RecipeUnknown(f"there is no recipe {order.recipe[:64]!r}; the recipes are {there}")

    def _committed(self, change: RecipeChange, done: Future[RecipeChange], outcome: Written | StoreError) -> None:
        """In the store's thread."""
        with self._lock:
            self._waiting -= 1
            if isinstance(outcome, Written):
                self._take(change)
        if isinstance(outcome, StoreError):
            done.set_exception(outcome)
            return
        log.info("recipe_changed", source=change.source, old=change.old, new=change.new, client=change.client)
        self._tell_if_missing(change.source, change.new)
        done.set_result(change)

    def _take(self, change: RecipeChange) -> None:
        if change.source is None:
            self._box, self._since = change.new, change.at
        elif change.new is None:
            self._sources = {name: recipe for name, recipe in self._sources.items() if name != change.source}
        else:
            self._sources = {**self._sources, change.source: change.new}

    def _tell_if_missing(self, source: str | None, recipe: str | None) -> None:
        missing = recipe is not None and recipe not in self._names
        text = (
            f"Recipe {recipe} runs but is not in the configuration any more, so it changes nothing; choose another "
            "recipe, or put it back"
        )
        self._alarms.hold("recipe_missing", text if missing else None, source)


def read_order(payload: bytes) -> RecipeOrder:
    """Plain text or JSON. Raises DecodeError."""
    if not payload.lstrip().startswith(b"{"):
        try:
            name = payload.decode().strip()
        except UnicodeDecodeError as error:
            raise DecodeError(f"the recipe is no text: {error}; send its name or JSON") from error
        if not name:
            raise DecodeError('the recipe is empty; send its name, or {"recipe": null} for none')
        return RecipeOrder(recipe=name)
    try:
        return msgspec.json.decode(payload, type=RecipeOrder)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(
            f'the order is not as expected: {error}; send {{"recipe": "name", "source": "camera-1", "by": "who"}}'
        ) from error


def _last_changes(database: Path) -> list[RecipeChange]:
    return _read(
        database,
        "SELECT {} FROM recipe_changes WHERE id IN (SELECT max(id) FROM recipe_changes GROUP BY source)",
        -1,
    )


def _read(database: Path, query: str, limit: int) -> list[RecipeChange]:
    columns = "at, source, old, new, door, client, person"
    with closing(open_reader(database)) as reader:
        rows = reader.execute(f"{query.format(columns)} LIMIT ?", (limit,)).fetchall()
    return [
        RecipeChange(at=at, source=source, old=old, new=new, door=door, client=client, by=person)
        for at, source, old, new, door, client, person in rows
    ]
