"""The OpenAPI 3.1 document: what every HTTP door takes and answers, for people and for client generators.

Schemas come from the structs that the doors encode, error codes from the tree of errors, and the answers shown as
examples were given by the shipped models (`examples.json`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance import __version__, errors
from appliance.http import problems
from appliance.http.openapi import own, protocols, schemas
from appliance.http.openapi.paths import Paths, ref

_EXAMPLES = Path(__file__).with_name("examples.json")

_NOT_OVER_HTTP = (
    errors.ConfigError,
    errors.PortInUse,
    errors.ImportRefused,
    errors.RouteNotFound,
    errors.RetainedStale,
    errors.PoisonInput,
)
_OF_HTTP = (("request_invalid", 400, "not HTTP as this box understands it"),)
_MEANINGS = {
    "method_not_allowed": "`Allow` names the methods that are",
    "idempotency_key_reused": "the key came before, with another input",
}

_ABOUT = """\
One box that judges parts next to the machines. Four doors lead to one engine: plain uploads (`/v1/predict`), the Open \
Inference Protocol v2 (`/v2`), the REST interface of TensorFlow Serving (`/v1/models`) and that of DeepStack \
(`/v1/vision`). What was judged is kept and read at `/v1/results`; `/v1/events` tells it as it happens. The MQTT side \
is described in [/asyncapi.yaml](/asyncapi.yaml).

**There is no gRPC door.** Clients of the Open Inference Protocol and of TensorFlow Serving use their HTTP form.

**Access.** The box answers on the loopback of its own machine, with no login. A call whose `Host` or `Origin` names \
another machine is refused with `address_refused`.

**Body forms.** A path that takes several body forms has one operation for each, told apart by what follows `#`. \
Clients do not send that part: it is the same path. Such operations name no query, but take the one of the path \
without `#` all the same.

**Units.** Times are seconds since 1970 by the clock of the box, durations say theirs in their name. Boxes are left, \
top, right, bottom in pixels of the picture as it was sent.

**Errors** are `application/problem+json` (RFC 9457) with a stable `code`. `/v2`, `/v1/models` and `/v1/vision` answer \
in the form that their clients read. A 503 comes with `Retry-After`.

"""


def document() -> dict[str, Any]:
    """The whole document, as plain values."""
    paths = Paths(examples())
    own.add_to(paths)
    protocols.add_to(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Edge inference appliance",
            "version": __version__,
            "description": _ABOUT + "\n".join(_code_table()),
        },
        "servers": [{"url": "/", "description": "the box that this document came from"}],
        "tags": [{"name": name, "description": text} for name, text in {**own.TAGS, **protocols.TAGS}.items()],
        "paths": paths.found,
        "components": {
            "schemas": schemas.components(own.SCHEMAS | protocols.SCHEMAS),
            "responses": {
                "Problem": _error("Problem", problems.PROBLEM, "problem", "`code` is stable; `detail` says what to do"),
                "Error": _error("Error", "application/json", "error", "The form of Triton and TensorFlow Serving"),
                "DeepStackError": _error("DeepStackError", "application/json", "deepstack_error", "DeepStack's form"),
            },
        },
    }


@functools.cache
def encoded() -> bytes:
    """The document as JSON; composed at the first call."""
    return json.dumps(document(), ensure_ascii=False).encode()


@functools.cache
def examples() -> dict[str, Any]:
    """Answers by operation id, and one of each form of error."""
    content: dict[str, Any] = json.loads(_EXAMPLES.read_bytes())
    return content


def error_codes() -> Iterator[tuple[str, int, str]]:
    """Code, HTTP status and meaning of every error that a call may meet.

    The meaning is what the picture of the tree in the docstring of `appliance.errors` says beside the code.
    """
    meanings = dict(re.findall(r"[├└]── \w+ +(\w+) *(.*)", errors.__doc__ or "")) | _MEANINGS
    waiting: list[type[errors.ApplianceError]] = [errors.ApplianceError]
    while waiting:
        kind = waiting.pop(0)
        # Doors have errors of their own, for words and statuses that are theirs alone.
        if issubclass(kind, _NOT_OVER_HTTP) or kind.__name__.startswith("_"):
            continue
        yield kind.code, problems.status_of(kind.__new__(kind)), meanings.get(kind.code, "")
        waiting = kind.__subclasses__() + waiting
    yield from _OF_HTTP


def _code_table() -> Iterator[str]:
    yield "| code | status | meaning |"
    yield "|---|---|---|"
    seen = set()
    for code, number, meaning in error_codes():
        if code not in seen:
            yield f"| `{code}` | {number} | {meaning} |"
        seen.add(code)


def _error(schema: str, media_type: str, example: str, about: str) -> dict[str, Any]:
    shown = {"schema": ref(schema), "examples": {"unknown_model": {"value": examples()[example]}}}
    headers = {
        "Retry-After": {"schema": {"type": "integer"}, "description": "seconds, with 503"},
        "Allow": {"schema": {"type": "string"}, "description": "methods, with 405"},
    }
    return {"description": about, "headers": headers, "content": {media_type: shown}}
