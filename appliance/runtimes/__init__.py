"""The seam to the inference runtimes: load verified bytes, then infer. Nothing else crosses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from appliance.config import Config
from appliance.core.manifest import Format, ModelManifest, Precision, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array

Infer = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Logical name -> tensor, both ways. One thread at a time may call it; what it returns is the caller's to keep."""


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a model shall be loaded on this box.

    streams: inferences at once in the throughput gear. threads: cores for one inference alone in the latency gear.
    precision: of the arithmetic, None: the variant's own. compile_threads: cores that compiling may take while others
    are served, 0: all. compiled_dir: where compiled models are kept between starts, None: nowhere.
    fresh: take none that is kept there, and replace it.
    """

    streams: int = 1
    threads: int = 1
    precision: Precision | None = None
    device: str = "CPU"
    compile_threads: int = 0
    compiled_dir: Path | None = None
    compiled_bytes_max: int = 0
    fresh: bool = False


class LoadedModel(Protocol):
    """A compiled model. `session` makes the means to infer of one thread; sessions run at the same time."""

    @property
    def runtime(self) -> str:
        """Name and version, as shown in the status."""

    @property
    def device(self) -> str:
        """Where it runs: CPU, GPU, GPU.0, NPU, `delegate:<file>` or `endpoint:<name>`. Lanes belong to it."""

    @property
    def note(self) -> str | None:
        """What is not as it was asked for, and why: a device that does not work, a cache that is full."""

    @property
    def gears(self) -> tuple[Gear, ...]:
        """The gears that make a difference; a runtime with one way to run gives one."""

    @property
    def batches(self) -> bool:
        """Whether rows of several requests gain from sharing a call.

        Where the manifest leaves the first axis free a session takes several rows either way; without this it runs
        them one after the other.
        """

    def session(self, gear: Gear) -> Infer:
        """Raises InferenceError from its calls when the runtime refuses an input."""


Load = Callable[[ModelManifest, Variant, Mapping[str, bytes], LoadOptions], LoadedModel]
"""path -> content of the variant's files (hashes already checked). Raises ModelLoadError."""

Loaders = Mapping[Format, Load]


def default_loaders(config: Config | None = None) -> Loaders:
    """The runtimes of this box; each is imported when its first model is loaded."""
    config = config or Config()

    def openvino(
        manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        from appliance.runtimes.openvino import load_openvino

        return load_openvino(manifest, variant, files, options)

    def tflite(
        manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        from appliance.runtimes.tflite import load_tflite

        return load_tflite(manifest, variant, files, options, config.tflite)

    def remote(
        manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions
    ) -> LoadedModel:
        from appliance.runtimes.remote import load_remote

        return load_remote(manifest, variant, config.endpoints)

    return {"openvino": openvino, "onnx": openvino, "tflite": tflite, "remote": remote}
