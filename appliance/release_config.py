"""What a release may say of a box's configuration, and the configuration that comes of it.

It has the form of the file: `routes`, `recipes`, the `verdict` of `models`, and under `devices.<name>` the same for one
box alone. What a release brings goes before the file, and what it says of one box before what it says of all: a route
or a recipe in place of the one with its name, a verdict's values over those below. Anything else belongs to the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.config import Config, Identifier, ModelConfig, RouteConfig, recipe_of
from appliance.core.manifest import Name
from appliance.core.recipe import Recipe
from appliance.core.verdict import VerdictRule
from appliance.errors import ReleaseInvalid

_KEYS = ("routes", "models", "recipes")


class _ReleasedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verdict: VerdictRule | None = None


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """verdicts: by model, over the rule of its manifest."""

    routes: tuple[RouteConfig, ...] = ()
    verdicts: dict[str, VerdictRule] = {}
    recipes: dict[str, Recipe] = {}


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What a release brings. devices: for one box alone, by its name."""

    everywhere: Values = Values()
    devices: dict[str, Values] = {}


def read_configuration(content: object) -> Configuration:
    """Of a release, for whichever box. Raises ReleaseInvalid with the key and the reason."""
    table = _table(content, "", (*_KEYS, "devices"))
    devices = _table(table.get("devices", {}), "devices")
    return Configuration(
        everywhere=_values(table, ""),
        devices={
            _convert(name, Identifier, f"devices.{name}"): _values(
                _table(each, f"devices.{name}", _KEYS), f"devices.{name}."
            )
            for name, each in devices.items()
        },
    )


def with_release(config: Config, content: object) -> Config:
    """The configuration of a box with what a release brings; content: as in its JSON.

    Raises ReleaseInvalid with the key and the reason, also when the two contradict each other.
    """
    found = read_configuration(content)
    for values in (found.everywhere, found.devices.get(config.device)):
        if values is not None:
            config = _merged(config, values)
    return config


def _merged(config: Config, values: Values) -> Config:
    routes = {route.name: route for route in config.routes}
    routes.update({route.name: route for route in values.routes})
    models = dict(config.models)
    for name, verdict in values.verdicts.items():
        below = models.get(name, ModelConfig())
        rule = verdict if below.verdict is None else below.verdict.override(verdict)
        models[name] = msgspec.structs.replace(below, verdict=rule)
    try:
        return msgspec.structs.replace(
            config, routes=tuple(routes.values()), models=models, recipes={**config.recipes, **values.recipes}
        )
    except ValueError as error:
        raise ReleaseInvalid(f"configuration of the release, with the file of this box: {error}") from error


def _values(table: Mapping[str, Any], where: str) -> Values:
    routes = _convert(table.get("routes", []), tuple[Any, ...], f"{where}routes")
    models = _table(table.get("models", {}), f"{where}models")
    recipes = _table(table.get("recipes", {}), f"{where}recipes")
    read = tuple(_convert(each, RouteConfig, f"{where}routes[{place}]") for place, each in enumerate(routes))
    for place, route in enumerate(read):
        if route.name in [other.name for other in read[:place]]:
            raise ReleaseInvalid(
                f"configuration {where}routes[{place}].name: {route.name!r} is there twice; each needs its own"
            )
    verdicts: dict[str, VerdictRule] = {}
    for name, each in models.items():
        key = f"{where}models.{name}"
        model = _convert(_table(each, key, ("verdict",)), _ReleasedModel, key)
        if model.verdict is not None:
            verdicts[_convert(name, Name, key)] = model.verdict
    return Values(
        routes=read,
        verdicts=verdicts,
        recipes={
            _convert(name, Identifier, f"{where}recipes.{name}"): _convert(
                recipe_of(each), Recipe, f"{where}recipes.{name}"
            )
            for name, each in recipes.items()
        },
    )


def _table(content: object, where: str, keys: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    """keys: those that it may have, None: any."""
    if not isinstance(content, Mapping):
        raise ReleaseInvalid(f"configuration {where}".strip() + f": expected an object, got {type(content).__name__}")
    for name in content:
        if keys is not None and name not in keys:
            raise ReleaseInvalid(
                f"configuration {where}{'.' if where else ''}{name}: a release may bring only {', '.join(keys)} there; "
                "what belongs to one installation stands in the file of the box"
            )
    return content


def _convert(content: object, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise ReleaseInvalid(f"configuration {where}{path.rstrip('`')}: {reason}") from error
