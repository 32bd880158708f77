"""A model version ready to serve: its compiled form and the steps around it, from encoded input to prediction."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.codecs import (
    JPEG,
    PNG,
    TENSORS,
    WINDOW,
    Image,
    decode_image,
    decode_json,
    decode_reduced,
    decode_window,
    encode_as,
    encode_window,
    sniff,
)
from appliance.core.area import black_out, pixels
from appliance.core.golden import check_answer
from appliance.core.manifest import GoldenCase, ImagePreprocess, Kind, ModelManifest, TensorPreprocess, Variant
from appliance.core.picture_quality import PictureQuality, measure
from appliance.core.postprocess import postprocess
from appliance.core.prediction import Prediction
from appliance.core.preprocess import Placement, input_size, place, preprocess_image, preprocess_window
from appliance.core.protocol import Timing, Trace
from appliance.core.schedule import Gear
from appliance.core.tensors import Array, check_tensor, tensors_from_json, to_array
from appliance.core.view import Placed, View, in_whole_picture
from appliance.errors import ApplianceError, DecodeError, InferenceError, MediaTypeError, ModelLoadError, ShapeError
from appliance.lanes import ENDPOINT, Flow
from appliance.repository import ModelVersion, read_golden, read_variant
from appliance.runtimes import Infer, LoadedModel, Loaders, LoadOptions

_TRACE_POINTS = 96
_TIMES_KEPT = 512
_OFF_LOOP_S = 1.0
_OFF_LOOP_S_MAX = 3_600.0
_OFF_LOOP_FORGIVEN = 10
"""After so many times the last absence without a slow call, the next absence is a short one again."""


ROWS_MAX = 4096
"""Rows of one call: each becomes a result, and one call must not hold up the box."""

_numbers = itertools.count(1)


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How a variant runs best on this box. gear: None: the one that suits what waits.

    half_size: large JPEGs are decoded at half their size. on_loop: so small that it runs without a lane.
    """

    gear: Gear | None = None
    batch_max: int = 1
    half_size: bool = False
    on_loop: bool = False


class Input(msgspec.Struct, frozen=True):
    """One input, encoded or as tensors. queued_at: monotonic seconds. outputs: whether the tensors are wanted.

    view: of a picture, None: all of it as it came.
    """

    body: bytes
    media_type: str
    tensors: Mapping[str, Array] | None
    queued_at: float
    outputs: bool = False
    view: View | None = None


class Prepared(msgspec.Struct, frozen=True):
    """What the network takes, rows along the first axis, and what the steps after it need to know.

    size: (height, width) of the picture as it was sent, or of the part of it that the model sees; placement: where that
    lies in the network's input. placed: which part it is. masked: the picture to keep instead of the one that came.
    """

    tensors: dict[str, Array]
    rows: int = 1
    size: tuple[int, int] | None = None
    placement: Placement | None = None
    trace: Trace | None = None
    placed: Placed | None = None
    masked: bytes | None = None
    quality: PictureQuality | None = None


class Inferred(msgspec.Struct, frozen=True):
    """What one input gave: a prediction per row, how long each step took, what a screen may show, raw outputs.

    masked, quality: of a picture, where its view asks for them.
    """

    predictions: tuple[Prediction, ...]
    timing: Timing
    is_picture: bool
    trace: Trace | None
    outputs: dict[str, Array] | None
    masked: bytes | None = None
    quality: PictureQuality | None = None

    @property
    def prediction(self) -> Prediction:
        return self.predictions[0]


class Stats:
    """Counts and nanoseconds since the load. executions: calls of the runtime; a batch is one."""

    __slots__ = (
        "errors",
        "executions",
        "fail_ns",
        "infer_ms",
        "infer_ns",
        "last_at",
        "lock",
        "output_ns",
        "prepare_ns",
        "queue_ns",
        "requests",
        "rows",
    )

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = self.errors = self.executions = self.rows = 0
        self.queue_ns = self.prepare_ns = self.infer_ns = self.output_ns = self.fail_ns = 0
        self.last_at = 0.0
        self.infer_ms: deque[float] = deque(maxlen=_TIMES_KEPT)


