"""A trigger asks for the verdict of one part, and gets exactly one answer, in time.

The trigger is committed before it is acknowledged, its answer before it is told. While the commit of the trigger is
under way its pictures are taken and judged already. When the time is over before every camera has come to something,
the answer is `error`; a verdict that comes later is a result like any other, counted as late, and no second answer.
After a restart, whatever was taken and not answered is answered `error`, `interrupted`.

One thread ("triggers") owns everything here; doors, cameras, lanes and the store hand their news to it.
"""

from __future__ import annotations

import heapq
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial

import msgspec
import structlog

from appliance.codecs import sniff
from appliance.config import TriggerConfig
from appliance.core.protocol import InferenceRequest
from appliance.errors import (
    AnswerLate,
    ApplianceError,
    CameraError,
    Expired,
    InferenceError,
    Interrupted,
    Overloaded,
    StoreError,
    TriggerNotFound,
)
from appliance.pipeline import Answer, Pipeline, Recording
from appliance.plant import book
from appliance.plant.answer import TriggerAnswer, answer, of_error, of_result
from appliance.plant.asked import Asked
from appliance.plant.cameras import Cameras, Frame
from appliance.plant.counts import TriggerReport
from appliance.plant.open_trigger import OpenTrigger, Shot
from appliance.plant.telling import Tell, Telling, Untold
from appliance.schema import open_reader
from appliance.store import Store
from appliance.writes import Outgoing, Write, Written

log = structlog.get_logger("triggers")

OPEN_MAX = 200
"""Triggers without an answer yet; more are answered `overloaded` at once."""

_LATE_SHOWN_S = 60.0
_TIDY_EVERY_S = 60.0
_STOP_S = 3.0

Alarm = Callable[[str, str | None, str], None]
"""(kind, text or None, source): hold an alarm, or let it go."""


