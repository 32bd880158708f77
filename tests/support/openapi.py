"""The OpenAPI document as something to send: its operations, and the requests that its examples make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jsonschema

from appliance.http.pages import HMI

METHODS = ("get", "post", "put", "delete", "patch")


class Call(NamedTuple):
    """An operation, and where it is. path: without the fragment that tells body forms apart."""

    method: str
    path: str
    fragment: str
    operation: dict[str, Any]

    @property
    def id(self) -> str:
        name: str = self.operation["operationId"]
        return name

    @property
    def bodies(self) -> dict[str, Any]:
        """By media type."""
        content: dict[str, Any] = self.operation.get("requestBody", {}).get("content", {})
        return content


def calls(document: dict[str, Any]) -> list[Call]:
    return [
        Call(method, *_split(key), operation)
        for key, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


def request_of(http: httpx.Client, call: Call, body: dict[str, Any] | None = None) -> httpx.Request:
    """The request that the examples make. body: what `httpx` takes for it, when the document has no example of one."""
    path = call.path
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    for parameter in call.operation.get("parameters", []):
        value = parameter.get("example")
        if value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", text)
        else:
            (query if parameter["in"] == "query" else headers)[parameter["name"]] = text
    given = body or _example_body(call)
    return http.build_request(
        call.method, path, params=query, **{**given, "headers": headers | given.get("headers", {})}
    )


def has_example(call: Call) -> bool:
    return not call.bodies or any("examples" in content for content in call.bodies.values())


def check(value: object, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError unless the value is as the schema of the document says."""
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def references(value: object) -> Iterator[str]:
    """Every `$ref` below a value."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def resolve(reference: str, document: dict[str, Any]) -> Any:
    """What a `$ref` inside the document leads to. Raises KeyError."""
    assert reference.startswith("#/"), reference
    found: Any = document
    for name in reference[2:].split("/"):
        found = found[name.replace("~1", "/").replace("~0", "~")]
    return found


def _split(key: str) -> tuple[str, str]:
    path, _, fragment = key.partition("#")
    return path, fragment


def _example_body(call: Call) -> dict[str, Any]:
    for media_type, content in call.bodies.items():
        for example in content.get("examples", {}).values():
            if "value" in example:
                return {"json": example["value"]}
            file: Path = HMI / example["externalValue"].removeprefix("/hmi/")
            return {"content": file.read_bytes(), "headers": {"Content-Type": media_type}}
    return {}
