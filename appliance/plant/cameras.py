"""Where triggers get their pictures: asked for at a URL, found in a folder, or the last one that came over MQTT.

The age of a picture is counted by the monotonic clock from its receipt on this box; how long a camera itself held it
back, the box cannot know.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from appliance.config import CameraConfig, FolderCamera, HttpCamera, MqttCamera
from appliance.errors import CameraError, FrameMissing, FrameTooOld
from appliance.plant.folder import FolderWatch
from appliance.plant.snapshot import Snapshot

log = structlog.get_logger("cameras")

_LOOK_EVERY_S = 0.02
_AT_ONCE = 2
"""Requests that one camera answers at a time: one that hangs must not keep others waiting."""


class Frame(msgspec.Struct, frozen=True):
    """An encoded picture. received: monotonic. uses: how many triggers have had it, this one included."""

    body: bytes
    received: float
    uses: int = 1


Give = Callable[[Frame | CameraError], None]
"""Gets the picture, at once or later, from any thread, at most once."""


class Cameras:
    """Raises ConfigError when a camera's password or certificate cannot be read."""

    def __init__(self, cameras: Mapping[str, CameraConfig]) -> None:
        self._pushed = {name: _Pushed() for name, each in cameras.items() if not isinstance(each, HttpCamera)}
        self._asked = {
            name: (Snapshot(name, each), ThreadPoolExecutor(_AT_ONCE, f"camera-{name}"))
            for name, each in cameras.items()
            if isinstance(each, HttpCamera)
        }
        self._folders = [
            FolderWatch(name, each, self._pushed[name].put)
            for name, each in cameras.items()
            if isinstance(each, FolderCamera)
        ]
        self.topics: dict[str, tuple[str, ...]] = {}
        """Topic -> the cameras that publish to it."""
        for name, each in cameras.items():
            if isinstance(each, MqttCamera):
                self.topics[each.topic] = (*self.topics.get(each.topic, ()), name)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="folders", daemon=True)
        self.beat: float | None = None

    def start(self) -> None:
        if self._folders:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for _, pool in self._asked.values():
            pool.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(5.0)

    def put(self, name: str, body: bytes) -> None:
        """A picture that came over MQTT takes the place of the one before."""
        self._pushed[name].put(body)

    def take(self, name: str, oldest: float, ends_at: float, give: Give) -> None:
        """Ask for one picture that came at `oldest` or later, monotonic; without one at hand the next one is waited
        for. Nobody waits for it any more at `ends_at`; `forget` is due then.
        """
        pushed = self._pushed.get(name)
        if pushed is not None:
            pushed.take(oldest, give)
            return
        snapshot, pool = self._asked[name]
        try:
            pool.submit(_fetch, snapshot, ends_at, give)
        except RuntimeError:  # the pool is shut down
            give(CameraError(f"camera {name} is not asked any more: the box stops"))

    def forget(self, name: str, give: Give, asked_at: float) -> CameraError:
        """Nobody waits for this picture any more; returns why there was none. asked_at: monotonic."""
        pushed = self._pushed.get(name)
        if pushed is None:
            return CameraError(f"camera {name} did not answer in time for the part")
        last = pushed.forget(give)
        fault = next((each.fault for each in self._folders if each.name == name and each.fault is not None), None)
        if fault is not None:
            return CameraError(f"camera {name}: {fault}")
        if last is None:
            return FrameMissing(f"camera {name} has sent no picture since the start of the box; check the camera")
        age_ms = (asked_at - last) * 1000
        return FrameTooOld(
            f"the last picture of camera {name} came {age_ms:.0f} ms before the trigger and none followed; check the "
            "camera, or raise frame_age_ms_max if a picture of that age still shows the part"
        )

    def _look(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            self.beat = time.monotonic()
            for folder in self._folders:
                try:
                    folder.look(self.beat)
                except Exception:
                    # One folder's trouble must not blind the others.
                    log.exception("folder_failed", camera=folder.name)


class _Pushed:
    """The last picture of a camera that sends by itself, and who waits for the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Frame | None = None
        self._waiting: list[Give] = []

    def put(self, body: bytes) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._last = frame = Frame(body, time.monotonic(), len(waiting))
        for count, give in enumerate(waiting, 1):
            give(msgspec.structs.replace(frame, uses=count))

    def take(self, oldest: float, give: Give) -> None:
        with self._lock:
            if self._last is None or self._last.received < oldest:
                self._waiting.append(give)
                return
            self._last = frame = msgspec.structs.replace(self._last, uses=self._last.uses + 1)
        give(frame)

    def forget(self, give: Give) -> float | None:
        """Returns when the last picture came, None: never."""
        with self._lock:
            if give in self._waiting:
                self._waiting.remove(give)
            return None if self._last is None else self._last.received


def _fetch(snapshot: Snapshot, ends_at: float, give: Give) -> None:
    try:
        body = snapshot.fetch(ends_at)
    except CameraError as error:
        give(error)
    except Exception as error:
        log.exception("snapshot_failed")
        give(CameraError(f"{type(error).__name__}: {error}"))
    else:
        give(Frame(body, time.monotonic()))
