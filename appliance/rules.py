"""What the site has ruled for a source and a recipe: which model judges, what it sees, its limits, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from appliance.codecs import decode_image, encode_as, sniff
from appliance.config import Config, SourceConfig
from appliance.core.area import black_out
from appliance.core.manifest import ModelManifest
from appliance.core.prediction import Prediction
from appliance.core.privacy import keeps_picture
from appliance.core.protocol import InferenceRequest
from appliance.core.recipe import Recipe
from appliance.core.verdict import Verdict, VerdictRule
from appliance.core.view import View
from appliance.errors import InputError

Version = tuple[str, str]
"""The name of a model and its version."""


class SiteRules:
    """active_recipe: the name of the one that runs for a source now, or None. Any thread may call it."""

    def __init__(self, config: Config, active_recipe: Callable[[str], str | None]) -> None:
        self._now = _Limits(config)
        self._beside: Mapping[Version, _Limits] = {}
        self._sources = config.sources
        self._active_recipe = active_recipe
        self._pixels_max = config.pixels_max
        self._any_private = any(map(_is_private, config.sources.values()))

    def use(self, config: Config) -> None:
        """From now on its recipes, and its verdict rules but for the versions with rules of their own."""
        self._now = _Limits(config)

    def use_beside(self, configs: Mapping[Version, Config]) -> None:
        """Versions with verdict rules of their own: limits come with the version that they were set for."""
        self._beside = {version: _Limits(config) for version, config in configs.items()}

    def apply(self, request: InferenceRequest, route: str | None) -> InferenceRequest:
        """The request with the recipe that runs, unless its part brings its own, and with the recipe's model."""
        part = request.part
        recipe = part.recipe or self._active_recipe(request.source)
        if recipe is None:
            return request
        if part.recipe is None:
            request = msgspec.structs.replace(request, part=msgspec.structs.replace(part, recipe=recipe))
        known = self._now.recipes.get(recipe)
        model = None if known is None else known.model(route, request.source)
        return request if model is None else msgspec.structs.replace(request, model=model, version=None)

    def view(self, request: InferenceRequest, route: str | None) -> View | None:
        """Of a picture; None: all of it, as it came. After `apply`."""
        config = self._sources.get(request.source)
        recipe = self._now.recipe(request)
        crop = None if recipe is None else recipe.crop(route, request.source)
        if config is None:
            return None if crop is None else View(crop)
        measured = config.dark_below is not None or config.blurred_below is not None
        return View(crop, config.masks, measured) if crop is not None or config.masks or measured else None

    def verdict_rule(self, manifest: ModelManifest, request: InferenceRequest, route: str | None) -> VerdictRule:
        """The rule of a version with what the site, then the route and then the recipe change in it. After `apply`."""
        limits = self._beside.get((manifest.name, manifest.version), self._now)
        rule = manifest.verdict.override(limits.models.get(manifest.name))
        rule = rule.override(limits.routes.get(route or "", request.override))
        recipe = limits.recipe(request)
        return rule if recipe is None else recipe.rule(rule, request.model, route, request.source)

    def keeps_picture(self, source: str, verdict: Verdict, prediction: Prediction | None) -> bool:
        config = self._sources.get(source)
        return config is None or keeps_picture(config.images, verdict, prediction)

    def keepable(self, source: str | None, payload: bytes) -> bytes:
        """What may be kept of a message that was not judged: as it came, with masks painted, or nothing.

        source: None when it cannot be told; then nothing is kept where any source is private.
        """
        if source is None:
            return b"" if self._any_private else payload
        config = self._sources.get(source)
        if config is None or not _is_private(config):
            return payload
        if config.images != "all":
            return b""
        try:
            image = decode_image(payload, self._pixels_max)
            black_out(image, config.masks)
            return encode_as(image, sniff(payload))
        except InputError:
            return b""


class _Limits:
    """What a configuration changes in verdict rules: by model, by route, by recipe."""

    def __init__(self, config: Config) -> None:
        self.models = {name: model.verdict for name, model in config.models.items()}
        self.routes = {route.name: route.verdict for route in config.routes}
        self.recipes: Mapping[str, Recipe] = config.recipes

    def recipe(self, request: InferenceRequest) -> Recipe | None:
        return self.recipes.get(request.part.recipe or "")


def _is_private(source: SourceConfig) -> bool:
    return source.images != "all" or bool(source.masks)
