"""OpenVINO behind the `LoadedModel` seam: OpenVINO's own files and ONNX.

**Gears.** `latency` is compiled with one stream that has all threads, `throughput` with a stream per lane and one
thread each. A network that answers within TINY_S is compiled once, with one stream and one thread: it then runs on its
caller's thread, which is twice as fast as any stream can be reached.

**Shapes.** A gear is compiled for one row, fixed: that is 10 to 15% faster than a free batch axis, and OpenVINO's
memory grows with every shape it meets. Several rows run through a second compilation with a free batch axis, made when
they first come, in steps of BATCH_ROWS only; rows of ROW_BYTES_MAX and more run one by one, since batching them gains
nothing on a CPU.

**Compiled models.** One that was kept is imported for both gears, in a third of the time that compiling takes. It is
kept after it proved itself; one that fails later is removed, and compiled afresh.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array, TensorSpec
from appliance.errors import InferenceError, ModelLoadError
from appliance.hardware import fingerprint
from appliance.runtimes import Infer, LoadOptions, compiled
from appliance.runtimes.row_by_row import free_rows, row_by_row


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """`import openvino` also imports its conversion tool, which reports the import over the internet.

    A module that is None in `sys.modules` cannot be imported: OpenVINO then goes without, and starts 0.14 s sooner.
    The conversion tool can be imported afterwards, and finds no telemetry.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    tool = "openvino.tools.ovc"
    there = tool in sys.modules
    if not there:
        sys.modules[tool] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not there:
            del sys.modules[tool]


with _without_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

# The binding sets itself up at its first tensor, and dies of two threads that make theirs at once: one holds Python's
# lock and waits for the set-up, the other sets up and waits for Python's lock (seen with 2026.4.1).
ov.Tensor(np.zeros(1, np.float32), shared_memory=True)

__all__ = ["OpenVinoModel", "core", "devices", "load_openvino", "ops", "ov", "prove", "reason"]

TINY_S = 50e-6
BATCH_ROWS = (256, 64, 32, 16, 8, 4, 3, 2)
"""Rows that one call may have beside 1. Others are made of these."""
ROW_BYTES_MAX = 64 << 10
_WARM_UP_S = 0.005
_NOT_TELLING = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "To facilitate")
_RUNTIME_CACHE_ENTRIES = 256

_Threads = Gear | Literal["alone"]
"""How a compilation shares out its threads; `alone`: none but its caller's."""
_Rows = Literal["row", "batch"]
"""What a compilation takes: one row, or a free number of rows."""
_T = TypeVar("_T")

_SAME = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""How far a row in company may be from the same row alone, in shares of the output's largest number."""


@cache
def core() -> ov.Core:
    """The one OpenVINO of the process."""
    return ov.Core()


class _Tensor(msgspec.Struct, frozen=True):
    """A tensor of one row. inside: its name in the file. shape: -1 where it is free, which the first axis never is."""

    name: str
    inside: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _Signature(msgspec.Struct, frozen=True):
    """What is fed and read. batches: the first axis of every tensor is free, in the manifest and in the file.

    free: the inputs whose first axis is free in the manifest. tolerance: of `_SAME`.
    """

    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]
    batches: bool
    free: tuple[str, ...]
    tolerance: float

    def zeros(self, rows: int) -> dict[str, Array]:
        """An input in which every other free axis has length 1."""
        return {
            each.name: np.zeros((rows if self.batches else each.shape[0], *map(abs, each.shape[1:])), each.dtype)
            for each in self.inputs
        }

    def samples(self, rows: int) -> dict[str, Array]:
        """Rows that differ. Large whole numbers are 0 and 1 only, which every table of embeddings has."""
        numbers = np.random.default_rng(rows)
        found = {}
        for name, zeros in self.zeros(rows).items():
            if zeros.dtype.kind == "f":
                found[name] = numbers.random(zeros.shape).astype(zeros.dtype)
            else:
                most = 127 if zeros.dtype in (np.uint8, np.int8) else 1
                found[name] = numbers.integers(0, most, zeros.shape, endpoint=True).astype(zeros.dtype)
        return found


