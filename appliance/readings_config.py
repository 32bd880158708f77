"""What a route says about its readings: their form, their channels, their time, and how they become windows."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

DType = Literal[
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"
]
Form = Literal["auto", "json", "csv", "cbor", "raw", "base64", "image"]
TimeUnit = Literal["s", "ms", "us", "ns", "iso"]


class ChannelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel as its publisher sends it: `scale` * number + `offset` is in `unit`, None: in the model's unit."""

    name: str
    unit: str | None = None
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale:
            raise ValueError(f"channel {self.name!r}: a scale of 0 leaves nothing of it")


class ReadingsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a message holds and what becomes of it; a route without any of this takes JSON and windows by count.

    payload: the form of a message; `auto` goes by its content type, then takes JSON, or JPEG and PNG for a picture.
    `raw`: little-endian numbers of `dtype`, all channels of a sample together; `base64`: the same, or a picture, as
    text; `image`: JPEG or PNG and nothing else.
    values: dotted path of the readings in a JSON or CBOR object. channels: in the order of the payload.

    hop, hop_s: from the start of one window to the next, in samples of the model or in seconds (left out: no overlap
    and no space between). window_s: seconds of a window, which have to be those of the model.
    rate_hz: of the publisher's samples (left out: the model's rate). rate_field: dotted path of it in the payload.
    time_field: dotted path of the time in the payload, of the first sample or of each; or a field of each sample, a
    column of the CSV, a user property. Without it a sample was taken when its message came. time_unit: since 1970, or
    `iso` for text as in RFC 3339.

    gaps: a stretch of more than gap_ms_max without a sample (left out: ten samples) leaves out the windows it touches
    (`break`, as if left out), is bridged with a flag on the result (`fill`), or without (`ignore`).
    late: samples that come out of order are dropped, or put where they belong (`reorder`) if they come at most
    late_ms_max behind newer ones; windows wait for them so long. duplicates: which of two samples with one time counts.

    With a rate other than the model's, or with anything said about time, gaps or late samples, windows begin at fixed
    times, and their samples are put on the model's rate.
    """

    payload: Form = "auto"
    dtype: DType | None = None
    values: str = "values"
    channels: tuple[ChannelConfig, ...] = ()
    hop: Annotated[int, msgspec.Meta(ge=1)] | None = None
    hop_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    window_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1e7)] | None = None
    rate_field: str | None = None
    time_field: str | None = None
    time_unit: TimeUnit = "s"
    gaps: Literal["break", "fill", "ignore"] | None = None
    gap_ms_max: Annotated[float, msgspec.Meta(gt=0, le=86_400_000)] | None = None
    late: Literal["drop", "reorder"] = "drop"
    late_ms_max: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 0
    duplicates: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        if self.hop is not None and self.hop_s is not None:
            raise ValueError("give hop (in samples) or hop_s (in seconds), not both")
        if self.payload == "raw" and self.dtype is None:
            raise ValueError('payload `raw` needs the dtype of its numbers, such as dtype = "int16"')
        if (self.late == "reorder") != (self.late_ms_max > 0):
            raise ValueError('late = "reorder" and late_ms_max above 0 belong together')
        if self.duplicates == "last" and self.late != "reorder":
            raise ValueError('duplicates = "last" needs late = "reorder": without it nothing waits to be replaced')
        names = [channel.name for channel in self.channels]
        if len(set(names)) < len(names):
            raise ValueError(f"channels {names} name one twice; each has its own")

    @property
    def plain_form(self) -> bool:
        """Whether the numbers of a JSON payload are the model's as they are."""
        return self.payload in ("auto", "json") and not self.channels and self.dtype is None

    @property
    def plain_time(self) -> bool:
        """Whether nothing is said about time: samples are counted."""
        return (
            self.hop_s is None
            and self.window_s is None
            and self.rate_hz is None
            and self.rate_field is None
            and self.time_field is None
            and self.gaps is None
            and self.gap_ms_max is None
            and self.late == "drop"
        )
