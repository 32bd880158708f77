"""What this hardware does best for a model: measured once, gated by truth, kept.

At the first start with a model its variants, precisions, gears, batch sizes and ways to decode are measured. A choice
that changes numbers is taken only if every golden case stays within its tolerance and, where the manifest has a check
set, at most half a point of it is lost. The choice is kept per manifest digest and hardware.
"""

from __future__ import annotations

import csv
import io
import math
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import structlog

from appliance import hardware
from appliance.codecs import JPEG, TENSORS, sniff
from appliance.config import Config, ModelConfig
from appliance.core.golden import answer_of
from appliance.core.manifest import Precision
from appliance.core.schedule import Gear
from appliance.core.tensors import Array
from appliance.errors import ApplianceError, ManifestError, ModelError, ModelTooLarge
from appliance.repository import ModelVersion, read_check, read_golden
from appliance.runtimes import Loaders, LoadOptions, default_loaders
from appliance.served import (
    Input,
    Prepared,
    ServedModel,
    Tuning,
    a_real_input,
    check_golden,
    find_variant,
    load,
    window_from_json,
)

log = structlog.get_logger("tuning")

GAIN_MIN = 1.10
"""A choice must be this much faster: less is within the noise of a shared machine, and f32 is the plainest."""

WORTH_MS = 0.1
LOSS_MAX = 0.005
CHECKED_MIN = 200
ON_LOOP_P99_S = 100e-6

_RUNS_MAX = 200
_RUNS_MIN = 5
_RUN_S = 0.1
_ROUNDS = 5
_BATCHES = (4, 8)
_FILE = "choices.json"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was found best, and the milliseconds behind it. precision None: the variant's own."""

    variant: str
    precision: Precision | None = None
    tuning: Tuning = Tuning()
    measured_ms: dict[str, float] = {}
    """What was tried -> milliseconds an input takes in one lane."""
    refused: dict[str, str] = {}
    """What was faster and changed the answers -> how."""


