"""What `/v1/status` says of each route."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.config import RouteConfig
from appliance.core.manifest import WindowPreprocess
from appliance.core.route_report import RouteReport, StreamCounts
from appliance.core.sample_times import NS
from appliance.errors import ApplianceError, ConfigError
from appliance.mqtt.readings import Reader
from appliance.slots import Slots

_FIRST_S = 60.0
_DAY_S = 86_400.0


def route_reports(
    routes: Iterable[RouteConfig],
    slots: Slots,
    counts: Mapping[str, tuple[StreamCounts, int]],
    kept_hours: float,
    running_s: float,
) -> list[RouteReport]:
    """counts: of each route with readings, and how many sources it has. running_s: since they were 0."""
    reports = []
    for route in routes:
        steps, windows, problem = _steps(route, slots), None, None
        if steps is not None:
            try:
                windows = _windows(route, steps)
            except ConfigError as error:
                problem = str(error)
        count, sources = counts.get(route.name, (StreamCounts(), 0))
        reports.append(
            RouteReport(
                name=route.name,
                topic=route.topic,
                model=route.model,
                sources=sources,
                windows=windows,
                kept_hours=None if steps is None else kept_hours,
                bytes_per_day=None if running_s < _FIRST_S else round(count.bytes / running_s * _DAY_S),
                counts=count,
                problem=problem,
            )
        )
    return reports


def _steps(route: RouteConfig, slots: Slots) -> WindowPreprocess | None:
    try:
        steps = slots.manifest(route.model).preprocess
    except ApplianceError:
        return None  # the status of the model says why
    return steps if isinstance(steps, WindowPreprocess) else None


def _windows(route: RouteConfig, steps: WindowPreprocess) -> str:
    """Raises ConfigError."""
    policy = Reader(route, steps).policy
    if policy is None:
        return f"{steps.size} samples every {route.hop or steps.size}"
    return f"{steps.size} samples at {steps.rate_hz:g} Hz every {policy.hop / NS:g} s"
