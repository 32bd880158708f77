"""The self-test of a staged version: in a child that is watched, and through the socket that systemd would hold."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from appliance.config import Config, ModelConfig, UpdatesConfig
from appliance.errors import UpdateError
from appliance.updater import selftest
from appliance.updater.selftest import SelfTest, run
from tests.support.box import ROOT
from tests.support.models import write_model
from tests.support.wait import until

CONFIG = Config(updates=UpdatesConfig(selftest_s=30, selftest_mb=512))
IMPATIENT = Config(updates=UpdatesConfig(selftest_s=3, selftest_mb=512))


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return write_model(tmp_path / ".staging")


@pytest.fixture
def misbehave(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def as_told(*how: str) -> None:
        monkeypatch.setattr(selftest, "CHILD", ("tests.support.bad_runtime", *how))

    return as_told


def test_a_good_version_passes_in_every_form_that_the_box_may_choose(tmp_path: Path) -> None:
    folder = write_model(tmp_path, formats=("openvino", "tflite"))

    outcome = run(folder, CONFIG, unit=False)

    assert (outcome.passed, outcome.code, outcome.reason) == (True, None, None)
    assert (outcome.variant, outcome.device) == ("openvino-f32", "CPU")
    assert outcome.infer_ms_median is not None
    # OpenVINO in two precisions and TFLite, two golden cases each; a CPU may know one precision only.
    assert outcome.cases in (4, 6)
    assert 0 < outcome.memory_mb < 512
    assert outcome.seconds > 0


def test_the_variant_is_the_one_that_the_site_asks_for(tmp_path: Path) -> None:
    folder = write_model(tmp_path, formats=("openvino", "tflite"))
    config = msgspec.structs.replace(CONFIG, models={"tiny": ModelConfig(variant="tflite-f32")})

    assert run(folder, config, unit=False).variant == "tflite-f32"


def test_a_version_that_answers_wrongly_fails_with_what_it_answered(tmp_path: Path) -> None:
    folder = write_model(tmp_path, verdict={"classes": {"good": "ng", "bad": "ok"}})

    outcome = run(folder, CONFIG, unit=False)

    assert (outcome.passed, outcome.code) == (False, "model_load_failed")
    assert outcome.reason is not None
    assert "golden case golden/good.png" in outcome.reason
    assert "expected verdict ok, got ng" in outcome.reason
    assert "\n" not in outcome.reason


def test_a_form_that_answers_wrongly_is_noted_and_another_one_serves(tmp_path: Path) -> None:
    folder = write_model(tmp_path, formats=("openvino", "tflite"))
    manifest = folder / "manifest.toml"
    text = manifest.read_text()
    assert text.count('"tflite-f32" = 0.01') == 2
    # Not even the same answer would do.
    manifest.write_text(text.replace('"tflite-f32" = 0.01', '"tflite-f32" = -1'))

    outcome = run(folder, CONFIG, unit=False)

    assert outcome.passed
    assert "golden case" in outcome.refused["tflite-f32"]


@pytest.mark.parametrize("file", ["openvino-f32/model.bin", "golden/good.png"])
def test_a_truncated_file_is_named(staged: Path, file: str) -> None:
    os.truncate(staged / file, 10)

    outcome = run(staged, CONFIG, unit=False)

    assert (outcome.passed, outcome.code) == (False, "model_hash_mismatch")
    assert outcome.reason is not None
    assert file in outcome.reason


def test_a_version_without_golden_cases_shows_nothing_and_fails(tmp_path: Path) -> None:
    outcome = run(write_model(tmp_path, golden=[]), CONFIG, unit=False)

    assert (outcome.passed, outcome.code) == (False, "manifest_invalid")


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    outcome = run(tmp_path / "tiny" / "1", CONFIG, unit=False)

    assert (outcome.passed, outcome.code) == (False, "manifest_invalid")


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        (("crash",), "runtime_crashed", "SIGSEGV"),
        (("abort",), "memory_exceeded", "bad_alloc"),
        (("exit", "3"), "runtime_crashed", "exit code 3"),
        (("exit", "0"), "runtime_crashed", "before there was an answer"),
        (("allocate",), "memory_exceeded", "512 MB"),
        (("map",), "memory_exceeded", "512 MB"),
    ],
)
def test_a_model_that_harms_its_process_only_fails_its_test(
    staged: Path, misbehave: Callable[..., None], how: tuple[str, ...], code: str, reason: str
) -> None:
    misbehave(*how)

    outcome = run(staged, CONFIG, unit=False)

    assert (outcome.passed, outcome.code) == (False, code)
    assert outcome.reason is not None
    assert reason in outcome.reason
    assert "\n" not in outcome.reason


def test_a_model_that_hangs_is_ended_with_whatever_it_started(staged: Path, misbehave: Callable[..., None]) -> None:
    before = _sleepers()
    misbehave("leave-a-child")

    outcome = run(staged, IMPATIENT, unit=False)

    assert (outcome.passed, outcome.code) == (False, "runtime_hung")
    assert outcome.reason == "it was not done after 3 s (updates.selftest_s)"
    until(lambda: _sleepers() == before, 5, "the end of what the model had started")


def test_what_a_runtime_prints_is_no_answer(staged: Path, misbehave: Callable[..., None]) -> None:
    misbehave("chatter")

    assert run(staged, CONFIG, unit=False).passed


def test_a_model_under_test_reaches_nobody(staged: Path, misbehave: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        misbehave("dial", str(server.getsockname()[1]))

        outcome = run(staged, CONFIG, unit=False)

    assert outcome.reason is not None
    assert outcome.reason.startswith("no way out")


def test_the_child_ends_with_the_updater(staged: Path, misbehave: Callable[..., None]) -> None:
    before = _sleepers()
    code = (
        "from pathlib import Path; from appliance.config import Config; from appliance.updater import selftest;"
        "selftest.CHILD = ('tests.support.bad_runtime', 'hang');"
        f"selftest.run(Path({str(staged)!r}), Config(), unit=False)"
    )
    updater = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until(lambda: len(_children()) > 0, 20, "the child of the self-test")
    updater.kill()
    updater.wait()

    until(lambda: not _children(), 5, "the end of the child")
    assert _sleepers() == before


# -- through the socket


@contextmanager
def answering(path: Path, *command: str) -> Iterator[None]:
    """systemd's own tool that hands each connection at `path` to a process, as the socket unit does."""
    activate = ["systemd-socket-activate", "--accept", "--inetd", f"--listen={path}", "--setenv=PATH"]
    holder = subprocess.Popen([*activate, *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    until(path.is_socket, 10, "the socket")
    try:
        yield
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the socket is."""
    path = tmp_path / "selftest.sock"
    monkeypatch.setattr(selftest, "SOCKET", path)
    return path


def test_through_the_socket_the_outcome_is_the_same(place: Path, staged: Path, tmp_path: Path) -> None:
    with answering(place, sys.executable, "-m", "appliance.updater.selftest"):
        good, wrong = run(staged, CONFIG), run(write_model(tmp_path, "wrong", golden=[]), CONFIG)

    assert good.passed
    assert good.variant == "openvino-f32"
    assert good.memory_mb > 0
    assert (wrong.passed, wrong.code) == (False, "manifest_invalid")


def test_a_sandbox_that_does_not_work_is_not_the_models_fault(place: Path, staged: Path) -> None:
    with pytest.raises(UpdateError, match=r"systemctl status appliance-selftest\.socket"):
        run(staged, CONFIG, unit=True)

    with answering(place, "/bin/false"), pytest.raises(UpdateError, match="no outcome") as error:
        run(staged, CONFIG)
    assert "\n" not in str(error.value)


def test_an_outcome_can_be_kept_as_json() -> None:
    outcome = SelfTest(passed=False, code="runtime_hung", reason="it was not done", refused={"a": "b"})

    assert msgspec.json.decode(msgspec.json.encode(outcome), type=SelfTest) == outcome


def _processes(*words: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if all(word.encode() in command for word in words):
            found.append(int(entry.name))
    return sorted(found)


def _sleepers() -> list[int]:
    return _processes("sleep", "600")


def _children() -> list[int]:
    return _processes("tests.support.bad_runtime", "hang")