class Tuner:
    """Loads models the way that suits this box. folder: where choices are kept, None: nowhere."""

    def __init__(
        self,
        folder: Path | None,
        loaders: Loaders,
        options: LoadOptions,
        pixels_max: int,
        memory_bytes_max: int = 1 << 62,
        accelerators: str = "",
    ) -> None:
        """accelerators: whatever else of the box decides what is quick, beside its processor."""
        self._folder = folder
        self._loaders = loaders
        self._options = options
        self._pixels_max = pixels_max
        self._memory_bytes_max = memory_bytes_max
        self._hardware = f"{hardware.fingerprint()}/{accelerators}" if accelerators else hardware.fingerprint()
        self._keeping = threading.Lock()

    def load(
        self, version: ModelVersion, config: ModelConfig, *, measure: bool, compile_threads: int = 0
    ) -> tuple[ServedModel, Choice]:
        """Load a version by its kept choice; without one measure, or take what is plain. Raises ModelError."""
        options = msgspec.structs.replace(self._options, device=config.device, compile_threads=compile_threads)
        kept = self.kept(version, config)
        if kept is not None:
            try:
                return self._load(version, config, kept, options), kept
            except ModelTooLarge:
                raise
            except ModelError as error:
                log.warning("choice_dropped", model=version.manifest.name, reason=str(error))
                self._keep(version, config, None)
        plain = self._plain(version, config)
        if not measure or find_variant(version, plain.variant).format == "remote":
            return self._load(version, config, plain, options), plain
        served, choice = self._measure(version, config, plain, options)
        self._keep(version, config, choice)
        log.info(
            "tuned",
            model=version.manifest.name,
            version=version.manifest.version,
            variant=choice.variant,
            precision=choice.precision,
            tuning=msgspec.to_builtins(choice.tuning),
            measured_ms=choice.measured_ms,
        )
        return served, choice

    def forms(self, version: ModelVersion, config: ModelConfig) -> Iterator[tuple[str, ServedModel | ModelError]]:
        """Every form that `load` may come to choose, by name: loaded and proven, or why it cannot be.

        First the one that serves without a measurement. What runs on an endpoint is left out; no choice is kept.
        """
        options = msgspec.structs.replace(self._options, device=config.device)
        plain = self._plain(version, config)
        for choice in (plain, *self._candidates(version, config, plain)):
            if find_variant(version, choice.variant).format == "remote":
                continue
            try:
                form: ServedModel | ModelError = self._load(version, config, choice, options)
            except ModelError as error:
                form = error
            yield _named(choice), form

    def kept(self, version: ModelVersion, config: ModelConfig) -> Choice | None:
        return self._read().get(self._key(version, config))

    def forget(self, version: ModelVersion, config: ModelConfig) -> None:
        """Measure again at the next load."""
        self._keep(version, config, None)

    def _load(self, version: ModelVersion, config: ModelConfig, choice: Choice, options: LoadOptions) -> ServedModel:
        self._check_memory(version, choice)
        return load(
            version,
            choice.variant,
            self._loaders,
            msgspec.structs.replace(options, precision=choice.precision),
            self._pixels_max,
            weight=config.weight,
            tuning=_overruled(choice.tuning, config),
        )

    def _check_memory(self, version: ModelVersion, choice: Choice) -> None:
        """Raises ModelTooLarge, before a byte is allocated for it."""
        variant = find_variant(version, choice.variant)
        paths = [version.folder / file.path for file in variant.files]
        # A file that is missing is for the reader to report.
        files = sum(path.stat().st_size for path in paths if path.is_file())
        row = sum(math.prod(max(1, size) for size in spec.shape) * 8 for spec in version.manifest.inputs)
        expected, used = hardware.expected_bytes(variant.format, files, row), hardware.memory_used_bytes()
        if used + expected > self._memory_bytes_max:
            raise ModelTooLarge(
                f"model {version.manifest.name} would take about {expected >> 20} MiB beside the {used >> 20} MiB in "
                f"use; all together may take {self._memory_bytes_max >> 20} MiB (lanes.memory_bytes_max): unload "
                "another model, or raise the limit"
            )

    def _plain(self, version: ModelVersion, config: ModelConfig) -> Choice:
        """What serves without measuring: what the site says, else the first variant as it is."""
        name = config.variant
        if name is None and config.precision != "auto":
            name = next((each.name for each in version.manifest.variants if each.precision == config.precision), None)
        variant = find_variant(version, name)
        asked: Precision | None = None
        if config.precision != "auto" and config.precision not in (variant.precision, "int8"):
            asked = config.precision
        return Choice(variant=variant.name, precision=asked)

    def _measure(
        self, version: ModelVersion, config: ModelConfig, plain: Choice, options: LoadOptions
    ) -> tuple[ServedModel, Choice]:
        """The plain way first, as the measure of truth; then everything that may be faster."""
        best, choice = self._load(version, config, plain, options), plain
        plainest = best
        truth = cache(lambda: _check_score(plainest, version))
        probe = a_real_input(best, version)
        measured = {_named(plain): _ms_each(best, probe, 1, "throughput")}
        refused: dict[str, str] = {}
        # Of what takes no time there is nothing to gain.
        worth = measured[_named(plain)] > WORTH_MS
        for candidate in self._candidates(version, config, plain) if worth else ():
            name = _named(candidate)
            try:
                other = self._load(version, config, candidate, options)
                measured[name] = _ms_each(other, probe, 1, "throughput")
            except ModelError as error:
                refused[name] = str(error)
                continue
            if measured[name] * GAIN_MIN > measured[_named(choice)]:
                continue
            reason = _loss(truth, other, version)
            if reason is not None:
                refused[name] = reason
                continue
            best, choice = other, candidate
        tuning = self._tune(best, version, probe, truth, measured, refused)
        best.tune(_overruled(tuning, config))
        choice = msgspec.structs.replace(
            choice,
            tuning=tuning,
            measured_ms={name: round(value, 4) for name, value in measured.items()},
            refused=refused,
        )
        return best, choice

    def _candidates(self, version: ModelVersion, config: ModelConfig, plain: Choice) -> Iterator[Choice]:
        if config.precision != "auto":
            return
        for variant in version.manifest.variants:
            if config.variant not in (None, variant.name) or variant.format == "remote":
                continue
            if variant.format not in self._loaders:
                continue
            if variant.name != plain.variant:
                yield Choice(variant=variant.name)
            if variant.format in ("openvino", "onnx") and variant.precision in ("f32", "f16"):
                for precision in _reduced(config.device):
                    yield Choice(variant=variant.name, precision=precision)

    def _tune(
        self,
        served: ServedModel,
        version: ModelVersion,
        probe: dict[str, Array],
        truth: Callable[[], float],
        measured: dict[str, float],
        refused: dict[str, str],
    ) -> Tuning:
        one = _ms_each(served, probe, 1, "throughput")
        gear: Gear | None = None
        if "latency" in served.loaded.gears:
            alone = measured["latency gear"] = _ms_each(served, probe, 1, "latency")
            if alone > one * GAIN_MIN:
                gear = "throughput"
        batch_max = 1
        if served.loaded.batches and served.kind != "tensor":
            for batch in _BATCHES:
                each = measured[f"batch {batch}"] = _ms_each(served, probe, batch, "throughput")
                if each * GAIN_MIN < one:
                    batch_max, one = batch, each
        on_loop = (
            served.kind == "tensor"
            and served.loaded.device == "CPU"
            and _seconds(lambda: served.infer(probe, "throughput")) < ON_LOOP_P99_S
            and _p99_s(served, probe) < ON_LOOP_P99_S
        )
        half = self._half_size(served, version, truth, measured, refused)
        return Tuning(gear=gear, batch_max=batch_max, half_size=half, on_loop=on_loop)

    def _half_size(
        self,
        served: ServedModel,
        version: ModelVersion,
        truth: Callable[[], float],
        measured: dict[str, float],
        refused: dict[str, str],
    ) -> bool:
        """Only where golden cases show it: some of them must be JPEGs large enough to be halved."""
        name = "half-size JPEG"
        if served.kind != "image":
            return False
        pictures = [(case, read_golden(version, case)) for case in version.manifest.golden]
        pictures = [(case, content) for case, content in pictures if sniff(content) == JPEG]
        plain = served.tuning
        whole = [(served.prepare(content, JPEG), _preparation_s(served, content)) for _, content in pictures]
        served.tune(msgspec.structs.replace(plain, half_size=True))
        try:
            halved = [(served.prepare(content, JPEG), _preparation_s(served, content)) for _, content in pictures]
            # A picture that is too small to be halved shows nothing.
            shown = any(_differ(before, after) for (before, _), (after, _) in zip(whole, halved, strict=True))
            before_s, after_s = sum(seconds for _, seconds in whole), sum(seconds for _, seconds in halved)
            if not shown or after_s * GAIN_MIN > before_s:
                return False
            measured["whole JPEG, preparation"] = before_s / len(pictures) * 1000
            measured["half-size JPEG, preparation"] = after_s / len(pictures) * 1000
            for case, content in pictures:
                check_golden(served, case, content)
            reason = _loss(truth, served, version)
        except ModelError as error:
            reason = str(error)
        finally:
            served.tune(plain)
        if reason is not None:
            refused[name] = reason
        return reason is None

    def _key(self, version: ModelVersion, config: ModelConfig) -> str:
        """What was measured under another word of the site is another choice."""
        site = f"{config.variant or 'any'}/{config.precision}/{config.device}"
        return f"{version.digest}/{self._hardware}/{self._options.streams}/{site}"

    def _read(self) -> dict[str, Choice]:
        if self._folder is None:
            return {}
        try:
            return msgspec.json.decode((self._folder / _FILE).read_bytes(), type=dict[str, Choice])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            # A choice is a convenience: without the file everything is measured again.
            return {}

    def _keep(self, version: ModelVersion, config: ModelConfig, choice: Choice | None) -> None:
        if self._folder is None:
            return
        key = self._key(version, config)
        try:
            with self._keeping:
                choices = self._read()
                choices.pop(key, None)
                if choice is not None:
                    choices[key] = choice
                self._folder.mkdir(parents=True, exist_ok=True)
                fresh = self._folder / f"choices.{os.getpid()}.new"
                fresh.write_bytes(msgspec.json.format(msgspec.json.encode(choices)))
                os.replace(fresh, self._folder / _FILE)
        except OSError as error:
            log.warning("choice_not_kept", reason=str(error))
            with suppress(OSError):
                fresh.unlink(missing_ok=True)


