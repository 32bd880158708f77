"""Paths, operations and parameters: the pieces that the document is made of.

OpenAPI has one operation per path and method, and generators make a method for the first content type of it only. So
a path that takes several body forms is written once per form, told apart by a fragment (`/v1/predict/{model}#form`):
a client never sends the fragment, so each of them is the same, real path, and each form has an operation of its own.
Such an operation names no query parameters, since generated clients would put them behind the fragment.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

BINARY: Schema = {"type": "string", "format": "binary"}
TEXT: Schema = {"type": "string"}
ANY: Schema = {"description": "any JSON value"}
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def fields(required: str = "", about: str = "", /, **properties: Schema) -> Schema:
    """The schema of an object. required: names, parted by spaces."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    if about:
        schema["description"] = about
    return schema


def in_path(name: str, example: object, schema: Schema = TEXT) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def in_query(name: str, schema: Schema, about: str = "", example: object = None) -> Schema:
    return _optional({"name": name, "in": "query", "schema": schema}, about, example)


def in_header(name: str, about: str = "", example: object = None, schema: Schema = TEXT) -> Schema:
    return _optional({"name": name, "in": "header", "schema": schema}, about, example)


def _optional(parameter: Schema, about: str, example: object) -> Schema:
    if about:
        parameter["description"] = about
    if example is not None:
        parameter["example"] = example
    return parameter


def part_fields(source: str) -> dict[str, Schema]:
    """What a form or a JSON body may say of the part. source: what it is when nobody says so."""
    return {
        "part": {**TEXT, "maxLength": 128, "description": "the part's number"},
        "lot": {**TEXT, "maxLength": 128},
        "recipe": {**TEXT, "maxLength": 128, "description": "may change the verdict's limits"},
        "source": {**TEXT, "maxLength": 64, "description": f"who sends; `{source}` when left out"},
    }


def origin_headers(source: str, example: str | None = None) -> tuple[Schema, ...]:
    """The same as headers."""
    return (
        in_header("X-Part", "the part's number"),
        in_header("X-Lot"),
        in_header("X-Recipe", "may change the verdict's limits"),
        in_header("X-Source", f"who sends; `{source}` when left out", example),
    )


TIMEOUT = in_header(
    "X-Timeout-Ms", "refuse with `expired` rather than begin later than this", schema={"type": "number"}
)
CACHED = {"X-Cache": {"schema": {"type": "string", "enum": ["hit", "miss"]}, "description": "when the cache is on"}}
"""Header of an answer."""


def content(media_type: str, schema: Schema, /, **examples: object) -> dict[str, Any]:
    """A body in one media type, with examples by name."""
    found: dict[str, Any] = {"schema": schema}
    if examples:
        found["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {media_type: found}


class Paths:
    """Collects operations; `found` is path -> method -> operation. examples: answers by operation id."""

    def __init__(self, examples: dict[str, Any]) -> None:
        self._examples = examples
        self.found: dict[str, dict[str, Any]] = {}

    def add(
        self,
        tag: str,
        method: str,
        path: str,
        name: str,
        summary: str,
        answers: Schema | dict[str, Any],
        *,
        about: str = "",
        parameters: tuple[Schema, ...] = (),
        body: dict[str, Any] | None = None,
        error: str = "Problem",
    ) -> None:
        """An operation. name: its id. answers: the schema of JSON, or responses by status."""
        if not any(status.isdigit() for status in answers):
            answers = self.json(name, answers)
        operation: dict[str, Any] = {"operationId": name, "tags": [tag], "summary": summary}
        if about:
            operation["description"] = about
        if parameters:
            operation["parameters"] = list(parameters)
        if body is not None:
            operation["requestBody"] = {"required": True, "content": body}
        operation["responses"] = {**answers, "default": {"$ref": f"#/components/responses/{error}"}}
        methods = self.found.setdefault(path, {})
        assert method not in methods, f"{method} {path} is there twice"
        methods[method] = operation

    def json(
        self, name: str, schema: Schema, about: str = "The answer", headers: dict[str, Schema] | None = None
    ) -> dict[str, Any]:
        """200 with JSON, and the example of that operation where there is one."""
        shown = {"real": self._examples[name]} if name in self._examples else {}
        answer = {"description": about, "content": content("application/json", schema, **shown)}
        return {"200": answer | ({"headers": headers} if headers else {})}
