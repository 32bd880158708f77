"""A registry over HTTPS from its own server: what it gives, what it hides, and what a poll weighs."""

from __future__ import annotations

import copy
import os
import shutil
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tuf.api.metadata import TargetFile

from appliance.errors import ConfigError
from appliance.repository import read_version
from appliance.updater.https import HttpsSource
from provisioning.registry import lengths, serve
from provisioning.registry.published import manifest_path
from tests.support.models import sha256, write_model
from tests.support.registry import RealRegistry, make_registry
from tests.support.served_registry import Served, serving
from tests.support.updated import Site

VERSIONS = 200
CHANGED_BYTES = 20_000
WIRE_BYTES_MAX = 64_000
BUNDLE_BYTES = 14_000_000

SHIPPED = Path(__file__).parents[2] / "models" / "surface" / "1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> RealRegistry:
    folder = tmp_path_factory.mktemp("served")
    registry = make_registry(folder / "registry")
    registry.publish(write_model(folder / "bundles", "tiny", "1"))
    registry.promote("tiny")
    (registry.folder / "keys").mkdir()
    (registry.folder / "keys" / "secret").write_text("mine")
    (registry.folder / "blobs" / ".hidden").write_text("mine")
    (registry.folder / "blobs" / "link").symlink_to("/etc/hostname")
    (registry.folder / "targets" / "away").symlink_to("/etc")
    (registry.folder / "blobs" / "empty").write_bytes(b"")
    os.mkfifo(registry.folder / "blobs" / "pipe")
    return registry


@pytest.fixture(scope="module")
def served(registry: RealRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(registry.folder, tmp_path_factory.mktemp("certificates")) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(served.ca))
    with httpx.Client(base_url=served.url, verify=context) as found:
        yield found


def blob(registry: RealRegistry) -> Path:
    return max((registry.folder / "blobs").iterdir(), key=lambda path: path.stat().st_size if path.is_file() else 0)


def test_a_box_updates_from_it(registry: RealRegistry, served: Served, tmp_path: Path) -> None:
    site = Site(tmp_path, registry.root)
    assert site.look(HttpsSource(served.url, served.ca)).models == {"tiny": "1"}


