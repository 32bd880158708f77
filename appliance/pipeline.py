"""One inference, whatever the door: choose the slot, take a lane, predict, judge, record.

The doors know only `submit`. The lane's thread does everything from decoding to the verdict; the store's thread
commits, and then `announce` tells whoever follows results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial

import msgspec
import structlog

from appliance.answers import Answers, answer_key
from appliance.codecs import decode_image, encode_jpeg
from appliance.config import ModelConfig
from appliance.core.draw import draw
from appliance.core.manifest import ModelManifest
from appliance.core.picture_quality import PictureQuality
from appliance.core.prediction import Prediction
from appliance.core.protocol import RESULT_SCHEMA, InferenceRequest, Recorded, Result, Timing, Trace
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.core.verdict import Verdict, judge
from appliance.core.view import View
from appliance.errors import ApplianceError, InferenceTimeout, MediaTypeError, ModelNotReady, Overloaded, StoreError
from appliance.lanes import Devices, Job
from appliance.repository import ModelVersion
from appliance.rollouts.trial import Asked, Trial, Turn
from appliance.rules import SiteRules
from appliance.served import Inferred, Input, ServedModel
from appliance.slots import Slots
from appliance.store import Store
from appliance.writes import Cursor, DeadLetter, NewResult, Outgoing, Receipt, Write, Written, both, when_added

log = structlog.get_logger("pipeline")

ON_LOOP_S_MAX = 1e-3
"""A call on the HTTP loop that works longer sends its model to the lanes for a while: every caller waited for it."""

ON_LOOP_HELD_S_MAX = 0.25
"""So does one that holds the loop so long, at work or not; less can be another program's turn on the core."""

ON_LOOP_ROWS_MAX = 16
"""Rows of a tiny model that may run on the HTTP loop: what is quick for one is not for a thousand."""

_NOT_THE_MODELS = (StoreError, Overloaded)
"""Errors of a box that can record nothing: another version would not help."""

_NO_TIME = Timing(0.0, 0.0, 0.0, 0.0)

Announce = Callable[[Result, bytes, Trace | None], None]
"""A committed result, its JSON, and the curve of its window; called from the store's thread."""

ForCentral = Callable[[Result, bytes, int], tuple[Outgoing, ...]]
"""The outbox rows that are committed with a result; its JSON, and the bytes of the picture that is kept with it."""

OnSource = Callable[[str, PictureQuality | None], None]
"""A source has sent something, or a picture of it was measured; called from any thread, for every input."""


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
    """What a door replies from: a result for each row of the input.

    drawn: JPEG, when the request asked for it. outputs: the network's tensors, when the request asked for them.
    cached: None when no cache was asked.
    """

    results: tuple[Result, ...]
    recorded: Recorded
    drawn: bytes | None = None
    outputs: dict[str, Array] | None = None
    cached: bool | None = None

    @property
    def result(self) -> Result:
        return self.results[0]


class _Task(msgspec.Struct, frozen=True):
    """What a lane works on. committed: to be answered after the commit, when the request is durable.

    key: under which the answer is kept in memory, None: not at all. cached: whether it was there. view: of a picture.
    turn: what the trial of a version has to do with it.
    """

    served: ServedModel
    request: InferenceRequest
    recording: Recording
    committed: Future[Answer] | None
    key: bytes | None
    view: View | None
    cached: bool = False
    turn: Turn | None = None


_NOTHING = Recording()