class OpenVinoModel:
    """A model compiled for both gears; each session has infer requests of its own, so that threads never wait.

    from_cache: a compiled model of an earlier start is in use, which only a golden case can prove.
    """

    def __init__(
        self,
        signature: _Signature,
        gears: Mapping[Gear, ov.CompiledModel],
        *,
        device: str,
        notes: list[str],
        from_cache: bool,
        compile_batch: Callable[[Gear, Infer], ov.CompiledModel] | None,
    ) -> None:
        self.runtime = f"openvino {ov.__version__.split('-')[0]}"
        self.device = device
        self.batches = signature.batches
        self.gears: tuple[Gear, ...] = tuple(gears)
        self.from_cache = from_cache
        self._signature = signature
        self._notes = notes
        self._compiled = dict(gears)
        self._compile_batch = compile_batch
        self._batch: dict[Gear, ov.CompiledModel | None] = {}
        self._lock = threading.Lock()

    @property
    def note(self) -> str | None:
        return "; ".join(dict.fromkeys(self._notes)) or None

    def session(self, gear: Gear) -> Infer:
        """A gear that makes no difference here is the one there is."""
        gear = gear if gear in self._compiled else self.gears[0]
        one = _row_session(self._compiled[gear], self._signature)
        return self._batch_session(gear, one) if self.batches else row_by_row(one, self._signature.free)

    def _batch_session(self, gear: Gear, one: Infer) -> Infer:
        inputs = [each.name for each in self._signature.inputs]
        outputs = [each.name for each in self._signature.outputs]
        steps: dict[int, Infer] = {}

        def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
            rows = len(tensors[inputs[0]])
            if rows == 1:
                return one(tensors)
            if rows == 0 or any(len(tensors[name]) != rows for name in inputs):
                raise InferenceError(f"inputs {inputs} must have the same number of rows, at least 1")
            if not steps:
                steps.update(self._steps(gear, one))
            parts: list[dict[str, Array]] = []
            start = 0
            while start < rows:
                step = next(step for step in steps if step <= rows - start)
                parts.append(steps[step]({name: tensors[name][start : start + step] for name in inputs}))
                start += step
            return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in outputs}

        return infer

    def _steps(self, gear: Gear, one: Infer) -> dict[int, Infer]:
        """Number of rows -> how to infer of so many at once, the most first."""
        batch = self._batch_of(gear, one)
        if batch is None:
            return {1: one}
        return dict.fromkeys(BATCH_ROWS, _free_session(batch, self._signature, any_rows=True)) | {1: one}

    def _batch_of(self, gear: Gear, one: Infer) -> ov.CompiledModel | None:
        """The compilation with a free batch axis, None when rows run one by one. Made when the first batch comes."""
        if self._compile_batch is None:
            return None
        with self._lock:
            if gear not in self._batch:
                self._batch[gear] = None
                # A file may claim a free batch axis and yet be made for one row.
                with suppress(*_FAILURES):
                    self._batch[gear] = self._compile_batch(gear, one)
            return self._batch[gear]


def load_openvino(
    manifest: ModelManifest,
    variant: Variant,
    files: Mapping[str, bytes],
    options: LoadOptions,
    runtime: ov.Core | None = None,
) -> OpenVinoModel:
    """Compile and warm up; a device that is missing or does not work is replaced by the CPU, and `note` says so.

    AUTO is the first GPU or NPU that works. runtime: another OpenVINO than the process's. Raises ModelLoadError.
    """
    runtime = runtime or core()
    there = devices(runtime)
    notes: list[str] = []
    for device in _candidates(options.device, there):
        if device not in there and f"{device}.0" not in there:
            notes.append(f"{device} is not on this box, which has {', '.join(there)}; the model runs on the CPU")
            continue
        try:
            return _Loader(manifest, variant, files, options, runtime, device, notes).load()
        except _DeviceError as error:
            if device == "CPU":
                raise ModelLoadError(f"OpenVINO cannot load variant {variant.name!r}: {error}") from error
            notes.append(f"{device} does not work for this model ({error}); the model runs on the CPU")
    raise ModelLoadError(f"OpenVINO has no CPU device here, only {there}; install openvino again")


def prove(runtime: ov.Core, device: str) -> None:
    """Compile a small network on `device` and infer. Raises RuntimeError with the reason when it does not work."""
    given = ops.parameter([1, 4], np.float32)
    model = ov.Model([ops.add(ops.relu(given), np.float32(1))], [given], "proof")
    request = runtime.compile_model(model, device).create_infer_request()
    found = request.infer([np.array([[-1, 0, 1, 2]], np.float32)])[0]
    if not np.allclose(found, [[1, 1, 2, 3]], atol=0.01):
        raise RuntimeError(f"a small network gave {found.tolist()} instead of [[1, 1, 2, 3]]")


