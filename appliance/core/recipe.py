"""What a recipe changes while its product runs: limits per model; model, crop and limits per route and per source."""

from __future__ import annotations

import msgspec

from appliance.core.area import Rectangle, check_inside
from appliance.core.manifest import Name
from appliance.core.verdict import VerdictRule


class RecipePlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """For one route or one source.

    model: judges instead of the one that the route names; of the same kind. crop: (left, top, width, height) as shares
    of the picture; the model sees this part only. verdict: changes the limits.
    """

    model: Name | None = None
    crop: Rectangle | None = None
    verdict: VerdictRule | None = None

    def __post_init__(self) -> None:
        check_inside(self.crop)


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """models: what it changes in the limits of each. What is said of a source goes before what is said of its route."""

    models: dict[Name, VerdictRule] = {}
    routes: dict[str, RecipePlace] = {}
    sources: dict[str, RecipePlace] = {}

    def model(self, route: str | None, source: str) -> str | None:
        """The model that judges, None for the one that was asked for.

        Only where the configuration chooses the model, by a route or a trigger, may the recipe choose another.
        """
        if route is None:
            return None
        for place in self._places(route, source):
            if place.model is not None:
                return place.model
        return None

    def crop(self, route: str | None, source: str) -> Rectangle | None:
        for place in self._places(route, source):
            if place.crop is not None:
                return place.crop
        return None

    def rule(self, rule: VerdictRule, model: str, route: str | None, source: str) -> VerdictRule:
        """The rule with what the recipe changes in it."""
        rule = rule.override(self.models.get(model))
        for place in reversed(self._places(route, source)):
            rule = rule.override(place.verdict)
        return rule

    def named_models(self) -> list[str]:
        """Every model that it names."""
        places = [*self.routes.values(), *self.sources.values()]
        return sorted({*self.models, *(place.model for place in places if place.model is not None)})

    def _places(self, route: str | None, source: str) -> list[RecipePlace]:
        """The source's first."""
        found = self.sources.get(source), None if route is None else self.routes.get(route)
        return [place for place in found if place is not None]


def about(recipe: Recipe) -> str:
    """What it changes, in one line for people."""
    said = [f"{model}: {_limits(rule)}" for model, rule in sorted(recipe.models.items())]
    for name, place in sorted({**recipe.routes, **recipe.sources}.items()):
        parts = [
            f"model {place.model}" if place.model is not None else "",
            "a part of the picture" if place.crop is not None else "",
            _limits(place.verdict) if place.verdict is not None else "",
        ]
        said.append(f"{name}: {', '.join(part for part in parts if part) or 'as it is'}")
    return "; ".join(said) or "as it is"


def _limits(rule: VerdictRule) -> str:
    """`score_ng_min 0.3`; classes as `classes scratch ng`."""
    told = []
    for name in rule.__struct_fields__:
        value = getattr(rule, name)
        if isinstance(value, dict):
            told.append(", ".join(f"{label} {verdict}" for label, verdict in value.items()) or "no classes")
        elif value is not None:
            told.append(f"{_WORDS.get(name, name)} {value:g}")
    return ", ".join(told) or "as it is"


_WORDS = {
    "class_score_min": "review when less sure than",
    "score_review_min": "review from",
    "score_ng_min": "NG from",
    "count_review_min": "review from findings",
    "count_ng_min": "NG from findings",
    "area_review_min": "review from area",
    "area_ng_min": "NG from area",
}
