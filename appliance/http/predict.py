"""Plain uploads: `POST /v1/predict/{model}[/versions/{version}]` with pictures, forms, JSON, CSV or WAV.

One input is answered by its result, several by {"results": [...]} in their order. Errors are RFC 9457 problems.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from appliance.codecs import decode_image, encode_jpeg, encode_window, sniff
from appliance.core.draw import draw
from appliance.core.manifest import TensorPreprocess, WindowPreprocess
from appliance.core.protocol import InferenceRequest, Part, Recorded, Result
from appliance.core.tensors import Array, array_from_json, arrays_from_json, json_error, to_array
from appliance.errors import (
    ApplianceError,
    DecodeError,
    EmptyBody,
    FieldError,
    MediaTypeError,
    NotFound,
    ResultNotFound,
    ShapeError,
)
from appliance.fields import base64_bytes
from appliance.history import History
from appliance.http.call import Bodies, Call, Door, Reply, await_answer, cache_headers, one_line, wrong_method
from appliance.http.forms import FormFile, parse_form
from appliance.http.keyed import KeyedUploads, stored_key
from appliance.http.numbers import PARSED_ON_LOOP_MAX, check_rows
from appliance.http.origin import FIELDS, deadline_s, origin, plain_body
from appliance.http.problems import problem_reply
from appliance.http.several import hurried, judge_all
from appliance.pipeline import Answer, Pipeline, Recording, now
from appliance.rows import CSV_TYPES, is_wav, rows_from_csv, rows_from_wav, window_bytes
from appliance.slots import Slots

DEFAULT_SOURCE = "upload"


class UploadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the query. durable: reply after the commit. top_k: classes in the reply; the record keeps all."""

    durable: bool = False
    version: str | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Input(msgspec.Struct, frozen=True):
    """What is to be judged, in the appliance's own form; name: of its file. error: it could not be read."""

    body: bytes = b""
    media_type: str = ""
    tensors: dict[str, Array] | None = None
    name: str = ""
    error: ApplianceError | None = None


class _Content(msgspec.Struct, frozen=True):
    """A JSON body. What is not named here is left alone."""

    image: Any = msgspec.UNSET
    rows: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    part: Any = None
    lot: Any = None
    recipe: Any = None
    source: Any = None


_Outcome = Answer | ApplianceError

_Read = tuple[list[_Input], dict[str, object]]
"""The inputs, and part, lot, recipe and source as the body gives them."""

_NO_KEY = Recording()
_NO_OPTIONS = UploadOptions()
_CONTENT = msgspec.json.Decoder(_Content)
_ROWS = msgspec.json.Decoder(list[list[float]])
_ENCODE = msgspec.json.Encoder().encode


def predict_door(pipeline: Pipeline, slots: Slots, history: History, results: Path, bodies: Bodies) -> Door:
    """Mounted at /v1/predict. results: the database of the store, where keys of uploads are looked up."""
    uploads = _Uploads(pipeline, slots, history, results)
    return Door(uploads.answer, lambda call, error: problem_reply(error), bodies)


