"""`/v1/recipe`: what runs, what can run, and who changed it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, get, put
from litestar.di import NamedDependency

from appliance.errors import DecodeError
from appliance.http.query import query
from appliance.plant.recipes import RecipeChange, RecipeReport, Recipes, read_order


class RecipeChanges(msgspec.Struct, frozen=True):
    """The newest first."""

    changes: list[RecipeChange]


class ChangesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


@get("/v1/recipe")
async def show_recipe(recipes: NamedDependency[Recipes]) -> RecipeReport:
    return recipes.report()


@put("/v1/recipe")
async def change_recipe(request: Request[Any, Any, Any], recipes: NamedDependency[Recipes]) -> RecipeChange:
    """Answers after the commit: what it says runs, runs."""
    body = await request.body()
    if not body.lstrip().startswith(b"{"):
        raise DecodeError('expected a JSON object; send {"recipe": "name"}, or null for none')
    client = "unknown" if request.client is None else request.client.host
    return await asyncio.wrap_future(recipes.change(read_order(body), "http", client))


@get("/v1/recipe/changes", sync_to_thread=True)
def list_changes(request: Request[Any, Any, Any], recipes: NamedDependency[Recipes]) -> RecipeChanges:
    return RecipeChanges(recipes.changes(query(request, ChangesOptions).limit))
