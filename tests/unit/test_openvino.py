"""OpenVINO behind the seam: gears, rows, devices, and compiled models kept between starts."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from appliance.core.manifest import ModelFile, ModelManifest, Postprocess, TensorPreprocess, Variant
from appliance.core.tensors import TensorSpec
from appliance.errors import InferenceError, ModelLoadError
from appliance.runtimes import LoadOptions, compiled, openvino
from appliance.runtimes.openvino import OpenVinoModel, core, load_openvino, ops, ov
from tests.support.disk import small_disk
from tests.support.networks import dense_files, lengths_files, onnx_files

Floats = npt.NDArray[np.float32]
WIDTH = 8
ACCELERATOR = "GPU"


def make_manifest(
    files: Mapping[str, bytes],
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    outputs: Mapping[str, tuple[int, ...]] | None = None,
    dtype: Literal["float32", "int32"] = "float32",
    **variant: Any,
) -> ModelManifest:
    named = tuple(ModelFile(path=path, sha256=hashlib.sha256(content).hexdigest()) for path, content in files.items())
    form: dict[str, Any] = {"format": "onnx" if "model.onnx" in files else "openvino", "precision": "f32"}
    return ModelManifest(
        schema=1,
        name="dense",
        version="1",
        title="a network for a test",
        licence="CC0-1.0",
        provenance="written for the tests",
        inputs=tuple(TensorSpec(name, dtype, shape) for name, shape in (inputs or {"x": (-1, WIDTH)}).items()),
        outputs=tuple(TensorSpec(name, "float32", shape) for name, shape in (outputs or {"y": (-1, 4)}).items()),
        preprocess=TensorPreprocess(),
        postprocess=Postprocess(),
        variants=(Variant(name="only", files=named, **(form | variant)),),
    )


def load(
    files: Mapping[str, bytes], manifest: ModelManifest | None = None, runtime: Any = None, **options: Any
) -> OpenVinoModel:
    manifest = manifest or make_manifest(files)
    return load_openvino(manifest, manifest.variants[0], files, LoadOptions(**options), runtime)


def rows(count: int) -> Floats:
    return np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32)


def expected(x: Floats) -> Floats:
    return np.repeat(np.maximum(x, 0).sum(1, keepdims=True) + 1, 4, 1)


class Runtime:
    """The real OpenVINO, which notes how it compiles, and pretends to have an accelerator."""

    def __init__(self, *, accelerator: Literal["none", "no compile", "no inference", "works"] = "none") -> None:
        self.settings: list[dict[str, Any]] = []
        self.cores: list[int] = []
        self.imports = 0
        self._accelerator = accelerator
        self.available_devices = ["CPU"] if accelerator == "none" else ["CPU", f"{ACCELERATOR}.0"]
        self.read_model = core().read_model

    def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
        self.settings.append(settings)
        self.cores.append(len(os.sched_getaffinity(0)))
        if device.startswith(ACCELERATOR):
            if self._accelerator == "no compile":
                raise RuntimeError("Exception from somewhere\nthe driver is too old\n")
            if self._accelerator == "no inference":
                return Broken(core().compile_model(model, "CPU"))
            return core().compile_model(model, "CPU", settings)
        return core().compile_model(model, device, settings)

    def import_model(self, blob: Any, device: str, settings: dict[str, Any]) -> Any:
        self.imports += 1
        self.settings.append(settings)
        return core().import_model(blob, device, settings)


class Broken:
    """Compiles, and then cannot infer."""

    def __init__(self, found: Any) -> None:
        self.inputs, self.outputs = found.inputs, found.outputs

    def create_infer_request(self) -> Any:
        raise RuntimeError("out of device memory")


@pytest.fixture(autouse=True)
def not_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here are so small that they would have one gear."""
    monkeypatch.setattr(openvino, "TINY_S", 0.0)


def test_each_gear_infers() -> None:
    loaded = load(dense_files(), streams=2, threads=2)
    assert loaded.gears == ("latency", "throughput")
    assert (loaded.device, loaded.note, loaded.batches, loaded.from_cache) == ("CPU", None, True, False)
    for gear in loaded.gears:
        found = loaded.session(gear)({"x": rows(1)})
        assert list(found) == ["y"]
        np.testing.assert_allclose(found["y"], expected(rows(1)), rtol=1e-5)