class Pipeline:
    """The single way from a request to a result."""

    def __init__(
        self,
        device: str,
        slots: Slots,
        devices: Devices,
        store: Store,
        rules: SiteRules,
        models: Mapping[str, ModelConfig],
        pixels_max: int,
        answers: Answers | None,
        *,
        trials: Callable[[], Mapping[str, Trial]] = dict,
        outgoing: ForCentral,
        outgoing_letter: Callable[[DeadLetter], tuple[Outgoing, ...]] = lambda _: (),
        announce: Announce,
        on_source: OnSource,
    ) -> None:
        self._device = device
        self._slots = slots
        self._devices = devices
        self._store = store
        self._rules = rules
        self._on_source = on_source
        self._always_durable = {name for name, model in models.items() if model.durable}
        self._pixels_max = pixels_max
        self._answers = answers
        self._trials = trials
        self._outgoing = outgoing
        self._outgoing_letter = outgoing_letter
        self._announce = announce

    def submit(self, request: InferenceRequest, recording: Recording = _NOTHING) -> Future[Answer]:
        """Start an inference; the future ends with the answer, after the commit if the request is durable.

        A model so small that a lane would cost more than its inference runs at once, if the request is `on_loop`.
        Raises at once ModelError (not found, loading, failed), Overloaded, and MediaTypeError when a drawing is asked
        of a model that takes no pictures; the future raises InputError, InferenceError, InferenceTimeout and, when
        durable, StoreError.
        """
        self._on_source(request.source, None)
        request = self._rules.apply(request, recording.route)
        served = self._slots.choose(request.model, request.version)
        if request.draw and served.kind != "image":
            raise MediaTypeError(f"model {request.model} judges no pictures; ask for application/json")
        durable = request.durable or (request.door != "mqtt" and request.model in self._always_durable)
        committed: Future[Answer] | None = None
        if durable:
            committed = Future()
            committed.set_running_or_notify_cancel()
        view = self._rules.view(request, recording.route) if served.kind == "image" else None
        trial = None if request.version is not None else self._trials().get(request.model)
        if trial is None:
            # What the cache keeps holds for a whole picture, as it came.
            key = None if self._answers is None or request.draw or view is not None else answer_key(request, served)
            inferred = self._start(_Task(served, request, recording, committed, key, view))
        else:
            # A kept answer would tell nothing of the version on trial.
            task = _Task(served, request, recording, committed, None, view)
            inferred = self._start_tried(task, trial.turn(Asked(request, recording.route, view), served))
        if committed is None:
            return inferred
        waiting = committed
        inferred.add_done_callback(lambda future: _pass_error(future, waiting))
        return committed

    def _start(self, task: _Task) -> Future[Answer]:
        """Raises Overloaded."""
        request, served = task.request, task.served
        kept = None if self._answers is None or task.key is None else self._answers.get(task.key)
        if kept is not None:
            return self._answer_again(msgspec.structs.replace(task, cached=True), kept)
        if request.on_loop and served.may_run_on_loop() and _rows(request) <= ON_LOOP_ROWS_MAX:
            return self._run_here(task)
        return self._devices.lanes(served.loaded.device).submit(
            served.flow, self._run, task, request.priority, request.deadline_s
        )

    def _start_tried(self, task: _Task, turn: Turn | None) -> Future[Answer]:
        """What the version on trial cannot answer its stand-in answers. Raises Overloaded."""
        if turn is None:
            return self._start(task)
        tried = msgspec.structs.replace(task, served=turn.served, turn=turn)
        stand_in = None
        if turn.stand_in is not None:
            # By then it is a lane's thread that starts it, not the loop's.
            request = msgspec.structs.replace(task.request, on_loop=False)
            stand_in = msgspec.structs.replace(task, served=turn.stand_in, request=request)
        try:
            first = self._start(tried)
        except Overloaded:
            if stand_in is None:
                raise
            return self._start(stand_in)
        if stand_in is None:
            first.add_done_callback(partial(_tell, turn))
            return first
        answered: Future[Answer] = Future()
        answered.set_running_or_notify_cancel()
        first.add_done_callback(partial(self._stand_in, stand_in, turn, answered))
        return answered

    def _stand_in(self, task: _Task, turn: Turn, answered: Future[Answer], first: Future[Answer]) -> None:
        error = first.exception()
        if error is None:
            answered.set_result(first.result())
            return
        if isinstance(error, _NOT_THE_MODELS):
            answered.set_exception(error)
            return

        def settle(second: Future[Answer]) -> None:
            refused = second.exception()
            if refused is None:
                turn.failed(error)
                answered.set_result(second.result())
            else:
                answered.set_exception(refused)

        try:
            self._start(task).add_done_callback(settle)
        except ApplianceError as refused:
            answered.set_exception(refused)

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
        self, request: InferenceRequest, error: ApplianceError, letter: DeadLetter | None, recording: Recording
    ) -> None:
        """Record a message that is not judged: a dead letter, if it cannot be used, and a result `error`.

        Both are committed together, so that whoever waits for this part is answered.
        """
        self._on_source(request.source, None)
        request = self._rules.apply(request, recording.route)
        if letter is not None:
            letter = msgspec.structs.replace(letter, payload=self._rules.keepable(request.source, letter.payload))
        try:
            version = self._slots.on_disk(request.model)
        except ApplianceError:
            self._store.submit(
                Write(
                    dead_letter=letter,
                    outbox=() if letter is None else self.letter_rows(letter),
                    cursor=recording.cursor,
                    receipt=recording.receipt,
                    cleared=recording.cleared,
                    must=recording.must,
                    done=recording.done,
                )
            )
            return
        # The model may still be loading: what it is called is known all the same, which variant will serve is not.
        result = self._result(version, "", request, recording, error=error)
        self._record((result,), version.manifest, None, None, recording, letter)

    def letter_rows(self, letter: DeadLetter) -> tuple[Outgoing, ...]:
        """The outbox rows that are committed with a dead letter."""
        return self._outgoing_letter(letter)

    def heard(self, source: str) -> None:
        """It sent something that needs no inference now, such as a reading."""
        self._on_source(source, None)

    def keepable(self, source: str | None, payload: bytes) -> bytes:
        """As of `SiteRules`, for what never becomes a request."""
        return self._rules.keepable(source, payload)

    def _run_here(self, task: _Task) -> Future[Answer]:
        """Without a lane, on the thread of the caller; one call that takes too long ends that."""
        began = time.monotonic()
        job = Job(task.served.flow, self._run, task, began, began)
        try:
            self._run([job], "throughput")
        except Exception as error:
            job.settle(error)
        took_s = time.monotonic() - began
        if task.served.worked_here_s() > ON_LOOP_S_MAX or took_s > ON_LOOP_HELD_S_MAX:
            away_s = task.served.leave_loop()
            log.warning("off_loop", model=task.request.model, ms=round(took_s * 1000, 3), seconds=away_s)
        return job.future

    def _answer_again(self, task: _Task, kept: Inferred) -> Future[Answer]:
        """The same content for the same model: a result of its own, without an inference."""
        now_s = time.monotonic()
        job = Job(task.served.flow, self._run, task, now_s, now_s)
        self._finish(job, msgspec.structs.replace(kept, timing=_NO_TIME), "throughput")
        return job.future

    def _run(self, jobs: list[Job], gear: Gear) -> None:
        """Jobs of one model, in a lane's thread, or on the loop."""
        served: ServedModel = jobs[0].task.served
        inputs = [_input(job.task, job.queued_at) for job in jobs]
        for job, outcome in zip(jobs, served.run(inputs, gear), strict=True):
            if self._answers is not None and job.task.key is not None and isinstance(outcome, Inferred):
                self._answers.put(job.task.key, outcome)
            self._finish(job, outcome, gear)

    def _finish(self, job: Job, outcome: Inferred | ApplianceError, gear: Gear) -> None:
        if isinstance(outcome, ApplianceError):
            job.settle(outcome)
            return
        try:
            answer = self._conclude(job, job.task, outcome)
        except Exception as error:
            job.settle(error)
        else:
            job.settle(answer)
            turn: Turn | None = job.task.turn
            if turn is not None:
                turn.answered(outcome, gear, answer.result.id)

    def _conclude(self, job: Job, task: _Task, inferred: Inferred) -> Answer:
        """Judge and record. Raises StoreError and Overloaded when it is durable and cannot be recorded."""
        served, request, recording = task.served, task.request, task.recording
        results = tuple(
            self._result(
                served, served.variant.name, request, recording, prediction, inferred.timing, inferred.is_picture
            )
            for prediction in inferred.predictions
        )
        if inferred.quality is not None:
            self._on_source(request.source, inferred.quality)
        picture_kept = inferred.masked or request.body
        drawn = None
        if request.draw:
            picture = draw(decode_image(picture_kept, self._pixels_max), inferred.prediction, results[0].verdict)
            drawn = encode_jpeg(picture)
        answer = Answer(results, "queued", drawn, inferred.outputs, None if task.key is None else task.cached)
        committed = task.committed
        if not job.claim():
            # The time limit has answered for this input: a second answer would contradict the first.
            raise InferenceTimeout(f"model {served.manifest.name} answered too late")
        if committed is not None:
            recording = _then(recording, lambda outcome: _settle(committed, answer, outcome))
        frame = picture_kept if results[0].has_image else None
        try:
            self._record(results, served.manifest, frame, inferred.trace, recording)
        except (StoreError, Overloaded) as error:
            if committed is not None:
                raise
            log.warning("not_recorded", result=results[0].id, code=error.code)
            answer = msgspec.structs.replace(answer, recorded="no")
        _log(results, inferred.timing)
        return answer

    def _result(
        self,
        origin: ServedModel | ModelVersion,
        variant: str,
        request: InferenceRequest,
        recording: Recording,
        prediction: Prediction | None = None,
        timing: Timing | None = None,
        is_picture: bool = False,
        error: ApplianceError | None = None,
    ) -> Result:
        part = request.part
        rule = self._rules.verdict_rule(origin.manifest, request, recording.route)
        verdict: Verdict = "error" if prediction is None else judge(prediction, rule)
        clock = self._store.upkeep.clock
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
            verdict=verdict,
            model=origin.manifest.name,
            version=origin.manifest.version,
            variant=variant,
            digest=origin.digest,
            signed=origin.signed,
            prediction=prediction,
            score_review_min=rule.score_review_min,
            score_ng_min=rule.score_ng_min,
            error=None if error is None else {"code": error.code, "message": str(error)},
            timing=timing,
            has_image=is_picture and self._rules.keeps_picture(request.source, verdict, prediction),
            flags=recording.flags,
            boot=clock.last.boot,
            up_s=round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
            clock_ok=clock.ok,
        )

    def _record(
        self,
        results: tuple[Result, ...],
        manifest: ModelManifest,
        frame: bytes | None,
        trace: Trace | None,
        recording: Recording,
        letter: DeadLetter | None = None,
    ) -> None:
        """All results of an input are committed together. Raises StoreError, Overloaded."""
        bodies = [msgspec.json.encode(result) for result in results]

        def announce() -> None:
            for result, body in zip(results, bodies, strict=True):
                self._announce(result, body, trace)

        outbox = () if letter is None else self.letter_rows(letter)
        picture_bytes = 0 if frame is None else len(frame)
        for result, body in zip(results, bodies, strict=True):
            outbox += self._outgoing(result, body, picture_bytes)
            picture_bytes = 0
        kind = manifest.kind
        self._store.submit(
            Write(
                result=NewResult(
                    result=results[0],
                    kind=kind,
                    body=bodies[0],
                    frame=frame,
                    key=recording.key,
                    window=recording.window,
                ),
                more=tuple(
                    NewResult(result=result, kind=kind, body=body)
                    for result, body in zip(results[1:], bodies[1:], strict=True)
                ),
                dead_letter=letter,
                cursor=recording.cursor,
                receipt=recording.receipt,
                cleared=recording.cleared,
                outbox=outbox,
                must=recording.must,
                awaited=recording.must or recording.done is not None,
                done=both(recording.done, when_added(announce)),
            )
        )


def _rows(request: InferenceRequest) -> int:
    if request.tensors is None:
        return 1
    return max((len(array) for array in request.tensors.values() if array.ndim), default=1)


def _input(task: _Task, queued_at: float) -> Input:
    request = task.request
    return Input(request.body, request.media_type, request.tensors, queued_at, request.outputs, task.view)


def _log(results: tuple[Result, ...], timing: Timing) -> None:
    result = results[0]
    log.info(
        "inferred",
        result=result.id,
        results=len(results),
        door=result.door,
        model=result.model,
        source=result.source,
        verdict=result.verdict,
        queue_ms=timing.queue_ms,
        infer_ms=timing.infer_ms,
    )


def now() -> float:
    """The wall clock, in the form that results carry."""
    return round(time.time(), 6)


def _tell(turn: Turn, first: Future[Answer]) -> None:
    error = first.exception()
    if error is not None and not isinstance(error, _NOT_THE_MODELS):
        turn.failed(error)


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
