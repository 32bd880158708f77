"""The schemas of the document: from the structs that the doors encode, and of wire formats that have no struct."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from appliance.core.protocol import Recorded, Result
from appliance.erasing import Erased
from appliance.http.alarms import AlarmReport
from appliance.http.openapi.paths import Schema, array, ref
from appliance.http.problems import Problem
from appliance.http.recipes import RecipeChanges
from appliance.http.results import ResultPage
from appliance.http.sources import Latest, SourceList
from appliance.http.status import BoxReport
from appliance.plant.answer import TriggerAnswer
from appliance.plant.recipes import RecipeChange, RecipeOrder, RecipeReport
from appliance.rollouts.board import (
    HoldOrder,
    OrderReport,
    PollAsked,
    Released,
    RolloutList,
    RolloutReport,
    UpdatesReport,
    VersionList,
    Who,
)
from appliance.rollouts.records import Hold

_REF = "#/components/schemas/{name}"


def components(written: dict[str, Schema]) -> dict[str, Schema]:
    """All schemas by name. written: those of the wire formats."""
    _, found = msgspec.json.schema_components([ResultPage, SourceList, Latest, Result, Erased], ref_template=_REF)
    about_the_box = [BoxReport, TriggerAnswer, AlarmReport, RecipeReport, RecipeOrder, RecipeChange, RecipeChanges]
    of_updates = [UpdatesReport, VersionList, PollAsked, Hold, HoldOrder, Released]
    of_rollouts = [RolloutList, RolloutReport, Who, OrderReport]
    _, of_the_box = msgspec.json.schema_components([*about_the_box, *of_updates, *of_rollouts], ref_template=_REF)
    _, of_errors = msgspec.json.schema_components([Problem], ref_template=_REF)
    # Two structs are called Problem: an error that is answered, and something wrong with the box.
    of_the_box["BoxProblem"] = of_the_box.pop("Problem")
    of_the_box["BoxReport"]["properties"]["problems"]["items"] = ref("BoxProblem")
    schemas = {**found, **of_the_box, **of_errors, **written, "RecordedResult": _recorded(found["Result"])}
    schemas["RecordedResults"] = {
        "type": "object",
        "description": "In the order of the inputs. An input that could not be judged has `error` and `file` alone.",
        "properties": {"results": array({"type": "object", "additionalProperties": True})},
        "required": ["results"],
    }
    return {name: plain(schema) for name, schema in sorted(schemas.items())}


def _recorded(result: Schema) -> Schema:
    return {
        **result,
        "title": "RecordedResult",
        "description": "A result, and whether it is `committed`, `queued` for the next commit, or will not be kept.",
        "properties": {**result["properties"], "recorded": msgspec.json.schema(Recorded)},
        "required": [*result["required"], "recorded"],
    }


def plain(schema: Any) -> Any:
    """The schema in words that every generator knows.

    A tuple of one type becomes an array of fixed length, a value that may be null says so in its type.
    """
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: plain(value) for name, value in schema.items()}
    if isinstance(found.get("description"), str):
        found["description"] = inspect.cleandoc(found["description"])
    if found.get("type") == "integer":
        # Without it some generators take 32 bits, too few for an id or for bytes.
        found.setdefault("format", "int64")
    if "enum" in found:
        found.setdefault("type", "string")
    if found.get("default", found) is None:
        del found["default"]
    members = found.pop("prefixItems", None)
    if members is not None:
        assert all(member == members[0] for member in members), members
        found["items"] = members[0]
    choice = found.get("anyOf", ())
    if len(choice) == 2 and choice[1] == {"type": "null"} and isinstance(choice[0].get("type"), str):
        del found["anyOf"]
        found.update(choice[0], type=[choice[0]["type"], "null"])
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    return found