def test_a_file_comes_whole_or_from_any_byte_on(registry: RealRegistry, client: httpx.Client) -> None:
    path = blob(registry)
    content, url = path.read_bytes(), f"blobs/{path.name}"
    whole = client.get(url)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["cache-control"] == "public, max-age=31536000, immutable"
    for asked, begins, ends in (
        ("bytes=1000-", 1000, len(content)),
        ("bytes=5-9", 5, 10),
        ("bytes=-7", -7, len(content)),
    ):
        part = client.get(url, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, content[begins:ends])
    span = client.get(url, headers={"Range": "bytes=1000-"}).headers["content-range"]
    assert span == f"bytes 1000-{len(content) - 1}/{len(content)}"
    beyond = client.get(url, headers={"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    other = client.get(url, headers={"Range": "bytes=5-9", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, content)


def test_what_changes_is_not_kept_on_the_way(client: httpx.Client) -> None:
    found = client.get("metadata/timestamp.json")
    assert found.headers["cache-control"] == "no-cache"
    again = client.get("metadata/timestamp.json", headers={"If-None-Match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_head_and_empty_files(client: httpx.Client, registry: RealRegistry) -> None:
    found = client.head(f"blobs/{blob(registry).name}")
    assert (found.status_code, found.content) == (200, b"")
    assert int(found.headers["content-length"]) == blob(registry).stat().st_size
    assert client.get("blobs/empty").content == b""
    assert client.post("metadata/timestamp.json").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "",
        "metadata",
        "metadata/",
        ".lock",
        "keys/secret",
        "blobs/.hidden",
        "blobs/link",
        "blobs/pipe",
        "blobs/%00",
        "targets/away/hostname",
        "blobs/..%2fkeys/secret",
        "blobs/%2e%2e/keys/secret",
        "%2fetc/hostname",
        "blobs//",
        "metadata/9.root.json",
    ],
)
def test_nothing_else_is_given(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_it_is_not_opened_to_others_without_tls(registry: RealRegistry, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="devices take updates over HTTPS alone"):
        serve.check(registry.folder, "0.0.0.0", None, None)
    with pytest.raises(ConfigError, match="belong together"):
        serve.check(registry.folder, "127.0.0.1", tmp_path / "x.pem", None)
    with pytest.raises(ConfigError, match="cannot be read"):
        serve.check(registry.folder, "127.0.0.1", tmp_path / "x.pem", tmp_path / "x.key")
    with pytest.raises(ConfigError, match="is not a registry"):
        serve.check(tmp_path, "127.0.0.1", None, None)


def test_a_changed_file_of_20_kb_weighs_little_with_200_versions_published(tmp_path: Path) -> None:
    """Everything on the wire counts: TLS, headers, metadata, manifest, file."""
    registry = make_registry(tmp_path / "registry")
    first = tmp_path / "bundles" / "surface" / "1"
    shutil.copytree(SHIPPED, first)
    grow(first, BUNDLE_BYTES)
    registry.publish(first)
    add_versions(registry, range(2, VERSIONS))
    registry.promote("surface")
    site = Site(tmp_path / "box", registry.root)
    last = tmp_path / "bundles" / "surface" / str(VERSIONS)
    shutil.copytree(first, last)
    change(last)
    with serving(registry.folder, tmp_path / "certificates") as served:
        site.look(HttpsSource(served.wire.url, served.ca))
        registry.publish(last)
        assert len(registry.published().versions("surface")) == VERSIONS
        registry.promote("surface")
        before = served.wire.bytes
        report = site.look(HttpsSource(served.wire.url, served.ca))
        weighed = served.wire.bytes - before
        assert (report.models, report.bytes) == ({"surface": str(VERSIONS)}, CHANGED_BYTES)
        before = served.wire.bytes
        assert site.look(HttpsSource(served.wire.url, served.ca)).outcome != "ready"
        idle = served.wire.bytes - before
    print(f"update {weighed} bytes, a poll without news {idle} bytes")
    assert weighed < WIRE_BYTES_MAX
    assert idle < WIRE_BYTES_MAX / 8


def add_versions(registry: RealRegistry, numbers: range) -> None:
    """As published, in one signature instead of hundreds."""
    before = registry.published()
    role = copy.deepcopy(before.delegated("vision"))
    text = registry.published().content("vision", manifest_path("surface", "1")).decode()
    contents = {}
    for number in numbers:
        path = manifest_path("surface", str(number))
        contents[path] = text.replace('version = "1"', f'version = "{number}"', 1).encode()
        role.targets[path] = TargetFile.from_data(path, contents[path], ["sha256"])
    registry.registry.change("many versions", {"vision": role}, contents, before)


def grow(bundle: Path, size: int) -> None:
    """It has a file more, so that it is that long."""
    there = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    (bundle / "openvino" / "more.bin").write_bytes(os.urandom(size - there))
    more = f'[[variants.files]]\npath = "openvino/more.bin"\nsha256 = "{sha256(bundle / "openvino" / "more.bin")}"\n\n'
    manifest = bundle / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("[[variants.files]]", more + "[[variants.files]]", 1))


def change(bundle: Path) -> None:
    """A file of it has other content, 20 kB that cannot be packed."""
    manifest = bundle / "manifest.toml"
    text = manifest.read_text()
    case = tomllib.loads(text)["golden"][0]
    (bundle / case["file"]).write_bytes(os.urandom(CHANGED_BYTES))
    fresh = sha256(bundle / case["file"])
    text = text.replace('version = "1"', f'version = "{bundle.name}"', 1)
    text = text.replace(f'"{case["sha256"]}"\nbytes = {case["bytes"]}', f'"{fresh}"')
    manifest.write_text(text)
    lengths.fill(read_version(bundle))
