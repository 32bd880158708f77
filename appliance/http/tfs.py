"""TensorFlow Serving's REST door: status, metadata, predict, classify and regress of its clients, unchanged.

Wire format: tensorflow/serving, api_rest.md. Errors are {"error": ...}. The label `stable` is the version that
serves, `canary` the one that is tried beside it, and `stable` again while there is none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from appliance.core.manifest import ImagePreprocess, ModelManifest
from appliance.core.protocol import InferenceRequest, Result
from appliance.core.tensors import Array, TensorSpec, array_from_json, arrays_from_json, json_error, other_names
from appliance.errors import (
    ApplianceError,
    BodyTooLarge,
    DecodeError,
    EmptyBody,
    InferenceError,
    InputError,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    ShapeError,
    VersionNotFound,
)
from appliance.fields import base64_bytes
from appliance.http.call import Bodies, Call, Door, Reply, await_answer, cache_headers, error_json, wrong_method
from appliance.http.numbers import BYTES_PER_NUMBER, PARSED_ON_LOOP_MAX, check_rows
from appliance.http.origin import deadline_s, origin, plain_body
from appliance.http.problems import error_headers, status_of
from appliance.http.several import hurried, judge_pictures
from appliance.pipeline import Answer, Pipeline, now
from appliance.slot import LABELS, Place, Slot, find
from appliance.slots import Slots

DEFAULT_SOURCE = "tfs"
SIGNATURE = "serving_default"
_VERBS = ("predict", "classify", "regress")
_DTYPES = {
    "bool": "DT_BOOL",
    "uint8": "DT_UINT8",
    "int8": "DT_INT8",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
}
_STATES = {"loading": "LOADING", "ready": "AVAILABLE", "failed": "END", "unloaded": "END"}


class _Target(msgspec.Struct, frozen=True):
    """What a path names. verb: one of TensorFlow Serving's, `metadata`, or empty for the status."""

    model: str
    version: str | None = None
    label: str | None = None
    verb: str = ""

    @property
    def asked(self) -> str | None:
        """As `Slots.choose` takes it."""
        return self.label or self.version


class _Body(msgspec.Struct, frozen=True):
    signature_name: str = ""
    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    examples: list[dict[str, msgspec.Raw]] | msgspec.UnsetType = msgspec.UNSET
    context: dict[str, msgspec.Raw] = {}


class _Picture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    b64: str


class _Asked(msgspec.Struct, frozen=True):
    """What one call wants judged: pictures one by one, or tensors in one batch. rows: answered in the row format."""

    pictures: list[bytes] | None = None
    tensors: dict[str, Array] | None = None
    rows: bool = True


_LIST_OF_OBJECTS = re.compile(rb"\[\s*\{")
_NESTED_OBJECT = re.compile(rb"[\[\s]*\{")

_BODY = msgspec.json.Decoder(_Body)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_PICTURE = msgspec.json.Decoder(_Picture)


def tfs_door(pipeline: Pipeline, slots: Slots, bodies: Bodies) -> Door:
    """Mounted at /v1/models."""
    door = _Serving(pipeline, slots)
    return Door(door.answer, _on_error, bodies)


