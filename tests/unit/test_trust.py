"""What may run on a box, by where it came from and how the box is set up."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config, HttpConfig, ListenerConfig, UpdatesConfig, shipped_models_dir
from appliance.core.address import is_loopback
from appliance.errors import ConfigError, DataDirError, Unsigned
from appliance.repository import MANIFEST, scan
from appliance.site_key import SIGNATURE, is_signed, read_private, read_public
from appliance.state import State
from appliance.trust import trust_of
from tests.support.models import sha256, write_model
from tests.support.site_key import SiteKey, make_site_key


@pytest.fixture
def key(tmp_path: Path) -> SiteKey:
    return make_site_key(tmp_path / "keys")


def provisioned(folder: Path, **updates: Any) -> Config:
    return Config(data_dir=str(folder / "data"), updates=UpdatesConfig(root=str(folder / "root.json"), **updates))


def remember(config: Config, folder: Path, origin: str) -> None:
    """As the updater does when it has checked the signatures."""
    state = State(Path(config.data_dir))
    with state.transaction() as db:
        db.execute(
            "INSERT INTO trusted VALUES (?, ?, ?, 0, ?, '{}')",
            (sha256(folder / MANIFEST), folder.parent.name, folder.name, origin),
        )
    state.close()


def seen(config: Config, *roots: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Origin of each model that may run, and the code of each that may not."""
    good, broken = scan(roots, trust_of(config))
    return (
        {each.manifest.name: each.origin for each in good},
        {each.name: each.error.code for each in broken},
    )


# -- a provisioned box


def test_a_provisioned_box_runs_what_was_shipped_updated_or_signed_by_the_site_and_nothing_else(
    tmp_path: Path, key: SiteKey
) -> None:
    config = provisioned(tmp_path, import_key=str(key.public))
    root = tmp_path / "data" / "models"
    remember(config, write_model(root, "updated"), "https://registry.example")
    remember(config, write_model(root, "brought"), "import")
    key.sign(write_model(root, "signed"))
    write_model(root, "unsigned")
    make_site_key(tmp_path, "other").sign(write_model(root, "foreign"))

    may, may_not = seen(config, shipped_models_dir(), root)

    assert may == {
        "surface": "shipped",
        "bearing": "shipped",
        "parts": "shipped",
        "updated": "update",
        "brought": "import",
        "signed": "import",
    }
    assert may_not == {"unsigned": "model_unsigned", "foreign": "model_unsigned"}


def test_a_result_is_called_signed_only_where_a_signature_was_checked(tmp_path: Path, key: SiteKey) -> None:
    config = Config(data_dir=str(tmp_path / "data"), updates=UpdatesConfig(import_key=str(key.public)))
    root = tmp_path / "models"
    remember(config, write_model(root, "updated"), "https://registry.example")
    key.sign(write_model(root, "signed"))
    write_model(root, "unsigned")

    good, _ = scan([shipped_models_dir(), root], trust_of(config))

    assert {each.manifest.name for each in good if each.signed} == {"updated", "signed"}


@pytest.mark.parametrize("change", ["manifest", "signature", "shortened", "lengthened"])
def test_whatever_changed_after_it_was_signed_does_not_run(tmp_path: Path, key: SiteKey, change: str) -> None:
    config = provisioned(tmp_path, import_key=str(key.public))
    folder = write_model(tmp_path / "models", "signed")
    key.sign(folder)
    assert seen(config, tmp_path / "models")[0] == {"signed": "import"}
    signature = (folder / SIGNATURE).read_bytes()
    if change == "manifest":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + "\n")
    elif change == "signature":
        (folder / SIGNATURE).write_bytes(bytes([signature[0] ^ 1]) + signature[1:])
    else:
        (folder / SIGNATURE).write_bytes(signature[:-1] if change == "shortened" else signature + b"\0")

    assert seen(config, tmp_path / "models") == ({}, {"signed": "model_unsigned"})


def test_an_update_that_was_changed_on_the_disk_does_not_run(tmp_path: Path) -> None:
    config = provisioned(tmp_path)
    folder = write_model(tmp_path / "models")
    remember(config, folder, "https://registry.example")
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + "\n")

    assert seen(config, tmp_path / "models") == ({}, {"tiny": "model_unsigned"})


def test_a_folder_that_points_to_a_shipped_one_is_that_one_and_no_other_way_round(tmp_path: Path) -> None:
    config = provisioned(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "surface").symlink_to(shipped_models_dir() / "surface")
    assert seen(config, tmp_path / "models") == ({"surface": "shipped"}, {})

    outside = write_model(tmp_path / "elsewhere", "surface").parent
    (tmp_path / "models" / "surface").unlink()
    (tmp_path / "models" / "surface").symlink_to(outside)
    assert seen(config, tmp_path / "models") == ({}, {"surface": "model_unsigned"})


