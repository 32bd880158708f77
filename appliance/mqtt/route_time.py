"""When the samples of a route were taken, and how its windows lie in time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.sample_times import LATEST_NS, NS, Block, Times, follow, follow_arrival, pack_times
from appliance.core.time_windows import TimePolicy
from appliance.errors import ConfigError, FieldError, ShapeError
from appliance.fields import MISSING, at_path
from appliance.mqtt.message import InboundMessage
from appliance.readings_config import TimeUnit

_NS_OF = {"s": NS, "ms": 1_000_000, "us": 1000, "ns": 1}
_GAP_STEPS = 10
_SPAN_TOLERANCE = 0.01
_SOURCES_MAX = 10_000


def time_policy(route: RouteConfig, steps: WindowPreprocess) -> TimePolicy | None:
    """How the readings of a route are joined for its model; None: counted, without a look at the time.

    Raises ConfigError when the route's windows are not the model's.
    """
    if route.plain_time:
        return None
    others = (route.hop_s, route.window_s, route.rate_field, route.time_field, route.gaps, route.gap_ms_max)
    if route.rate_hz == steps.rate_hz and route.late == "drop" and not any(others):
        return None
    span_s = steps.size / steps.rate_hz
    if route.window_s is not None and abs(route.window_s - span_s) > _SPAN_TOLERANCE * span_s:
        raise ConfigError(
            f"route {route.name} has window_s = {route.window_s:g}, but model {route.model} judges {steps.size} "
            f"samples at {steps.rate_hz:g} Hz, which take {span_s:g} s; leave window_s out, or take another model"
        )
    step = NS / steps.rate_hz
    hop = round(route.hop_s * NS if route.hop_s is not None else (route.hop or steps.size) * step)
    slowest = max(step, NS / route.rate_hz if route.rate_hz is not None else 0.0)
    gap_max = _GAP_STEPS * slowest if route.gap_ms_max is None else route.gap_ms_max * 1e6
    return TimePolicy(
        size=steps.size,
        step=step,
        hop=max(1, hop),
        gap_max=max(round(gap_max), round(step)),
        gaps=route.gaps or "break",
        late_max=route.late_ms_max * 1_000_000,
        duplicates=route.duplicates,
    )


class RouteClock:
    """Gives the samples of a route their times. Messages of one source come one after the other."""

    def __init__(self, route: RouteConfig, policy: TimePolicy) -> None:
        self._route = route
        self._policy = policy
        self._expected: dict[str, int] = {}
        unit_ns = 0 if route.time_unit in ("s", "iso") else _NS_OF[route.time_unit]
        # A sender's time is rounded to its unit, the time of its samples is not.
        self._slack = max(round(policy.step), unit_ns)

    def times(
        self, message: InboundMessage, fields: Mapping[str, object], of_rows: object, source: str, at: float, count: int
    ) -> bytes:
        """The times of `count` samples, packed.

        of_rows: what stands beside each sample, or MISSING. at: when the message came, in seconds.

        Raises FieldError, ShapeError.
        """
        route = self._route
        rate_hz = self._rate(fields)
        step = self._policy.step if rate_hz is None else NS / rate_hz
        if route.time_field is None:
            first = round(at * NS) - round((count - 1) * step)
            if rate_hz is not None or count > 1:
                first = follow_arrival(self._expected.get(source), first, self._policy.gap_max)
            return self._block(source, first, step, count)
        said = of_rows
        if said is MISSING:
            said = at_path(fields, route.time_field)
        if said is MISSING:
            said = dict(message.user_properties).get(route.time_field, MISSING)
        if said is MISSING or said is None:
            raise FieldError(f"route {route.name} expects the time in {route.time_field!r}, which is missing")
        if isinstance(said, list | np.ndarray):
            times = _nanoseconds(said, route.time_unit)
            if len(times) != count:
                raise ShapeError(
                    f"there are {len(times)} times for {count} samples; send one time for each, or the first"
                )
            return pack_times(times)
        first = int(_nanoseconds([said], route.time_unit)[0])
        if count > 1:
            # A block that is missing, or comes before its turn, is off by a whole block.
            slack = min(self._slack, round(count * step) // 2)
            first = follow(self._expected.get(source), first, slack)
        return self._block(source, first, step, count)

    def _block(self, source: str, first: int, step: float, count: int) -> bytes:
        block = Block(first, step, count)
        if len(self._expected) >= _SOURCES_MAX and source not in self._expected:
            self._expected.clear()
        self._expected[source] = block.following
        return block.pack()

    def _rate(self, fields: Mapping[str, object]) -> float | None:
        if self._route.rate_field is None:
            return self._route.rate_hz
        rate = at_path(fields, self._route.rate_field)
        if rate is MISSING:
            return self._route.rate_hz
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e7:
            raise FieldError(
                f"rate {str(rate)[:40]!r} in {self._route.rate_field!r}: expected samples per second, above 0"
            )
        return float(rate)


def _nanoseconds(said: Any, unit: TimeUnit) -> Times:
    """Numbers or texts -> ns since 1970. Raises FieldError."""
    first = said[0] if len(said) else None
    if isinstance(first, str | datetime):
        said = [_from_text(each, unit) for each in said]
        unit = "ns"
    wrong = f"time {str(first)[:40]!r}: expected {_expected(unit)}"
    try:
        array = np.asarray(said)
    except ValueError as error:
        raise FieldError(wrong) from error
    if array.ndim != 1 or array.dtype.kind not in "iuf" or unit == "iso":
        raise FieldError(wrong)
    factor = _NS_OF[unit]
    low, high = float(array.min()), float(array.max())
    # NaN is in no range.
    if not (low >= 0 and high * factor < LATEST_NS):
        raise FieldError(f"times from {low:g} to {high:g} are not {_expected(unit)}")
    if array.dtype.kind == "f":
        return np.rint(array.astype(np.float64) * factor).astype(np.int64)
    return array.astype(np.int64) * factor


def _from_text(said: object, unit: TimeUnit) -> int:
    """A time as RFC 3339 has it, or a number as a user property has it -> ns."""
    try:
        if isinstance(said, str) and unit != "iso":
            whole = said.strip().isdecimal()
            return int(said) * _NS_OF[unit] if whole else round(float(said) * _NS_OF[unit])
        when = said if isinstance(said, datetime) else datetime.fromisoformat(str(said))
        since = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        found = (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
    except (ValueError, OverflowError) as error:
        raise FieldError(f"time {str(said)[:40]!r}: expected {_expected(unit)}") from error
    if not 0 <= found < LATEST_NS:
        raise FieldError(f"time {str(said)[:40]!r} is before 1970 or after 2116; set the publisher's clock")
    return found


def _expected(unit: TimeUnit) -> str:
    return "text such as 2030-01-31T12:00:00.5Z" if unit == "iso" else f"{unit} since 1970, in UTC"