def _overruled(tuning: Tuning, config: ModelConfig) -> Tuning:
    if config.performance != "auto":
        tuning = msgspec.structs.replace(tuning, gear=config.performance)
    if config.batch_max:
        tuning = msgspec.structs.replace(tuning, batch_max=config.batch_max)
    return tuning


def _reduced(device: str) -> tuple[Precision, ...]:
    """Precisions that a CPU, or another device, may run faster than the variant's."""
    return ("bf16",) if device == "CPU" else ("f16",)


def _named(choice: Choice) -> str:
    return choice.variant if choice.precision is None else f"{choice.variant} in {choice.precision}"


def _ms_each(served: ServedModel, probe: dict[str, Array], batch: int, gear: Gear) -> float:
    tensors = probe if batch == 1 else {name: np.concatenate([each] * batch) for name, each in probe.items()}
    return _seconds(lambda: served.infer(tensors, gear)) * 1000 / batch


def _p99_s(served: ServedModel, probe: dict[str, Array]) -> float:
    """At work, in this thread, the best of some rounds: what else the machine does now is not the model's fault."""
    rounds = (sorted(_times(lambda: served.infer(probe, "throughput"), time.thread_time)) for _ in range(_ROUNDS))
    return min(times[int(len(times) * 0.99)] for times in rounds)