class _Serving:
    def __init__(self, pipeline: Pipeline, slots: Slots) -> None:
        self._pipeline = pipeline
        self._slots = slots

    async def answer(self, call: Call) -> Reply:
        target = _target(call)
        allow = "POST" if target.verb in _VERBS else "GET, HEAD"
        if call.method not in allow.split(", "):
            raise wrong_method(call, allow)
        if target.label is not None and target.label not in LABELS:
            raise VersionNotFound(f"Could not find version label {target.label!r} of model {target.model}")
        if not target.verb:
            return _json(self._status(target))
        if target.verb == "metadata":
            return _json(_metadata(self._choose(target)))
        return await self._judge(call, target)

    def _choose(self, target: _Target) -> ModelManifest:
        try:
            return self._slots.choose(target.model, target.asked).manifest
        except (ModelNotFound, VersionNotFound) as error:
            name = target.model
            asked = f"Latest({name})" if target.version is None else f"Specific({name}, {target.version})"
            raise type(error)(f"Servable not found for request: {asked}") from error

    def _status(self, target: _Target) -> dict[str, Any]:
        found = [slot for slot in self._slots.slots() if slot.name == target.model]
        if not found:
            raise ModelNotFound(f"Could not find any versions of model {target.model}")
        return {"model_version_status": [_version_status(each) for each in _places(found[0], target)]}

    async def _judge(self, call: Call, target: _Target) -> Reply:
        began = time.monotonic()
        manifest = self._choose(target)
        body = await plain_body(call)
        if len(body) > PARSED_ON_LOOP_MAX:
            asked = await asyncio.to_thread(_read, body, manifest, target.verb)
        else:
            asked = _read(body, manifest, target.verb)
        if asked.tensors is not None:
            check_rows(asked.tensors, manifest)
        source, part = origin(call, {}, DEFAULT_SOURCE)
        # One version answers all pictures of a call, whatever begins to serve meanwhile.
        is_one = len(asked.pictures or ()) > 1
        request = InferenceRequest(
            model=target.model,
            version=manifest.version if is_one else target.asked,
            tensors=asked.tensors,
            outputs=target.verb == "predict",
            source=source,
            door="tfs",
            part=part,
            at=now(),
            deadline_s=deadline_s(call),
            on_loop=True,
        )
        try:
            if asked.pictures is None:
                answers = [await await_answer(self._pipeline.submit(hurried(request, began)))]
            else:
                answers = await judge_pictures(self._pipeline, request, asked.pictures, began)
        except VersionNotFound as error:
            if request.version == target.asked:
                raise
            raise ModelNotReady(f"model {target.model} was replaced meanwhile; try again") from error
        headers = cache_headers(answer.cached for answer in answers)
        if target.verb == "predict":
            outputs = _join(answers, manifest)
            if sum(array.size for array in outputs.values()) * BYTES_PER_NUMBER > PARSED_ON_LOOP_MAX:
                return await asyncio.to_thread(_predictions, outputs, asked.rows, headers)
            return _predictions(outputs, asked.rows, headers)
        results = [result for answer in answers for result in answer.results]
        return _json({"results": [_value(result, target.verb) for result in results]}, headers)


def _target(call: Call) -> _Target:
    """/v1/models/{model}[/versions/{version}|/labels/{label}][/metadata|:{verb}]"""
    segments = call.segments[2:]
    verb = ""
    if segments and ":" in segments[-1]:
        segments[-1], _, verb = segments[-1].rpartition(":")
        if verb not in _VERBS:
            raise _malformed(call)
    elif len(segments) in (2, 4) and segments[-1] == "metadata":
        verb = segments.pop()
    match segments:
        case [model] if model:
            return _Target(model, verb=verb)
        case [model, "versions", version] if model and version.isdecimal():
            return _Target(model, version=version, verb=verb)
        case [model, "labels", label] if model and label:
            return _Target(model, label=label, verb=verb)
    raise _malformed(call)


def _malformed(call: Call) -> NotFound:
    return NotFound(f"Malformed request: {call.method} {call.path}")


# What is asked.


def _read(body: bytes, manifest: ModelManifest, verb: str) -> _Asked:
    """Raises InputError."""
    content = _decode(_BODY, body, "the body")
    if content.signature_name not in ("", SIGNATURE) and verb == "predict":
        raise InputError(f'Serving signature name: "{content.signature_name[:80]}" not found in signature def')
    if verb != "predict":
        _check_verb(verb, manifest)
        if content.examples is msgspec.UNSET:
            raise DecodeError('expected {"examples": [{"<feature>": <value>, ...}, ...]}')
        return _read_examples([content.context | example for example in content.examples], manifest)
    if (content.instances is msgspec.UNSET) == (content.inputs is msgspec.UNSET):
        raise DecodeError('expected either "instances" (rows) or "inputs" (columns)')
    if content.instances is not msgspec.UNSET:
        return _read_rows(content.instances, manifest)
    assert content.inputs is not msgspec.UNSET
    return _read_columns(content.inputs, manifest)


