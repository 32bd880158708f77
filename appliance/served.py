"""A model version ready to serve: its compiled form and the steps around it, from encoded input to prediction."""

from __future__ import annotations

import threading
import time
from collections import deque

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.codecs import JPEG, PNG, WINDOW, Image, decode_image, decode_json, decode_window, encode_window
from appliance.core.manifest import GoldenCase, ImagePreprocess, ModelManifest, Variant
from appliance.core.postprocess import postprocess
from appliance.core.prediction import Prediction
from appliance.core.preprocess import preprocess_image, preprocess_window
from appliance.core.protocol import Timing, Trace
from appliance.core.tensors import check_tensor
from appliance.core.verdict import judge
from appliance.errors import DecodeError, InferenceError, MediaTypeError, ModelLoadError
from appliance.repository import ModelVersion, read_golden, read_variant
from appliance.runtimes import Infer, LoadedModel, Loaders

_TRACE_POINTS = 96
_TIMES_KEPT = 512


class Inferred(msgspec.Struct, frozen=True):
    """What one inference gave: the prediction, how long each step took, and what a screen may show of the input."""

    prediction: Prediction
    timing: Timing
    image: Image | None
    trace: Trace | None


class ServedModel:
    """One loaded variant of one version. Any thread may call `predict`; each gets a session of its own."""

    def __init__(self, version: ModelVersion, variant: Variant, loaded: LoadedModel, pixels_max: int) -> None:
        self.manifest: ModelManifest = version.manifest
        self.digest = version.digest
        self.signed = version.signed
        self.variant = variant
        self.loaded = loaded
        self._pixels_max = pixels_max
        self._sessions = threading.local()
        self.requests = 0
        self.errors = 0
        self.infer_ms: deque[float] = deque(maxlen=_TIMES_KEPT)

    def __str__(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"

    @property
    def kind(self) -> str:
        """`image` or `window`: what one input is."""
        return "image" if isinstance(self.manifest.preprocess, ImagePreprocess) else "window"

    def predict(self, body: bytes, media_type: str, queued_at: float) -> Inferred:
        """Decode, preprocess, infer, postprocess. queued_at: monotonic seconds.

        Raises InputError for an input that does not fit, InferenceError when the runtime refuses it.
        """
        started = time.monotonic()
        steps = self.manifest.preprocess
        image: Image | None = None
        trace: Trace | None = None
        if isinstance(steps, ImagePreprocess):
            if media_type not in (JPEG, PNG):
                raise MediaTypeError(f"model {self.manifest.name} takes a picture, got {media_type}; send JPEG or PNG")
            image = decode_image(body, self._pixels_max)
            tensor = preprocess_image(image, steps, self.manifest.inputs[0])
        else:
            if not media_type.startswith(WINDOW):
                raise MediaTypeError(
                    f"model {self.manifest.name} takes {steps.size} rows of {len(steps.channels)} numbers, got "
                    f'{media_type}; send JSON {{"rows": [[...], ...]}}'
                )
            window = decode_window(body, media_type, steps.size, len(steps.channels))
            tensor = preprocess_window(window, steps)
            trace = _trace(window, steps.unit, steps.size / steps.rate_hz, steps.channels)
        spec = self.manifest.inputs[0]
        tensor = check_tensor(spec, tensor)
        prepared = time.monotonic()
        outputs = self._session()({spec.name: tensor})
        inferred = time.monotonic()
        for name, output in outputs.items():
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise InferenceError(
                    f"output {name!r} of the model is NaN or infinite for this input; it is not judged"
                )
        prediction = postprocess(outputs, self.manifest, None if image is None else (image.shape[0], image.shape[1]))
        ended = time.monotonic()
        self.infer_ms.append((inferred - prepared) * 1000)
        timing = Timing(
            queue_ms=_ms(started - queued_at),
            preprocess_ms=_ms(prepared - started),
            infer_ms=_ms(inferred - prepared),
            postprocess_ms=_ms(ended - inferred),
        )
        return Inferred(prediction, timing, image, trace)

    def _session(self) -> Infer:
        session: Infer | None = getattr(self._sessions, "infer", None)
        if session is None:
            session = self._sessions.infer = self.loaded.session()
        return session


def load(version: ModelVersion, variant_name: str | None, loaders: Loaders, lanes: int, pixels_max: int) -> ServedModel:
    """Read, verify, compile and prove a version by its golden cases. Raises ModelError."""
    variants = version.manifest.variants
    variant = next((each for each in variants if variant_name in (None, each.name)), None)
    if variant is None:
        raise ModelLoadError(f"no variant {variant_name!r}; this model has {[each.name for each in variants]}")
    files = read_variant(version, variant)
    served = ServedModel(version, variant, loaders[variant.format](version.manifest, variant, files, lanes), pixels_max)
    for case in version.manifest.golden:
        check_golden(served, case, read_golden(version, case))
    served.infer_ms.clear()
    return served


def check_golden(served: ServedModel, case: GoldenCase, content: bytes) -> float:
    """Return how far the score is from the expected one; raises ModelLoadError when the case fails."""
    media_type = case.media_type
    if served.kind == "window":
        content, media_type = window_from_json(content)
    prediction = served.predict(content, media_type, time.monotonic()).prediction
    label = prediction.classes[0].label if prediction.classes else case.label
    verdict = judge(prediction, served.manifest.verdict)
    off = abs((prediction.score if prediction.score is not None else case.score) - case.score)
    if label != case.label or verdict != case.verdict or not off <= case.tolerances[served.variant.name]:
        raise ModelLoadError(
            f"golden case {case.file}: expected {case.label}, {case.verdict}, score {case.score:.3f}; "
            f"variant {served.variant.name} on {served.loaded.runtime} says {label}, {verdict}, {prediction.score}"
        )
    return off


def window_from_json(body: bytes) -> tuple[bytes, str]:
    """{"rows": [[...], ...]} -> the window's own form and media type. Raises DecodeError, ShapeError."""
    content = decode_json(body)
    rows = content.get("rows") if isinstance(content, dict) else None
    return encode_window(rows_of_numbers(rows, "rows"))


def rows_of_numbers(rows: object, field: str) -> list[list[float]]:
    """Check that `rows` is an array of arrays of numbers. Raises DecodeError naming `field`."""
    try:
        return msgspec.convert(rows, list[list[float]])
    except msgspec.ValidationError as error:
        raise DecodeError(f"{field!r} is not an array of rows of numbers: {error}") from error


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