class _Uploads:
    def __init__(self, pipeline: Pipeline, slots: Slots, history: History, results: Path) -> None:
        self._pipeline = pipeline
        self._slots = slots
        self._history = history
        self._keyed = KeyedUploads(results, history)

    async def answer(self, call: Call) -> Reply:
        began = time.monotonic()
        model, version = _target(call.segments)
        if call.method != "POST":
            raise wrong_method(call, "POST")
        options = _options(call) if call.query_string else _NO_OPTIONS
        if options.version is not None:
            if version not in (None, options.version):
                raise FieldError(f"the path names version {version}, the query {options.version}; name one")
            version = options.version
        inputs, given = await self._read(call, model, version)
        source, part = origin(call, given, DEFAULT_SOURCE)
        request = InferenceRequest(
            model=model,
            version=version,
            source=source,
            door="http",
            part=part,
            at=now(),
            durable=options.durable,
            draw=_wants_drawing(call),
            deadline_s=deadline_s(call),
            on_loop=True,
        )
        if request.draw and len(inputs) > 1:
            raise FieldError("Accept: image/jpeg answers one picture; send one file, or ask for application/json")
        if request.draw and inputs[0].tensors is not None:
            raise MediaTypeError("numbers cannot be drawn; send a picture, or ask for application/json")
        judged: list[_Outcome]
        replayed = False
        if b"idempotency-key" in call.headers:
            # Each row of a batch by itself, since each is to be found again under the key.
            inputs = [row for each in inputs for row in _single_rows(each)]
            judged, replayed = await self._judge_keyed(call.header("idempotency-key"), request, inputs, began)
        elif len(inputs) == 1:
            answer = await await_answer(self._pipeline.submit(hurried(_with(request, inputs[0]), began)))
            judged = [answer]
        else:
            asked = [each.error or (_with(request, each), _NO_KEY) for each in inputs]
            judged = await judge_all(self._pipeline, asked, began)
        return _reply(judged, inputs, options.top_k, replayed)

    async def _judge_keyed(
        self, key: str, request: InferenceRequest, inputs: Sequence[_Input], began: float
    ) -> tuple[list[_Outcome], bool]:
        """What the key has given before, the rest judged now and committed under it; and whether there was no rest."""
        digest = await asyncio.to_thread(_digest, request, inputs)
        request = msgspec.structs.replace(request, durable=True)
        judged: dict[int, _Outcome] = {}
        async with self._keyed.claim(request.source, key, digest) as stored:
            for place, results in stored.items():
                drawn = await asyncio.to_thread(self._draw_again, results[0]) if request.draw else None
                judged[place] = Answer(tuple(results), "committed", drawn)
            new = [(place, each) for place, each in enumerate(inputs) if place not in stored]
            outcomes = await judge_all(
                self._pipeline,
                [
                    each.error or (_with(request, each), Recording(key=stored_key(key, place, digest)))
                    for place, each in new
                ],
                began,
            )
        judged |= {place: outcome for (place, _), outcome in zip(new, outcomes, strict=True)}
        replayed = not any(isinstance(outcome, Answer) for outcome in outcomes)
        return [judged[place] for place in range(len(inputs))], replayed

    def _draw_again(self, result: Result) -> bytes | None:
        """None when there is nothing to draw on: the picture is past its retention, and only the result is left."""
        if result.prediction is None:
            return None
        try:
            image = decode_image(self._history.image(result.id), 1 << 30)
        except ResultNotFound:
            return None
        return encode_jpeg(draw(image, result.prediction, result.verdict))

    async def _read(self, call: Call, model: str, version: str | None) -> _Read:
        media_type = call.media_type
        body = await plain_body(call)
        is_large = len(body) > PARSED_ON_LOOP_MAX
        if media_type == "application/json":
            if is_large:
                return await asyncio.to_thread(self._read_json, body, model, version)
            return self._read_json(body, model, version)
        files = [FormFile("", media_type, body)]
        given: dict[str, object] = {}
        if media_type == "multipart/form-data":
            form = parse_form(body, call.header("content-type"))
            if not form.files:
                raise FieldError("the form has no file; send one or more, in the field 'file'")
            files = form.files
            given = {name: form.fields[name] for name in FIELDS if form.fields.get(name)}
        if is_large and any(_is_csv(file) or is_wav(file.content) for file in files):
            return await asyncio.to_thread(self._read_files, files, model, version), given
        return self._read_files(files, model, version), given

    def _read_files(self, files: Sequence[FormFile], model: str, version: str | None) -> list[_Input]:
        """A picture is known by its first bytes; samples need the model that tells what their columns are."""
        inputs = []
        for file in files:
            try:
                if _is_csv(file) or is_wav(file.content):
                    inputs.append(self._read_samples(file, model, version))
                else:
                    inputs.append(_Input(file.content, sniff(file.content), name=file.name))
            except ApplianceError as error:
                if len(files) == 1:
                    raise
                inputs.append(_Input(name=file.name, error=error))
        return inputs

    def _read_samples(self, file: FormFile, model: str, version: str | None) -> _Input:
        manifest = self._slots.choose(model, version).manifest
        steps, is_csv = manifest.preprocess, _is_csv(file)
        if isinstance(steps, WindowPreprocess):
            if is_csv:
                rows = rows_from_csv(file.content, steps.channels)
            else:
                rows = rows_from_wav(file.content, len(steps.channels), steps.rate_hz)
            return _Input(*window_bytes(rows), name=file.name)
        if isinstance(steps, TensorPreprocess) and is_csv and len(manifest.inputs) == 1:
            (spec,) = manifest.inputs
            tensors = {spec.name: to_array(rows_from_csv(file.content), spec)}
            return _Input(tensors=check_rows(tensors, manifest), name=file.name)
        # Says what came instead of a picture.
        return _Input(file.content, sniff(file.content), name=file.name)

    def _read_json(self, body: bytes, model: str, version: str | None) -> _Read:
        content = _parse(body)
        given = {name: value for name in FIELDS if (value := getattr(content, name)) is not None}
        if content.rows is not msgspec.UNSET:
            read = self._read_rows(content.rows, model, version)
        elif content.inputs is not msgspec.UNSET:
            manifest = self._slots.choose(model, version).manifest
            read = _Input(tensors=check_rows(arrays_from_json(content.inputs, manifest.inputs), manifest))
        else:
            picture = base64_bytes(content.image, "image")
            read = _Input(picture, sniff(picture))
        return [read], given

    def _read_rows(self, rows: msgspec.Raw, model: str, version: str | None) -> _Input:
        """The samples of one window, or the rows of a model that takes a table."""
        manifest = self._slots.choose(model, version).manifest
        if isinstance(manifest.preprocess, TensorPreprocess):
            if len(manifest.inputs) != 1:
                names = [spec.name for spec in manifest.inputs]
                raise ShapeError(f'model {model} has the inputs {names}; send {{"inputs": {{name: [[...]]}}}}')
            (spec,) = manifest.inputs
            return _Input(tensors=check_rows({spec.name: array_from_json(rows, spec)}, manifest))
        try:
            return _Input(*encode_window(_ROWS.decode(rows)))
        except (msgspec.DecodeError, RecursionError) as error:
            raise DecodeError(f"'rows' is not an array of rows of numbers: {error}") from error


