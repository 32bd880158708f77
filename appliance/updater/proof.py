"""What the self-test asks of a version: every golden case, in every form that this box may come to serve it in."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import msgspec

from appliance.config import CompiledConfig, Config
from appliance.errors import ApplianceError, ManifestError, ModelError
from appliance.repository import ModelVersion, check_files, read_golden, read_version
from appliance.runtimes import Loaders, default_loaders
from appliance.served import ServedModel, check_golden
from appliance.tuning import make_tuner
from appliance.updater.selftest import Request, SelfTest

_MEASURE_S = 0.1
_RUNS_MAX = 50


def prove(request: bytes, loaders: Loaders | None = None) -> bytes:
    """Both are JSON; see `selftest`. loaders: the runtimes; those of this box unless a test brings its own."""
    asked = msgspec.json.decode(request, type=Request)
    try:
        outcome = _prove(asked, loaders)
    except ApplianceError as error:
        outcome = SelfTest(passed=False, code=error.code, reason=str(error))
    except MemoryError as error:
        reason = f"it wanted more memory than the {asked.memory_mb} MB that a self-test may take; {error}"
        outcome = SelfTest(passed=False, code="memory_exceeded", reason=reason)
    except Exception as error:
        # A runtime may raise anything while it compiles a file that it does not know.
        outcome = SelfTest(passed=False, code="model_load_failed", reason=f"{type(error).__name__}: {error}")
    return msgspec.json.encode(outcome)


def _prove(asked: Request, loaders: Loaders | None) -> SelfTest:
    """Raises ApplianceError."""
    version = read_version(Path(asked.folder))
    check_files(version)
    cases = len(version.manifest.golden)
    if not cases:
        raise ManifestError("it has no golden case, so that nothing shows what it should answer; publish it with some")
    # No compiled model is taken from anywhere, and none is kept.
    config = Config(
        tflite=asked.tflite, lanes=asked.lanes, pixels_max=asked.pixels_max, compiled=CompiledConfig(bytes_max=0)
    )
    found, refused = SelfTest(passed=True), {}
    for form, served in make_tuner(config, loaders or default_loaders(config)).forms(version, asked.model):
        if isinstance(served, ModelError):
            if found.variant is None:
                raise served
            refused[form] = str(served)
            continue
        found = msgspec.structs.replace(found, cases=found.cases + cases)
        if found.variant is None:
            found = msgspec.structs.replace(
                found,
                variant=served.variant.name,
                device=served.loaded.device,
                infer_ms_median=_infer_ms(served, version),
            )
    return msgspec.structs.replace(found, refused=refused)


def _infer_ms(served: ServedModel, version: ModelVersion) -> float:
    """The network alone on the golden cases, in the gear for one caller. Raises ModelLoadError."""
    cases = [(case, read_golden(version, case)) for case in version.manifest.golden]
    times, ends_at = served.stats.infer_ms, time.monotonic() + _MEASURE_S
    while not times or (len(times) < _RUNS_MAX and time.monotonic() < ends_at):
        for case, content in cases:
            check_golden(served, case, content, "latency")
    return round(statistics.median(times), 3)