def _seconds(run: Callable[[], object]) -> float:
    """The lower decile: what takes longer was held up by something else."""
    times = sorted(_times(run))
    return times[len(times) // 10]


def _times(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    run()
    times: list[float] = []
    ends_at = time.perf_counter() + _RUN_S
    while len(times) < _RUNS_MIN or (len(times) < _RUNS_MAX and time.perf_counter() < ends_at):
        began = clock()
        run()
        times.append(clock() - began)
    return times


def _preparation_s(served: ServedModel, content: bytes) -> float:
    return _seconds(lambda: served.prepare(content, JPEG))


def _differ(before: Prepared, after: Prepared) -> bool:
    return any(not np.array_equal(array, after.tensors[name]) for name, array in before.tensors.items())


def _loss(truth: Callable[[], float], served: ServedModel, version: ModelVersion) -> str | None:
    """Why the answers have become worse than they may; None: they have not."""
    try:
        lost = truth() - _check_score(served, version)
    except ManifestError as error:
        # Without a good check set nothing is chosen that may change an answer.
        return str(error)
    if lost <= LOSS_MAX:
        return None
    return f"it loses {lost * 100:.1f} points of the check set, at most {LOSS_MAX * 100:g} may be"


def _check_score(served: ServedModel, version: ModelVersion) -> float:
    """Share of the check set that is answered right, 0..1; 1 where there is none."""
    samples = list(_samples(version))
    if not samples:
        return 1.0
    right = 0
    for content, answer in samples:
        media_type = sniff(content) if served.kind == "image" else TENSORS
        if served.kind == "window":
            content, media_type = window_from_json(content)
        (outcome,) = served.run([Input(content, media_type, None, time.monotonic())], "throughput")
        right += not isinstance(outcome, ApplianceError) and answer_of(outcome.prediction) == answer
    return right / len(samples)


def _samples(version: ModelVersion) -> Iterator[tuple[bytes, str]]:
    """Raises ManifestError when the file is not what the manifest says or holds fewer than 200 samples."""
    check = version.manifest.check
    if check is None:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(read_check(version, check))) as archive:
            rows = list(csv.DictReader(io.StringIO(archive.read("answers.csv").decode())))
            if len(rows) < CHECKED_MIN:
                raise ManifestError(f"{check.file}: {len(rows)} samples; a check set needs {CHECKED_MIN}")
            for row in rows:
                yield archive.read(row["file"]), row["answer"]
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise ManifestError(f"{check.file}: {error}; publish the model again") from error


def tune_again(config: Config, version: ModelVersion) -> Choice:
    """Measure a version afresh as a box with this configuration would, and keep the choice. Raises ModelError.

    A box that is running takes it at its next load of the model.
    """
    tuner = make_tuner(config, default_loaders(config))
    site = config.models.get(version.manifest.name, ModelConfig())
    tuner.forget(version, site)
    return tuner.load(version, site, measure=True)[1]


def make_tuner(config: Config, loaders: Loaders) -> Tuner:
    cores = hardware.cores()
    folder = Path(config.data_dir).absolute() / "compiled"
    options = LoadOptions(
        streams=cores,
        threads=cores,
        compiled_dir=folder if config.compiled.bytes_max else None,
        compiled_bytes_max=config.compiled.bytes_max,
    )
    budget = config.lanes.memory_bytes_max or hardware.memory_bytes() * 3 // 4
    delegates = " ".join(delegate.path for delegate in config.tflite.delegates)
    return Tuner(folder, loaders, options, config.pixels_max, budget, delegates)
