"""The Open Inference Protocol v2 door, mounted at /v2: health, metadata, inference, statistics, model repository.

Tensors go to the network as they are, without the model's steps before it; but BYTES on the input of a picture model
are encoded pictures, each decoded and preprocessed. Errors are {"error": text}. Every input is judged and recorded as
at any other door; `parameters` of a request may say `part`, `lot`, `recipe`, `source`, `durable`, `timeout`
(microseconds) and `priority`, those of the answer say `verdict`, `result` and `recorded`, rows joined by commas.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from appliance import __version__
from appliance.codecs import sniff
from appliance.config import HttpConfig
from appliance.core import oip
from appliance.core.manifest import ModelManifest
from appliance.core.protocol import InferenceRequest, Priority
from appliance.core.tensors import Array, TensorSpec
from appliance.errors import (
    ApplianceError,
    CompressionError,
    DTypeError,
    FieldError,
    MediaTypeError,
    ModelError,
    ModelNotFound,
    NotFound,
    ShapeError,
    VersionNotFound,
)
from appliance.fields import base64_bytes
from appliance.http.call import Call, Door, Reply, await_answer, error_json
from appliance.http.numbers import PARSED_ON_LOOP_MAX
from appliance.http.origin import FIELDS, deadline_s, origin
from appliance.http.problems import retry_headers, status_of
from appliance.http.several import judge_all
from appliance.http.status import Status
from appliance.pipeline import Answer, Pipeline, Recording, now
from appliance.served import ServedModel, Stats
from appliance.slots import Slot, Slots

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

_PICTURES_MAX = 256
_COMPRESSED_FROM = 1024
"""Bytes of an answer; below, the headers weigh more than what is saved."""

_BYTES_PER_NUMBER = 10
"""About what a number takes in JSON."""

_PLATFORMS = {"openvino": "openvino", "onnx": "onnx", "tflite": "tensorflow_lite", "remote": "remote"}
_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "unloaded": "UNAVAILABLE"}
_ACCEPTED = {"float32": ("FP32", "FP16", "BF16")}
"""What an input takes, where that is more than its own datatype: what it can hold without a loss."""

_encode = msgspec.json.Encoder().encode


def oip_door(pipeline: Pipeline, slots: Slots, status: Status, config: HttpConfig) -> Door:
    """Mounted at /v2."""
    server = _Server(pipeline, slots, status, config.body_bytes_max)
    return Door(server.answer, _on_error, body_bytes_max=config.body_bytes_max, body_s_max=config.body_s_max)


class _Server:
    def __init__(self, pipeline: Pipeline, slots: Slots, status: Status, body_bytes_max: int) -> None:
        self._pipeline = pipeline
        self._slots = slots
        self._status = status
        self._body_bytes_max = body_bytes_max

    async def answer(self, call: Call) -> Reply:
        posts = call.method == "POST"
        match call.segments[1:]:
            case ["models", model, "infer"] if posts:
                return await self._infer(call, model, None)
            case ["models", model, "versions", version, "infer"] if posts:
                return await self._infer(call, model, version)
            case ["repository", "index"] if posts:
                return self._index(await call.body())
            case ["repository", "models", model, "load" | "unload" as action] if posts:
                return await self._change(model, action, await call.body())
            case ["models", _, "infer"] | ["models", _, "versions", _, "infer"] | ["repository", *_]:
                return _method_refused(call, "POST")
        if call.method not in ("GET", "HEAD"):
            return _method_refused(call, "GET")
        return self._show(call.segments[1:])

    def _show(self, path: Sequence[str]) -> Reply:
        match path:
            case []:
                return _json({"name": SERVER, "version": __version__, "extensions": EXTENSIONS})
            case ["health", "live"]:
                return _json({"live": True})
            case ["health", "ready"]:
                ready = self._status.ready()
                return _json({"ready": ready}, 200 if ready else 503)
            case ["models", "stats"]:
                return _json({"model_stats": [_stats(slot.served) for slot in self._slots.slots() if slot.served]})
            case ["models", model, *rest]:
                version = None
                if len(rest) >= 2 and rest[0] == "versions":
                    version, rest = rest[1], rest[2:]
                return self._show_model(model, version, rest)
        raise NotFound("there is nothing here; GET /v2 tells the server, POST /v2/models/{model}/infer asks it")

    def _show_model(self, model: str, version: str | None, what: Sequence[str]) -> Reply:
        if what == ["ready"]:
            ready = self._is_ready(model, version)
            return _json({"name": model, "ready": ready}, 200 if ready else 503)
        served = self._slots.choose(model, version)
        match what:
            case []:
                return _json(_metadata(served))
            case ["config"]:
                return _json(_config(served))
            case ["stats"]:
                return _json({"model_stats": [_stats(served)]})
        raise NotFound(f"model {model} has no {'/'.join(what)[:80]!r}; there are ready, config, stats and infer")

    def _is_ready(self, model: str, version: str | None) -> bool:
        try:
            self._slots.choose(model, version)
        except ModelError:
            return False
        return True

    def _index(self, body: bytes) -> Reply:
        slots = self._slots.slots()
        if body and _object(body).get("ready") is True:
            slots = [slot for slot in slots if slot.state == "ready"]
        return _json([_entry(slot) for slot in slots])

    async def _change(self, model: str, action: str, body: bytes) -> Reply:
        given = _object(body).get("parameters") if body else None
        if action == "load" and given:
            raise FieldError("a model is loaded as its folder says; send no parameters, or change its manifest")
        change = self._slots.load if action == "load" else self._slots.unload
        await asyncio.wrap_future(change(model))
        return Reply(b"")

    async def _infer(self, call: Call, model: str, version: str | None) -> Reply:
        body = await call.body()
        coding = call.header("content-encoding").strip().lower()
        if coding not in ("", "identity"):
            # A small body can hold a large one: never on the loop.
            body = await asyncio.to_thread(decompress, body, coding, self._body_bytes_max)
        served = self._slots.choose(model, version)
        length = oip.header_length(call.header(oip.HEADER_LENGTH), len(body))
        if length == 0:
            asked = _raw(body, served.manifest)
        elif (len(body) if length is None else length) > PARSED_ON_LOOP_MAX:
            asked = await asyncio.to_thread(oip.parse_request, body, length)
        else:
            asked = oip.parse_request(body, length)
        outputs = _outputs(asked, served.manifest)
        pictures = _pictures(asked, served.manifest)
        source, part = origin(call, _given(asked.parameters), DEFAULT_SOURCE)
        request = InferenceRequest(
            model=model,
            version=version,
            tensors=_arrays(asked, served.manifest) if pictures is None else None,
            outputs=True,
            source=source,
            door="oip",
            part=part,
            at=now(),
            durable=asked.parameters.get("durable") is True,
            priority=_priority(asked.parameters.get("priority")),
            deadline_s=_timeout_s(asked.parameters.get("timeout"), call),
            on_loop=True,
        )
        if pictures is None:
            answers = [await await_answer(self._pipeline.submit(request))]
        else:
            answers = await self._judge(request, pictures)
        tensors = [_answered(output, answers, served.manifest) for output in outputs]
        size = sum(array.size for _, array, binary in tensors if not binary)
        if size * _BYTES_PER_NUMBER > PARSED_ON_LOOP_MAX:
            text, ends = await asyncio.to_thread(_encode_answer, served, asked.id, tensors, answers)
        else:
            text, ends = _encode_answer(served, asked.id, tensors, answers)
        return await _reply(text, ends, call)

    async def _judge(self, request: InferenceRequest, pictures: Sequence[bytes]) -> list[Answer]:
        """Each of the encoded pictures."""
        outcomes = await judge_all(
            self._pipeline,
            [
                (msgspec.structs.replace(request, body=picture, media_type=sniff(picture)), Recording())
                for picture in pictures
            ],
        )
        answers = []
        for outcome in outcomes:
            if isinstance(outcome, ApplianceError):
                raise outcome
            answers.append(outcome)
        return answers


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


async def _reply(text: bytes, json_bytes: int | None, call: Call) -> Reply:
    headers = {}
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
    if first.array.ndim != 1 or first.array.size > _PICTURES_MAX:
        raise ShapeError(
            f"input {first.name!r} has shape {list(first.array.shape)}; encoded pictures have shape [n], n at most "
            f"{_PICTURES_MAX}"
        )
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
    return {name: parameters[name] for name in FIELDS if name in parameters} if parameters else {}


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


def _answered(output: oip.AskedOutput, answers: Sequence[Answer], manifest: ModelManifest) -> tuple[str, Array, bool]:
    arrays = [answer.outputs[output.name] for answer in answers if answer.outputs is not None]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if output.classification:
        labels = manifest.labels if array[0].size == len(manifest.labels) else ()
        array = oip.classify(array, output.classification, labels)
    return output.name, array, output.binary


def _encode_answer(
    served: ServedModel, id: str, tensors: Iterable[tuple[str, Array, bool]], answers: Sequence[Answer]
) -> tuple[bytes, int | None]:
    results = [result for answer in answers for result in answer.results]
    parameters: oip.Parameters = {
        "verdict": ",".join(result.verdict for result in results),
        "result": results[0].id if len(results) == 1 else ",".join(str(result.id) for result in results),
        "recorded": answers[0].recorded if len(answers) == 1 else ",".join(answer.recorded for answer in answers),
    }
    manifest = served.manifest
    return oip.encode_response(manifest.name, manifest.version, tensors, id=id, parameters=parameters)


def _metadata(served: ServedModel) -> Mapping[str, Any]:
    manifest = served.manifest
    return {
        "name": manifest.name,
        "versions": [manifest.version],
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
    """Triton's statistics of one version. Times are sums since the load, in nanoseconds."""
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


def _entry(slot: Slot) -> Mapping[str, Any]:
    return {"name": slot.name, "version": slot.version, "state": _STATES[slot.state], "reason": slot.reason or ""}


def _object(body: bytes) -> dict[str, Any]:
    """Raises FieldError."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise FieldError(f"the body is not a JSON object: {error}") from error


def _json(content: object, status: int = 200) -> Reply:
    return Reply(_encode(content), status=status, headers=retry_headers(status))


def _method_refused(call: Call, allow: str) -> Reply:
    return Reply(
        error_json(f"{call.method} is not allowed at {call.path[:200]}; send {allow}"),
        status=405,
        headers={"Allow": "GET, HEAD" if allow == "GET" else allow},
    )


def _on_error(call: Call, error: ApplianceError) -> Reply:
    text = str(error)
    if isinstance(error, ModelNotFound | VersionNotFound):
        # Clients look for these words.
        text = f"Request for unknown model: {text}"
    status = status_of(error)
    if status == 500 and isinstance(error, ModelError):
        # A model that cannot be loaded is not the fault of the server.
        status = 400
    return Reply(error_json(text), status=status, headers=retry_headers(status))
