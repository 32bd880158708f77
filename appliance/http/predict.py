"""Plain uploads: `POST /v1/predict/{model}` with a picture, a form, or JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.exceptions import InternalServerException
from litestar.params import FromPath

from appliance.codecs import WINDOW, decode_json, encode_window, sniff
from appliance.core.protocol import InferenceRequest
from appliance.errors import DecodeError, FieldError
from appliance.fields import base64_bytes, check_part, check_source
from appliance.http.query import query
from appliance.pipeline import Answer, Pipeline, now
from appliance.served import rows_of_numbers

DEFAULT_SOURCE = "upload"
_FIELDS = ("part", "lot", "recipe", "source")
_PARSED_ON_LOOP_MAX = 64 << 10
"""Bytes of JSON; more would hold up every other caller, so a thread takes it."""


class UploadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to reply after the commit, from the query."""

    durable: bool = False


@post("/v1/predict/{model:str}", status_code=200)
async def predict(
    request: Request[Any, Any, Any], model: FromPath[str], pipeline: NamedDependency[Pipeline]
) -> Response[Any]:
    """Judge one input with the current version."""
    return await _predict(request, model, None, pipeline)


@post("/v1/predict/{model:str}/versions/{version:str}", status_code=200)
async def predict_version(
    request: Request[Any, Any, Any],
    model: FromPath[str],
    version: FromPath[str],
    pipeline: NamedDependency[Pipeline],
) -> Response[Any]:
    """Judge one input with a named version."""
    return await _predict(request, model, version, pipeline)


async def _predict(
    request: Request[Any, Any, Any], model: str, version: str | None, pipeline: Pipeline
) -> Response[Any]:
    try:
        body, media_type, fields = await _read(request)
    except InternalServerException as error:
        # Litestar's word for a caller that hung up; nobody reads the answer, and it is no fault of the box.
        raise DecodeError(f"the body ended early: {error.detail}") from error
    draw = request.headers.get("accept", "").split(",")[0].split(";")[0].strip().lower() == "image/jpeg"
    answer = await asyncio.wrap_future(
        pipeline.submit(
            InferenceRequest(
                model=model,
                version=version,
                body=body,
                media_type=media_type,
                source=check_source(fields.get("source") or DEFAULT_SOURCE),
                door="http",
                part=check_part(fields.get("part"), fields.get("lot"), fields.get("recipe")),
                at=now(),
                durable=query(request, UploadOptions).durable,
                draw=draw,
            )
        )
    )
    return _reply(answer)


def _reply(answer: Answer) -> Response[Any]:
    result = answer.result
    headers = {"X-Verdict": result.verdict, "X-Result-Id": str(result.id), "X-Recorded": answer.recorded}
    if answer.drawn is not None:
        return Response(answer.drawn, media_type="image/jpeg", headers=headers)
    body = msgspec.json.encode(result)
    return Response(body[:-1] + b',"recorded":"' + answer.recorded.encode() + b'"}', media_type=MediaType.JSON)


async def _read(request: Request[Any, Any, Any]) -> tuple[bytes, str, dict[str, str]]:
    """The input, its media type inside the appliance, and part, lot, recipe and source as given."""
    fields = {name: _text(value) for name in _FIELDS if (value := request.headers.get(f"x-{name}"))}
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        body, given = await _read_form(request)
    else:
        body, given = await request.body(), {}
        if media_type == "application/json":
            if len(body) > _PARSED_ON_LOOP_MAX:
                body, media_type, given = await asyncio.to_thread(_read_json, body)
            else:
                body, media_type, given = _read_json(body)
            if media_type.startswith(WINDOW):
                return body, media_type, fields | given
    return body, sniff(body), fields | given


def _text(header: str) -> str:
    """HTTP gives header bytes as Latin-1; what devices send is UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


async def _read_form(request: Request[Any, Any, Any]) -> tuple[bytes, dict[str, str]]:
    try:
        form = await request.form()
    except (ValueError, LookupError) as error:
        # Text that is not in the character set it claims, or in none that is known.
        raise DecodeError(f"the form cannot be read: {error}; send its fields as UTF-8") from error
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise FieldError(f"the form has {len(files)} files; send one, in the field 'file'")
    given = {name: value for name in _FIELDS if isinstance(value := form.get(name), str) and value}
    return await files[0].read(), given


def _read_json(body: bytes) -> tuple[bytes, str, dict[str, str]]:
    content = decode_json(body)
    if not isinstance(content, dict) or ("image" in content) == ("rows" in content):
        raise DecodeError('expected a JSON object with either "image" (base64) or "rows" ([[...], ...])')
    given = {name: value for name in _FIELDS if (value := content.get(name)) is not None}
    if "rows" in content:
        return *encode_window(rows_of_numbers(content["rows"], "rows")), given
    return base64_bytes(content["image"], "image"), "", given
