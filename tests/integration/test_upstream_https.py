"""Central behind HTTPS, and everything that can be wrong with it: what waits stays, and it is said what to do."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config import HttpsUpstream
from appliance.errors import ConfigError
from appliance.writes import Write
from tests.support.box import free_port
from tests.support.central import WAIT_S, Answer, Central, site, speaking
from tests.support.certificates import Authority
from tests.support.records import query
from tests.support.wait import until

PICTURE = b"\xff\xd8\xff\xe0" + bytes(100)
PAGE = b"<!DOCTYPE html><html><title>Guest network: please accept our terms</title></html>"


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Central]:
    server = Central(tmp_path / "central")
    yield server
    server.close()


def to(central: Central, **changes: Any) -> HttpsUpstream:
    return HttpsUpstream(url=central.url, **{"ca_file": str(central.ca), "retry_s_max": 1.0, **changes})


def test_slow_central_gets_everything_once_and_in_order(tmp_path: Path, central: Central) -> None:
    def slowly(_: list[Any]) -> Answer:
        threading.Event().wait(0.2)
        return Answer()

    central.answer = slowly
    with site(tmp_path / "box", to(central)) as one:
        sent = [one.judge() for _ in range(100)]
        one.until_empty()
        assert central.numbers() == sent


def test_central_too_slow_for_a_whole_batch_gets_smaller_ones(tmp_path: Path, central: Central) -> None:
    """As behind a thin line, over which a batch never arrives within the time of one request."""

    def in_time(rows: list[Any]) -> Answer:
        if len(rows) <= 10:
            return Answer()
        threading.Event().wait(0.8)
        return Answer(503)

    central.answer = in_time
    with site(tmp_path / "box", to(central), start=False) as one:
        one.fill(60)
    with site(tmp_path / "box", to(central, timeout_s=0.4, batch_rows=60)) as one:
        one.until_empty()
    assert len({row["key"] for row in central.taken}) == len(central.taken) == 60
    assert max(len(body["rows"]) for _, body in central.batches) == 60


def test_server_that_is_not_there_is_told_and_rows_wait(tmp_path: Path) -> None:
    with site(tmp_path / "box", HttpsUpstream(url=f"http://127.0.0.1:{free_port()}/in", retry_s_max=1.0)) as one:
        for _ in range(3):
            one.judge()
        assert "cannot be reached" in one.until_state("away")
        assert one.waiting() == 3
        until(lambda: "cannot be reached" in (one.alarms.get("central") or ""), WAIT_S, "the alarm")


@pytest.mark.parametrize(
    "nonsense",
    [b"\x00\xff\x16\x03 nonsense\r\n\r\n", b"HTTP/1.1 abc def\r\n\r\n", b""],
    ids=["bytes", "status", "nothing"],
)
def test_nonsense_is_no_acknowledgement(tmp_path: Path, nonsense: bytes) -> None:
    with (
        speaking(nonsense) as url,
        site(tmp_path / "box", HttpsUpstream(url=url, retry_s_max=1.0)) as one,
    ):
        one.judge()
        assert "cannot be reached" in one.until_state("away")
        assert (one.waiting(), one.count("sent")) == (1, 0)


def test_web_page_is_no_acknowledgement_whatever_its_status(tmp_path: Path, central: Central) -> None:
    def page(status: int) -> Answer:
        return Answer(status, {"Content-Type": "text/html"}, PAGE)

    central.answer = lambda _: page(200)
    with site(tmp_path / "box", to(central)) as one:
        number = one.judge()
        reason = one.until_state("refuses")
        assert "answers 200: a web page; check url" in reason
        assert (one.waiting(), one.count("sent"), one.count("dead_lettered")) == (1, 0, 0)
        central.answer = lambda _: page(502)
        assert "answers 502: a web page" in one.until_state("away")
        central.answer = lambda _: Answer()
        one.until_empty()
        assert central.numbers() == [number]


def test_login_is_the_token_in_the_file_as_it_is_now(tmp_path: Path, central: Central) -> None:
    token = tmp_path / "token"
    token.write_text("of last year\n")
    central.token = "of this year"
    with site(tmp_path / "box", to(central, token_file=str(token))) as one:
        number = one.judge()
        reason = one.until_state("refuses")
        assert "answers 401: who are you?; check url, token_file" in reason
        assert "last year" not in reason
        token.write_text("of this year\n")
        one.until_empty()
        assert central.numbers() == [number]
        token.unlink()
        one.judge()
        assert "token_file" in one.until_state("refuses")
        token.write_text("of this year\n")
        one.until_empty()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", "zwölf".encode(), b"two\nlines"])
def test_token_file_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, central: Central, content: bytes | None
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with (
        pytest.raises(ConfigError, match=r"upstreams\.central\.token_file") as raised,
        site(tmp_path / "box", to(central, token_file=str(token))),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_certificate_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path, central: Central) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    wrong = ({"ca_file": str(tmp_path / "none")}, {"ca_file": str(broken)}, {"cert_file": str(broken)})
    for number, changes in enumerate(wrong):
        with (
            pytest.raises(ConfigError, match=r"upstreams\.central: .*PEM files"),
            site(tmp_path / f"box-{number}", to(central, **changes)),
        ):
            pass


def test_central_that_asks_for_a_certificate_gets_that_of_the_box(tmp_path: Path) -> None:
    central = Central(tmp_path / "central", asks=True)
    try:
        with site(tmp_path / "box", to(central)) as one:
            number = one.judge()
            assert "cannot be reached" in one.until_state("away")
            assert (one.waiting(), central.batches) == (1, [])
        certificate, key = central.authority.issue("box")
        with site(tmp_path / "box", to(central, cert_file=str(certificate), key_file=str(key))) as one:
            one.until_empty()
            assert central.numbers() == [number]
    finally:
        central.close()


def test_nothing_is_sent_to_a_server_that_cannot_show_who_it_is(tmp_path: Path, central: Central) -> None:
    other = Authority(tmp_path / "other", "other")
    with site(tmp_path / "box", to(central, ca_file=str(other.ca_file))) as one:
        one.judge()
        assert ssl.SSLCertVerificationError.__name__ in one.until_state("away")
        assert (one.waiting(), central.batches) == (1, [])


def test_pictures_of_findings_follow_and_what_is_gone_is_counted(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", to(central, images=True), start=False) as one:
        one.judge("ok", picture=PICTURE)
        kept = one.judge("ng", picture=PICTURE)
        one.judge("review", picture=PICTURE)
        one.store.submit(Write(also=(("UPDATE results SET segment = NULL WHERE verdict = 'review'", ()),), must=True))
    with site(tmp_path / "box", to(central, images=True)) as one:
        one.until_empty()
        assert central.pictures == {f"/in/images/box/{kept}": PICTURE}
        assert one.count("gone", "central/images") == 1
        assert len(central.numbers()) == 3


def test_pictures_that_are_refused_hold_up_no_result_and_are_told(tmp_path: Path, central: Central) -> None:
    central.picture = Answer(404, {}, b"no pictures here")
    with site(tmp_path / "box", to(central, images=True)) as one:
        number = one.judge("ng", picture=PICTURE)
        assert "answers 404: no pictures here" in one.until_state("refuses")
        assert central.numbers() == [number]
        assert query(one.folder, "SELECT queue FROM outbox") == [("central/images",)]
        central.picture = Answer(201)
        one.until_empty()
        assert central.pictures == {f"/in/images/box/{number}": PICTURE}
        one.until_state("ok")


def test_picture_that_is_too_large_is_left_out_and_counted(tmp_path: Path, central: Central) -> None:
    with site(tmp_path / "box", to(central, images=True, image_bytes_max=1024)) as one:
        one.judge("ng", picture=PICTURE + bytes(2000))
        one.until_empty()
        until(lambda: one.count("gone", "central/images") == 1, WAIT_S, "the count")
        assert central.pictures == {}
