"""What crosses the doors: a request going in, a result coming out, a reading, a message.

Times: `at` is wall clock in seconds since 1970 (UTC), as the box knows it; durations are milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from appliance.core.prediction import Prediction
from appliance.core.tensors import Array
from appliance.core.verdict import Verdict, VerdictRule

RESULT_SCHEMA = 1

Door = Literal["http", "oip", "tfs", "deepstack", "mqtt"]
Priority = Literal["interactive", "live", "backlog"]
Recorded = Literal["committed", "queued", "no"]


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the publisher says the input belongs to."""

    part: str | None = None
    lot: str | None = None
    recipe: str | None = None


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One input for one model, still in the form it arrived in.

    body: encoded bytes in `media_type`, or an array (size, channels) float32 when `media_type` is a window.
    tensors: logical name -> array for every input of the model, instead of a body; the first axis is the batch, and
    every row of it becomes a result. outputs: whether the answer shall carry the network's output tensors.
    override: of the route; recipes are applied by the pipeline. deadline_s: how long it may wait and run, at most as
    long as `lanes.timeout_s`. on_loop: its door is on the HTTP loop, where a tiny model may run at once.
    """

    model: str
    version: str | None = None
    body: bytes = b""
    media_type: str = ""
    tensors: Mapping[str, Array] | None = None
    outputs: bool = False
    source: str
    door: Door
    part: Part = Part()
    override: VerdictRule | None = None
    at: float
    durable: bool = False
    draw: bool = False
    priority: Priority = "interactive"
    deadline_s: float | None = None
    on_loop: bool = False


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds: waiting for a lane, decode and preprocess, the model alone, everything after it."""

    queue_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float


class Trace(msgspec.Struct, frozen=True):
    """The curve of a window for a screen: the lowest and highest value in each of n equal stretches, per channel."""

    unit: str
    duration_s: float
    channels: tuple[str, ...]
    low: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One judged input, with its origin and its part. The same over HTTP and MQTT.

    id: order of acceptance on this box; wall time is for people. digest: of the manifest. signed: whether the model
    came through the trusted update path. score_review_min, score_ng_min: the limits that applied, those of route and
    recipe included. error: `code` and message when the verdict is `error`. flags: e.g.
    `maybe_duplicate`. boot, up_s: which boot of the box it was, and the seconds since then: true whatever the wall
    clock shows. clock_ok: false where the wall clock could not be believed.
    """

    schema: int
    id: int
    at: float
    device: str
    door: Door
    source: str
    route: str | None = None
    part: str | None = None
    lot: str | None = None
    recipe: str | None = None
    verdict: Verdict
    model: str
    version: str
    variant: str
    digest: str
    signed: bool
    prediction: Prediction | None = None
    score_review_min: float | None = None
    score_ng_min: float | None = None
    error: dict[str, str] | None = None
    timing: Timing | None = None
    has_image: bool = False
    flags: tuple[str, ...] = ()
    boot: str | None = None
    up_s: float | None = None
    clock_ok: bool = True
