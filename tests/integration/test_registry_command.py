"""`appliance-registry` as people and timers type it: real keys under a passphrase, real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.errors import ApplianceError, ConfigError, RegistryError
from appliance.updater.folder import FolderSource
from provisioning.registry import cli
from provisioning.registry.keys import Keyring, make_key, read_card
from tests.support.models import write_model
from tests.support.updated import Site


class Ops:
    """Somebody at a computer, in a folder. Raises what the command is refused with."""

    def __init__(self, folder: Path, keys: str = "keys") -> None:
        self.folder = folder
        self.keys = keys
        self.registry = folder / "registry"

    def __call__(self, *words: str | Path, answers: str = "") -> str:
        takes_keys = words[0] not in ("measure", "export", "drop", "drafts")
        keys = ["--keys", str(self.folder / self.keys)] if takes_keys else []
        place = [] if words[0] in ("measure", "key", "sign") else ["--registry", str(self.registry)]
        result = CliRunner().invoke(
            cli.registry,
            [*map(str, words), *place, *keys],
            input=answers,
            env={"APPLIANCE_REGISTRY_PASSPHRASE": "a stitch in time"},
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 1), result.output
        return result.output

    def bundle(self, version: str, name: str = "tiny") -> Path:
        folder = write_model(self.folder / "bundles", name, version, title=f"version {version}")
        self("measure", folder)
        return folder


@pytest.fixture
def ops(tmp_path: Path) -> Ops:
    """A registry with one team and keys in one folder."""
    ops = Ops(tmp_path)
    ops("init", "--team", "vision=*")
    return ops


def box(ops: Ops) -> Site:
    return Site(ops.folder / "box", (ops.registry / "metadata" / "1.root.json").read_bytes())


def test_from_nothing_to_a_box_and_back(ops: Ops) -> None:
    said = ops("publish", ops.bundle("1"))
    assert "tiny 1: 2 golden cases hold in every form (openvino-f32 on CPU" in said
    assert "a device downloads" in said
    assert "release 1 of ring stable" in ops("promote", "tiny")
    site = box(ops)
    assert site.look(FolderSource(ops.registry)).models == {"tiny": "1"}
    ops("publish", ops.bundle("2"))
    said = ops(
        "promote", "tiny=2", "--percent", "10", "--mode", "shadow", "--deadline", "8h", "--window", "22:00-05:00"
    )
    assert "10% of the boxes: tiny 2" in said
    assert "the other boxes: tiny 1" in said
    assert "boxes switch between 22:00 and 05:00 UTC" in said
    assert "or 8 h" in said
    assert "all boxes: tiny 1" in ops("rollback")
    assert "paused: nothing new is installed" in ops("pause")
    ops("resume")
    assert "blocked: tiny 2" in ops("block", "tiny=2")
    lines = ops("log").splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["6", "5", "4", "3", "2", "1"]
    assert all("channels" in line for line in lines[1:])
    said = ops("diff", "stable", "1", "2")
    assert said.startswith("ring stable, release 1 -> 2\n  tiny: 1 -> 2\n")
    assert '  window: - -> {"begins":"22:00","ends":"05:00"}\n' in said
    assert ops("verify").endswith("versions: 2, rings: stable\n")
    assert "ring stable, release 6: tiny 1; blocked tiny 2" in ops("status")


def test_machines_get_json(ops: Ops) -> None:
    published = json.loads(ops("publish", ops.bundle("1"), "--json"))
    assert published["published"] is True
    assert published["bytes"] == published["bytes_from_previous"] > 1000
    promoted = json.loads(ops("promote", "tiny", "--ring", "early", "--json"))
    assert promoted["releases"][0]["models"]["tiny"]["bytes"] == published["bytes"]
    status = json.loads(ops("status", "--json"))
    assert status["models"] == {"tiny": ["1"]}
    assert status["rings"]["early"]["number"] == 1
    assert set(status["expires"]) == {"root", "targets", "snapshot", "timestamp", "channels", "vision"}
    assert json.loads(ops("verify", "--json")) == []
    assert [each["signed_by"] for each in json.loads(ops("log", "--json"))] == [["channels"]]
    assert json.loads(ops("refresh", "--json"))["findings"] == []
    stick = json.loads(ops("mirror", ops.folder / "stick", "--ring", "early", "--json"))
    assert stick["models"] == {"tiny": ["1"]}
    assert json.loads(ops("gc", "--dry-run", "--json"))["files"] == 0


def test_a_release_brings_a_configuration_that_was_read_first(ops: Ops) -> None:
    ops("publish", ops.bundle("1"))
    file = ops.folder / "night.toml"
    file.write_text("[models.tiny.verdict]\nscore_ng_min = 0.8\n")
    said = ops("promote", "tiny", "--configuration", file)
    assert "brings a configuration: models (1)" in said
    assert "brings a configuration" in ops("promote", "tiny")
    assert "brings a configuration" not in ops("promote", "tiny", "--no-configuration")
    file.write_text("[http]\nport = 1\n")
    with pytest.raises(RegistryError, match="http"):
        ops("promote", "tiny", "--configuration", file)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["promote", "tiny"], "no version of tiny is published"),
        (["rollback"], "ring stable has no release yet"),
        (["pause", "--ring", "early"], "ring early has no release yet"),
        (["publish", "nowhere/1"], "every version folder needs a manifest.toml"),
        (["export", "targets", "x.json"], "no draft targets waits"),
        (["rotate", "vision", "--remove", "vision"], "would need 1 signatures and have 0 keys"),
        (["rotate", "visoin", "--remove", "vision"], "there is no role visoin"),
        (["rotate", "vision", "--remove", "somebody"], r"has no one key 'somebody'; it has vision"),
        (["refresh", "timestamp"], "is no role to sign anew"),
        (["gc", "--registry", "/nowhere"], "/nowhere is not a registry"),
        (["status", "--registry", "/nowhere"], "/nowhere is not a registry"),
    ],
)
def test_a_senseless_order_is_one_clear_line(ops: Ops, words: Sequence[str], reason: str) -> None:
    before = {path: path.read_bytes() for path in ops.registry.rglob("*.json")}
    if "--registry" in words:
        ops.registry = Path(words[-1])
        words = words[:-2]
    with pytest.raises(ApplianceError, match=reason) as caught:
        ops(*words)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in ops.folder.glob("registry/**/*.json")} == before


def test_values_out_of_range_are_refused_with_their_name(ops: Ops) -> None:
    ops("publish", ops.bundle("1"))
    for option, value, reason in (
        ("--ring", "Early", "ring"),
        ("--share", "2", "share"),
        ("--inputs-min", "0", "inputs_min"),
        ("--needs-appliance", "new", "appliance"),
        ("--window", "22:00", "--window 22:00"),
        ("--window", "25:00-03:00", "25:00"),
    ):
        with pytest.raises(RegistryError, match=reason):
            ops("promote", "tiny", option, value)
    assert "rings" in json.loads(ops("status", "--json"))
    assert json.loads(ops("status", "--json"))["rings"] == {}


def test_a_wrong_passphrase_is_told_and_nothing_is_signed(ops: Ops) -> None:
    result = CliRunner().invoke(
        cli.registry,
        ["refresh", "--registry", str(ops.registry), "--keys", str(ops.folder / "keys")],
        env={"APPLIANCE_REGISTRY_PASSPHRASE": "wrong"},
    )
    assert isinstance(result.exception, RegistryError)
    assert "cannot be opened: a wrong passphrase" in str(result.exception)


def test_a_timer_without_a_passphrase_is_told_what_to_set(ops: Ops) -> None:
    done = run("refresh", "--registry", str(ops.registry), "--keys", str(ops.folder / "keys"))
    assert done.returncode == 1
    assert done.stderr.startswith("appliance-registry: registry_refused: nobody is there to type the passphrase of ")
    assert "APPLIANCE_REGISTRY_PASSPHRASE_FILE" in done.stderr
    secret = ops.folder / "secret"
    secret.write_text("a stitch in time\n")
    done = run(
        "refresh",
        "--registry",
        str(ops.registry),
        APPLIANCE_REGISTRY_KEYS=str(ops.folder / "keys"),
        APPLIANCE_REGISTRY_PASSPHRASE_FILE=str(secret),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_passphrase_is_asked_once_for_the_keys_that_share_it(ops: Ops) -> None:
    asked: list[str] = []

    def secret(what: str) -> str:
        asked.append(what)
        return "another one" if "anna" in what else "a stitch in time"

    keys = ops.folder / "keys"
    make_key(keys, "anna", "another one")
    keyring = Keyring([keys], secret)
    for name in ("root-1", "root-2", "anna", "vision"):
        assert keyring.signer(read_card(keys / f"{name}.json").keyid).sign(b"anything")
    assert asked == [f"passphrase of {keys / 'root-1.pem'}", f"passphrase of {keys / 'anna.pem'}"]


def test_a_private_key_is_its_owner_s_alone_and_encrypted(ops: Ops) -> None:
    key = ops.folder / "keys" / "root-1.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(RegistryError, match=r"root-1\.pem is there already, and is not overwritten"):
        ops("key", "root-1")


def test_a_second_registry_with_the_same_keys_folder_is_not_taken_for_the_first(ops: Ops, tmp_path: Path) -> None:
    other = Ops(tmp_path, keys="other-keys")
    other.registry = tmp_path / "other"
    other("init", "--team", "vision=*")
    other.keys = "keys"
    with pytest.raises(RegistryError, match="is another registry than the one that your keys belong to"):
        other("refresh")
    with pytest.raises(RegistryError, match="is not empty; give a new folder"):
        ops("init")


def test_owners_apart_sign_the_first_metadata_and_a_rotation(tmp_path: Path) -> None:
    """Alice, Bob and Carol each have a computer; central never sees a key of theirs."""
    people = [Ops(tmp_path, keys=name) for name in ("alice", "bob", "carol")]
    for each in people:
        each("key", each.keys)
    cards = [str(tmp_path / each.keys / f"{each.keys}.json") for each in people]
    central, stick = Ops(tmp_path), tmp_path / "stick.json"
    said = central(
        "init", *[word for role in ("root", "targets") for card in cards for word in ("--key", f"{role}={card}")]
    )
    name = "channels-models-root-targets"
    assert f"it waits for signatures in {central.registry / 'drafts' / name}.json" in said
    assert "root: 2 more, of alice, bob, carol" in said
    with pytest.raises(RegistryError, match="has published nothing yet"):
        central("status")
    central("export", name, stick)
    said = people[0]("sign", stick, answers="y\n")
    assert "root: 2 of alice, bob, carol" in said
    assert "signed by alice" in said
    assert "root: 1 more, of bob, carol" in central("import", stick)
    with pytest.raises(RegistryError, match="no key in --keys is asked for here; root: 1 of bob, carol"):
        people[0]("sign", stick, "--yes")
    people[1]("sign", stick, "--yes")
    assert "published" in central("import", stick)
    assert central("verify").startswith("whole")
    # Carol loses her key; the others give her another.
    dave = Ops(tmp_path, keys="dave")
    dave("key", "dave")
    said = central("rotate", "root", "--remove", "carol", "--add", str(tmp_path / "dave" / "dave.json"))
    assert "root: 2 more, of alice, bob, carol, dave" in said
    central("export", "root", stick)
    dave("sign", stick, "--yes")
    assert "not published yet" in central("import", stick)
    for each in people[:2]:
        each("sign", stick, "--yes")
    assert central("import", stick).splitlines()[-1] == "published"
    assert json.loads(central("drafts", "--json")) == []
    site = box(central)
    site.look(FolderSource(central.registry))
    assert json.loads((site.data_dir / "tuf" / "root.json").read_text())["signed"]["version"] == 2


def test_a_stick_that_shows_another_text_than_it_has_signed_is_refused(ops: Ops) -> None:
    ops("publish", ops.bundle("1"))
    hidden = ops.folder / "keys" / "channels.pem"
    hidden.rename(ops.folder / "channels.pem")
    said = ops("promote", "tiny", "--percent", "10")
    assert "channels: 1 more, of channels" in said
    stick = ops.folder / "stick.json"
    ops("export", "channels", stick)
    honest = stick.read_text()
    stick.write_text(honest.replace('\\"percent\\":10', '\\"percent\\":1'))
    assert stick.read_text() != honest
    (ops.folder / "channels.pem").rename(hidden)
    with pytest.raises(RegistryError, match=r"shows another channels/stable\.json than the one that would be signed"):
        ops("sign", stick, "--yes")
    changed = json.loads(honest)
    changed["metadata"]["channels"]["signed"]["version"] = 9
    stick.write_text(json.dumps(changed))
    ops("sign", stick, "--yes")
    with pytest.raises(RegistryError, match="with another content than the draft that waits"):
        ops("import", stick)
    stick.write_text(honest)
    assert "10% of the boxes: tiny 1" in ops("sign", stick, "--yes")
    assert ops("import", stick).endswith("published\n")
    with pytest.raises(RegistryError, match="no draft of channels waits here"):
        ops("import", stick)


def test_a_draft_can_be_dropped(ops: Ops) -> None:
    ops("publish", ops.bundle("1"))
    (ops.folder / "keys" / "channels.pem").unlink()
    ops("promote", "tiny")
    assert "channels: 1 more, of channels" in ops("drafts")
    assert ops("drop", "channels") == "channels is dropped\n"
    assert ops("drafts") == "nothing waits for signatures\n"


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b'{"why": 1}'])
def test_what_is_no_draft_is_told(ops: Ops, content: bytes) -> None:
    stick = ops.folder / "stick.json"
    stick.write_bytes(content)
    for command in ("sign", "import"):
        with pytest.raises(RegistryError, match="is not a draft"):
            ops(command, stick)


def test_a_token_signs_what_a_file_would(tmp_path: Path) -> None:
    """PKCS#11, here SoftHSM: the private half never leaves the token."""
    library = next(Path("/usr/lib").rglob("libsofthsm2.so"))
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
    pem = tmp_path / "ec.pem"
    _run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", pem)
    environment = {**os.environ, "SOFTHSM2_CONF": str(config)}
    token = ("--label", "ops", "--pin", "1234")
    _run(
        "softhsm2-util",
        "--init-token",
        "--free",
        "--token",
        "ops",
        "--label",
        "ops",
        "--so-pin",
        "5678",
        "--pin",
        "1234",
        environment=environment,
    )
    _run("softhsm2-util", "--import", pem, "--token", "ops", "--id", "02", *token, environment=environment)
    variables = {
        "SOFTHSM2_CONF": str(config),
        "PYKCS11LIB": str(library),
        "APPLIANCE_REGISTRY_PIN": "1234",
        "APPLIANCE_REGISTRY_PASSPHRASE": "a stitch in time",
    }
    folder, keys = tmp_path / "registry", tmp_path / "keys"
    bundle = write_model(tmp_path / "bundles", "tiny", "1")
    done = run("key", "ops", "--uri", "hsm:2?label=ops", "--keys", str(keys), **variables)
    assert done.returncode == 0, done.stderr
    assert not (keys / "ops.pem").exists()
    place = ("--registry", str(folder), "--keys", str(keys))
    card = str(keys / "ops.json")
    for words in (
        ("init", "--key", f"channels={card}", *place),
        ("measure", str(bundle)),
        ("publish", str(bundle), *place),
        ("promote", "tiny", *place),
        ("verify", *place),
    ):
        done = run(*words, **variables)
        assert done.returncode == 0, done.stderr
    done = run("promote", "tiny", *place, **{**variables, "APPLIANCE_REGISTRY_PIN": "4321"})
    assert done.returncode == 1
    assert "registry_refused: key ops did not sign: PinIncorrect; is its token there" in done.stderr
    done = run("log", "--json", *place, **variables)
    assert [each["signed_by"] for each in json.loads(done.stdout)] == [["ops"]]


def test_no_such_place_is_a_wrong_option(ops: Ops) -> None:
    ops.keys = "nowhere"
    with pytest.raises(ConfigError, match="nowhere is not a folder; give --keys"):
        ops("refresh")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command itself, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "provisioning.registry.cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def _run(*words: str | Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True, timeout=30, env=environment)
