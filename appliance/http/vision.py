"""DeepStack's door, for Frigate, Home Assistant, Blue Iris and others: a picture in, findings with boxes out.

    POST /v1/vision/detection          the first detector of this box, by name
    POST /v1/vision/custom/{model}     a named model
    GET, POST /v1/vision/custom/list   the names that `custom` takes

Errors are {"success": false, "error": ...}. Clients take whatever is not 200 for a failure, 404 for a wrong address.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.codecs import sniff
from appliance.core.manifest import ModelManifest
from appliance.core.prediction import Region
from appliance.core.protocol import InferenceRequest
from appliance.errors import (
    ApplianceError,
    FieldError,
    InputError,
    MediaTypeError,
    ModelNotFound,
    ModelNotReady,
    NotFound,
)
from appliance.http.call import Bodies, Call, Door, Reply, await_answer, cache_headers, one_line, wrong_method
from appliance.http.forms import parse_form
from appliance.http.origin import FIELDS, deadline_s, origin, plain_body
from appliance.http.problems import error_headers, status_of
from appliance.http.several import hurried
from appliance.pipeline import Answer, Pipeline, now
from appliance.slot import Slot
from appliance.slots import Slots

DEFAULT_SOURCE = "deepstack"
CONFIDENCE_MIN = 0.4


def vision_door(pipeline: Pipeline, slots: Slots, bodies: Bodies) -> Door:
    """Mounted at /v1/vision."""
    door = _Vision(pipeline, slots)
    return Door(door.answer, _on_error, bodies)


class _Vision:
    def __init__(self, pipeline: Pipeline, slots: Slots) -> None:
        self._pipeline = pipeline
        self._slots = slots

    async def answer(self, call: Call) -> Reply:
        started = time.monotonic()
        path = call.segments[2:]
        if path == ["custom", "list"]:
            if call.method not in ("GET", "HEAD", "POST"):
                raise wrong_method(call, "GET, HEAD, POST")
            return _success(started, models=[slot.name for slot in _locating(self._slots)])
        match path:
            case ["detection"]:
                model = None
            case ["custom", name] if name:
                model = name
            case _:
                raise NotFound(
                    f"there is nothing at {call.path}; POST to /v1/vision/detection or /v1/vision/custom/NAME"
                )
        if call.method != "POST":
            raise wrong_method(call, "POST")
        answer, least = await self._detect(call, model or detector(self._slots), started)
        prediction = answer.result.prediction
        if prediction is None or prediction.regions is None:
            raise ModelNotReady(f"model {answer.result.model} was replaced meanwhile; try again")
        regions = [_found(region) for region in prediction.regions if region.score >= least]
        return _success(started, cache_headers([answer.cached]), predictions=regions)

    async def _detect(self, call: Call, model: str, began: float) -> tuple[Answer, float]:
        """The answer, and the least confidence that the caller wants."""
        if not _locates(self._slots.choose(model).manifest):
            raise InputError(f"model {model} does not say where something is; POST to /v1/predict/{model}")
        if call.media_type != "multipart/form-data":
            raise MediaTypeError("send the picture as multipart/form-data, in the field 'image'")
        form = parse_form(await plain_body(call), call.header("content-type"))
        if len(form.files) != 1:
            raise FieldError(f"the form has {len(form.files)} files; send one, in the field 'image'")
        least = _confidence_min(form.fields.get("min_confidence"))
        given = {name: form.fields[name] for name in FIELDS if form.fields.get(name)}
        source, part = origin(call, given, DEFAULT_SOURCE)
        picture = form.files[0].content
        request = InferenceRequest(
            model=model,
            body=picture,
            media_type=sniff(picture),
            source=source,
            door="deepstack",
            part=part,
            at=now(),
            deadline_s=deadline_s(call),
            on_loop=True,
        )
        return await await_answer(self._pipeline.submit(hurried(request, began))), least


def detector(slots: Slots) -> str:
    """The model behind `detection`: the first by name that finds boxes, or else that has a heat map.

    One that is ready goes before one that is not. Raises ModelNotFound.
    """
    locating = _locating(slots)
    boxes = [slot for slot in locating if _has_boxes(slot)] or locating
    if not boxes:
        raise ModelNotFound("no model of this box says where something is; import a detector")
    return next((slot.name for slot in boxes if slot.state == "ready"), boxes[0].name)


def _locating(slots: Slots) -> list[Slot]:
    return [slot for slot in slots.slots() if slot.on_disk is not None and _locates(slot.on_disk.manifest)]


def _locates(manifest: ModelManifest) -> bool:
    return manifest.postprocess.boxes is not None or manifest.postprocess.heatmap is not None


def _has_boxes(slot: Slot) -> bool:
    return slot.on_disk is not None and slot.on_disk.manifest.postprocess.boxes is not None


def _confidence_min(text: str | None) -> float:
    if not text:
        return CONFIDENCE_MIN
    try:
        least = float(text)
    except ValueError:
        least = math.nan
    if not 0 <= least <= 1:
        raise FieldError(f"min_confidence {text[:40]!r}: expected a number from 0 to 1")
    return least


def _found(region: Region) -> dict[str, Any]:
    left, top, right, bottom = region.box
    return {
        "label": region.label,
        "confidence": region.score,
        "x_min": left,
        "y_min": top,
        "x_max": right,
        "y_max": bottom,
    }


def _success(started: float, headers: Mapping[str, str] | None = None, **content: object) -> Reply:
    """duration: seconds."""
    content = {"success": True, **content, "duration": round(time.monotonic() - started, 4)}
    return Reply(msgspec.json.encode(content), headers=headers)


def _on_error(call: Call, error: ApplianceError) -> Reply:
    content = {"success": False, "error": one_line(str(error)), "duration": 0}
    return Reply(msgspec.json.encode(content), status=status_of(error), headers=error_headers(error))
