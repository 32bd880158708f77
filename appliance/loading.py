"""The threads in which models are compiled, one change after the other, and the bound on how long one may take.

A native call cannot be cancelled. A change that takes too long is answered with an error, its thread is left to itself,
and whoever waits behind it gets a turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from appliance.config import ModelConfig
from appliance.errors import ModelError, ModelLoadError
from appliance.repository import ModelVersion
from appliance.served import ServedModel
from appliance.tuning import Choice, Tuner

LOAD_S_MAX = 120.0


class Turn:
    """A change that somebody asked for. Its thread and the bound on loads compete for the answer.

    undo: called once when it has failed, before anybody is told.
    """

    def __init__(self, what: str, undo: Callable[[], None] | None = None) -> None:
        self.what = what
        self.began = 0.0
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()
        self._undo = undo
        self._open = threading.Lock()

    def begin(self, what: str) -> None:
        """Another model of this change is loaded now: the bound is for each."""
        self.what, self.began = what, time.monotonic()

    def is_over(self) -> bool:
        """Whether it was answered already, so that whatever its thread finds comes too late."""
        return self._open.locked()

    def settle(self, error: Exception | None) -> None:
        if not self._open.acquire(blocking=False):
            return
        if error is None:
            self.done.set_result(None)
            return
        if self._undo is not None:
            self._undo()
        self.done.set_exception(error)


class Loader:
    """Compiles models by what their sites say, in threads that a stop waits for."""

    def __init__(self, tuner: Tuner, models: Mapping[str, ModelConfig], tune: bool) -> None:
        self._tuner = tuner
        self._models = models
        self._tune = tune
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        self._now: Turn | None = None

    def compile(self, version: ModelVersion, *, first: bool = False) -> tuple[ServedModel, Choice]:
        """first: nobody is served yet, so that the box may be measured, with all its cores.

        Raises ModelError: a runtime may raise anything while compiling a file it does not know.
        """
        config = self._models.get(version.manifest.name, ModelConfig())
        try:
            return self._tuner.load(version, config, measure=first and self._tune, compile_threads=0 if first else 1)
        except ModelError:
            raise
        except Exception as error:
            raise ModelLoadError(f"{type(error).__name__}: {error}") from error

    def start_thread(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def in_turn(self, what: str, run: Callable[[Turn], None], undo: Callable[[], None] | None = None) -> Future[None]:
        """One after the other: a load takes cores from what is served."""
        turn = Turn(what, undo)

        def work() -> None:
            with self._turn:
                turn.begin(what)
                self._now = turn
                try:
                    run(turn)
                except Exception as error:
                    turn.settle(error)
                else:
                    turn.settle(None)
                finally:
                    if self._now is turn:
                        self._now = None

        self.start_thread(work, f"change-{what}")
        return turn.done

    def check(self, now: float) -> None:
        """Enforce the bound on the change that has its turn. now: monotonic."""
        turn = self._now
        if turn is None or now - turn.began <= LOAD_S_MAX:
            return
        # Its thread is lost; whoever waits for a turn gets a new one.
        self._now, self._turn = None, threading.Lock()
        turn.settle(ModelLoadError(f"model {turn.what} did not load within {LOAD_S_MAX:g} s"))

    def stop(self, timeout_s: float) -> bool:
        """Whether everything that was being compiled was done in time."""
        ends_at = time.monotonic() + timeout_s
        compiling = [thread for thread in self._threads if thread.is_alive()]
        for thread in compiling:
            thread.join(max(0.0, ends_at - time.monotonic()))
        return not any(thread.is_alive() for thread in compiling)
