"""The figures to reach, and what a run says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from benchmarks.contenders import APPLIANCE, BARE, FASTAPI, FASTAPI_BY_HAND, FASTAPI_ON_LOOP, MLSERVER_BY_HAND
from benchmarks.ratios import Interval, Round, best_of, interval, paired, reached

LITSERVE, MLSERVER = "LitServe", "MLServer"


WITHOUT_TARGET = {
    FASTAPI_ON_LOOP: "runs the tiny network on its event loop: one slow inference would hold up every caller, so "
    "nobody serves a model that way who has more than one",
    FASTAPI_BY_HAND: "reads the body as bytes and parses it with orjson, past the framework's own way to declare it",
    MLSERVER_BY_HAND: "is a handler that takes the JPEG as it is, past the protocol that MLServer is for",
}
"""Ways that are shown, and why no figure is to be reached against them."""


class Figure(NamedTuple):
    """The appliance's `field` in `cell` against a family's, or against its own `against_field`.

    at_least, at_most: what the upper end of the interval has to meet; without either the figure is only shown.
    """

    work: str
    cell: str
    against: str | None = None
    field: str = "per_s"
    against_field: str | None = None
    how: Literal["ratio", "difference"] = "ratio"
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"

    @property
    def name(self) -> str:
        """Fixed, so that runs can be compared."""
        return "/".join((self.cell, self.field, self.against or self.against_field or "alone"))


class Found(NamedTuple):
    """What a run says of a figure. ours, theirs: medians in the field's unit; key: of the other side's best way."""

    figure: Figure
    ours: float
    theirs: float | None
    key: str | None
    interval: Interval
    rounds: int

    @property
    def reached(self) -> bool | None:
        return reached(self.interval, self.figure.at_least, self.figure.at_most)


def _rate(work: str, cell: str, against: str, at_least: float | None = None) -> Figure:
    return Figure(work, cell, against, at_least=at_least)


_TINY_1, _TINY_32 = "tiny model, JSON, 1 caller", "tiny model, JSON, 32 callers"
_TENSOR = "JSON tensor 1x224x224x3, 8 callers"

FIGURES: tuple[Figure, ...] = (
    _rate("JPEG upload, 1 caller", "jpeg/1", BARE, 0.90),
    _rate("JPEG upload, 1 caller", "jpeg/1", FASTAPI),
    _rate("JPEG upload, 1 caller", "jpeg/1", LITSERVE),
    _rate("JPEG upload, 1 caller", "jpeg/1", MLSERVER),
    _rate("JPEG upload, 1 caller", "jpeg/1", MLSERVER_BY_HAND),
    *(
        _rate(f"JPEG upload, {callers} callers", f"jpeg/{callers}", against, least)
        for callers in (8, 32)
        for against, least in ((BARE, 0.92), (FASTAPI, 1.0), (LITSERVE, 1.5), (MLSERVER, 1.5), (MLSERVER_BY_HAND, None))
    ),
    *(
        _rate(f"JPEG upload, {callers} callers, default precision", f"default/{callers}", against, least)
        for callers in (8, 32)
        for against, least in ((BARE, 0.88), (FASTAPI, 1.0))
    ),
    _rate("binary tensor 1x224x224x3, 8 callers", "binary/8", BARE, 0.88),
    Figure(
        "binary tensor 1x224x224x3, 1 caller, p50",
        "binary/1",
        BARE,
        "p50_ms",
        how="difference",
        at_most=0.8,
        unit="ms",
    ),
    _rate(_TENSOR, "json/8", FASTAPI, 4.0),
    _rate(_TENSOR, "json/8", FASTAPI_BY_HAND),
    _rate(_TENSOR, "json/8", LITSERVE, 2.0),
    _rate(_TENSOR, "json/8", MLSERVER, 2.0),
    _rate(_TINY_1, "tiny/1", FASTAPI, 1.5),
    _rate(_TINY_1, "tiny/1", FASTAPI_ON_LOOP),
    _rate(_TINY_1, "tiny/1", LITSERVE, 3.0),
    _rate(_TINY_1, "tiny/1", MLSERVER, 3.0),
    _rate(_TINY_32, "tiny/32", FASTAPI, 2.5),
    _rate(_TINY_32, "tiny/32", FASTAPI_ON_LOOP),
    _rate(_TINY_32, "tiny/32", LITSERVE, 3.0),
    _rate(_TINY_32, "tiny/32", MLSERVER, 3.0),
    Figure("JPEG upload, 32 callers, p99 / p50", "jpeg/32", None, "p99_ms", "p50_ms", at_most=1.5),
    Figure("tiny model, 32 callers, p99 / p50", "tiny/32", None, "p99_ms", "p50_ms", at_most=2.5),
    Figure("start to the first right answer", "start", None, "start_s", at_most=1.3, unit="s"),
    Figure("memory then (PSS), one MobileNetV2", "start", None, "pss_mb", at_most=250, unit="MB"),
    _rate("on one core: JPEG upload, 8 callers", "onecore-jpeg/8", BARE),
    _rate("on one core: JPEG upload, 8 callers", "onecore-jpeg/8", FASTAPI),
    _rate("on one core: tiny model, JSON, 32 callers", "onecore-tiny/32", FASTAPI),
    _rate("on one core: tiny model, JSON, 32 callers", "onecore-tiny/32", FASTAPI_ON_LOOP),
    Figure(
        "p99 at half load while another model loads, against before",
        "loading",
        None,
        "loading_p99_ms",
        "quiet_p99_ms",
        at_most=2.0,
    ),
    Figure("the same while a load fails", "loading", None, "failing_p99_ms", "quiet_p99_ms", at_most=2.0),
    Figure("readings with keys over the built-in listener, committed", "stream", at_least=40_000, unit="/s"),
    Figure("readings through Mosquitto, committed", "stream-broker", at_least=15_000, unit="/s"),
    Figure(
        "reading to PUBACK at 20,000/s over the listener, p99",
        "stream-acks",
        field="p99_ms",
        at_most=30,
        unit="ms",
    ),
    Figure("readings into windows beside HTTP, 20,000/s offered", "stream-windows", at_least=19_900, unit="/s"),
    Figure("small HTTP request beside them, p99 against 3x idle or 2 ms", "stream-windows", field="over", at_most=1.0),
    Figure("pictures 640x480 over MQTT against HTTP", "stream-frames", field="share", at_least=0.9),
    Figure(
        "trigger to answer at 10/s beside 5,000 readings/s, p99",
        "stream-triggers",
        field="p99_ms",
        at_most=25,
        unit="ms",
    ),
    Figure("bytes written per result at 1,000/s", "stream-written", field="bytes", at_most=6144, unit="B"),
)


def find(rounds: Sequence[Round], families: Mapping[str, Mapping[str, Sequence[str]]]) -> list[Found]:
    """What the rounds say of every figure that was measured.

    families: cell -> family -> keys of its ways. Of several ways of a family the one with the best median rate counts.
    """
    found = []
    for figure in FIGURES:
        ours = f"{figure.cell}/{APPLIANCE}"
        theirs: tuple[str, str] | None = None
        if figure.against is not None:
            key = best_of(rounds, families.get(figure.cell, {}).get(figure.against, ()))
            if key is None:
                continue
            theirs = (key, figure.field)
        elif figure.against_field is not None:
            theirs = (ours, figure.against_field)
        values = paired(rounds, (ours, figure.field), theirs, figure.how)
        if not values:
            continue
        found.append(
            Found(
                figure,
                interval(paired(rounds, (ours, figure.field))).median,
                None if theirs is None else interval(paired(rounds, theirs)).median,
                None if theirs is None else theirs[0],
                interval(values),
                len(values),
            )
        )
    return found
