"""A pipeline and a store that do what a test says, when it says so, for the parts of the box between the two."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from appliance.core.protocol import InferenceRequest
from appliance.errors import ApplianceError, ModelNotReady
from appliance.pipeline import Recording
from appliance.writes import Cursor, DeadLetter, Write, Written


class Run:
    """An inference that a test ends."""

    def __init__(self, request: InferenceRequest, recording: Recording) -> None:
        self.request = request
        self.recording = recording
        self.future: Future[Any] = Future()

    def end(self, error: ApplianceError | None = None) -> None:
        """With an answer, which is committed at once, or an error."""
        if error is not None:
            self.future.set_exception(error)
            return
        self.future.set_result(None)
        commit(self.recording)


def commit(recording: Recording) -> None:
    assert recording.done is not None
    recording.done(Written())


class PipelineByHand:
    """refuses: model -> what its submissions raise. at_once: models that answer immediately."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.rejected: list[tuple[InferenceRequest, ApplianceError, DeadLetter | None, Recording]] = []
        self.refuses: dict[str, ApplianceError] = {}
        self.at_once: set[str] = set()

    def submit(self, request: InferenceRequest, recording: Recording) -> Future[Any]:
        if request.model in self.refuses:
            raise self.refuses[request.model]
        run = Run(request, recording)
        self.runs.append(run)
        if request.model in self.at_once:
            run.end()
        return run.future

    def is_loading(self, model: str) -> bool:
        return isinstance(self.refuses.get(model), ModelNotReady)

    def reject(
        self, request: InferenceRequest, error: ApplianceError, letter: DeadLetter | None, recording: Recording
    ) -> None:
        self.rejected.append((request, error, letter, recording))
        commit(recording)

    def started(self) -> list[str]:
        """The sources of all that was ever started, in order."""
        return [run.request.source for run in self.runs]


class StoreByHand:
    """Commits at once. cursors: of streams, from before."""

    def __init__(self, cursors: Iterable[Cursor] = ()) -> None:
        self.writes: list[Write] = []
        self._cursors = tuple(cursors)
        self._numbers = itertools.count(1)

    def submit(self, write: Write) -> None:
        self.writes.append(write)
        if write.done is not None:
            write.done(Written(reading_ids=tuple(next(self._numbers) for _ in write.readings)))

    def cursors(self) -> tuple[Cursor, ...]:
        return self._cursors
