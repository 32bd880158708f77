"""The same over real HTTPS: ranges, cuts, and servers that answer what no registry would."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import ConfigError, RegistryUnavailable, Untrusted
from appliance.updater.download import Downloader, Wanted
from appliance.updater.fetch import Missing, Patience
from appliance.updater.https import HttpsSource
from tests.support.models import write_model
from tests.support.registry_server import Handler, Server, serving
from tests.support.simulated import Simulated
from tests.support.updated import Site

QUICK = Patience(connect_s=5.0, gap_s=0.3, grace_s=0.2, least_bytes_s=10_000)


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Simulated]]:
    folder = tmp_path_factory.mktemp("central")
    registry = Simulated()
    registry.release({"tiny": ("1", registry.publish(write_model(folder, "tiny", "1")))})
    with serving(folder / "tls", registry.files) as server:
        yield server, registry


@pytest.fixture
def server(central: tuple[Server, Simulated]) -> Server:
    server = central[0]
    server.bends.clear()
    server.wire.clear()
    server.asked.clear()
    server.ranges, server.cut_after, server.connections = True, None, 0
    return server


@pytest.fixture
def site(tmp_path: Path, central: tuple[Server, Simulated]) -> Site:
    return Site(tmp_path / "site", central[1].first_root)


@pytest.fixture
def source(server: Server) -> HttpsSource:
    return HttpsSource(server.url, server.ca, QUICK)


@pytest.fixture
def blob(server: Server) -> Iterator[tuple[Wanted, bytes]]:
    """A file of 3 MB."""
    content = np.random.default_rng(5).bytes(3_000_000)
    digest = hashlib.sha256(content).hexdigest()
    server.files[f"blobs/{digest}"] = content
    yield Wanted(digest, len(content)), content
    del server.files[f"blobs/{digest}"]


def test_a_release_is_installed_over_one_connection(site: Site, server: Server, source: HttpsSource) -> None:
    report = site.look(source)
    assert (report.outcome, report.origin) == ("ready", server.url)
    assert server.connections == 1
    assert site.models() == {"tiny": ["1"]}


def test_a_poll_that_finds_nothing_new_costs_little(site: Site, server: Server, source: HttpsSource) -> None:
    site.look(source)
    server.wire.clear()
    assert site.look(source).outcome == "up_to_date"
    assert sum(server.wire.values()) < 2_000


@pytest.mark.parametrize(
    ("answer", "said", "again"),
    [
        (lambda to: to.answer(404), "answered 404", False),
        (lambda to: to.answer(403), "answered 403", False),
        (lambda to: to.answer(400), r"answered 400.*is updates\.url the address", False),
        (lambda to: to.answer(500), "answered 500.*try again later", True),
        (lambda to: to.answer(503), "answered 503.*try again later", True),
        (lambda to: to.answer(302, Location="https://elsewhere.example/"), "a redirect to https://elsewhere", False),
        (lambda to: to.answer(200, b"<html><body>Log in</body></html>"), "not signed metadata.*login page", True),
        (lambda to: to.answer(200, b"\x00\xff" * 500), "not signed metadata", True),
        (lambda to: to.answer(200, gzip.compress(b"{}"), Content_Encoding="gzip"), "encoded though", False),
    ],
)
def test_what_a_registry_would_not_answer_is_refused_in_a_line(
    site: Site, server: Server, source: HttpsSource, answer: Callable[[Handler], None], said: str, again: bool
) -> None:
    server.bends["metadata/timestamp.json"] = answer
    with pytest.raises(RegistryUnavailable, match=said) as raised:
        site.look(source)
    assert (raised.value.again, "\n" in str(raised.value)) == (again, False)
    assert site.untouched()
    assert len([path for path, _ in server.asked if path == "metadata/timestamp.json"]) == 1
    assert site.poll()["code"] == "registry_unavailable"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True])
def test_a_registry_that_names_a_time_is_left_alone_until_then(
    site: Site, server: Server, source: HttpsSource, status: int, as_date: bool
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=900)
    value = format_datetime(at, usegmt=True) if as_date else "900"
    server.bends["metadata/"] = lambda to: to.answer(status, Retry_After=value)
    with pytest.raises(RegistryUnavailable):
        site.look(source)
    assert site.poll()["next_at"] == pytest.approx(at.timestamp(), abs=5)
    server.bends.clear()
    server.asked.clear()
    assert site.look(source).outcome == "not_asked"
    assert server.asked == []
    assert site.look(source, now=True).outcome == "ready"


def test_a_silent_server_and_one_that_trickles_are_given_up(site: Site, server: Server, source: HttpsSource) -> None:
    def silent(to: Handler) -> None:
        time.sleep(0.8)
        to.close_connection = True

    def trickle(to: Handler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", "9999")
        to.end_headers()
        for _ in range(100):
            to.wfile.write(b" ")
            time.sleep(0.02)

    server.bends["metadata/timestamp.json"] = silent
    with pytest.raises(RegistryUnavailable, match=r"gave nothing for 0\.3 s"):
        site.look(source)
    server.bends["metadata/timestamp.json"] = trickle
    with pytest.raises(RegistryUnavailable, match="at least 10000 a second"):
        site.look(source)
    server.bends.clear()
    assert site.look(source).outcome == "ready"


def test_an_endless_answer_is_hung_up_on(site: Site, server: Server, source: HttpsSource) -> None:
    given = 0

    def endless(to: Handler) -> None:
        nonlocal given
        to.send_response(200)
        to.end_headers()
        to.close_connection = True
        for _ in range(2_000):
            to.wfile.write(b"7" * (64 << 10))
            given += 64 << 10

    server.bends["metadata/timestamp.json"] = endless
    with pytest.raises(Untrusted, match="more than the"):
        site.look(source)
    assert given < 20 << 20
    server.bends.clear()
    assert site.look(source).outcome == "ready"


def test_a_certificate_of_nobody_is_not_trusted(site: Site, server: Server) -> None:
    with pytest.raises(RegistryUnavailable, match=r"certificate is not trusted.*updates\.ca"):
        site.look(HttpsSource(server.url, None, QUICK))
    assert site.poll()["answered_at"] is not None


def test_an_address_where_nobody_listens_is_told(site: Site, server: Server) -> None:
    with pytest.raises(RegistryUnavailable) as raised:
        site.look(HttpsSource("https://127.0.0.1:9/", server.ca, QUICK))
    assert (raised.value.answered, "\n" in str(raised.value)) == (False, False)
    assert site.poll()["answered_at"] is None


def test_an_authority_that_is_no_certificate_is_a_fault_of_the_configuration(site: Site, server: Server) -> None:
    with pytest.raises(ConfigError, match=r"updates\.ca"):
        HttpsSource(server.url, site.root_file)


def test_a_file_goes_on_where_it_was_cut(server: Server, source: HttpsSource, blob: Any, tmp_path: Path) -> None:
    wanted, content = blob
    slept: list[float] = []
    server.cut_after = server.blob_bytes + 1_500_000

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        server.cut_after = None

    path = Downloader(tmp_path, [source], sleep=sleep).get(wanted)
    assert path.read_bytes() == content
    assert (len(slept), next(begins for name, begins in server.asked if name.startswith("blobs/"))) == (1, 0)
    assert server.wire[f"blobs/{wanted.sha256}"] <= 3_000_000 + (64 << 10)


def test_a_server_without_ranges_sends_all_of_it_again(
    server: Server, source: HttpsSource, blob: Any, tmp_path: Path
) -> None:
    wanted, content = blob
    (tmp_path / f"{wanted.sha256}.part").write_bytes(content[:1_200_000])
    server.ranges = False
    assert Downloader(tmp_path, [source]).get(wanted).read_bytes() == content


def test_another_range_than_the_one_that_was_asked_for_is_refused(
    server: Server, source: HttpsSource, blob: Any, tmp_path: Path
) -> None:
    wanted, content = blob
    (tmp_path / f"{wanted.sha256}.part").write_bytes(content[:1_200_000])
    server.bends["blobs/"] = lambda to: to.answer(206, content[7:], **{"Content-Range": f"bytes 7-{len(content)}/*"})
    with pytest.raises(RegistryUnavailable, match="another range"):
        Downloader(tmp_path, [source]).get(wanted)


def test_a_server_that_fails_again_and_again_is_given_up(
    server: Server, source: HttpsSource, blob: Any, tmp_path: Path
) -> None:
    wanted, _ = blob
    server.bends["blobs/"] = lambda to: to.answer(500)
    slept: list[float] = []
    with pytest.raises(RegistryUnavailable, match="answered 500"):
        Downloader(tmp_path, [source], sleep=slept.append, draw=lambda: 1.0).get(wanted)
    assert slept == sorted(slept)
    assert len(slept) == 5


def test_what_is_not_there_is_asked_for_once(server: Server, source: HttpsSource, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        Downloader(tmp_path, [source]).get(Wanted("0" * 64, 10))
    assert len(server.asked) == 1


def test_the_rate_of_a_download_is_bounded(server: Server, source: HttpsSource, blob: Any, tmp_path: Path) -> None:
    wanted, _ = blob
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    Downloader(tmp_path, [source], rate_bytes_s=6_000_000, sleep=sleep).get(wanted)
    assert 0.2 < sum(slept) < 3.0