def test_gears_get_their_streams_and_threads_and_never_a_hint() -> None:
    runtime = Runtime()
    load(dense_files(), runtime=runtime, streams=3, threads=2)
    given = [(each["NUM_STREAMS"], each["INFERENCE_NUM_THREADS"]) for each in runtime.settings]
    assert given == [(1, 2), (3, 3)]
    assert all("PERFORMANCE_HINT" not in each for each in runtime.settings)
    assert {each["INFERENCE_PRECISION_HINT"] for each in runtime.settings} == {"f32"}


@pytest.mark.parametrize(
    ("variant", "asked", "used"),
    [("f32", None, "f32"), ("f32", "bf16", "bf16"), ("int8", None, "f32"), ("f16", None, "f16")],
)
def test_precision_is_the_one_asked_for_or_the_variants(variant: str, asked: str | None, used: str) -> None:
    runtime, files = Runtime(), dense_files()
    load(files, make_manifest(files, precision=variant), runtime, precision=asked)
    assert runtime.settings[0]["INFERENCE_PRECISION_HINT"] == used


def test_one_core_needs_one_compilation() -> None:
    runtime = Runtime()
    loaded = load(dense_files(), runtime=runtime)
    assert len(runtime.settings) == len(loaded.gears) == 1
    np.testing.assert_allclose(loaded.session("latency")({"x": rows(1)})["y"], expected(rows(1)), rtol=1e-5)


def test_tiny_network_runs_on_its_callers_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "TINY_S", 3600.0)
    runtime = Runtime()
    loaded = load(dense_files(), runtime=runtime, streams=4, threads=4)
    assert loaded.gears == ("throughput",)
    assert runtime.settings[-1]["NUM_STREAMS"] == runtime.settings[-1]["INFERENCE_NUM_THREADS"] == 1
    for count in (1, 5):
        np.testing.assert_allclose(loaded.session("latency")({"x": rows(count)})["y"], expected(rows(count)), rtol=1e-5)


@pytest.mark.parametrize("count", [*range(1, 20), 300])
def test_any_number_of_rows_is_inferred(count: int) -> None:
    found = load(dense_files()).session("throughput")({"x": rows(count)})["y"]
    np.testing.assert_allclose(found, expected(rows(count)), rtol=1e-5)


def test_runtime_meets_a_bounded_set_of_shapes() -> None:
    """Its memory grows with every one."""
    assert len(set(openvino.BATCH_ROWS)) <= 8


def test_large_rows_run_one_by_one() -> None:
    runtime, width = Runtime(), openvino.ROW_BYTES_MAX // 4
    files = dense_files(width=width)
    loaded = load(files, make_manifest(files, {"x": (-1, width)}), runtime)
    compilations = len(runtime.settings)
    assert loaded.session("throughput")({"x": np.ones((3, width), np.float32)})["y"].tolist() == [[width + 1] * 4] * 3
    assert len(runtime.settings) == compilations


def test_rows_of_a_network_made_for_one_are_kept_apart() -> None:
    """Its file claims a free batch axis, but folds all rows into one."""
    found = load(dense_files(free="claimed")).session("throughput")({"x": rows(6)})["y"]
    np.testing.assert_allclose(found, expected(rows(6)), rtol=1e-5)


def test_rows_of_a_fixed_batch_run_one_by_one() -> None:
    loaded = load(dense_files(free="nothing"))
    assert not loaded.batches
    infer = loaded.session("throughput")
    for count in (1, 3):
        np.testing.assert_allclose(infer({"x": rows(count)})["y"], expected(rows(count)), rtol=1e-5)
    with pytest.raises(InferenceError, match="at least 1"):
        infer({"x": rows(0)})