def _target(segments: Sequence[str]) -> tuple[str, str | None]:
    """Model and version from the path's parts, `v1` and `predict` the first of them."""
    match segments:
        case [_, _, model] if model:
            return model, None
        case [_, _, model, "versions", version] if model and version:
            return model, version
    raise NotFound("there is nothing here; POST to /v1/predict/{model} or /v1/predict/{model}/versions/{version}")


def _options(call: Call) -> UploadOptions:
    try:
        return msgspec.convert(call.query(), UploadOptions, strict=False)
    except msgspec.ValidationError as error:
        raise FieldError(f"query: {error}") from error


def _wants_drawing(call: Call) -> bool:
    accept = call.headers.get(b"accept")
    return accept is not None and accept.split(b",")[0].split(b";")[0].strip().lower() == b"image/jpeg"


def _is_csv(file: FormFile) -> bool:
    return file.media_type in CSV_TYPES or file.name.lower().endswith(".csv")


def _with(request: InferenceRequest, given: _Input) -> InferenceRequest:
    return msgspec.structs.replace(request, body=given.body, media_type=given.media_type, tensors=given.tensors)


def _single_rows(given: _Input) -> Iterator[_Input]:
    counts = {len(array) for array in (given.tensors or {}).values()}
    if given.tensors is None or len(counts) != 1:
        yield given
        return
    for row in range(counts.pop()):
        tensors = {name: array[row : row + 1] for name, array in given.tensors.items()}
        yield msgspec.structs.replace(given, tensors=tensors)


def _reply(judged: Sequence[_Outcome], inputs: Sequence[_Input], top_k: int | None, replayed: bool) -> Reply:
    """Raises the first error when nothing could be judged."""
    done = [each for each in judged if isinstance(each, Answer)]
    if not done:
        raise next(each for each in judged if isinstance(each, ApplianceError))
    first, headers = done[0], cache_headers(each.cached for each in done)
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    if first.drawn is not None:
        result = first.results[0]
        headers |= {"X-Verdict": result.verdict, "X-Result-Id": str(result.id), "X-Recorded": first.recorded}
        return Reply(first.drawn, "image/jpeg", headers=headers)
    if len(judged) == 1 and len(first.results) == 1:
        return Reply(_result_json(first.results[0], first.recorded, top_k), headers=headers)
    parts = (part for outcome, each in zip(judged, inputs, strict=True) for part in _parts(outcome, each.name, top_k))
    return Reply(b'{"results":[' + b",".join(parts) + b"]}", headers=headers)


def _parts(judged: _Outcome, name: str, top_k: int | None) -> Iterator[bytes]:
    if isinstance(judged, ApplianceError):
        yield _ENCODE({"error": {"code": judged.code, "message": one_line(str(judged))}, "file": name})
        return
    for result in judged.results:
        yield _result_json(result, judged.recorded, top_k)


def _result_json(result: Result, recorded: Recorded, top_k: int | None) -> bytes:
    if top_k is not None and result.prediction is not None:
        fewer = msgspec.structs.replace(result.prediction, classes=result.prediction.classes[:top_k])
        result = msgspec.structs.replace(result, prediction=fewer)
    return _ENCODE(result)[:-1] + b',"recorded":"' + recorded.encode() + b'"}'


def _parse(body: bytes) -> _Content:
    if not body:
        raise EmptyBody("the body is empty; send JSON")
    try:
        content = _CONTENT.decode(body)
    except msgspec.ValidationError as error:
        raise DecodeError(f"the body is not as expected: {error}; send a JSON object") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(error, body) from error
    if sum(each is not msgspec.UNSET for each in (content.image, content.rows, content.inputs)) != 1:
        raise DecodeError(
            'expected a JSON object with one of "image" (base64), "rows" ([[...], ...]) and "inputs" ({name: [...]})'
        )
    return content


def _digest(request: InferenceRequest, inputs: Sequence[_Input]) -> str:
    """Of all that a key is bound to: the model asked for, the part, and every input."""
    part: Part = request.part
    known = hashlib.blake2b(digest_size=16)
    known.update(repr((request.model, request.version, part.part, part.lot, part.recipe, len(inputs))).encode())
    for each in inputs:
        known.update(f"{each.media_type} {len(each.body)}".encode())
        known.update(each.body)
        for name, array in sorted((each.tensors or {}).items()):
            known.update(f"{name} {array.dtype} {array.shape}".encode())
            known.update(array.tobytes())
    return known.hexdigest()
