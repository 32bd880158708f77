"""Tuning: the fastest way is taken only if the answers stay what they are."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from appliance.config import ModelConfig
from appliance.core.schedule import Gear
from appliance.repository import ModelVersion, read_version
from appliance.runtimes import LoadOptions, default_loaders
from appliance.tuning import Choice, Tuner
from tests.support.models import SIDE, picture, sha256, write_model
from tests.support.networks import openvino_files
from tests.support.slowed import slowed_loaders

QUICK, SLOW = 0.0005, 0.003
PIXELS_MAX = 10_000_000


def two_variants(root: Path, **changes: Any) -> ModelVersion:
    return read_version(write_model(root, formats=("openvino", "openvino"), **changes))


def with_check_set(root: Path, samples: list[tuple[bytes, str]]) -> ModelVersion:
    """The check set's answers need not be the model's."""
    archive = root / "check.zip"
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow(["file", "answer"])
    with zipfile.ZipFile(archive, "w") as out:
        for number, (content, answer) in enumerate(samples):
            out.writestr(f"{number}.png", content)
            table.writerow([f"{number}.png", answer])
        out.writestr("answers.csv", rows.getvalue())
    folder = write_model(
        root / "models", formats=("openvino", "openvino"), check={"file": "check.zip", "sha256": sha256(archive)}
    )
    archive.rename(folder / "check.zip")
    return read_version(folder)


def tuner_of(
    folder: Path | None, seconds: dict[str, float] | None = None, slower: dict[Gear, float] | None = None
) -> Tuner:
    return Tuner(folder, slowed_loaders(seconds or {}, slower), LoadOptions(streams=2, threads=2), PIXELS_MAX)


def choose(tuner: Tuner, version: ModelVersion, **config: Any) -> Choice:
    return tuner.load(version, ModelConfig(**config), measure=True)[1]


def test_quicker_variant_that_says_the_same_is_chosen(tmp_path: Path) -> None:
    version = two_variants(tmp_path)
    choice = choose(tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": QUICK}), version)
    assert choice.variant == "openvino-f32-2"
    assert choice.measured_ms["openvino-f32"] > choice.measured_ms["openvino-f32-2"]


def test_quicker_precision_that_says_the_same_is_chosen(tmp_path: Path) -> None:
    version = read_version(write_model(tmp_path))
    served, choice = tuner_of(None, {"openvino-f32": SLOW, "openvino-f32 bf16": QUICK}).load(
        version, ModelConfig(), measure=True
    )
    assert (choice.variant, choice.precision) == ("openvino-f32", "bf16")
    assert served.variant.name == "openvino-f32"


def test_variant_that_is_hardly_quicker_is_not_worth_a_change(tmp_path: Path) -> None:
    version = two_variants(tmp_path)
    assert choose(tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": SLOW}), version).variant == "openvino-f32"


def test_quicker_variant_whose_golden_cases_fail_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_model(tmp_path, formats=("openvino", "openvino"))
    manifest = (folder / "manifest.toml").read_text()
    # The tolerance of the second variant is less than any arithmetic gives.
    strict = manifest.replace('"openvino-f32-2" = 0.01', '"openvino-f32-2" = -1.0')
    assert strict != manifest
    (folder / "manifest.toml").write_text(strict)
    choice = choose(tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": QUICK}), read_version(folder))
    assert choice.variant == "openvino-f32"
    assert "golden case" in choice.refused["openvino-f32-2"]


def test_check_set_with_too_few_samples_lets_nothing_through_and_the_model_serves(tmp_path: Path) -> None:
    version = with_check_set(tmp_path, [(picture(230), "good")] * 199)
    choice = choose(tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": QUICK}), version)
    assert choice.variant == "openvino-f32"
    assert "199 samples" in choice.refused["openvino-f32-2"]


def test_check_set_refuses_what_golden_cases_do_not_see(tmp_path: Path) -> None:
    """The second variant answers the golden cases as the first does, and every fourth sample wrongly."""
    samples = [(picture(230), "good")] * 150 + [(picture(140), "good")] * 50
    version = with_check_set(tmp_path, samples)
    second = version.manifest.variants[1]
    manifest = (version.folder / "manifest.toml").read_text()
    bent = openvino_files("image", (SIDE, SIDE, 3), bent=True)
    for file in second.files:
        path = version.folder / file.path
        path.write_bytes(bent[path.name])
        head, found, tail = manifest.rpartition(file.sha256)
        assert found
        manifest = head + sha256(path) + tail
    (version.folder / "manifest.toml").write_text(manifest)
    choice = choose(tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": QUICK}), read_version(version.folder))
    assert choice.variant == "openvino-f32"
    assert "25.0 points of the check set" in choice.refused["openvino-f32-2"]


def test_check_set_that_agrees_lets_the_quicker_variant_through(tmp_path: Path) -> None:
    version = with_check_set(tmp_path, [(picture(230), "good")] * 200)
    choice = choose(tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": QUICK}), version)
    assert (choice.variant, choice.refused) == ("openvino-f32-2", {})


def test_site_s_word_overrules_what_was_measured(tmp_path: Path) -> None:
    version = two_variants(tmp_path)
    tuner = tuner_of(None, {"openvino-f32": SLOW, "openvino-f32-2": QUICK})
    assert choose(tuner, version, variant="openvino-f32").variant == "openvino-f32"
    assert choose(tuner, version, precision="f32").variant == "openvino-f32"
    served, _ = tuner.load(version, ModelConfig(performance="latency", batch_max=3), measure=True)
    assert (served.tuning.gear, served.flow.batch_max) == ("latency", 3)


def test_gear_that_is_slower_is_not_used(tmp_path: Path) -> None:
    version = read_version(write_model(tmp_path))
    assert choose(tuner_of(None, {"openvino-f32": SLOW}, {"latency": 2.0}), version).tuning.gear == "throughput"
    assert choose(tuner_of(None, {"openvino-f32": SLOW}, {"latency": 0.3}), version).tuning.gear is None


def test_batching_is_used_where_a_call_costs_more_than_its_rows(tmp_path: Path) -> None:
    version = read_version(write_model(tmp_path))
    assert choose(tuner_of(None, {"openvino-f32": SLOW}), version).tuning.batch_max > 1


def test_choice_is_kept_for_this_model_on_this_hardware(tmp_path: Path) -> None:
    version = two_variants(tmp_path / "models")
    kept = tmp_path / "compiled"
    first = choose(tuner_of(kept, {"openvino-f32": SLOW, "openvino-f32-2": QUICK}), version)
    assert tuner_of(kept).kept(version, ModelConfig()) == first
    # The next start takes it, though measuring again would say otherwise.
    _, again = tuner_of(kept, {"openvino-f32": QUICK, "openvino-f32-2": SLOW}).load(
        version, ModelConfig(), measure=True
    )
    assert again == first
    assert tuner_of(kept).kept(version, ModelConfig(precision="f32")) is None
    other = read_version(write_model(tmp_path / "others", title="another manifest", formats=("openvino", "openvino")))
    assert tuner_of(kept).kept(other, ModelConfig()) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": {"variant": 3}}'])
def test_damaged_file_of_choices_is_measured_again(tmp_path: Path, content: bytes) -> None:
    version = two_variants(tmp_path / "models")
    kept = tmp_path / "compiled"
    kept.mkdir()
    (kept / "choices.json").write_bytes(content)
    tuner = tuner_of(kept, {"openvino-f32": SLOW, "openvino-f32-2": QUICK})
    assert choose(tuner, version).variant == "openvino-f32-2"
    assert tuner.kept(version, ModelConfig()) is not None


def test_kept_choice_that_fails_now_is_dropped_and_the_model_loads(tmp_path: Path) -> None:
    version = two_variants(tmp_path / "models")
    kept = tmp_path / "compiled"
    tuner = tuner_of(kept, {"openvino-f32": SLOW, "openvino-f32-2": QUICK})
    assert choose(tuner, version).variant == "openvino-f32-2"
    (version.folder / version.manifest.variants[1].files[0].path).write_bytes(b"damaged")
    served, choice = tuner.load(version, ModelConfig(), measure=False)
    assert (served.variant.name, choice.variant) == ("openvino-f32", "openvino-f32")
    assert tuner.kept(version, ModelConfig()) is None


def test_without_measuring_the_first_variant_serves_as_it_is(tmp_path: Path) -> None:
    served, choice = tuner_of(None).load(two_variants(tmp_path), ModelConfig(), measure=False)
    assert (choice.variant, choice.measured_ms, served.tuning.batch_max) == ("openvino-f32", {}, 1)


def test_tiny_tensor_model_runs_without_a_lane_and_a_slow_one_does_not(tmp_path: Path) -> None:
    version = read_version(write_model(tmp_path, kind="tensor"))
    slow = choose(tuner_of(None, {"openvino-f32": 0.001}), version)
    assert not slow.tuning.on_loop
    real = Tuner(None, default_loaders(), LoadOptions(), PIXELS_MAX)
    # On a busy machine one call of two hundred may be late: what is asked is that it can be had.
    assert any(choose(real, version).tuning.on_loop for _ in range(20))


def test_half_size_decoding_needs_a_large_jpeg_among_the_golden_cases(tmp_path: Path) -> None:
    assert not choose(tuner_of(None), read_version(write_model(tmp_path))).tuning.half_size