def _read_rows(text: msgspec.Raw, manifest: ModelManifest) -> _Asked:
    if not _LIST_OF_OBJECTS.match(text):
        return _Asked(tensors={_only(manifest).name: array_from_json(text, _only(manifest))})
    instances = _decode(_LIST, text, "instances")
    objects = [_decode(_OBJECT, each, "instances") for each in instances]
    if _takes_pictures(manifest) and (pictures := _pictures(objects, manifest, instances)) is not None:
        return _Asked(pictures)
    for each in objects:
        if each.keys() != objects[0].keys():
            raise ShapeError("the instances name different inputs; name the same in each")
    columns = {name: msgspec.Raw(b"[" + b",".join(each[name] for each in objects) + b"]") for name in objects[0]}
    return _Asked(tensors=_arrays(columns, manifest))


def _read_columns(text: msgspec.Raw, manifest: ModelManifest) -> _Asked:
    given = _decode(_OBJECT, text, "inputs") if _first(text) == b"{" else None
    if _takes_pictures(manifest) and (pictures := _column_of_pictures(text, given, manifest)) is not None:
        return _Asked(pictures, rows=False)
    if given is None:
        return _Asked(tensors={_only(manifest).name: array_from_json(text, _only(manifest))}, rows=False)
    return _Asked(tensors=_arrays(given, manifest), rows=False)


def _column_of_pictures(
    text: msgspec.Raw, given: dict[str, msgspec.Raw] | None, manifest: ModelManifest
) -> list[bytes] | None:
    """{"b64": ...} or a list of these, alone or under the input's name; None when they are numbers."""
    column = text
    if given is not None and given.keys() != {"b64"}:
        if given.keys() != {_only(manifest).name}:
            return None
        column = given[_only(manifest).name]
    if _LIST_OF_OBJECTS.match(column):
        return [_picture(each) for each in _decode(_LIST, column, "inputs")]
    return [_picture(column)] if _first(column) == b"{" else None


def _read_examples(examples: Sequence[dict[str, msgspec.Raw]], manifest: ModelManifest) -> _Asked:
    """Features are flat lists, as in a tf.Example."""
    if not examples:
        raise ShapeError("there are no examples")
    if _takes_pictures(manifest) and (pictures := _pictures(examples, manifest)) is not None:
        return _Asked(pictures)
    for example in examples:
        if example.keys() != {each.name for each in manifest.inputs}:
            raise other_names(example, manifest.inputs)
    tensors: dict[str, Array] = {}
    for spec in manifest.inputs:
        features = b",".join(_list(example[spec.name]) for example in examples)
        array = array_from_json(b"[" + features + b"]", TensorSpec(spec.name, spec.dtype, (-1, -1)))
        try:
            tensors[spec.name] = array.reshape(len(array), *spec.shape[1:])
        except ValueError as error:
            raise ShapeError(
                f"feature {spec.name!r} has {array.shape[1]} values, the model takes {list(spec.shape[1:])} of an "
                f"example"
            ) from error
    return _Asked(tensors=tensors)


def _list(feature: msgspec.Raw) -> bytes:
    """A feature of one value may come without brackets."""
    return bytes(feature) if _first(feature) == b"[" else b"[" + bytes(feature) + b"]"


def _pictures(
    objects: Sequence[dict[str, msgspec.Raw]], manifest: ModelManifest, values: Sequence[msgspec.Raw] = ()
) -> list[bytes] | None:
    """The pictures of objects {"<input>": {"b64": ...}}, or of `values`, the same objects unread, if {"b64": ...}.

    None when they are numbers.
    """
    name = _only(manifest).name
    found = []
    for index, each in enumerate(objects):
        if values and each.keys() == {"b64"}:
            found.append(_picture(values[index]))
        elif each.keys() == {name} and _first(each[name]) == b"{":
            found.append(_picture(each[name]))
        else:
            return None
    return found


def _picture(text: msgspec.Raw) -> bytes:
    return base64_bytes(_decode(_PICTURE, text, 'a picture is {"b64": ...}').b64, "b64")


