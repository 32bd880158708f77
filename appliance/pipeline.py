"""One inference, whatever the door: choose the slot, take a lane, predict, judge, record.

The doors know only `submit`. The lane's thread does everything from decoding to the verdict; the store's thread
commits, and then `announce` tells whoever follows results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import msgspec
import structlog

from appliance.codecs import encode_jpeg
from appliance.config import ModelConfig
from appliance.core.draw import draw
from appliance.core.manifest import ImagePreprocess, ModelManifest
from appliance.core.protocol import RESULT_SCHEMA, InferenceRequest, Recorded, Result, Trace
from appliance.core.verdict import VerdictRule, judge
from appliance.errors import ApplianceError, InferenceTimeout, MediaTypeError, ModelNotReady, Overloaded, StoreError
from appliance.lanes import Job, Lanes
from appliance.repository import ModelVersion
from appliance.served import Inferred, ServedModel
from appliance.slots import Slots
from appliance.store import Store
from appliance.writes import Cursor, DeadLetter, NewResult, Receipt, Write, Written, both, when_added

log = structlog.get_logger("pipeline")

Announce = Callable[[Result, bytes, Trace | None], None]
"""A committed result, its JSON, and the curve of its window; called from the store's thread."""

Outgoing = Callable[[Result, bytes], tuple[tuple[str, bytes], ...]]
"""The outbox rows (topic, payload) that are committed with a result."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What is committed together with a result that came by a stream."""

    route: str | None = None
    key: str | None = None
    window: tuple[int, int] | None = None
    cursor: Cursor | None = None
    receipt: Receipt | None = None
    cleared: bytes | None = None
    flags: tuple[str, ...] = ()
    must: bool = False
    done: Callable[[Written | StoreError], None] | None = None


class Answer(msgspec.Struct, frozen=True):
    """What a door replies from. `drawn`: JPEG, when the request asked for it."""

    result: Result
    recorded: Recorded
    drawn: bytes | None = None