@pytest.mark.parametrize("shape", [(0, WIDTH), (1, WIDTH + 1), (2, WIDTH + 1), (1, 1, WIDTH)])
def test_wrong_shape_is_refused_and_the_next_input_is_not(shape: tuple[int, ...]) -> None:
    infer = load(dense_files()).session("throughput")
    with pytest.raises(InferenceError):
        infer({"x": np.zeros(shape, np.float32)})
    np.testing.assert_allclose(infer({"x": rows(1)})["y"], expected(rows(1)), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_answers_are_the_callers_and_inputs_stay_as_they_are(count: int) -> None:
    infer = load(dense_files()).session("throughput")
    given = rows(count)
    given.flags.writeable = False
    first = infer({"x": given})["y"]
    kept = first.copy()
    infer({"x": rows(count) * 7})
    assert np.array_equal(first, kept)
    assert np.array_equal(given, rows(count))
    first[...] = 0


def test_axis_that_the_manifest_leaves_free_takes_any_length() -> None:
    files = lengths_files()
    infer = load(files, make_manifest(files, {"x": (-1, -1)}, {"y": (-1, 1)})).session("throughput")
    for length in (1, 40, 3, 1000, *range(5, 30)):
        for count in (1, 3):
            assert infer({"x": np.ones((count, length), np.float32)})["y"].tolist() == [[length]] * count


def test_axis_that_the_manifest_fixes_is_fixed() -> None:
    files = lengths_files()
    infer = load(files, make_manifest(files, {"x": (-1, 5)}, {"y": (-1, 1)})).session("throughput")
    assert infer({"x": np.ones((1, 5), np.float32)})["y"].tolist() == [[5]]
    with pytest.raises(InferenceError, match="has shape"):
        infer({"x": np.ones((1, 6), np.float32)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"z": (-1, WIDTH)}}, "no input"),
        ({"outputs": {"z": (-1, 4)}}, "no output"),
        ({"inputs": {"x": (-1, WIDTH + 1)}}, "has shape"),
        ({"inputs": {"x": (-1, -1)}}, "has shape"),
        ({"inputs": {"x": (-1, WIDTH, 1)}}, "has shape"),
        ({"outputs": {"y": (-1, 5)}}, "has shape"),
        ({"dtype": "int32"}, "float32 in the file"),
        ({"tensors": {"x": "inside"}}, "no input"),
    ],
)
def test_manifest_that_does_not_fit_the_file_is_refused(changes: dict[str, Any], message: str) -> None:
    files = dense_files()
    with pytest.raises(ModelLoadError, match=message):
        load(files, make_manifest(files, **changes))


def test_tensor_may_have_another_name_in_the_file() -> None:
    files = dense_files()
    inside = {"features": "x", "scores": "y"}
    manifest = make_manifest(files, {"features": (-1, WIDTH)}, {"scores": (-1, 4)}, tensors=inside)
    found = load(files, manifest).session("throughput")({"features": rows(2)})
    np.testing.assert_allclose(found["scores"], expected(rows(2)), rtol=1e-5)