class Triggers:
    """tell: see `Tell`; called in the thread of the triggers. keep_s: how long answered ones stay on disk."""

    def __init__(
        self,
        configs: Iterable[TriggerConfig],
        cameras: Cameras,
        pipeline: Pipeline,
        store: Store,
        device: str,
        *,
        tell: Tell,
        alarm: Alarm = lambda kind, text, source: None,
        keep_s: float = 90 * 86_400.0,
    ) -> None:
        self._configs: Mapping[str, TriggerConfig] = {each.name: each for each in configs}
        self._cameras = cameras
        self._pipeline = pipeline
        self._store = store
        self._device = device
        self._telling = Telling(store, tell, self._gave_up)
        self._alarm = alarm
        self._keep_s = keep_s
        self.outgoing: Callable[[TriggerAnswer], tuple[Outgoing, ...]] = lambda _: ()
        """The rows for central that are committed with an answer."""
        self._reports = {name: TriggerReport(name=name) for name in self._configs}
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open: dict[int, OpenTrigger] = {}
        self._ends: list[tuple[float, int]] = []
        self._late_at: dict[str, float] = {}
        self._tidy_at = 0.0
        self._number = 0
        self._db: sqlite3.Connection | None = None
        self._stopping = False
        self._leave_by = 0.0
        self._thread = threading.Thread(target=self._run, name="triggers", daemon=True)
        self.beat = time.monotonic()

    def start(self) -> None:
        """After the store and before the doors: answers what the last run left open. Cameras start here too."""
        with closing(open_reader(self._store.path)) as db:
            self._number = book.last_number(db)
            left = book.unsent(db)
        self._settle(left)
        self._cameras.start()
        self._thread.start()

    def stop(self) -> None:
        """Before the doors: what is open is answered `interrupted`, and told once that is committed."""
        if self._thread.is_alive():
            self._post(self._interrupt_all)
            self._thread.join(2 * _STOP_S)
        self._cameras.stop()

    def config(self, name: str) -> TriggerConfig:
        """Raises TriggerNotFound."""
        found = self._configs.get(name)
        if found is None:
            there = ", ".join(self._configs) or "none; add [[triggers]] to the configuration"
            raise TriggerNotFound(f"there is no trigger {name[:80]!r}; the triggers are {there}")
        return found

    @property
    def configs(self) -> Iterable[TriggerConfig]:
        return self._configs.values()

    def ask(self, asked: Asked) -> None:
        """Take a trigger, from any thread; its answer goes where `asked` says. Raises Overloaded while it stops."""
        if self._stopping:
            raise Overloaded("the box stops; ask again when it is back")
        self._post(partial(self._take, asked))

    def reports(self) -> list[TriggerReport]:
        open_now = [each.config.name for each in list(self._open.values()) if each.answer is None]
        return [msgspec.structs.replace(each, open=open_now.count(name)) for name, each in self._reports.items()]

    def _post(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)

    def _run(self) -> None:
        with closing(open_reader(self._store.path)) as self._db:
            while not self._stopping or (self._open and time.monotonic() < self._leave_by):
                self._turn()

    def _turn(self) -> None:
        """One thing that happened, then whatever is due."""
        now = self.beat = time.monotonic()
        next_end = self._ends[0][0] - now if self._ends else 1.0
        try:
            task = self._tasks.get(timeout=max(0.0, min(next_end, 0.1 if self._stopping else 1.0)))
        except queue.Empty:
            pass
        else:
            self._guarded(task)
        self._guarded(self._end_what_is_over)
        self._guarded(lambda: self._telling.again(now))
        self._guarded(self._tidy)

    def _guarded(self, task: Callable[[], None]) -> None:
        """One trigger's trouble must not end all others."""
        try:
            task()
        except Exception:
            log.exception("trigger_failed")

    # From a message to its pictures.

    def _take(self, asked: Asked) -> None:
        report = self._reports[asked.trigger]
        report.asked += 1
        same = next((each for each in self._open.values() if each.is_same(asked)), None)
        if same is not None:
            report.duplicates += 1
            same.add(asked, duplicate=True)
            self._note(asked)
            return
        known = self._answered_before(asked)
        if known is not None:
            report.duplicates += 1
            self._note(asked)
            self._answer_again(asked, known)
            return
        others = [each for each in self._open.values() if each.answer is None]
        report.overlaps += any(each.config.name == asked.trigger for each in others)
        self._number += 1
        trigger = OpenTrigger(self._number, asked, self._configs[asked.trigger])
        if not self._commit_opening(trigger):
            return
        self._open[trigger.number] = trigger
        if asked.error is not None:
            self._close(trigger, asked.error)
        elif len(others) >= OPEN_MAX:
            self._close(trigger, Overloaded(f"{OPEN_MAX} triggers wait for their answer already; send fewer at once"))
        else:
            heapq.heappush(self._ends, (trigger.ends_at, trigger.number))
            for camera, shot in trigger.shots.items():
                self._expose(trigger, camera, shot)

    def _commit_opening(self, trigger: OpenTrigger) -> bool:
        """Whether the store took it. The pictures are not kept waiting for the commit, the acknowledgement is."""
        asked = trigger.asked

        def done(outcome: Written | StoreError) -> None:
            if asked.taken is not None:
                asked.taken(outcome)
            if isinstance(outcome, StoreError):
                self._post(partial(self._refuse, trigger, outcome))

        write = Write(also=(book.opened(trigger.number, asked),), receipt=asked.receipt, must=asked.must, done=done)
        try:
            self._store.submit(write)
        except (StoreError, Overloaded) as error:
            self._refuse(trigger, error)
            return False
        return True

    def _note(self, asked: Asked) -> None:
        """A duplicate is acknowledged like any message: when what it repeats, and its receipt, are committed."""
        try:
            self._store.submit(Write(receipt=asked.receipt, must=asked.must, done=asked.taken))
        except (StoreError, Overloaded):
            return  # it is not acknowledged

    def _answered_before(self, asked: Asked) -> TriggerAnswer | None:
        if asked.key is None or self._db is None:
            return None
        return book.answer_to(self._db, asked.trigger, asked.key)

    def _answer_again(self, asked: Asked, known: TriggerAnswer) -> None:
        again = msgspec.structs.replace(known, duplicate=True)
        if asked.waits is not None:
            asked.waits(again)
        if asked.reply is not None:
            self._telling.tell(again, self._configs[asked.trigger].answer_format, asked.reply)

    def _expose(self, trigger: OpenTrigger, camera: str, shot: Shot) -> None:
        def give(frame: Frame | CameraError) -> None:
            self._post(partial(self._exposed, trigger, camera, frame))

        shot.give = give
        self._cameras.take(camera, trigger.oldest, trigger.ends_at, give)

    def _exposed(self, trigger: OpenTrigger, camera: str, frame: Frame | CameraError) -> None:
        shot = trigger.shots[camera]
        if trigger.answer is not None or shot.done is not None:
            return
        shot.give = None
        if isinstance(frame, CameraError):
            self._fail(trigger, camera, frame)
            return
        shot.age_ms = round(max(0.0, trigger.asked.received - frame.received) * 1000, 1)
        self._reports[trigger.config.name].reused_frames += frame.uses > 1
        try:
            future = self._pipeline.submit(self._request(trigger, camera, frame), self._recording(trigger))
        except ApplianceError as error:
            self._fail(trigger, camera, error)
        else:
            future.add_done_callback(lambda done: self._post(partial(self._judged, trigger, camera, done)))

    def _request(self, trigger: OpenTrigger, camera: str, frame: Frame | None) -> InferenceRequest:
        """Raises InputError for what is no picture."""
        asked = trigger.asked
        return InferenceRequest(
            model=trigger.config.model,
            body=b"" if frame is None else frame.body,
            media_type="" if frame is None else sniff(frame.body),
            source=camera,
            door="http" if asked.reply is None else "mqtt",
            part=asked.part,
            at=asked.at,
            priority="interactive",
            deadline_s=max(0.0, trigger.ends_at - time.monotonic()),
        )

    def _recording(self, trigger: OpenTrigger) -> Recording:
        return Recording(route=trigger.config.name, must=trigger.asked.must)

    # From verdicts to the answer.

    def _judged(self, trigger: OpenTrigger, camera: str, future: Future[Answer]) -> None:
        error = future.exception()
        shot = trigger.shots[camera]
        if error is None and (trigger.answer is not None or shot.done is not None):
            self._count_late(trigger, camera, future.result())
        elif error is None:
            shot.done = of_result(camera, future.result().result, shot.age_ms or 0.0)
            self._close_if_judged(trigger)
        else:
            if not isinstance(error, ApplianceError):
                log.error("inference_failed", trigger=trigger.config.name, exc_info=error)
                error = InferenceError(f"{type(error).__name__}: {error}")
            self._fail(trigger, camera, _late(trigger, camera) if isinstance(error, Expired) else error)

    def _count_late(self, trigger: OpenTrigger, camera: str, judged: Answer) -> None:
        self._reports[trigger.config.name].late += 1
        log.warning("verdict_late", trigger=trigger.config.name, camera=camera, result=judged.result.id)
        self._show_late(trigger)

    def _fail(self, trigger: OpenTrigger, camera: str, error: ApplianceError) -> None:
        """This camera's share is an error; it is recorded as a result too, so that the part's history says so."""
        try:
            self._pipeline.reject(self._request(trigger, camera, None), error, None, self._recording(trigger))
        except (StoreError, Overloaded) as refused:
            log.warning("not_recorded", trigger=trigger.config.name, camera=camera, code=refused.code)
        shot = trigger.shots[camera]
        if trigger.answer is None and shot.done is None:
            shot.done = of_error(camera, error, shot.age_ms)
            self._close_if_judged(trigger)

    def _close_if_judged(self, trigger: OpenTrigger) -> None:
        if trigger.judged:
            self._close(trigger)

    def _end_what_is_over(self) -> None:
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            trigger = self._open.get(heapq.heappop(self._ends)[1])
            if trigger is None or trigger.answer is not None:
                continue
            for camera, shot in trigger.shots.items():
                if trigger.answer is not None or shot.done is not None:
                    continue
                if shot.give is not None:
                    self._fail(trigger, camera, self._cameras.forget(camera, shot.give, trigger.asked.received))
                    continue
                shot.done = of_error(camera, _late(trigger, camera), shot.age_ms)
                self._show_late(trigger)
                self._close_if_judged(trigger)

    def _close(self, trigger: OpenTrigger, error: ApplianceError | None = None) -> None:
        """Decide and commit; told afterwards. Called once for a trigger."""
        decided = trigger.decide(self._device, time.monotonic(), error)
        report = self._reports[trigger.config.name]
        report.answered += 1
        report.errors += decided.verdict == "error"
        report.last_ms = decided.ms
        log.info(
            "answered",
            trigger=trigger.config.name,
            number=trigger.number,
            verdict=decided.verdict,
            code=None if decided.error is None else decided.error["code"],
            ms=decided.ms,
        )
        write = Write(
            also=(book.answered(trigger.number, decided, sent=not trigger.replies),),
            outbox=self.outgoing(decided),
            must=trigger.asked.must,
            done=lambda outcome: self._post(partial(self._committed, trigger, outcome)),
        )
        try:
            self._store.submit(write)
        except (StoreError, Overloaded) as refused:
            self._refuse(trigger, refused)

    def _committed(self, trigger: OpenTrigger, outcome: Written | StoreError) -> None:
        self._open.pop(trigger.number, None)
        if isinstance(outcome, StoreError):
            self._refuse(trigger, outcome)
            return
        decided = trigger.answer
        assert decided is not None, "only what was decided is committed"
        for waits, duplicate in trigger.waits:
            waits(msgspec.structs.replace(decided, duplicate=duplicate))
        for reply, duplicate in trigger.replies:
            given = msgspec.structs.replace(decided, duplicate=duplicate)
            self._telling.hand_over(
                Untold(trigger.number, given, trigger.config.answer_format, reply, time.monotonic())
            )

    def _refuse(self, trigger: OpenTrigger, error: StoreError | Overloaded) -> None:
        """The store cannot take what was not promised to be kept: whoever waits hears so now, and nothing follows."""
        if trigger.refused:
            return  # its opening and its answer were refused together
        trigger.refused = True
        self._open.pop(trigger.number, None)
        decided = trigger.decide(self._device, time.monotonic(), error)
        for waits, _ in trigger.waits:
            waits(error)
        for reply, _ in trigger.replies:
            self._telling.tell(decided, trigger.config.answer_format, reply)
        # Its opening may be on disk already: the next start must not answer it a second time.
        closing_row = book.answered(trigger.number, decided, sent=True)
        self._store.submit(Write(also=(closing_row,), outbox=self.outgoing(decided), must=True))

    def _gave_up(self, name: str) -> None:
        if name in self._reports:
            self._reports[name].untold += 1

    # Around it all.

    def _settle(self, left: list[book.Entry]) -> None:
        """Before the thread runs: the last run's open triggers get their answer, its untold answers are told."""
        if left:
            self._telling.write_later(book.given_up(left[0].number))
        error = Interrupted("the box stopped before it could answer; ask again if the part is still there")
        for entry in left:
            decided = entry.answer
            report = self._reports.get(entry.name)
            if decided is None:
                config = self._configs.get(entry.name)
                decided = answer(
                    number=entry.number,
                    at=entry.at,
                    device=self._device,
                    trigger=entry.name,
                    part=entry.part,
                    key=entry.key,
                    model="" if config is None else config.model,
                    ms=0.0,
                    cameras=(),
                    error=error,
                )
                if report is not None:
                    report.interrupted += 1
            self._commit_settled(entry, decided)

    def _commit_settled(self, entry: book.Entry, decided: TriggerAnswer) -> None:
        config = self._configs.get(entry.name)
        form = "json" if config is None else config.answer_format
        reply = entry.reply

        def done(outcome: Written | StoreError) -> None:
            if reply is not None and isinstance(outcome, Written):
                untold = Untold(entry.number, decided, form, reply, time.monotonic())
                self._post(partial(self._telling.hand_over, untold))

        closing_row = book.answered(entry.number, decided, sent=reply is None)
        # What the last run answered it told central of, too.
        outbox = self.outgoing(decided) if entry.answer is None else ()
        self._store.submit(Write(also=(closing_row,), outbox=outbox, must=True, done=done))

    def _interrupt_all(self) -> None:
        """What is not committed in a moment is answered at the next start."""
        self._stopping = True
        self._leave_by = time.monotonic() + _STOP_S
        for trigger in list(self._open.values()):
            if trigger.answer is None:
                self._reports[trigger.config.name].interrupted += 1
                self._close(trigger, Interrupted("the box stops; ask again when it is back"))

    def _show_late(self, trigger: OpenTrigger) -> None:
        name = trigger.config.name
        self._late_at[name] = time.monotonic()
        self._alarm(
            "trigger_late",
            f"Trigger {name}: verdicts are not there within {trigger.config.answer_within_ms} ms; lighten the load of "
            "the box or raise answer_within_ms",
            name,
        )

    def _tidy(self) -> None:
        now = time.monotonic()
        for name, at in list(self._late_at.items()):
            if now - at > _LATE_SHOWN_S:
                del self._late_at[name]
                self._alarm("trigger_late", None, name)
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY_S
            self._telling.write_later(book.older_dropped(time.time() - self._keep_s))


def _late(trigger: OpenTrigger, camera: str) -> AnswerLate:
    within = trigger.config.answer_within_ms
    return AnswerLate(f"the verdict of camera {camera} was not there in time for an answer within {within} ms")