class Pipeline:
    """The single way from a request to a result."""

    def __init__(
        self,
        device: str,
        slots: Slots,
        lanes: Lanes,
        store: Store,
        recipes: Mapping[str, Mapping[str, VerdictRule]],
        models: Mapping[str, ModelConfig],
        *,
        outgoing: Outgoing,
        announce: Announce,
    ) -> None:
        self._device = device
        self._slots = slots
        self._lanes = lanes
        self._store = store
        self._recipes = recipes
        self._always_durable = {name for name, model in models.items() if model.durable}
        self._outgoing = outgoing
        self._announce = announce

    def submit(self, request: InferenceRequest, recording: Recording | None = None) -> Future[Answer]:
        """Start an inference; the future ends with the answer, after the commit if the request is durable.

        Raises at once ModelError (not found, loading, failed), Overloaded, and MediaTypeError when a drawing is asked
        of a model that takes no pictures; the future raises InputError, InferenceError, InferenceTimeout and, when
        durable, StoreError.
        """
        recording = recording or Recording()
        served = self._slots.choose(request.model, request.version)
        if request.draw and served.kind != "image":
            raise MediaTypeError(f"model {request.model} judges no pictures; ask for application/json")
        if not (request.durable or (request.door == "http" and request.model in self._always_durable)):
            return self._lanes.submit(served, lambda job: self._infer(served, request, recording, job, None))
        committed: Future[Answer] = Future()
        committed.set_running_or_notify_cancel()
        inferred = self._lanes.submit(served, lambda job: self._infer(served, request, recording, job, committed))
        inferred.add_done_callback(lambda future: _pass_error(future, committed))
        return committed

    def is_loading(self, model: str) -> bool:
        """Whether the model is not there yet, but may be in a moment."""
        try:
            self._slots.choose(model)
        except ModelNotReady:
            return True
        except ApplianceError:
            return False
        return False

    def reject(
        self, request: InferenceRequest, error: ApplianceError, letter: DeadLetter, recording: Recording
    ) -> None:
        """Record a message that cannot be judged: a dead letter and, when its model is known, a result `error`.

        Both are committed together, so that whoever waits for this part is answered.
        """
        try:
            version = self._slots.on_disk(request.model)
        except ApplianceError:
            self._store.submit(
                Write(
                    dead_letter=letter,
                    cursor=recording.cursor,
                    receipt=recording.receipt,
                    cleared=recording.cleared,
                    must=recording.must,
                    done=recording.done,
                )
            )
            return
        # The model may still be loading: what it is called is known all the same, which variant will serve is not.
        result = self._result(version, "", request, recording, None, error)
        self._record(result, version.manifest, None, None, recording, letter)

    def _infer(
        self,
        served: ServedModel,
        request: InferenceRequest,
        recording: Recording,
        job: Job,
        committed: Future[Answer] | None,
    ) -> Answer:
        served.requests += 1
        try:
            inferred = served.predict(request.body, request.media_type, job.queued_at)
        except ApplianceError:
            served.errors += 1
            raise
        result = self._result(served, served.variant.name, request, recording, inferred, None)
        drawn = None
        if request.draw and inferred.image is not None:
            drawn = encode_jpeg(draw(inferred.image, inferred.prediction, result.verdict))
        frame = request.body if inferred.image is not None else None
        answer = Answer(result, "queued", drawn)
        if committed is not None:
            recording = _then(recording, lambda outcome: _settle(committed, answer, outcome))
        if not job.claim():
            # The time limit has answered for this input: a second answer would contradict the first.
            raise InferenceTimeout(f"model {served.manifest.name} answered too late")
        try:
            self._record(result, served.manifest, frame, inferred.trace, recording)
        except (StoreError, Overloaded) as error:
            if committed is not None:
                raise
            log.warning("not_recorded", result=result.id, code=error.code)
            return msgspec.structs.replace(answer, recorded="no")
        timing = inferred.timing
        log.info(
            "inferred",
            result=result.id,
            door=result.door,
            model=result.model,
            source=result.source,
            verdict=result.verdict,
            queue_ms=timing.queue_ms,
            infer_ms=timing.infer_ms,
        )
        return answer

    def _result(
        self,
        origin: ServedModel | ModelVersion,
        variant: str,
        request: InferenceRequest,
        recording: Recording,
        inferred: Inferred | None,
        error: ApplianceError | None,
    ) -> Result:
        part = request.part
        rule = origin.manifest.verdict.override(request.override)
        rule = rule.override(self._recipes.get(part.recipe or "", {}).get(request.model))
        return Result(
            schema=RESULT_SCHEMA,
            id=self._store.next_id(),
            at=request.at,
            device=self._device,
            door=request.door,
            source=request.source,
            route=recording.route,
            part=part.part,
            lot=part.lot,
            recipe=part.recipe,
            verdict="error" if inferred is None else judge(inferred.prediction, rule),
            model=origin.manifest.name,
            version=origin.manifest.version,
            variant=variant,
            digest=origin.digest,
            signed=origin.signed,
            prediction=None if inferred is None else inferred.prediction,
            score_review_min=rule.score_review_min,
            score_ng_min=rule.score_ng_min,
            error=None if error is None else {"code": error.code, "message": str(error)},
            timing=None if inferred is None else inferred.timing,
            has_image=inferred is not None and inferred.image is not None,
            flags=recording.flags,
        )

    def _record(
        self,
        result: Result,
        manifest: ModelManifest,
        frame: bytes | None,
        trace: Trace | None,
        recording: Recording,
        letter: DeadLetter | None = None,
    ) -> None:
        body = msgspec.json.encode(result)
        announced = when_added(lambda: self._announce(result, body, trace))
        self._store.submit(
            Write(
                result=NewResult(
                    result=result,
                    kind="image" if isinstance(manifest.preprocess, ImagePreprocess) else "window",
                    body=body,
                    frame=frame,
                    key=recording.key,
                    window=recording.window,
                ),
                dead_letter=letter,
                cursor=recording.cursor,
                receipt=recording.receipt,
                cleared=recording.cleared,
                outbox=self._outgoing(result, body),
                must=recording.must,
                awaited=recording.must or recording.done is not None,
                done=both(recording.done, announced),
            )
        )


def now() -> float:
    """The wall clock, in the form that results carry."""
    return round(time.time(), 6)


def _then(recording: Recording, after: Callable[[Written | StoreError], None]) -> Recording:
    return msgspec.structs.replace(recording, done=both(recording.done, after))


def _settle(committed: Future[Answer], answer: Answer, outcome: Written | StoreError) -> None:
    if isinstance(outcome, StoreError):
        committed.set_exception(outcome)
    else:
        committed.set_result(msgspec.structs.replace(answer, recorded="committed"))


def _pass_error(inferred: Future[Answer], committed: Future[Answer]) -> None:
    error = inferred.exception()
    if error is not None and not committed.done():
        committed.set_exception(error)