def test_onnx_file_loads_as_it_is() -> None:
    files = onnx_files()
    loaded = load(files, make_manifest(files, {"x": (-1, 4)}))
    for count in (1, 3):
        given = rows(count)[:, :4]
        assert np.array_equal(loaded.session("throughput")({"x": given})["y"], np.maximum(given, 0))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (onnx_files(operator="Magic"), "Magic"),
        ({"model.onnx": b"not a network"}, "cannot read"),
        ({"model.onnx": b""}, "names no .onnx file"),
        ({"model.xml": b"<net", "model.bin": b""}, "cannot read"),
        ({"model.bin": b""}, "names no .xml file"),
    ],
)
def test_file_that_is_no_network_is_refused_with_the_reason(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(files, make_manifest(files, {"x": (-1, 4)}))
    assert "\n" not in str(caught.value)


def test_threads_infer_at_the_same_time_and_do_not_mix_answers() -> None:
    loaded = load(dense_files(), streams=2, threads=2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        infer = loaded.session("throughput")
        for count in range(1, 40):
            given = rows(1 + (seed + count) % 9)
            if not np.allclose(infer({"x": given})["y"], expected(given), rtol=1e-4):
                wrong.append(count)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_device_that_is_not_there_is_replaced_by_the_cpu() -> None:
    loaded = load(dense_files(), runtime=Runtime(), device="NPU")
    assert loaded.device == "CPU"
    assert loaded.note == "NPU is not on this box, which has CPU; the model runs on the CPU"


@pytest.mark.parametrize(
    ("accelerator", "why"), [("no compile", "the driver is too old"), ("no inference", "out of device memory")]
)
@pytest.mark.parametrize("device", ["GPU", "GPU.0", "AUTO"])
def test_device_that_fails_is_replaced_by_the_cpu(accelerator: Any, why: str, device: str) -> None:
    loaded = load(dense_files(), runtime=Runtime(accelerator=accelerator), device=device)
    assert loaded.device == "CPU"
    assert why in (loaded.note or "")
    np.testing.assert_allclose(loaded.session("throughput")({"x": rows(2)})["y"], expected(rows(2)), rtol=1e-5)


@pytest.mark.parametrize(("device", "used"), [("GPU", "GPU"), ("AUTO", "GPU.0")])
def test_device_that_works_is_used_with_hints(monkeypatch: pytest.MonkeyPatch, device: str, used: str) -> None:
    runtime = Runtime(accelerator="works")
    loaded = load(dense_files(), runtime=runtime, device=device)
    assert (loaded.device, loaded.note) == (used, None)
    assert [each["PERFORMANCE_HINT"] for each in runtime.settings] == ["LATENCY", "THROUGHPUT"]
    assert all("NUM_STREAMS" not in each for each in runtime.settings)


def test_auto_without_an_accelerator_is_the_cpu() -> None:
    loaded = load(dense_files(), runtime=Runtime(), device="AUTO")
    assert (loaded.device, loaded.note) == ("CPU", None)


def test_compiling_keeps_to_its_cores_and_inferring_gets_all() -> None:
    everywhere = os.sched_getaffinity(0)
    runtime = Runtime()
    loaded = load(dense_files(), runtime=runtime, streams=2, threads=2, compile_threads=1)
    assert runtime.cores == [1, 1]
    loaded.session("latency")({"x": rows(1)})
    assert all(os.sched_getaffinity(int(task)) == everywhere for task in os.listdir("/proc/self/task"))


def test_next_start_compiles_nothing(tmp_path: Path) -> None:
    files = dense_files()
    kept: dict[str, Any] = {
        "streams": 2,
        "threads": 2,
        "compiled_dir": tmp_path / "compiled",
        "compiled_bytes_max": 1 << 20,
    }
    before = load(files, **kept).session("throughput")({"x": rows(5)})["y"]
    runtime = Runtime()
    loaded = load(files, runtime=runtime, **kept)
    found = loaded.session("throughput")({"x": rows(5)})["y"]
    assert (loaded.from_cache, loaded.note, loaded.batches) == (True, None, True)
    assert runtime.imports == len(runtime.settings)
    assert np.array_equal(found, before)


def cached(
    folder: Path, files: Mapping[str, bytes] | None = None, runtime: Any = None, **options: Any
) -> OpenVinoModel:
    """Load with a folder of compiled models; the same files every time, unless others are given."""
    kept: dict[str, Any] = {"compiled_dir": folder, "compiled_bytes_max": 1 << 20}
    return load(files or same_files(), None, runtime, **(kept | options))


def company_files(folder: Path, *, own: float, others: float) -> dict[str, bytes]:
    """y = own * x + others * (mean of x over all rows), repeated: x of (rows, WIDTH), y of (rows, 4)."""
    given = ops.parameter([-1, WIDTH], np.float32, name="x")
    x = ops.matmul(given, np.ones((WIDTH, 4), np.float32), False, False)
    mean = ops.reduce_mean(x, np.array([0]), True)
    y = ops.add(ops.multiply(x, np.float32(own)), ops.multiply(mean, np.float32(others)))
    model = ov.Model([ops.result(y)], [given], "network")
    model.inputs[0].set_names({"x"})
    model.outputs[0].set_names({"y"})
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return {name: (folder / name).read_bytes() for name in ("model.xml", "model.bin")}


@cache
def same_files() -> dict[str, bytes]:
    return dense_files()


def test_another_cpu_runtime_precision_or_file_compiles_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path)
    assert cached(tmp_path).from_cache
    assert not cached(tmp_path, precision="bf16").from_cache
    assert not cached(tmp_path, files=dense_files(free="nothing")).from_cache
    monkeypatch.setattr(openvino, "fingerprint", lambda: "another")
    assert not cached(tmp_path).from_cache


def test_kept_model_is_passed_over_when_asked(tmp_path: Path) -> None:
    cached(tmp_path)
    assert not cached(tmp_path, fresh=True).from_cache
    assert cached(tmp_path).from_cache


def test_damaged_compiled_model_is_compiled_afresh_and_replaced(tmp_path: Path) -> None:
    cached(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    loaded = cached(tmp_path)
    assert not loaded.from_cache
    assert "damaged" in (loaded.note or "")
    assert cached(tmp_path).from_cache


def test_compiled_model_that_openvino_refuses_is_compiled_afresh_and_replaced(tmp_path: Path) -> None:
    cached(tmp_path)
    (path,) = tmp_path.iterdir()
    compiled.write(tmp_path, path.stem, b"\1 of another version", 1 << 20)
    loaded = cached(tmp_path)
    assert not loaded.from_cache
    assert "could not be used" in (loaded.note or "")
    np.testing.assert_allclose(loaded.session("throughput")({"x": rows(3)})["y"], expected(rows(3)), rtol=1e-5)
    assert cached(tmp_path).from_cache


def kept_in(folder: Path) -> dict[str, Path]:
    """`row` and `batch` -> the file of that compilation."""
    found = {}
    for path in folder.glob("*.blob"):
        content = compiled.read(folder, path.stem)
        assert content is not None
        network = core().import_model(openvino._unpack(content)[1], "CPU", {})
        found["batch" if network.inputs[0].partial_shape[0].is_dynamic else "row"] = path
    return found


def put_in_place_of(path: Path, other: Path) -> None:
    """The compiled model of `other`, whole, under the name of `path`."""
    content = compiled.read(other.parent, other.stem)
    assert content is not None
    compiled.write(path.parent, path.stem, content, 1 << 20)


def test_kept_model_that_is_another_one_is_compiled_afresh_and_replaced(tmp_path: Path) -> None:
    """It can be imported, and then does not have the tensors of the manifest."""
    cached(tmp_path)
    files = dense_files(width=WIDTH + 1)
    load(
        files, make_manifest(files, {"x": (-1, WIDTH + 1)}), compiled_dir=tmp_path / "other", compiled_bytes_max=1 << 20
    )
    put_in_place_of(kept_in(tmp_path)["row"], kept_in(tmp_path / "other")["row"])
    loaded = cached(tmp_path)
    assert not loaded.from_cache
    assert "could not be used" in (loaded.note or "")
    np.testing.assert_allclose(loaded.session("throughput")({"x": rows(1)})["y"], expected(rows(1)), rtol=1e-5)
    again = cached(tmp_path)
    assert (again.from_cache, again.note) == (True, None)


def test_kept_model_that_cannot_infer_is_compiled_afresh(tmp_path: Path) -> None:
    class Imported(Runtime):
        def import_model(self, blob: Any, device: str, settings: dict[str, Any]) -> Any:
            return Broken(super().import_model(blob, device, settings))

    cached(tmp_path)
    loaded = cached(tmp_path, runtime=Imported())
    assert not loaded.from_cache
    assert "out of device memory" in (loaded.note or "")
    assert cached(tmp_path).from_cache


def test_model_that_cannot_be_exported_is_served(tmp_path: Path) -> None:
    class Kept:
        def __init__(self, found: Any) -> None:
            self._found = found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._found, name)

        def export_model(self) -> Any:
            raise RuntimeError("this network cannot be exported")

    class Exporting(Runtime):
        def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
            return Kept(super().compile_model(model, device, settings))

    loaded = cached(tmp_path, runtime=Exporting())
    for count in (1, 2):
        np.testing.assert_allclose(loaded.session("latency")({"x": rows(count)})["y"], expected(rows(count)), rtol=1e-5)
    assert loaded.note == "the compiled model is not kept: this network cannot be exported"


def test_fresh_load_forgets_both_compilations(tmp_path: Path) -> None:
    cached(tmp_path).session("throughput")({"x": rows(2)})
    assert set(kept_in(tmp_path)) == {"row", "batch"}
    cached(tmp_path, fresh=True)
    assert set(kept_in(tmp_path)) == {"row"}


def test_kept_batch_that_answers_otherwise_than_its_rows_is_compiled_afresh(tmp_path: Path) -> None:
    """Same tensors, other numbers: only a comparison shows it."""
    cached(tmp_path).session("throughput")({"x": rows(2)})
    other = company_files(tmp_path, own=2, others=0)
    cached(tmp_path / "other", other).session("throughput")({"x": rows(2)})
    put_in_place_of(kept_in(tmp_path)["batch"], kept_in(tmp_path / "other")["batch"])
    loaded, runtime = cached(tmp_path), Runtime()
    np.testing.assert_allclose(loaded.session("throughput")({"x": rows(2)})["y"], expected(rows(2)), rtol=1e-5)
    assert "two rows together" in (loaded.note or "")
    for start in (cached(tmp_path), cached(tmp_path, runtime=runtime)):
        start.session("throughput")({"x": rows(2)})
        assert start.note is None
    assert runtime.imports == len(runtime.settings) == 2


def test_network_whose_rows_disturb_each_other_runs_them_one_by_one(tmp_path: Path) -> None:
    """As many rows come out as went in, each with a share of the others: such a compilation is not kept."""
    infer = cached(tmp_path / "kept", company_files(tmp_path, own=2, others=-1)).session("throughput")
    wanted = np.repeat(rows(4).sum(1, keepdims=True), 4, 1)
    np.testing.assert_allclose(infer({"x": rows(4)})["y"], wanted, rtol=1e-4, atol=1e-5)
    assert set(kept_in(tmp_path / "kept")) == {"row"}


@pytest.mark.parametrize(
    ("precision", "apart", "same"), [("f32", 0.01, False), ("bf16", 0.01, True), ("bf16", 0.1, False)]
)
def test_rows_are_compared_as_exactly_as_their_arithmetic_is(precision: Any, apart: float, same: bool) -> None:
    wanted = np.array([[0.0, 2.0]])
    assert openvino._alike(wanted + 2 * apart, wanted, openvino._SAME[precision]) is same
    assert openvino._alike(wanted, wanted, openvino._SAME[precision])
    assert not openvino._alike(wanted[:, :1], wanted, openvino._SAME[precision])


def test_folder_that_cannot_be_used_stops_no_load(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    loaded = cached(tmp_path / "file")
    assert "not kept" in (loaded.note or "")
    np.testing.assert_allclose(loaded.session("throughput")({"x": rows(1)})["y"], expected(rows(1)), rtol=1e-5)


def test_full_disk_stops_no_load(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        disk.fill()
        loaded = cached(disk.path)
        assert "No space left" in (loaded.note or "")
        np.testing.assert_allclose(loaded.session("throughput")({"x": rows(1)})["y"], expected(rows(1)), rtol=1e-5)


def test_bound_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    cached(tmp_path, compiled_bytes_max=0)
    assert list(tmp_path.iterdir()) == []


def test_unloaded_model_is_gone() -> None:
    gc.collect()
    before = sum(isinstance(each, OpenVinoModel) for each in gc.get_objects())
    loaded = load(dense_files(), streams=2, threads=2)
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(20):
        loaded = load(dense_files(), streams=2, threads=2)
        loaded.session("latency")({"x": rows(1)})
    gc.collect()
    assert len(os.listdir("/proc/self/task")) <= threads + 4
    assert sum(isinstance(each, OpenVinoModel) for each in gc.get_objects()) == before + 1


_IMPORTED = """
import json, sys
seen = []
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "urllib.")) or (event == "import" and "telemetry" in str(args[0])):
        seen.append([event, str(args[0])])
sys.addaudithook(watch)
from appliance.runtimes.openvino import core, prove
prove(core(), "CPU")
loaded = [name for name in sys.modules if "telemetry" in name and sys.modules[name] is not None]
print(json.dumps([seen, loaded]))
"""


def test_openvino_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED],
        env={**os.environ, "HOME": str(tmp_path), "CI": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[], []]
    assert list(tmp_path.iterdir()) == []


def test_conversion_tool_finds_no_telemetry_when_it_is_imported_later() -> None:
    script = _IMPORTED.replace("prove(core()", "import openvino.tools.ovc; prove(core()")
    script = script.replace('"telemetry" in str(args[0])', '"openvino_telemetry." in str(args[0])')
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seen, loaded = json.loads(done.stdout)
    assert [event for event in seen if not event[0].startswith("subprocess")] == []
    assert [name for name in loaded if name.startswith("openvino_telemetry")] == []