def devices(runtime: ov.Core) -> tuple[str, ...]:
    """Names of what OpenVINO found on this box. Whether they work only an inference shows."""
    return tuple(runtime.available_devices)


def reason(error: Exception) -> str:
    """The line of an OpenVINO error that says why; the others name places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOT_TELLING)]
    return (telling or [type(error).__name__])[-1][:300]


class _DeviceError(Exception):
    """The device failed at compiling, or at the first inference."""


_FAILURES = (_DeviceError, ModelLoadError, InferenceError, RuntimeError)


class _Loader:
    """One load on one device. notes: what could not be had as it was asked for."""

    def __init__(
        self,
        manifest: ModelManifest,
        variant: Variant,
        files: Mapping[str, bytes],
        options: LoadOptions,
        runtime: ov.Core,
        device: str,
        notes: list[str],
    ) -> None:
        self._manifest = manifest
        self._variant = variant
        self._files = files
        self._options = options
        self._core = runtime
        self._device = device
        self._notes = notes
        # Read once for all gears, which then share the weights.
        self._blobs: dict[_Rows, tuple[bool, ov.Tensor]] = {}
        self._models: dict[_Rows, tuple[bool, ov.Model]] = {}
        # Only of the CPU's compilations it is known that they depend on nothing but what the key names.
        self._folder = options.compiled_dir if device == "CPU" and options.compiled_bytes_max else None
        self._fresh = options.fresh
        if self._fresh:
            self._forget()

    def load(self) -> OpenVinoModel:
        return self._made(self._load)

    def _made(self, make: Callable[[], _T]) -> _T:
        """What `make` makes; when that fails with what was kept of an earlier start, it is made without."""
        try:
            return make()
        except _FAILURES as error:
            if not self._blobs:
                raise
            self._notes.append(f"a compiled model could not be used and was removed: {reason(error)}")
            self._forget()
            return make()
        finally:
            # Only loading needed them.
            self._blobs.clear()
            self._models.clear()

    def _load(self) -> OpenVinoModel:
        first, batches = self._compilation("row", "latency")
        tolerance = _SAME[self._options.precision or self._variant.precision]
        signature = _sign(first, self._manifest, self._variant, batches, tolerance)
        took_s = _warm_up(first, signature)
        options = self._options
        gears: dict[Gear, ov.CompiledModel] = {"latency": first}
        alone = self._device == "CPU" and took_s < TINY_S
        if options.streams == options.threads == 1 and self._device == "CPU":
            gears = {"throughput": first}
        else:
            gears = {} if alone else gears
            gears["throughput"], _ = self._compilation("row", "alone" if alone else "throughput")
            _warm_up(gears["throughput"], signature)
        self._keep("row", first, batches)

        def compile_batch(gear: Gear, one: Infer) -> ov.CompiledModel:
            return self._made(lambda: self._batch("alone" if alone else gear, one, signature))

        small = sum(zeros.nbytes for zeros in signature.zeros(1).values()) < ROW_BYTES_MAX
        return OpenVinoModel(
            signature,
            gears,
            device=self._device,
            notes=self._notes,
            from_cache=bool(self._blobs),
            compile_batch=compile_batch if batches and small and self._device == "CPU" else None,
        )

    def _batch(self, threads: _Threads, one: Infer, signature: _Signature) -> ov.CompiledModel:
        """A compilation that gives two rows together what `one` gives each of them alone."""
        found, batches = self._compilation("batch", threads)
        given = signature.samples(2)
        together = _free_session(found, signature, any_rows=True)(given)
        alone = row_by_row(one, signature.free)(given)
        for name, wanted in alone.items():
            if not _alike(together[name], wanted, signature.tolerance):
                raise _DeviceError(f"output {name!r} of two rows together is not that of the rows alone")
        self._keep("batch", found, batches)
        return found

    def _compilation(self, rows: _Rows, threads: _Threads) -> tuple[ov.CompiledModel, bool]:
        """The compiled model, and whether the file has a free batch axis."""
        settings = _settings(self._device, threads, self._options, self._variant)
        if rows not in self._models and rows not in self._blobs:
            self._from_disk(rows)
        if rows in self._blobs:
            batches, blob = self._blobs[rows]
            with _on_cores(self._options.compile_threads):
                return self._core.import_model(blob, self._device, settings), batches
        if rows not in self._models:
            model = _read(self._core, self._variant, self._files)
            self._models[rows] = _fit(model, self._manifest, self._variant, rows), model
        batches, model = self._models[rows]
        try:
            with _on_cores(self._options.compile_threads):
                return self._core.compile_model(model, self._device, settings), batches
        except RuntimeError as error:
            raise _DeviceError(reason(error)) from error

    def _keep(self, rows: _Rows, found: ov.CompiledModel, batches: bool) -> None:
        """For the next start, unless it is from there; every gear can be made of it."""
        if self._folder is None or rows in self._blobs:
            return
        try:
            content = bytes([batches]) + found.export_model().getvalue()
            compiled.write(self._folder, self._key(rows), content, self._options.compiled_bytes_max)
        except RuntimeError as error:
            self._notes.append(f"the compiled model is not kept: {reason(error)}")
        except OSError as error:
            self._notes.append(f"the compiled model is not kept: {error.strerror}")

    def _from_disk(self, rows: _Rows) -> None:
        if self._folder is None or self._fresh:
            return
        try:
            content = compiled.read(self._folder, self._key(rows))
        except OSError as error:
            self._notes.append(f"compiled afresh: {error.strerror}")
            return
        if content is not None:
            self._blobs[rows] = _unpack(content)

    def _forget(self) -> None:
        """Both compilations, for good."""
        self._blobs.clear()
        self._fresh = True
        if self._folder is not None:
            for rows in ("row", "batch"):
                compiled.forget(self._folder, self._key(rows))

    def _key(self, rows: str) -> str:
        return compiled.key(
            {
                "rows": rows,
                "files": [file.sha256 for file in self._variant.files],
                "tensors": self._variant.tensors,
                "inputs": self._manifest.inputs,
                "outputs": self._manifest.outputs,
                "device": self._device,
                "precision": _precision(self._options, self._variant),
                "runtime": ov.__version__,
                "cpu": fingerprint(),
            }
        )


def _unpack(content: bytes) -> tuple[bool, ov.Tensor]:
    """A byte that says whether the file has a free batch axis, and the compiled model."""
    return bool(content[0]), ov.Tensor(np.frombuffer(content, np.uint8, offset=1))


def _candidates(wanted: str, there: tuple[str, ...]) -> tuple[str, ...]:
    """The devices to try, the best first; the CPU comes last and always."""
    if wanted == "AUTO":
        return (*(name for kind in ("GPU", "NPU") for name in there if name.partition(".")[0] == kind), "CPU")
    return tuple(dict.fromkeys((wanted, "CPU")))


def _precision(options: LoadOptions, variant: Variant) -> str:
    """Of the arithmetic. In an int8 network it is that of the layers which were not quantised."""
    precision = options.precision or variant.precision
    return "f32" if precision == "int8" else precision


def _settings(device: str, threads: _Threads, options: LoadOptions, variant: Variant) -> dict[str, object]:
    """Compile options. Streams and a performance hint exclude each other; only a CPU is told its threads."""
    precision = _precision(options, variant)
    if device != "CPU":
        hint: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY" if threads == "latency" else "THROUGHPUT"}
        return hint if precision == "bf16" else {**hint, "INFERENCE_PRECISION_HINT": precision}
    streams, count = {
        "latency": (1, options.threads),
        "throughput": (options.streams, options.streams),
        "alone": (1, 1),
    }[threads]
    return {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": count,
        "INFERENCE_PRECISION_HINT": precision,
        # What is kept for each shape; a free axis could bring thousands of them.
        "CPU_RUNTIME_CACHE_CAPACITY": _RUNTIME_CACHE_ENTRIES,
    }


def _read(runtime: ov.Core, variant: Variant, files: Mapping[str, bytes]) -> ov.Model:
    endings = (".onnx",) if variant.format == "onnx" else (".xml", ".bin")
    content = [next((content for path, content in files.items() if path.endswith(end)), b"") for end in endings]
    if not content[0]:
        raise ModelLoadError(f"variant {variant.name!r} names no {endings[0]} file, as format {variant.format} needs")
    try:
        return runtime.read_model(*content)
    except RuntimeError as error:
        raise ModelLoadError(f"OpenVINO cannot read variant {variant.name!r}: {reason(error)}") from error


def _fit(model: ov.Model, manifest: ModelManifest, variant: Variant, rows: _Rows) -> bool:
    """Give the model the shapes of the manifest; returns whether it has a free batch axis. Raises ModelLoadError."""
    named = {name: port for port in model.inputs for name in port.get_names()}
    wanted = {variant.tensors.get(spec.name, spec.name): spec for spec in manifest.inputs}
    _check_names(wanted, named, "input")
    if len(wanted) != len(model.inputs):
        raise ModelLoadError(
            f"the file has inputs {sorted(named)}, the manifest {sorted(wanted)}; correct the manifest"
        )
    batches = all(spec.shape[0] == -1 for spec in (*manifest.inputs, *manifest.outputs)) and all(
        named[inside].partial_shape.rank.is_dynamic or named[inside].partial_shape[0].is_dynamic for inside in wanted
    )
    shapes = {}
    for inside, spec in wanted.items():
        _check_shape(spec, named[inside].partial_shape, "input")
        first = -1 if rows == "batch" else abs(spec.shape[0])
        shapes[named[inside]] = ov.PartialShape([first, *spec.shape[1:]])
    try:
        model.reshape(shapes)
    except RuntimeError as error:
        raise ModelLoadError(f"the file does not take the manifest's input shapes: {reason(error)}") from error
    return batches


def _sign(
    compiled_model: ov.CompiledModel, manifest: ModelManifest, variant: Variant, batches: bool, tolerance: float
) -> _Signature:
    """The compiled model for one row, as the manifest names it. Raises ModelLoadError when it is another."""

    def tensors(specs: tuple[TensorSpec, ...], ports: list[ov.ConstOutput], what: str) -> tuple[_Tensor, ...]:
        named = {name: port for port in ports for name in port.get_names()}
        inside = {spec.name: variant.tensors.get(spec.name, spec.name) for spec in specs}
        _check_names(inside.values(), named, what)
        found = []
        for spec in specs:
            port = named[inside[spec.name]]
            _check_shape(spec, port.partial_shape, what)
            if port.element_type.to_dtype() != np.dtype(spec.dtype):
                raise ModelLoadError(
                    f"{what} {spec.name!r} is {port.element_type.to_dtype()} in the file and {spec.dtype} in the "
                    "manifest; correct the manifest"
                )
            shape = tuple(-1 if axis.is_dynamic else axis.get_length() for axis in port.partial_shape)
            found.append(_Tensor(spec.name, inside[spec.name], np.dtype(spec.dtype), shape))
        return tuple(found)

    return _Signature(
        tensors(manifest.inputs, compiled_model.inputs, "input"),
        tensors(manifest.outputs, compiled_model.outputs, "output"),
        batches,
        free_rows(manifest.inputs),
        tolerance,
    )


def _check_names(wanted: Iterable[str], named: Mapping[str, object], what: str) -> None:
    missing = sorted(set(wanted) - set(named))
    if missing:
        raise ModelLoadError(f"the file has no {what} {missing}; it has {sorted(named)}; correct the manifest")


def _check_shape(spec: TensorSpec, found: ov.PartialShape, what: str) -> None:
    """The first axis of the manifest may be free where the file has 1: rows then come one by one."""
    if found.rank.is_dynamic:
        return
    sizes = [-1 if axis.is_dynamic else axis.get_length() for axis in found]
    fits = len(sizes) == len(spec.shape) and all(
        size == -1 or want == size or (want == -1 and (what == "output" or (axis == 0 and size == 1)))
        for axis, (want, size) in enumerate(zip(spec.shape, sizes, strict=False))
    )
    if not fits:
        raise ModelLoadError(
            f"{what} {spec.name!r} has shape {sizes} in the file and {list(spec.shape)} in the manifest (-1: free); "
            "correct the manifest"
        )


def _warm_up(compiled_model: ov.CompiledModel, signature: _Signature) -> float:
    """Infer of zeros, as the first inference is slow; returns the seconds of the fastest."""
    best_s = math.inf
    try:
        infer = _row_session(compiled_model, signature)
        zeros = signature.zeros(1)
        ends = time.perf_counter() + _WARM_UP_S
        while (started := time.perf_counter()) < ends:
            infer(zeros)
            best_s = min(best_s, time.perf_counter() - started)
    except (InferenceError, RuntimeError) as error:
        # Zeros of length 1 on a free axis may be less than the network can take; the golden cases show what it can.
        if all(-1 not in each.shape for each in signature.inputs):
            raise _DeviceError(reason(error)) from error
    return best_s


def _alike(found: Array, wanted: Array, tolerance: float) -> bool:
    """Within `tolerance` of the largest number that is wanted; what is not finite is the same on both sides."""
    if found.shape != wanted.shape:
        return False
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    most = float(np.abs(wanted).max(initial=0, where=np.isfinite(wanted)))
    return bool(np.allclose(found, wanted, rtol=0, atol=tolerance * most, equal_nan=True))


def _row_session(compiled_model: ov.CompiledModel, signature: _Signature) -> Infer:
    """For one row. Inputs are copied into the request's own tensors: as fast as lending them, and nothing is shared."""
    if any(-1 in each.shape for each in signature.inputs):
        return _free_session(compiled_model, signature, any_rows=False)
    request = compiled_model.create_infer_request()
    places = [(each.name, each.shape, request.get_tensor(each.inside).data) for each in signature.inputs]
    outputs = _output_places(compiled_model, signature)

    def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
        for name, shape, place in places:
            tensor = tensors[name]
            if tensor.shape != shape:
                raise InferenceError(_wrong_shape(name, tensor, shape))
            place[...] = tensor
        try:
            request.infer(share_outputs=True)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO refused the input: {reason(error)}") from error
        return {name: request.get_output_tensor(index).data.copy() for name, index in outputs}

    return infer


