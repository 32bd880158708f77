"""Pictures on their way through the lanes: their turns, a second try for the innocent, and marks for the suspect.

A picture that found no lane or no model waits for its turn again; one that hung is given up, unless another hung in the
same compiled model meanwhile. Where pictures are judged under suspicion, each is marked on disk before it starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec
import structlog

from appliance.core.protocol import InferenceRequest
from appliance.errors import (
    ApplianceError,
    Expired,
    InferenceError,
    InferenceTimeout,
    LaneTimeout,
    ModelNotReady,
    Overloaded,
    StoreError,
)
from appliance.mqtt.arrivals import Arrival
from appliance.mqtt.poison import Suspicion
from appliance.mqtt.turns import Priority, Turns, Waiter
from appliance.pipeline import Answer, Pipeline, Recording
from appliance.store import Store
from appliance.writes import Write, Written

log = structlog.get_logger("intake")


class Picture(Waiter):
    """tried: it timed out once, perhaps by the fault of another."""

    __slots__ = ("arrival", "hangs_before", "recording", "request", "suspicion", "tried")

    def __init__(
        self, arrival: Arrival, request: InferenceRequest, recording: Recording, suspicion: Suspicion | None
    ) -> None:
        route = arrival.route
        expires_at = None if route.expires_ms is None else time.monotonic() + route.expires_ms / 1000
        super().__init__(route.model, route.priority, alone=suspicion is not None, expires_at=expires_at)
        self.arrival = arrival
        self.request = request
        self.recording = recording
        self.suspicion = suspicion
        self.tried = False
        self.hangs_before = 0

    def left_s(self) -> float | None:
        """Seconds until it expires; None: never."""
        return None if self.expires_at is None else self.expires_at - time.monotonic()


class Pictures:
    """at_once: pictures of one model given to the lanes. What is judged records itself; the two callables are told of
    what is not: `expired` when it is too late, `rejected` when it cannot be judged. Any thread may call.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        at_once: int,
        *,
        expired: Callable[[Picture], None],
        rejected: Callable[[Picture, ApplianceError], None],
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._at_once = at_once
        self._expired = expired
        self._rejected = rejected
        self._lock = threading.Lock()
        self._turns: Turns[Picture] = Turns(at_once)
        self._hangs: dict[str, int] = {}

    def __len__(self) -> int:
        """Those that wait."""
        with self._lock:
            return len(self._turns)

    def crowded(self, model: str, priority: Priority) -> bool:
        """Whether what need not be kept has no place behind those that wait."""
        return self._turns.waiting(model, priority) >= 4 * self._at_once

    def add(self, job: Picture) -> None:
        with self._lock:
            self._turns.join(job)
        self._pump()

    def tick(self, now: float) -> None:
        """Try again what found no lane or no model, and give up what is too late. now: monotonic."""
        with self._lock:
            self._turns.resume()
            late = self._turns.take_expired(now)
        for job in late:
            self._expired(job)
        self._pump()

    def _pump(self) -> None:
        """Give waiting pictures to the lanes, a few at a time, so that callers of HTTP find room between them."""
        while (job := self._next()) is not None:
            if job.suspicion is None:
                self._start(job)
            elif self._pipeline.is_loading(job.model):
                # Only what is about to be judged is marked.
                self._put_back(job)
            else:
                self._store.submit(
                    Write(
                        suspect=job.suspicion.mark,
                        cleared=job.suspicion.replaces,
                        must=True,
                        done=partial(self._start_marked, job),
                    )
                )

    def _next(self) -> Picture | None:
        with self._lock:
            return self._turns.take()

    def _start_marked(self, job: Picture, _outcome: Written | StoreError) -> None:
        self._start(job)
        self._pump()

    def _start(self, job: Picture) -> None:
        """Give a picture to its lane."""
        job.hangs_before = self._hangs.get(job.model, 0)
        left_s = job.left_s()
        if left_s is not None and left_s <= 0:
            self._leave(job)
            self._expired(job)
            return
        try:
            future = self._pipeline.submit(msgspec.structs.replace(job.request, deadline_s=left_s), job.recording)
        except (Overloaded, ModelNotReady):
            self._put_back(job)
        except ApplianceError as error:
            self._leave(job)
            self._rejected(job, error)
        else:
            if future.done():
                # From the cache. Whoever pumps goes on by itself: a thousand such must not nest.
                self._conclude(job, future)
            else:
                future.add_done_callback(partial(self._judged, job))

    def _leave(self, job: Picture) -> None:
        with self._lock:
            self._turns.leave(job)

    def _put_back(self, job: Picture) -> None:
        """Until the next tick: at once would find the lanes as full as they were. Other models' pictures pass by."""
        with self._lock:
            self._turns.put_back(job)

    def _judged(self, job: Picture, future: Future[Answer]) -> None:
        """In the lane's thread, or the watchdog's."""
        self._conclude(job, future)
        self._pump()

    def _conclude(self, job: Picture, future: Future[Answer]) -> None:
        """The acknowledgement follows with the commit."""
        error = future.exception()
        never_ran = isinstance(error, Overloaded | ModelNotReady | LaneTimeout) and not isinstance(error, Expired)
        hung = isinstance(error, InferenceTimeout) and not isinstance(error, LaneTimeout)
        if never_ran or (hung and self._may_be_innocent(job)):
            self._put_back(job)
            return
        with self._lock:
            self._turns.leave(job)
            if hung:
                # The next tick goes on, when the model that hung has been retired.
                self._turns.pause(job.model)
        if isinstance(error, Expired):
            self._expired(job)
        elif error is not None:
            if not isinstance(error, ApplianceError):
                log.error("inference_failed", topic=job.arrival.message.topic, exc_info=error)
                error = InferenceError(f"{type(error).__name__}: {error}")
            self._rejected(job, error)

    def _may_be_innocent(self, job: Picture) -> bool:
        """Whether another picture hung in the same compiled model meanwhile: this one may only have waited for it."""
        hangs = self._hangs.get(job.model, 0)
        self._hangs[job.model] = hangs + 1
        innocent = not job.tried and hangs > job.hangs_before
        job.tried = True
        return innocent
