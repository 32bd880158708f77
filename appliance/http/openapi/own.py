"""The appliance's own doors in the document: uploads, results, sources, the box.

The examples of requests are complete: sent to a box with the shipped models they give the documented answer.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec

from appliance.history import ResultFilter
from appliance.http.alarms import AlarmOptions
from appliance.http.openapi.paths import (
    ANY,
    ANY_OBJECT,
    BINARY,
    CACHED,
    TEXT,
    TIMEOUT,
    Paths,
    Schema,
    array,
    content,
    fields,
    in_header,
    in_path,
    in_query,
    origin_headers,
    part_fields,
    ref,
)
from appliance.http.predict import DEFAULT_SOURCE as UPLOAD
from appliance.http.updates import RolloutsOptions

TAGS = {
    "Judge": "Send one input, get a verdict. Every answer is recorded.",
    "Results": "What was judged, newest first, with its pictures.",
    "Sources": "Who sends, and the last answer of each for a screen that can only poll.",
    "Box": "The box as a whole, and its stream of events.",
    "Plant": "What is wrong and what to do; which recipe runs, and who changed it.",
    "Updates": "What central ops sent, how it is tried beside what serves, and how to say otherwise.",
    "Documents": "This description.",
}

EXAMPLE_PICTURE = Path(__file__).resolve().parents[2] / "hmi" / "docs" / "scratch.jpg"
EXAMPLE_URL = "/hmi/docs/scratch.jpg"

_PART = part_fields(UPLOAD)
_ROWS = array(array({"type": "number"}))

SCHEMAS: dict[str, Schema] = {
    "FormInput": fields("file", file={**BINARY, "description": "a picture, CSV or WAV"}, **_PART),
    "FilesInput": fields("files", files=array(BINARY), **_PART),
    "PictureInput": fields("image", image={**TEXT, "description": "a JPEG or PNG in base64"}, **_PART),
    "RowsInput": fields("rows", rows={**_ROWS, "description": "the oldest first, one number per channel"}, **_PART),
    "TableInput": fields(
        "inputs",
        inputs={"type": "object", "additionalProperties": array(ANY)},
        **_PART,
    ),
}

_ORIGIN_HEADERS = origin_headers(UPLOAD, "camera-1")
_CALL_HEADERS = (
    TIMEOUT,
    in_header("Idempotency-Key", "a repeat with the same key gives the first result, and is not judged again"),
)
_ANSWER_HEADERS: dict[str, Schema] = {
    **CACHED,
    "Idempotency-Replayed": {"schema": {"type": "string", "enum": ["true"]}, "description": "of a repeat"},
}
_DRAWN_HEADERS: dict[str, Schema] = {
    name: {"schema": TEXT, "description": "with a picture"} for name in ("X-Verdict", "X-Result-Id", "X-Recorded")
}
_OPTIONS = (
    in_query("durable", {"type": "boolean", "default": False}, "answer after the commit", True),
    in_query("top_k", {"type": "integer", "minimum": 1}, "classes in the answer; the record keeps all"),
)
_VERSION = in_query("version", TEXT, "judge with this version instead of the current one")
_FILTER_TEXTS = {
    "since": "from this time on, seconds since 1970",
    "until": "before this time, seconds since 1970",
    "before_id": "`next_before_id` of the page before",
    "limit": "results on a page",
}
_FILTER_EXAMPLES = {"model": "surface", "source": "camera-1", "verdict": "ng", "limit": 1}
_DRAWN = in_query("drawn", {"type": "boolean", "default": False}, "as a JPEG with what was found")


def add_to(paths: Paths) -> None:
    model, version = in_path("model", "surface"), in_path("version", "1")
    _judge(paths, "/v1/predict/{model}", "", (model,))
    _judge(paths, "/v1/predict/{model}/versions/{version}", "Version", (model, version))
    _results(paths)
    _sources(paths)
    _box(paths)
    _triggers(paths)
    _plant(paths)
    _updates(paths)
    _documents(paths)


def example_picture() -> str:
    """A picture of a scratch, in base64."""
    return base64.b64encode(EXAMPLE_PICTURE.read_bytes()).decode()


def _judge(paths: Paths, path: str, ending: str, where: tuple[Schema, ...]) -> None:
    which = "with one version of the model" if ending else "with the model's current version"
    scratch = {"image": example_picture(), "part": "P-7", "source": "camera-1"}
    picture: dict[str, Any] = content("image/jpeg", BINARY)
    picture["image/jpeg"]["examples"] = {"scratch": {"externalValue": EXAMPLE_URL}}
    picture |= content("image/png", BINARY) | content("application/octet-stream", BINARY)
    forms: tuple[tuple[str, str, str, str, dict[str, Any], tuple[Schema, ...]], ...] = (
        (
            "",
            "predictPicture",
            "a picture",
            "The body is the JPEG or PNG itself, known by its bytes whatever its media type says.",
            picture,
            (*_OPTIONS, *(() if ending else (_VERSION,)), *_ORIGIN_HEADERS),
        ),
        (
            "#form",
            "predictForm",
            "a file of a form",
            "As from a web page, or `curl -F file=@part.jpg`.",
            content("multipart/form-data", ref("FormInput")),
            (),
        ),
        (
            "#files",
            "predictFiles",
            "several files of a form",
            "Two files or more; one is answered as by `predictForm`. The answers come in the order of the files.",
            content("multipart/form-data", ref("FilesInput")),
            (),
        ),
        (
            "#json",
            "predictBase64",
            "a picture in JSON",
            "For senders that know nothing but JSON.",
            content("application/json", ref("PictureInput"), **({} if ending else {"scratch": scratch})),
            (),
        ),
        (
            "#rows",
            "predictRows",
            "a window of readings in JSON",
            "As many rows as the model's window has samples (`window_size` in `/v1/status`): 2048 for `bearing`.",
            content("application/json", ref("RowsInput")),
            (),
        ),
        (
            "#table",
            "predictTable",
            "the rows of a table in JSON",
            "For models that take numbers as they are: rows by the name of the input. Two rows or more; one is "
            "answered as by `predictRows`.",
            content("application/json", ref("TableInput")),
            (),
        ),
        (
            "#csv",
            "predictCsv",
            "a window of readings as CSV",
            "One line per sample, one column per channel, with or without a line of names.",
            content("text/csv", TEXT),
            _ORIGIN_HEADERS,
        ),
        (
            "#wav",
            "predictWav",
            "a window of samples as WAV",
            "At the model's rate, one channel of the file per channel of the model.",
            content("audio/wav", BINARY),
            _ORIGIN_HEADERS,
        ),
    )
    for fragment, name, what, about, body, parameters in forms:
        many = name in ("predictFiles", "predictTable")
        schema = ref("RecordedResults" if many else "RecordedResult")
        answers = paths.json(name + ending, schema, "The result", dict(_ANSWER_HEADERS))
        if name in ("predictPicture", "predictForm", "predictBase64"):
            answers["200"]["content"] |= content("image/jpeg", BINARY)
            answers["200"]["headers"] |= _DRAWN_HEADERS
            about += (
                " With `Accept: image/jpeg` the answer is the picture with what was found; `X-Verdict`, `X-Result-Id` "
                "and `X-Recorded` then say what the result says. A repeat under a key is answered as JSON once the "
                "picture is past its retention."
            )
        paths.add(
            "Judge",
            "post",
            path + fragment,
            name + ending,
            f"Judge {what} {which}",
            answers,
            about=about,
            parameters=(*where, *parameters, *_CALL_HEADERS),
            body=body,
        )


def _results(paths: Paths) -> None:
    filters = msgspec.json.schema(ResultFilter)["$defs"]["ResultFilter"]["properties"]
    paths.add(
        "Results",
        "get",
        "/v1/results",
        "listResults",
        "List results, newest first",
        ref("ResultPage"),
        parameters=tuple(
            in_query(name, _given(schema), _FILTER_TEXTS.get(name, ""), _FILTER_EXAMPLES.get(name))
            for name, schema in filters.items()
        ),
    )
    paths.add(
        "Results",
        "delete",
        "/v1/results",
        "eraseResults",
        "Erase what a source gave in a stretch of time, for good",
        ref("Erased"),
        about="Results, pictures and readings; and the payloads of unusable messages that came in that time.",
        parameters=(
            {**in_query("source", TEXT, "whose", "camera-1"), "required": True},
            {**in_query("from", TEXT, "ISO 8601, or seconds since 1970", "2026-07-01T06:00:00Z"), "required": True},
            {**in_query("to", TEXT, "the end, not included", "2026-07-01T14:00:00Z"), "required": True},
        ),
    )
    number = in_path("id", 1, {"type": "integer", "format": "int64", "minimum": 0})
    paths.add("Results", "get", "/v1/results/{id}", "getResult", "One result", ref("Result"), parameters=(number,))
    paths.add(
        "Results",
        "get",
        "/v1/results/{id}/image",
        "getResultImage",
        "The picture of a result, as it was sent",
        _picture_answer(),
        parameters=(number, _DRAWN),
    )


def _sources(paths: Paths) -> None:
    source = in_path("source", "camera-1")
    paths.add("Sources", "get", "/v1/sources", "listSources", "Who has sent something", ref("SourceList"))
    latest = paths.json("getLatest", ref("Latest"))
    latest["200"]["headers"] = {"ETag": {"schema": TEXT}}
    latest["200"]["content"] |= content("application/octet-stream", BINARY)
    latest["304"] = {"description": "Nothing is newer than what `If-None-Match` names"}
    paths.add(
        "Sources",
        "get",
        "/v1/sources/{source}/latest",
        "getLatest",
        "The last answer of a source, as one flat object",
        latest,
        about="Send the `ETag` of the last answer as `If-None-Match` together with `wait_s`, and the call ends when "
        "there is something newer, or with 304.",
        parameters=(
            source,
            in_query("wait_s", {"type": "number", "minimum": 0, "maximum": 60, "default": 0}, "seconds to wait"),
            in_query(
                "form", {"type": "string", "enum": ["flat", "packed"]}, "for PLCs: at most 256 bytes, or a struct"
            ),
            in_header("If-None-Match", "the ETag of the last answer"),
        ),
    )
    paths.add(
        "Sources",
        "get",
        "/v1/sources/{source}/image",
        "getLatestImage",
        "The last picture of a source",
        _picture_answer(),
        parameters=(source, _DRAWN),
    )


def _box(paths: Paths) -> None:
    paths.add("Box", "get", "/v1/status", "getStatus", "The whole box, and what is wrong with it", ref("BoxReport"))
    paths.add(
        "Box",
        "get",
        "/v1/events",
        "followEvents",
        "Results as they are committed, as server-sent events",
        {"200": {"description": "A stream that does not end", "content": content("text/event-stream", TEXT)}},
        about="`status` events carry what `/v1/status` answers, at once and every two seconds. The last result of each "
        'source comes as `latest`, each new one as `result`: `{"result": ..., "trace": ...}`, where the trace is the '
        "curve of a window or null. A client that is too slow misses results; it can list them.",
    )


def _triggers(paths: Paths) -> None:
    form = in_query("form", {"type": "string", "enum": ["json", "flat", "packed"]}, "instead of its `answer_format`")
    key = in_header("Idempotency-Key", "a repeat with the same key gets the first answer, marked `duplicate`")
    answers = paths.json("pullTrigger", ref("TriggerAnswer"), "The answer: a verdict, or `error` with its code")
    answers["200"]["content"] |= content("application/octet-stream", BINARY)
    asked = fields(part=TEXT, lot=TEXT, recipe=TEXT, key=TEXT)
    paths.add(
        "Plant",
        "post",
        "/v1/triggers/{trigger}",
        "pullTrigger",
        "Judge one part with the cameras of a trigger",
        answers,
        about="One picture of each camera is taken and judged; the worst verdict is the answer, within the trigger's "
        "`answer_within_ms`. The part may also come as plain text, or as headers.",
        parameters=(
            in_path("trigger", "end"),
            form,
            key,
            *(each for each in _ORIGIN_HEADERS if each["name"] != "X-Source"),
        ),
        body=content("application/json", asked, part={"part": "P-7", "lot": "L-2"}) | content("text/plain", TEXT),
    )
    beat = paths.json("getBeat", {"type": "integer"}, "It grows by one every second for as long as the box is well")
    beat["200"]["content"] |= content("application/octet-stream", BINARY)
    paths.add(
        "Plant",
        "get",
        "/v1/beat",
        "getBeat",
        "The counter that PLCs watch",
        beat,
        parameters=(in_query("form", {"type": "string", "enum": ["packed"]}, "a little-endian UINT32"),),
    )


def _plant(paths: Paths) -> None:
    rows = {"type": "integer", "minimum": 0, "maximum": 500, "default": AlarmOptions().limit}
    paths.add(
        "Plant",
        "get",
        "/v1/alarms",
        "listAlarms",
        "What is wrong now, and what was",
        ref("AlarmReport"),
        about="Each says in one line what is wrong and what to do. It goes by itself when it is over. The active ones "
        "are in `/v1/status` as well, and at `appliance/<device>/alarms` over MQTT.",
        parameters=(in_query("limit", rows, "rows of history", 10),),
    )
    paths.add("Plant", "get", "/v1/recipe", "getRecipe", "What runs, and what can run", ref("RecipeReport"))
    paths.add(
        "Plant",
        "put",
        "/v1/recipe",
        "changeRecipe",
        "Let a recipe run, on the box or on one source",
        ref("RecipeChange"),
        about="It counts from its commit on, which the answer waits for, and survives a restart. Results that bring no "
        "recipe of their own carry it. `null` is for none; on a source, for that of the box.",
        body=content("application/json", ref("RecipeOrder"), none={"recipe": None, "by": "Anna"}),
    )
    rows = {**rows, "minimum": 1}
    paths.add(
        "Plant",
        "get",
        "/v1/recipe/changes",
        "listRecipeChanges",
        "Who changed the recipe, when and from where",
        ref("RecipeChanges"),
        parameters=(in_query("limit", rows, "the newest so many", 10),),
    )


def _updates(paths: Paths) -> None:
    paths.add(
        "Updates",
        "get",
        "/v1/updates",
        "getUpdates",
        "What was looked for, what came, and what it waits for",
        ref("UpdatesReport"),
        about="Releases come signed, from central ops: `appliance update` and its timer fetch them, and the box tries "
        "them beside what serves. The last step is at `appliance/<device>/updates` over MQTT as well.",
    )
    paths.add(
        "Updates",
        "get",
        "/v1/updates/versions",
        "listVersions",
        "Every version on this box: origin, signatures, self-test, trial, slot",
        ref("VersionList"),
        about="As `appliance models list --json`, except that no file's SHA-256 is compared.",
    )
    paths.add(
        "Updates",
        "post",
        "/v1/updates/poll",
        "pollNow",
        "Look for updates now",
        {"202": {"description": "The updater was told", "content": content("application/json", ref("PollAsked"))}},
        about="It carries no trust: what is found is verified as ever. `cmd/update` over MQTT does the same.",
    )
    paths.add(
        "Updates",
        "post",
        "/v1/updates/hold",
        "holdUpdates",
        "Begin and switch nothing until this is released",
        ref("Hold"),
        about="What is on trial goes on being tried. Going back is never held.",
        body=content("application/json", ref("HoldOrder"), audit={"by": "Anna", "reason": "audit", "for_s": 3600}),
    )
    paths.add("Updates", "delete", "/v1/updates/hold", "releaseUpdates", "End every hold", ref("Released"))
    rows = {"type": "integer", "minimum": 1, "maximum": 500, "default": RolloutsOptions().limit}
    paths.add(
        "Updates",
        "get",
        "/v1/rollouts",
        "listRollouts",
        "How new versions came to serve, or did not",
        ref("RolloutList"),
        parameters=(in_query("limit", rows, "the newest so many", 10),),
    )
    number = in_path("id", 1, {"type": "integer"})
    paths.add(
        "Updates",
        "get",
        "/v1/rollouts/{id}",
        "getRollout",
        "One of them, with the figures behind its ruling",
        ref("RolloutReport"),
        parameters=(number,),
    )
    for path, name, summary, about in (
        ("promote", "promoteRollout", "Let the versions on trial serve now", "Whatever they showed, at once."),
        ("reject", "rejectRollout", "End the trial", "This box does not take these versions again."),
        (
            "roll-back",
            "rollBackRollout",
            "Serve what served before",
            "What was promoted together goes back together, and this box does not take it again.",
        ),
    ):
        paths.add(
            "Updates",
            "post",
            f"/v1/rollouts/{{id}}/{path}",
            name,
            summary,
            ref("OrderReport"),
            about=f"{about} Answers when it is done; `order_refused` says what is in the way.",
            parameters=(number,),
            body=content("application/json", ref("Who"), by={"by": "Anna"}),
        )


def _documents(paths: Paths) -> None:
    for path, name, summary, body in (
        ("/openapi.json", "getOpenApi", "This document", content("application/json", ANY_OBJECT)),
        ("/asyncapi.yaml", "getAsyncApi", "The MQTT topics, as AsyncAPI", content("application/yaml", TEXT)),
    ):
        paths.add("Documents", "get", path, name, summary, {"200": {"description": "It", "content": body}})


def _picture_answer() -> dict[str, Any]:
    pictures = content("image/jpeg", BINARY) | content("image/png", BINARY)
    return {"200": {"description": "The picture", "content": pictures}}


def _given(schema: Schema) -> Schema:
    """Of a query parameter: it is left out, never null."""
    (kind,) = (each for each in schema.get("anyOf", [schema]) if each != {"type": "null"})
    kind = {name: value for name, value in kind.items() if value is not None}
    if "enum" in kind:
        kind = {"type": "string", "enum": [each for each in kind["enum"] if each is not None]}
    return kind