def _free_session(compiled_model: ov.CompiledModel, signature: _Signature, *, any_rows: bool) -> Infer:
    """For inputs of any size along their free axes. any_rows: the first one is free as well."""
    request = compiled_model.create_infer_request()
    places = [
        (each.name, (-1, *each.shape[1:]) if any_rows else each.shape, request.get_tensor(each.inside))
        for each in signature.inputs
    ]
    outputs = _output_places(compiled_model, signature)

    def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
        try:
            for name, shape, place in places:
                tensor = tensors[name]
                # OpenVINO does not look: it reads a wrong shape as if it were right.
                if tensor.ndim != len(shape) or any(
                    want not in (-1, got) for want, got in zip(shape, tensor.shape, strict=True)
                ):
                    raise InferenceError(_wrong_shape(name, tensor, shape))
                place.shape = tensor.shape
                place.data[...] = tensor
            request.infer(share_outputs=True)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO refused the input: {reason(error)}") from error
        return {name: request.get_output_tensor(index).data.copy() for name, index in outputs}

    return infer


def _wrong_shape(name: str, tensor: Array, shape: tuple[int, ...]) -> str:
    return f"input {name!r} has shape {list(tensor.shape)}, the model takes {list(shape)} (-1: any size)"


def _output_places(compiled_model: ov.CompiledModel, signature: _Signature) -> list[tuple[str, int]]:
    indices = {name: index for index, port in enumerate(compiled_model.outputs) for name in port.get_names()}
    return [(each.name, indices[each.inside]) for each in signature.outputs]


@cache
def _know_all_cores() -> None:
    prove(core(), "CPU")


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Keep what this thread does, and the threads that it starts, to `count` cores; 0: all.

    OpenVINO's own option for the threads of compiling is not one of its CPU. The threads that compiling leaves behind
    are those that will infer: they get all cores back. And what OpenVINO learns of the machine when it first compiles
    holds for good, so that it has compiled something before.
    """
    everywhere = os.sched_getaffinity(0)
    if not 0 < count < len(everywhere):
        yield
        return
    _know_all_cores()
    few = set(sorted(everywhere)[-count:])
    os.sched_setaffinity(0, few)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)
        while _widen(few, everywhere):
            pass


def _widen(few: set[int], everywhere: set[int]) -> bool:
    """Whether any thread was kept to `few` cores; one of them may just have started another."""
    found = False
    for task in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            if os.sched_getaffinity(task) == few:
                os.sched_setaffinity(task, everywhere)
                found = True
    return found
