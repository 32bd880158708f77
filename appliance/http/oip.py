"""The Open Inference Protocol v2 door, mounted at /v2: health, metadata, inference, statistics, model repository.

Tensors go to the network as they are, without the model's steps before it; but BYTES on the input of a picture model
are encoded pictures, each decoded and preprocessed. Errors are {"error": text}. Every input is judged and recorded as
at any other door; `parameters` of a request may say `part`, `lot`, `recipe`, `source`, `durable`, `timeout`
(microseconds) and `priority`, those of the answer say `verdict`, `result` and `recorded`, rows joined by commas.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from appliance import __version__
from appliance.codecs import sniff
from appliance.core import oip
from appliance.core.manifest import ModelManifest
from appliance.core.protocol import InferenceRequest, Priority
from appliance.core.tensors import Array, TensorSpec
from appliance.errors import (
    ApplianceError,
    BodyTooLarge,
    CompressionError,
    DTypeError,
    FieldError,
    MediaTypeError,
    ModelError,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    ShapeError,
    VersionNotFound,
)
from appliance.fields import base64_bytes, check_source
from appliance.http.call import Bodies, Call, Door, Reply, await_answer, cache_headers, error_json, wrong_method
from appliance.http.numbers import BYTES_PER_NUMBER, PARSED_ON_LOOP_MAX
from appliance.http.origin import FIELDS, deadline_s, origin
from appliance.http.problems import error_headers, retry_headers, status_of
from appliance.http.several import hurried, judge_pictures
from appliance.http.status import Status
from appliance.pipeline import Answer, Pipeline, now
from appliance.served import ServedModel, Stats
from appliance.slot import Place
from appliance.slots import Slots

SERVER = "edge-inference-appliance"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
DEFAULT_SOURCE = "oip"

_REPOSITORY_BODY_BYTES_MAX = 64 << 10
_COMPRESSED_FROM = 1024
"""Bytes of an answer; below, the headers weigh more than what is saved."""

_NUMBERS_PER_SCORE = 8
"""To rank a score and name its class costs about as much as to write so many numbers."""

_PLATFORMS = {"openvino": "openvino", "onnx": "onnx", "tflite": "tensorflow_lite", "remote": "remote"}
_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "unloaded": "UNAVAILABLE"}
_ACCEPTED = {"float32": ("FP32", "FP16", "BF16")}
"""What an input takes, where that is more than its own datatype: what it can hold without a loss."""

_encode = msgspec.json.Encoder().encode


class _Asked(msgspec.Struct, frozen=True, eq=False):
    """A request that fits its model. pictures: encoded; None: the input is `tensors`."""

    wire: oip.InferRequest
    outputs: Sequence[oip.AskedOutput]
    tensors: dict[str, Array] | None
    pictures: list[bytes] | None


def oip_door(pipeline: Pipeline, slots: Slots, status: Status, bodies: Bodies) -> Door:
    """Mounted at /v2."""
    server = _Server(pipeline, slots, status, bodies.bytes_max)
    return Door(server.answer, _on_error, bodies)


class _Server:
    def __init__(self, pipeline: Pipeline, slots: Slots, status: Status, body_bytes_max: int) -> None:
        self._pipeline = pipeline
        self._slots = slots
        self._status = status
        self._body_bytes_max = body_bytes_max

    async def answer(self, call: Call) -> Reply:
        path = call.segments[1:]
        allow = _methods(call, path)
        if call.method not in allow.split(", "):
            raise wrong_method(call, allow)
        match path:
            case ["models", model, "infer"]:
                return await self._infer(call, model, None)
            case ["models", model, "versions", version, "infer"]:
                return await self._infer(call, model, version)
            case ["repository", "index"]:
                return self._index(await call.body())
            case ["repository", "models", model, action]:
                return await self._change(model, action, await call.body())
            case []:
                return _json({"name": SERVER, "version": __version__, "extensions": EXTENSIONS})
            case ["health", "live"]:
                return _json({"live": True})
            case ["health", "ready"]:
                ready = self._status.ready()
                return _json({"ready": ready}, 200 if ready else 503)
            case ["models", "stats"]:
                return _json({"model_stats": [_stats(each) for slot in self._slots.slots() for each in slot.loaded()]})
            case ["models", model, "versions", version, *what]:
                return self._show_model(model, version, what)
        return self._show_model(path[1], None, path[2:])

    def _show_model(self, model: str, version: str | None, what: Sequence[str]) -> Reply:
        if what == ["ready"]:
            ready = self._is_ready(model, version)
            return _json({"name": model, "ready": ready}, 200 if ready else 503)
        served = self._slots.choose(model, version)
        loaded = [served] if version is not None else self._loaded(served)
        match what:
            case ["config"]:
                return _json(_config(served))
            case ["stats"]:
                return _json({"model_stats": [_stats(each) for each in loaded]})
        return _json(_metadata(served, [each.manifest.version for each in loaded]))

    def _loaded(self, served: ServedModel) -> list[ServedModel]:
        """Every version of its model that can be asked now."""
        slots = [slot for slot in self._slots.slots() if slot.name == served.manifest.name]
        return [each for slot in slots for each in slot.loaded()] or [served]

    def _is_ready(self, model: str, version: str | None) -> bool:
        try:
            self._slots.choose(model, version)
        except ModelError:
            return False
        return True

    def _index(self, body: bytes) -> Reply:
        places = [(slot.name, place) for slot in self._slots.slots() for _, place in slot.places()]
        if body and _object(body).get("ready") is True:
            places = [(name, place) for name, place in places if place.state == "ready"]
        return _json([_entry(name, place) for name, place in places])

    async def _change(self, model: str, action: str, body: bytes) -> Reply:
        given = _object(body).get("parameters") if body else None
        if action == "load" and given:
            raise FieldError("a model is loaded as its folder says; send no parameters, or change its manifest")
        change = self._slots.load if action == "load" else self._slots.unload
        await asyncio.wrap_future(change(model))
        return Reply(b"")

    async def _infer(self, call: Call, model: str, version: str | None) -> Reply:
        began = time.monotonic()
        body = await call.body()
        coding = call.header("content-encoding").strip().lower()
        if coding not in ("", "identity"):
            # A small body can hold a large one: never on the loop.
            body = await asyncio.to_thread(decompress, body, coding, self._body_bytes_max)
        served = self._slots.choose(model, version)
        length = oip.header_length(call.header(oip.HEADER_LENGTH), len(body))
        if _takes_long_to_read(body, length):
            asked = await asyncio.to_thread(_read, body, length, served.manifest)
        else:
            asked = _read(body, length, served.manifest)
        parameters = asked.wire.parameters
        source, part = origin(call, _given(parameters), DEFAULT_SOURCE)
        # What is told of several answers, or by labels, is told of one version, whatever begins to serve meanwhile.
        is_one = len(asked.pictures or ()) > 1 or any(output.classification for output in asked.outputs)
        request = InferenceRequest(
            model=model,
            version=served.manifest.version if is_one else version,
            tensors=asked.tensors,
            outputs=True,
            source=source,
            door="oip",
            part=part,
            at=now(),
            durable=_durable(parameters.get("durable")),
            priority=_priority(parameters.get("priority")),
            deadline_s=_timeout_s(parameters.get("timeout"), call),
            on_loop=True,
        )
        try:
            if asked.pictures is None:
                answers = [await await_answer(self._pipeline.submit(hurried(request, began)))]
            else:
                answers = await judge_pictures(self._pipeline, request, asked.pictures, began)
        except VersionNotFound as error:
            if request.version == version:
                raise
            raise ModelNotReady(f"model {model} was replaced meanwhile; send it again") from error
        _check_one_model(answers, asked.outputs, served)
        labels = served.manifest.labels
        if _numbers(answers, asked.outputs) * BYTES_PER_NUMBER > PARSED_ON_LOOP_MAX:
            text, ends = await asyncio.to_thread(_encode_answer, asked, answers, labels)
        else:
            text, ends = _encode_answer(asked, answers, labels)
        return await _reply(text, ends, call, cache_headers(answer.cached for answer in answers))


def decompress(body: bytes, coding: str, bytes_max: int) -> bytes:
    """coding: gzip or deflate (with zlib's header, or bare). Raises CompressionError; a bomb stops at `bytes_max`."""
    if coding in ("gzip", "x-gzip"):
        window = 16 + zlib.MAX_WBITS
    elif coding == "deflate":
        # RFC 1950, 2.2: method 8, and a header that 31 divides. Some send RFC 1951 alone.
        has_header = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        window = zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
    else:
        raise CompressionError(f"the body has the coding {coding[:32]!r}; send gzip, deflate or identity")
    stream = zlib.decompressobj(window)
    try:
        content = stream.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise CompressionError(f"the body is not {coding}: {error}; send it again") from error
    if len(content) > bytes_max:
        raise CompressionError(
            f"the body is above http.body_bytes_max ({bytes_max} bytes) when decompressed; send it smaller"
        )
    if not stream.eof or stream.unused_data:
        raise CompressionError(f"the body is {'cut off' if not stream.eof else 'followed by more'}; send it again")
    return content


def _methods(call: Call, path: Sequence[str]) -> str:
    """What is taken at a path. Raises NotFound when there is nothing."""
    match path:
        case ["models", _, "infer"] | ["models", _, "versions", _, "infer"]:
            return "POST"
        case ["repository", "index"] | ["repository", "models", _, "load" | "unload"]:
            return "POST"
        case [] | ["health", "live" | "ready"] | ["models", _] | ["models", _, "versions", _]:
            return "GET, HEAD"
        case ["models", _, "ready" | "config" | "stats"] | ["models", _, "versions", _, "ready" | "config" | "stats"]:
            return "GET, HEAD"
    raise NotFound(
        f"there is nothing at {call.path[:200]}; GET /v2 tells the server, POST /v2/models/{{model}}/infer asks it"
    )


async def _reply(text: bytes, json_bytes: int | None, call: Call, headers: dict[str, str]) -> Reply:
    media_type = "application/json"
    if json_bytes is not None:
        headers["Inference-Header-Content-Length"] = str(json_bytes)
        media_type = "application/octet-stream"
    # Libraries list every coding that they can read with every request. Who wants one names one.
    coding = call.header("accept-encoding").strip().lower()
    if coding in ("gzip", "deflate") and len(text) >= _COMPRESSED_FROM:
        text = await asyncio.to_thread(_compress, text, coding)
        headers["Content-Encoding"] = coding
    return Reply(text, media_type, headers=headers)


def _compress(text: bytes, coding: str) -> bytes:
    return zlib.compress(text, 1, 31 if coding == "gzip" else 15)


def _takes_long_to_read(body: bytes, length: int | None) -> bool:
    """Too long for the loop. length: of the JSON. Binary tensors are not copied, but the elements of BYTES are."""
    if (len(body) if length is None else length) > PARSED_ON_LOOP_MAX:
        return True
    return len(body) > PARSED_ON_LOOP_MAX and body.find(b"BYTES", 0, length) >= 0


def _read(body: bytes, length: int | None, manifest: ModelManifest) -> _Asked:
    """length: of the JSON in front of the tensors, None: the body is all JSON. Raises InputError."""
    wire = _raw(body, manifest) if length == 0 else oip.parse_request(body, length)
    outputs = _outputs(wire, manifest)
    pictures = _pictures(wire, manifest)
    return _Asked(wire, outputs, _arrays(wire, manifest) if pictures is None else None, pictures)


def _raw(body: bytes, manifest: ModelManifest) -> oip.InferRequest:
    """A body without JSON: the one input. The outputs go back as binary data."""
    if len(manifest.inputs) != 1:
        names = [spec.name for spec in manifest.inputs]
        raise ShapeError(f"a raw body is one input, model {manifest.name} has {names}; send JSON in front of them")
    (spec,) = manifest.inputs
    return oip.InferRequest((oip.parse_raw(body, spec.name, oip.datatype_of(spec.dtype), spec.shape),), binary=True)


def _outputs(asked: oip.InferRequest, manifest: ModelManifest) -> Sequence[oip.AskedOutput]:
    """Raises FieldError for an output that the model does not have."""
    names = [spec.name for spec in manifest.outputs]
    if asked.outputs is None:
        return [oip.AskedOutput(name, asked.binary, 0) for name in names]
    for output in asked.outputs:
        if output.name not in names:
            raise FieldError(
                f"unexpected inference output {output.name[:80]!r} for model {manifest.name!r}, which has {names}"
            )
    return asked.outputs


def _pictures(asked: oip.InferRequest, manifest: ModelManifest) -> list[bytes] | None:
    """Encoded pictures on the input of a picture model; None when the input is a tensor. Raises InputError."""
    first = asked.inputs[0]
    if manifest.kind != "image" or len(asked.inputs) != 1 or first.datatype != "BYTES":
        return None
    _check_names(asked, manifest)
    if first.array.ndim != 1:
        raise ShapeError(f"input {first.name!r} has shape {list(first.array.shape)}; encoded pictures have shape [n]")
    return [_picture(each) for each in first.array]


def _picture(element: bytes) -> bytes:
    """JSON cannot hold a picture, so there it is in base64."""
    try:
        sniff(element)
    except MediaTypeError:
        try:
            return base64_bytes(element.decode("ascii"), "data")
        except (UnicodeDecodeError, ApplianceError):
            pass
        raise
    return element


def _arrays(asked: oip.InferRequest, manifest: ModelManifest) -> dict[str, Array]:
    """Raises ShapeError for other inputs than the model's, DTypeError."""
    specs = _check_names(asked, manifest)
    for tensor in asked.inputs:
        expected = oip.datatype_of(specs[tensor.name].dtype)
        if tensor.datatype not in _ACCEPTED.get(specs[tensor.name].dtype, (expected,)):
            raise DTypeError(
                f"inference input {tensor.name!r} data-type is {tensor.datatype!r}, but model {manifest.name!r} "
                f"expects {expected!r}"
            )
    return {tensor.name: tensor.array for tensor in asked.inputs}


def _check_names(asked: oip.InferRequest, manifest: ModelManifest) -> dict[str, TensorSpec]:
    specs = {spec.name: spec for spec in manifest.inputs}
    for tensor in asked.inputs:
        if tensor.name not in specs:
            raise ShapeError(
                f"unexpected inference input {tensor.name[:80]!r} for model {manifest.name!r}, which has {list(specs)}"
            )
    if len(asked.inputs) != len(specs) or len({tensor.name for tensor in asked.inputs}) != len(specs):
        raise ShapeError(
            f"expected {len(specs)} inputs but got {len(asked.inputs)} inputs for model {manifest.name!r}; send each "
            f"of {list(specs)} once"
        )
    return specs


def _given(parameters: oip.Parameters) -> dict[str, object]:
    """Raises FieldError for a source that is no text: 0 or false would pass for none."""
    given: dict[str, object] = {name: parameters[name] for name in FIELDS if name in parameters}
    if given.get("source", "") != "":
        check_source(given["source"])
    return given


def _durable(given: object) -> bool:
    if given is not None and not isinstance(given, bool):
        raise FieldError(f"durable {str(given)[:32]!r}: expected true or false")
    return bool(given)


def _priority(given: object) -> Priority:
    """Triton's numbers: 1 is the highest, 0 the model's default."""
    if given is None:
        return "interactive"
    if type(given) is not int or given < 0:
        raise FieldError(f"priority {str(given)[:32]!r}: expected 0 or more, 1 being the highest")
    return "interactive" if given <= 1 else "live" if given == 2 else "backlog"


def _timeout_s(given: object, call: Call) -> float | None:
    """The parameter, in microseconds, 0: none; or else the header."""
    if given is None:
        return deadline_s(call)
    if type(given) is not int or not 0 <= given < 1 << 63:
        raise FieldError(f"timeout {str(given)[:32]!r}: expected microseconds")
    return given / 1e6 if given else None


def _check_one_model(answers: Sequence[Answer], outputs: Sequence[oip.AskedOutput], served: ServedModel) -> None:
    """What is loaded meanwhile may answer in place of `served`, by whose manifest the request was read.

    Raises ModelNotReady when the answers do not fit each other, or what was asked for.
    """
    digests = {answer.result.digest for answer in answers}
    if digests == {served.digest}:
        return
    missing = any(output.name not in (answer.outputs or {}) for answer in answers for output in outputs)
    if missing or len(digests) > 1 or any(output.classification for output in outputs):
        raise ModelNotReady(f"model {served.manifest.name} was replaced meanwhile; send it again")


def _numbers(answers: Sequence[Answer], outputs: Sequence[oip.AskedOutput]) -> int:
    """How many are to be written as text. Binary data is only copied."""
    count = 0
    for output in outputs:
        if output.classification or not output.binary:
            size = sum(answer.outputs[output.name].size for answer in answers if answer.outputs)
            count += size * _NUMBERS_PER_SCORE if output.classification else size
    return count


def _encode_answer(asked: _Asked, answers: Sequence[Answer], labels: Sequence[str]) -> tuple[bytes, int | None]:
    results = [result for answer in answers for result in answer.results]
    parameters: oip.Parameters = {
        "verdict": ",".join(result.verdict for result in results),
        "result": results[0].id if len(results) == 1 else ",".join(str(result.id) for result in results),
        "recorded": answers[0].recorded if len(answers) == 1 else ",".join(answer.recorded for answer in answers),
    }
    tensors = [_answered(output, answers, labels) for output in asked.outputs]
    model = results[0]
    return oip.encode_response(model.model, model.version, tensors, id=asked.wire.id, parameters=parameters)


def _answered(output: oip.AskedOutput, answers: Sequence[Answer], labels: Sequence[str]) -> tuple[str, Array, bool]:
    arrays = [answer.outputs[output.name] for answer in answers if answer.outputs]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if output.classification:
        array = oip.classify(array, output.classification, labels if array[0].size == len(labels) else ())
    return output.name, array, output.binary


def _metadata(served: ServedModel, versions: Sequence[str]) -> Mapping[str, Any]:
    manifest = served.manifest
    return {
        "name": manifest.name,
        "versions": versions,
        "platform": _PLATFORMS[served.variant.format],
        "inputs": [_tensor(spec) for spec in manifest.inputs],
        "outputs": [_tensor(spec) for spec in manifest.outputs],
    }


def _tensor(spec: TensorSpec) -> Mapping[str, Any]:
    return {"name": spec.name, "datatype": oip.datatype_of(spec.dtype), "shape": spec.shape}


def _config(served: ServedModel) -> Mapping[str, Any]:
    """Triton's model configuration. max_batch_size 0: the shapes are whole, a free first axis is the batch."""
    manifest = served.manifest
    device = served.loaded.device
    kind = "KIND_GPU" if device.startswith("GPU") else "KIND_CPU" if device == "CPU" else "KIND_MODEL"
    return {
        "name": manifest.name,
        "platform": _PLATFORMS[served.variant.format],
        "backend": served.variant.format,
        "version_policy": {"specific": {"versions": [int(manifest.version)]}},
        "max_batch_size": 0,
        "input": [_config_tensor(spec) for spec in manifest.inputs],
        "output": [_config_tensor(spec) for spec in manifest.outputs],
        "instance_group": [{"name": device, "kind": kind, "count": 1}],
        "parameters": {
            "variant": {"string_value": served.variant.name},
            "digest": {"string_value": served.digest},
            "runtime": {"string_value": served.loaded.runtime},
        },
    }


def _config_tensor(spec: TensorSpec) -> Mapping[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{oip.datatype_of(spec.dtype)}", "dims": spec.shape}


def _stats(served: ServedModel) -> Mapping[str, Any]:
    """Triton's statistics of one version. Times are sums since the load, in nanoseconds.

    Answers from the cache are counted nowhere here, and its hits and misses stay 0: it is one for all models.
    """
    stats: Stats = served.stats
    with stats.lock:
        done = stats.requests - stats.errors
        total = stats.queue_ns + stats.prepare_ns + stats.infer_ns + stats.output_ns
        return {
            "name": served.manifest.name,
            "version": served.manifest.version,
            "last_inference": int(stats.last_at * 1000),
            "inference_count": stats.rows,
            "execution_count": stats.executions,
            "inference_stats": {
                "success": {"count": done, "ns": total},
                "fail": {"count": stats.errors, "ns": stats.fail_ns},
                "queue": {"count": done, "ns": stats.queue_ns},
                "compute_input": {"count": done, "ns": stats.prepare_ns},
                "compute_infer": {"count": done, "ns": stats.infer_ns},
                "compute_output": {"count": done, "ns": stats.output_ns},
                "cache_hit": {"count": 0, "ns": 0},
                "cache_miss": {"count": 0, "ns": 0},
            },
            "batch_stats": [],
        }


def _entry(name: str, place: Place) -> Mapping[str, Any]:
    return {"name": name, "version": place.version, "state": _STATES[place.state], "reason": place.reason or ""}


def _object(body: bytes) -> dict[str, Any]:
    """Raises FieldError, and BodyTooLarge, since it is read on the loop."""
    if len(body) > _REPOSITORY_BODY_BYTES_MAX:
        raise BodyTooLarge(f"the body has {len(body)} bytes; send at most {_REPOSITORY_BODY_BYTES_MAX} here")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FieldError(f"the body is not a JSON object: {error}") from error


def _json(content: object, status: int = 200) -> Reply:
    return Reply(_encode(content), status=status, headers=retry_headers(status))


def _on_error(call: Call, error: ApplianceError) -> Reply:
    text = str(error)
    if isinstance(error, ModelNotFound | VersionNotFound):
        # Clients look for these words.
        text = f"Request for unknown model: {text}"
    return Reply(error_json(text), status=status_of(error), headers=error_headers(error))
