"""A real box fed over MQTT, and a real Chromium that must not complain or wander off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.line import Golden, Line, golden_by_verdict, running_line
from tests.browser.screen import Watched

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with running_line(tmp_path_factory.mktemp("line")) as running:
        yield running


@pytest.fixture(scope="package")
def pictures() -> dict[str, Golden]:
    """By verdict."""
    return golden_by_verdict("surface")


@pytest.fixture(scope="package")
def windows() -> dict[str, Golden]:
    """By verdict."""
    return golden_by_verdict("bearing")


# Closed with this package: Playwright's loop in the main thread would stand in the way of asyncio.run elsewhere.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield launched
        launched.close()


@pytest.fixture
def empty_page(browser: Browser) -> Iterator[Page]:
    """On a 7-inch panel."""
    context = browser.new_context(
        viewport={"width": 800, "height": 480}, permissions=["clipboard-read", "clipboard-write"]
    )
    yield context.new_page()
    context.close()


@pytest.fixture
def watched(empty_page: Page) -> Iterator[Watched]:
    """The test fails when the page complains or asks anybody but one box."""
    watching = Watched(empty_page)
    yield watching
    assert watching.complaints == []
    assert len(watching.hosts) <= 1, f"the page asked other hosts: {watching.hosts}"


@pytest.fixture
def page(empty_page: Page, watched: Watched) -> Page:
    return empty_page
