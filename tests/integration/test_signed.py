"""A box that runs signed models only, and what a site does to bring one of its own; as typed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.site_key import SIGNATURE
from tests.support.author_files import YOLO_METADATA, write_detector
from tests.support.box import Box, run_appliance, running_box, write_config
from tests.support.models import picture, write_model
from tests.support.site_key import SiteKey, make_site_key


@pytest.fixture
def key(tmp_path: Path) -> SiteKey:
    return make_site_key(tmp_path / "keys")


def provisioned(tmp_path: Path, key: SiteKey) -> dict[str, Any]:
    return {"updates": {"root": str(tmp_path / "root.json"), "import_key": str(key.public)}}


@pytest.fixture
def box(tmp_path: Path, key: SiteKey) -> Iterator[Box]:
    """A provisioned one, with a model that its site signed and one that nobody did."""
    key.sign(write_model(tmp_path / "models", "signed"))
    write_model(tmp_path / "models", "unsigned")
    with running_box(tmp_path / "box", tmp_path / "models", **provisioned(tmp_path, key)) as box:
        yield box


def test_a_provisioned_box_serves_the_signed_model_and_says_why_not_the_other(box: Box) -> None:
    signed = box.http.post("/v1/predict/signed", content=picture(), headers={"Content-Type": "image/png"})
    unsigned = box.http.post("/v1/predict/unsigned", content=picture(), headers={"Content-Type": "image/png"})

    assert (signed.status_code, signed.json()["signed"]) == (200, True)
    assert unsigned.status_code == 503
    assert "nobody signed it, and this box runs signed models only" in unsigned.json()["detail"]
    status = box.status()
    assert [(each["name"], each["state"], each["signed"], each["origin"]) for each in status["models"]] == [
        ("signed", "ready", True, "import"),
        ("unsigned", "failed", False, None),
    ]
    assert [each["code"] for each in box.events("model_failed")] == ["model_unsigned"]
    assert any("appliance models sign" in each["message"] for each in status["problems"])


def test_a_model_that_is_signed_while_the_box_runs_serves_when_it_is_loaded(
    box: Box, key: SiteKey, tmp_path: Path
) -> None:
    refused = box.http.post("/v2/repository/models/unsigned/load")
    command = ("models", "sign", "unsigned", "--key", key.private, "--config", box.config)
    done = run_appliance(*command)
    loaded = box.http.post("/v2/repository/models/unsigned/load")
    answer = box.http.post("/v1/predict/unsigned", content=picture(), headers={"Content-Type": "image/png"})

    assert refused.status_code != 200
    assert "nobody signed it" in refused.text
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"unsigned 1: signed, {tmp_path / 'models' / 'unsigned' / '1' / SIGNATURE}\n"
    assert loaded.status_code == 200
    assert (answer.status_code, answer.json()["signed"]) == (200, True)


def test_the_shipped_models_serve_on_a_provisioned_box(tmp_path: Path, key: SiteKey) -> None:
    config = write_config(tmp_path / "box", **provisioned(tmp_path, key))

    done = run_appliance("models", "list", "--config", config, "--json")

    assert done.returncode == 0, done.stdout
    listed = json.loads(done.stdout)
    assert {each["name"]: (each["origin"], each["state"]) for each in listed} == dict.fromkeys(
        ("bearing", "parts", "surface"), ("shipped", "ok")
    )


def test_a_box_that_others_reach_lists_what_it_refuses(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    config = write_config(tmp_path / "box", tmp_path / "models", listener={"host": "192.168.1.5"})

    done = run_appliance("models", "list", "--config", config, "--json")

    (listed,) = json.loads(done.stdout)
    assert (done.returncode, listed["state"]) == (1, "model_unsigned")
    assert "listener.host is 192.168.1.5" in listed["reason"]


def test_import_on_a_provisioned_box_signs_what_it_brings(tmp_path: Path, key: SiteKey) -> None:
    network = write_detector(tmp_path / "squares.onnx", metadata=YOLO_METADATA)
    config = write_config(tmp_path / "box", **provisioned(tmp_path, key))
    command = ("models", "import", network, "--yes", "--config", config)

    without = run_appliance(*command)
    other = run_appliance(*command, "--key", make_site_key(tmp_path, "other").private)
    with_key = run_appliance(*command, "--key", key.private)
    listed = run_appliance("models", "list", "--config", config, "--json")

    assert (without.returncode, without.stdout) == (1, "")
    assert without.stderr == (
        "appliance: model_unsigned: this box runs signed models only; give --key the site's private key\n"
    )
    assert other.returncode == 2
    assert f"is not the private key of {key.public} (updates.import_key)" in other.stderr
    assert with_key.returncode == 0, with_key.stderr
    (squares,) = [each for each in json.loads(listed.stdout) if each["name"] == "squares"]
    assert (squares["signed"], squares["origin"], squares["state"]) == (True, "import", "ok")


def test_sign_refuses_what_is_not_as_its_manifest_says(tmp_path: Path, key: SiteKey) -> None:
    folder = write_model(tmp_path / "models")
    os.truncate(folder / "openvino-f32" / "model.bin", 1)
    command = ("models", "sign", "tiny", "--models", tmp_path / "models", "--data-dir", tmp_path / "data", "--key")

    damaged = run_appliance(*command, key.private)
    missing = run_appliance(*command[:2], "other", *command[3:], key.private)
    no_key = run_appliance(*command, tmp_path / "nowhere.pem")

    assert (damaged.returncode, "model_hash_mismatch" in damaged.stderr) == (1, True)
    assert (missing.returncode, "there is no model other; there are tiny" in missing.stderr) == (1, True)
    assert (no_key.returncode, "nowhere.pem: No such file" in no_key.stderr) == (2, True)
    assert not (folder / SIGNATURE).exists()


def test_an_encrypted_key_without_a_terminal_is_told_apart(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    locked = make_site_key(tmp_path, passphrase="open sesame")

    done = run_appliance(
        "models", "sign", "tiny", "--models", tmp_path / "models", "--data-dir", tmp_path / "data",
        "--key", locked.private,
    )  # fmt: skip

    assert (done.returncode, "is encrypted; run this on a terminal" in done.stderr) == (2, True)