def _arrays(columns: dict[str, msgspec.Raw], manifest: ModelManifest) -> dict[str, Array]:
    for name, text in columns.items():
        if _NESTED_OBJECT.match(text):
            raise ShapeError(f"input {name!r} of model {manifest.name} takes numbers; base64 is for pictures")
    return arrays_from_json(columns, manifest.inputs)


def _only(manifest: ModelManifest) -> TensorSpec:
    """Raises ShapeError when the model has several inputs, so that they must be named."""
    if len(manifest.inputs) != 1:
        names = [spec.name for spec in manifest.inputs]
        raise ShapeError(f"model {manifest.name} has the inputs {names}; send objects that name them")
    return manifest.inputs[0]


def _takes_pictures(manifest: ModelManifest) -> bool:
    return isinstance(manifest.preprocess, ImagePreprocess)


def _first(text: msgspec.Raw) -> bytes:
    return bytes(memoryview(text)[:1])


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw, what: str) -> Any:
    if not text:
        raise EmptyBody("the body is empty; send JSON")
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise DecodeError(f"{what}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(error, bytes(text)) from error


def _check_verb(verb: str, manifest: ModelManifest) -> None:
    steps = manifest.postprocess
    if verb == "classify" and steps.classes is None:
        raise InputError(f"model {manifest.name} names no classes; ask it to :predict")
    if verb == "regress" and steps.score is None and steps.normal_label is None:
        raise InputError(f"model {manifest.name} gives no score; ask it to :predict")


# What is answered.


def _join(answers: Sequence[Answer], manifest: ModelManifest) -> dict[str, Array]:
    """The outputs of all answers, in the manifest's order, rows along the first axis."""
    names = [spec.name for spec in manifest.outputs]
    given = [answer.outputs or {} for answer in answers]
    if any(set(outputs) != set(names) for outputs in given):
        raise ModelNotReady(f"model {manifest.name} was replaced meanwhile; try again")
    if len(given) == 1:
        return {name: given[0][name] for name in names}
    return {name: np.concatenate([outputs[name] for outputs in given]) for name in names}


def _predictions(outputs: dict[str, Array], rows: bool, headers: Mapping[str, str]) -> Reply:
    lists = {name: array.tolist() for name, array in outputs.items()}
    if len(lists) == 1:
        return _json({"predictions" if rows else "outputs": next(iter(lists.values()))}, headers)
    if not rows:
        return _json({"outputs": lists}, headers)
    return _json({"predictions": list(_objects(lists))}, headers)


def _objects(lists: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))


def _value(result: Result, verb: str) -> Any:
    prediction = result.prediction
    if prediction is None:
        raise InferenceError("the model gave no answer for this input")
    if verb == "classify":
        return [[each.label, each.score] for each in prediction.classes]
    return prediction.score


def _metadata(manifest: ModelManifest) -> dict[str, Any]:
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in manifest.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in manifest.outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": manifest.name, "signature_name": "", "version": manifest.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in spec.shape]
    return {
        "dtype": _DTYPES[spec.dtype],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{SIGNATURE}_{spec.name}:0",
    }


def _places(slot: Slot, target: _Target) -> list[Place]:
    """The versions that a path names, those without a name all of them, the newest first. Raises VersionNotFound."""
    if target.label is not None:
        return [find(slot, target.label)]
    found = [place for _, place in slot.places() if target.version in (None, place.version)]
    if not found:
        raise VersionNotFound(f"Could not find version {target.version} of model {target.model}")
    return sorted(found, key=lambda place: int(place.version) if place.version.isdecimal() else 0, reverse=True)


def _version_status(place: Place) -> dict[str, Any]:
    failed = place.state == "failed"
    status = {"error_code": "UNKNOWN" if failed else "OK", "error_message": (place.reason or "") if failed else ""}
    return {"version": place.version, "state": _STATES[place.state], "status": status}


def _json(content: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(msgspec.json.encode(content), headers=headers)


def _on_error(call: Call, error: ApplianceError) -> Reply:
    status = status_of(error)
    if isinstance(error, InputError | InferenceError) and not isinstance(error, BodyTooLarge):
        # TensorFlow Serving has one status for all that is wrong with an input.
        status = 400
    return Reply(error_json(str(error)), status=status, headers=error_headers(error))