class ServedModel:
    """One loaded variant of one version. Any thread may run it; each gets sessions of its own."""

    def __init__(
        self,
        version: ModelVersion,
        variant: Variant,
        loaded: LoadedModel,
        pixels_max: int,
        *,
        weight: int = 10,
        tuning: Tuning | None = None,
    ) -> None:
        self.manifest: ModelManifest = version.manifest
        self.digest = version.digest
        self.signed = version.signed
        self.variant = variant
        self.loaded = loaded
        self.tuning = tuning or Tuning()
        self.number = next(_numbers)
        """No other loaded model of this process has it."""
        self.flow = Flow(str(self), weight=weight)
        self.stats = Stats()
        self._pixels_max = pixels_max
        self._sessions: dict[Gear, list[Infer]] = {gear: [] for gear in loaded.gears}
        self._here = threading.local()
        self._spec = self.manifest.inputs[0]
        self.tune(self.tuning)

    def __str__(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    def tune(self, tuning: Tuning) -> None:
        """Before it serves."""
        self.tuning = tuning
        self.flow.batch_max = tuning.batch_max if self.loaded.batches else 1
        self.on_loop = tuning.on_loop and self.loaded.device == "CPU"
        self._off_loop_s = _OFF_LOOP_S
        self._off_loop_until = 0.0

    def may_run_on_loop(self) -> bool:
        """Whether a call now may hold up the HTTP loop, since it is so short."""
        return self.on_loop and time.monotonic() >= self._off_loop_until

    def leave_loop(self) -> float:
        """A call took too long there; returns for how many seconds none is run there: twice as many when soon again.

        Not for good: what was slow may have been the machine, and a box runs for years.
        """
        now = time.monotonic()
        if now - self._off_loop_until > _OFF_LOOP_FORGIVEN * self._off_loop_s:
            self._off_loop_s = _OFF_LOOP_S
        away_s = self._off_loop_s
        self._off_loop_until = now + away_s
        self._off_loop_s = min(2 * away_s, _OFF_LOOP_S_MAX)
        return away_s

    def predict(self, body: bytes, media_type: str, gear: Gear = "throughput") -> Inferred:
        """One encoded input from start to end.

        Raises InputError for an input that does not fit, InferenceError when the runtime refuses it.
        """
        (outcome,) = self.run([Input(body, media_type, None, time.monotonic())], gear)
        if isinstance(outcome, ApplianceError):
            raise outcome
        return outcome

    def run(self, inputs: Sequence[Input], gear: Gear) -> list[Inferred | ApplianceError]:
        """Decode, preprocess, infer once for all, postprocess; an error takes the place of the input it is about."""
        outcomes: list[Inferred | ApplianceError] = []
        ready: list[tuple[int, Input, Prepared, float, float]] = []
        for index, each in enumerate(inputs):
            started = time.monotonic()
            try:
                prepared = self.prepare(each.body, each.media_type, each.tensors, each.view)
            except ApplianceError as error:
                self._failed(started)
                outcomes.append(error)
            else:
                # A place for the answer.
                outcomes.append(InferenceError("not run"))
                ready.append((index, each, prepared, started, time.monotonic()))
        if not ready:
            return outcomes
        began = time.monotonic()
        try:
            shared = self.infer(_stack([prepared for _, _, prepared, _, _ in ready]), gear)
        except ApplianceError as error:
            if len(ready) > 1:
                # One of them may be to blame: each on its own.
                for index, each, *_ in ready:
                    (outcomes[index],) = self.run([each], gear)
            else:
                self._failed(began)
                outcomes[ready[0][0]] = error
            return outcomes
        inferred = time.monotonic()
        at = 0
        for index, each, prepared, started, prepared_at in ready:
            outputs = shared if len(ready) == 1 else {n: a[at : at + prepared.rows] for n, a in shared.items()}
            at += prepared.rows
            ended = time.monotonic()
            try:
                predictions = self.conclude(outputs, prepared)
            except ApplianceError as error:
                self._failed(ended)
                outcomes[index] = error
                continue
            done = time.monotonic()
            outcomes[index] = Inferred(
                predictions,
                Timing(
                    queue_ms=_ms(started - each.queued_at),
                    preprocess_ms=_ms(prepared_at - started),
                    infer_ms=_ms(inferred - began),
                    postprocess_ms=_ms(done - ended),
                ),
                prepared.size is not None,
                prepared.trace,
                outputs if each.outputs else None,
                prepared.masked,
                prepared.quality,
            )
            self._count(
                each.queued_at, started, prepared_at, inferred - began, done - ended, prepared.rows, at == prepared.rows
            )
        return outcomes

    def prepare(
        self, body: bytes, media_type: str, tensors: Mapping[str, Array] | None = None, view: View | None = None
    ) -> Prepared:
        """Decode and preprocess. Raises InputError."""
        if tensors is not None:
            return self._checked(tensors)
        steps = self.manifest.preprocess
        name = self.manifest.name
        if isinstance(steps, ImagePreprocess):
            if media_type not in (JPEG, PNG):
                raise MediaTypeError(f"model {name} takes a picture, got {media_type}; send JPEG or PNG")
            if view is not None:
                return self._prepare_view(body, steps, view)
            image, size = self._decode(body, steps)
            placement = place(size, steps, self._spec)
            return Prepared({self._spec.name: preprocess_image(image, steps, self._spec)}, 1, size, placement)
        if isinstance(steps, TensorPreprocess):
            if media_type != TENSORS:
                raise MediaTypeError(
                    f'model {name} takes tensors, got {media_type}; send JSON {{"inputs": {{name: [[...]]}}}}'
                )
            return self._checked(tensors_from_json(body, self.manifest.inputs))
        if not media_type.startswith(WINDOW):
            raise MediaTypeError(
                f"model {name} takes {steps.size} rows of {len(steps.channels)} numbers, got {media_type}; "
                'send JSON {"rows": [[...], ...]}'
            )
        window = decode_window(body, media_type, steps.size, len(steps.channels))
        tensor = check_tensor(self._spec, preprocess_window(window, steps))
        trace = _trace(window, steps.unit, steps.size / steps.rate_hz, steps.channels)
        return Prepared({self._spec.name: tensor}, 1, None, None, trace)

    def infer(self, tensors: Mapping[str, Array], gear: Gear = "throughput") -> dict[str, Array]:
        """The network alone, in a session that nobody else uses now. Raises InferenceError."""
        gear = self.tuning.gear or gear
        if gear not in self._sessions:
            gear = self.loaded.gears[0]
        idle = self._sessions[gear]
        try:
            session = idle.pop()
        except IndexError:
            session = self.loaded.session(gear)
        began = time.thread_time()
        outputs = session(tensors)
        # In a thread's first call the runtime sets itself up there, which says nothing of those that follow.
        self._here.worked_s = time.thread_time() - began if hasattr(self._here, "worked_s") else 0.0
        # One that raised may be in any state, one that hangs never comes back: neither is used again.
        idle.append(session)
        return outputs

    def warm(self, sessions: int, probe: Mapping[str, Array]) -> None:
        """Open and use as many sessions as lanes may want at once, so that no request pays for it."""
        for gear, idle in self._sessions.items():
            while len(idle) < (1 if gear == "latency" and len(self._sessions) > 1 else sessions):
                session = self.loaded.session(gear)
                session(probe)
                idle.append(session)

    def worked_here_s(self) -> float:
        """How long this thread was at work in its last call of the network; 0 after its first."""
        worked_s: float = getattr(self._here, "worked_s", 0.0)
        return worked_s

    def conclude(self, outputs: Mapping[str, Array], prepared: Prepared) -> tuple[Prediction, ...]:
        """A prediction per row. Raises InferenceError for outputs that are NaN or infinite."""
        for name, output in outputs.items():
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise InferenceError(
                    f"output {name!r} of the model is NaN or infinite for this input; it is not judged"
                )
        if prepared.rows == 1:
            prediction = postprocess(outputs, self.manifest, prepared.size, prepared.placement)
            return (prediction if prepared.placed is None else in_whole_picture(prediction, prepared.placed),)
        return tuple(
            postprocess({n: a[row : row + 1] for n, a in outputs.items()}, self.manifest, None, None)
            for row in range(prepared.rows)
        )

    def _decode(self, body: bytes, steps: ImagePreprocess) -> tuple[Image, tuple[int, int]]:
        """The picture, perhaps at half its size, and its whole size."""
        if not self.tuning.half_size:
            image = decode_image(body, self._pixels_max)
            return image, (image.shape[0], image.shape[1])
        rows, columns = input_size(steps, self._spec)
        return decode_reduced(body, self._pixels_max, rows, columns)

    def _prepare_view(self, body: bytes, steps: ImagePreprocess, view: View) -> Prepared:
        """A picture with masks, cropped, or measured: decoded whole, and black where nobody may look from then on."""
        image = decode_image(body, self._pixels_max)
        quality = measure(image) if view.measured else None
        masked = None
        if view.masks:
            black_out(image, view.masks)
            masked = encode_as(image, sniff(body))
        placed = None
        if view.crop is not None:
            height, width = image.shape[:2]
            left, top, right, bottom = pixels(view.crop, height, width)
            placed = Placed((left, top, right, bottom), height, width)
            image = image[top:bottom, left:right]
        size = image.shape[0], image.shape[1]
        placement = place(size, steps, self._spec)
        tensors = {self._spec.name: preprocess_image(image, steps, self._spec)}
        return Prepared(tensors, 1, size, placement, placed=placed, masked=masked, quality=quality)

    def _checked(self, tensors: Mapping[str, Array]) -> Prepared:
        given = {spec.name: spec for spec in self.manifest.inputs}
        if tensors.keys() != given.keys():
            raise ShapeError(f"the inputs are {sorted(tensors)}, the model expects {sorted(given)}")
        checked = {name: check_tensor(spec, tensors[name]) for name, spec in given.items()}
        rows = {len(array) for name, array in checked.items() if given[name].shape[0] == -1}
        if len(rows) > 1:
            raise ShapeError(f"the inputs differ in their first axis ({sorted(rows)}); send as many rows of each")
        count = rows.pop() if rows else 1
        if not 0 < count <= ROWS_MAX:
            raise ShapeError(f"the inputs have {count} rows; send 1 to {ROWS_MAX} at once")
        return Prepared(checked, count)

    def _count(
        self,
        queued_at: float,
        started: float,
        prepared_at: float,
        infer_s: float,
        output_s: float,
        rows: int,
        executed: bool,
    ) -> None:
        stats = self.stats
        with stats.lock:
            stats.requests += 1
            stats.rows += rows
            stats.executions += executed
            stats.queue_ns += int((started - queued_at) * 1e9)
            stats.prepare_ns += int((prepared_at - started) * 1e9)
            stats.infer_ns += int(infer_s * 1e9)
            stats.output_ns += int(output_s * 1e9)
            stats.last_at = time.time()
            stats.infer_ms.append(infer_s * 1000)

    def _failed(self, started: float) -> None:
        with self.stats.lock:
            self.stats.requests += 1
            self.stats.errors += 1
            self.stats.fail_ns += int((time.monotonic() - started) * 1e9)


def load(
    version: ModelVersion,
    variant_name: str | None,
    loaders: Loaders,
    options: LoadOptions,
    pixels_max: int,
    *,
    weight: int = 10,
    tuning: Tuning | None = None,
) -> ServedModel:
    """Read, verify, compile and prove a version by its golden cases. Raises ModelError."""
    variant = find_variant(version, variant_name)
    files = read_variant(version, variant)
    for fresh in (False, True):
        given = msgspec.structs.replace(options, fresh=fresh)
        try:
            loaded = loaders[variant.format](version.manifest, variant, files, given)
            served = ServedModel(version, variant, loaded, pixels_max, weight=weight, tuning=tuning)
            _prove(served, version)
        except ModelLoadError:
            # What was compiled at an earlier start may have gone bad; the model itself deserves a second look.
            if fresh or options.compiled_dir is None:
                raise
        else:
            break
    if not loaded.device.startswith(ENDPOINT):
        served.warm(options.streams, a_real_input(served, version))
    served.stats = Stats()
    return served


def _prove(served: ServedModel, version: ModelVersion) -> None:
    """Every golden case in every gear. Raises ModelLoadError."""
    if served.loaded.device.startswith(ENDPOINT):
        # Its home proves it; an endpoint that is away now may be there when it is needed.
        return
    for gear in served.loaded.gears:
        for case in version.manifest.golden:
            check_golden(served, case, read_golden(version, case), gear)


def find_variant(version: ModelVersion, name: str | None) -> Variant:
    """The variant of that name, or the first. Raises ModelLoadError."""
    variants = version.manifest.variants
    variant = next((each for each in variants if name in (None, each.name)), None)
    if variant is None:
        raise ModelLoadError(f"no variant {name!r}; this model has {[each.name for each in variants]}")
    return variant


def check_golden(served: ServedModel, case: GoldenCase, content: bytes, gear: Gear = "throughput") -> float:
    """Return how far the answer is from the expected one; raises ModelLoadError when the case fails."""
    media_type = case.media_type
    if served.kind == "window":
        content, media_type = window_from_json(content)
    elif served.kind == "tensor":
        media_type = TENSORS
    outcome = served.run([Input(content, media_type, None, time.monotonic(), outputs=True)], gear)[0]
    where = f"golden case {case.file}, variant {served.variant.name} on {served.loaded.runtime}"
    if isinstance(outcome, ApplianceError):
        raise ModelLoadError(f"{where}: {outcome}") from outcome
    expected = expected_outputs(content, served.manifest) if served.kind == "tensor" else None
    try:
        return check_answer(case, served.manifest, served.variant.name, outcome.prediction, outcome.outputs, expected)
    except ValueError as error:
        raise ModelLoadError(f"{where}: {error}") from error


def a_real_input(served: ServedModel, version: ModelVersion) -> dict[str, Array]:
    """The tensors of the first golden case, or zeros."""
    for case in version.manifest.golden[:1]:
        content, media_type = read_golden(version, case), case.media_type
        if served.kind == "window":
            content, media_type = window_from_json(content)
        elif served.kind == "tensor":
            media_type = TENSORS
        return served.prepare(content, media_type).tensors
    return {
        spec.name: np.zeros([size if size > 0 else 1 for size in spec.shape], spec.dtype)
        for spec in version.manifest.inputs
    }


def window_from_json(body: bytes) -> tuple[bytes, str]:
    """{"rows": [[...], ...]} -> the window's own form and media type. Raises DecodeError, ShapeError."""
    content = decode_json(body)
    rows = content.get("rows") if isinstance(content, dict) else None
    return encode_window(rows_of_numbers(rows, "rows"))


def expected_outputs(body: bytes, manifest: ModelManifest) -> dict[str, Array]:
    """What a tensor model's golden case says the network must give. Raises DecodeError, ShapeError."""
    content = decode_json(body)
    given = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(given, dict):
        raise DecodeError('expected a JSON object with "outputs": {name: nested numbers}')
    return {spec.name: to_array(given[spec.name], spec) for spec in manifest.outputs if spec.name in given}


def rows_of_numbers(rows: object, field: str) -> list[list[float]]:
    """Raises DecodeError."""
    try:
        return msgspec.convert(rows, list[list[float]])
    except msgspec.ValidationError as error:
        raise DecodeError(f"{field!r} is not an array of rows of numbers: {error}") from error


def _stack(prepared: Sequence[Prepared]) -> dict[str, Array]:
    if len(prepared) == 1:
        return prepared[0].tensors
    return {name: np.concatenate([each.tensors[name] for each in prepared]) for name in prepared[0].tensors}


def _trace(window: npt.NDArray[np.float32], unit: str, duration_s: float, channels: tuple[str, ...]) -> Trace:
    """The lowest and highest value in each of about 96 stretches, per channel."""
    points = min(_TRACE_POINTS, len(window))
    starts = np.linspace(0, len(window), points, endpoint=False).astype(int)
    low = np.minimum.reduceat(window, starts, axis=0).T.round(4)
    high = np.maximum.reduceat(window, starts, axis=0).T.round(4)
    return Trace(
        unit=unit,
        duration_s=duration_s,
        channels=channels,
        low=tuple(tuple(row) for row in low.astype(float).round(4).tolist()),
        high=tuple(tuple(row) for row in high.astype(float).round(4).tolist()),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