def test_an_unsigned_folder_does_not_hide_the_signed_one_of_its_name(tmp_path: Path, key: SiteKey) -> None:
    config = provisioned(tmp_path, import_key=str(key.public))
    key.sign(write_model(tmp_path / "first", title="signed"))
    write_model(tmp_path / "second", title="not signed")

    assert seen(config, tmp_path / "first", tmp_path / "second") == ({"tiny": "import"}, {"tiny": "model_unsigned"})


def test_the_refusal_says_what_to_do_on_one_line(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "models")

    with pytest.raises(Unsigned) as error:
        trust_of(provisioned(tmp_path)).origin(folder, b"", "")

    assert str(error.value) == (
        f"{folder}: nobody signed it, and this box runs signed models only; publish it as an update, or sign it with "
        "the site's key (appliance models sign NAME --key FILE)"
    )


# -- an unprovisioned box


@pytest.mark.parametrize(
    ("section", "runs"),
    [
        ({}, True),
        ({"http": HttpConfig(host="0.0.0.0")}, False),
        ({"listener": ListenerConfig(host="192.168.1.5")}, False),
        ({"listener": ListenerConfig(host="192.168.1.5", enabled=False)}, True),
        ({"http": HttpConfig(host="::1"), "listener": ListenerConfig(host="localhost")}, True),
    ],
)
def test_an_unprovisioned_box_runs_unsigned_folders_while_only_this_machine_reaches_it(
    tmp_path: Path, key: SiteKey, section: dict[str, Any], runs: bool
) -> None:
    config = Config(data_dir=str(tmp_path), updates=UpdatesConfig(import_key=str(key.public)), **section)
    write_model(tmp_path / "models", "unsigned")
    key.sign(write_model(tmp_path / "models", "signed"))

    may, may_not = seen(config, tmp_path / "models")

    if runs:
        assert (may, may_not) == ({"signed": "import", "unsigned": "folder"}, {})
    else:
        assert (may, may_not) == ({"signed": "import"}, {"unsigned": "model_unsigned"})


def test_the_address_that_others_reach_is_named(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), listener=ListenerConfig(host="192.168.1.5"))

    with pytest.raises(Unsigned, match=r"listener\.host is 192\.168\.1\.5.*listen on 127\.0\.0\.1") as error:
        trust_of(config).origin(tmp_path, b"", "")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_is_this_machine_only(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_any_other_address_may_be_reached_from_outside(host: str) -> None:
    assert not is_loopback(host)


# -- what it reads


def test_a_box_before_its_first_start_trusts_no_update_and_makes_no_file(tmp_path: Path) -> None:
    assert trust_of(provisioned(tmp_path)).updates == {}
    assert not (tmp_path / "data").exists()


def test_a_state_that_cannot_be_read_is_no_permission(tmp_path: Path) -> None:
    (tmp_path / "data" / "state").mkdir(parents=True)
    (tmp_path / "data" / "state" / "state.db").write_bytes(b"no database" * 1000)

    with pytest.raises(DataDirError, match=r"state\.db: .*let this user read"):
        trust_of(provisioned(tmp_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"no key", "no key can be read"), ("rsa", "another kind of key"), ("private", "no key")],
)
def test_an_import_key_that_is_none_is_a_mistake_in_the_configuration(
    tmp_path: Path, key: SiteKey, content: bytes | str | None, reason: str
) -> None:
    path = tmp_path / "import.pem"
    if content == "rsa":
        subprocess.run(["openssl", "genrsa", "-out", tmp_path / "rsa", "2048"], check=True, capture_output=True)
        command: list[str | Path] = ["openssl", "rsa", "-in", tmp_path / "rsa", "-pubout", "-out", path]
        subprocess.run(command, check=True, capture_output=True)
    elif content == "private":
        path.write_bytes(key.private.read_bytes())
    elif isinstance(content, bytes):
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=reason) as error:
        trust_of(provisioned(tmp_path, import_key=str(path)))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_openssl_makes_the_same_keys_and_signatures(tmp_path: Path) -> None:
    private, public, text = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / MANIFEST
    text.write_bytes(b"a manifest")
    commands: tuple[list[str | Path], ...] = (
        ["genpkey", "-algorithm", "ed25519", "-out", private],
        ["pkey", "-in", private, "-pubout", "-out", public],
        ["pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", text, "-out", tmp_path / SIGNATURE],
    )
    for command in commands:
        subprocess.run(["openssl", *command], check=True, capture_output=True)

    assert is_signed(tmp_path, b"a manifest", read_public(public)) is True
    assert is_signed(tmp_path, b"another", read_public(public)) is False
    assert read_private(private, lambda: "").public_key() == read_public(public)


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    locked = make_site_key(tmp_path, passphrase="open sesame")

    assert read_private(locked.private, lambda: "open sesame").public_key() == locked.key.public_key()
    with pytest.raises(ConfigError, match="no key can be read"):
        read_private(locked.private, lambda: "wrong")
