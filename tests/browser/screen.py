"""The page as a test sees it: where things are, what they look like, and what the browser had to say."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, expect

from tests.browser.line import Golden, Line

WORDS = {"ok": "OK", "ng": "NG", "review": "REVIEW", "error": "ERROR"}
PANELS = ("live", "results", "try", "box", "updates")
SLOW_MS = 20_000

_AWAY = "The box does not answer."
"""What the page itself notes of a panel that could not be loaded."""


class Watched:
    """What a page logged and where it went. A box that is stopped on purpose makes Chromium log failed loads."""

    def __init__(self, page: Page) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.box_may_be_away = False
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._go(request.url))

    def forgive(self, text: str) -> None:
        """Chromium itself notes every answer of 400 and more; those with `text` are meant."""
        self.complaints = [complaint for complaint in self.complaints if text not in complaint]

    def _hear(self, kind: str, text: str) -> None:
        away = self.box_may_be_away and text.startswith(("Failed to load resource: net::ERR_", _AWAY))
        if kind in ("error", "warning") and not away:
            self.complaints.append(text)

    def _go(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data"):
            self.hosts.add(parts.netloc)


def card(page: Page, source: str) -> Locator:
    return page.locator(".card").filter(has=page.get_by_role("heading", name=source, exact=True))


def field(page: Page, panel: str, label: str) -> Locator:
    return page.locator(f"#panel-{panel}").get_by_label(label, exact=True)


def rows(page: Page) -> Locator:
    return page.locator("table.results tbody tr")


def pixels(canvas: Locator) -> str:
    text: str = canvas.evaluate("canvas => canvas.toDataURL()")
    return text


def expect_other_pixels(canvas: Locator, before: str) -> None:
    canvas.page.wait_for_function(
        "([canvas, before]) => canvas.toDataURL() !== before", arg=[canvas.element_handle(), before], timeout=SLOW_MS
    )


def expect_no_overflow(page: Page) -> None:
    widths = page.evaluate(
        """() => [document.documentElement, document.getElementById("main")]
            .map((element) => [element.scrollWidth, element.clientWidth])"""
    )
    assert all(content <= room for content, room in widths), widths


def judge_file(page: Page, line: Line, golden: Golden, name: str = "part.png") -> None:
    """Choose a picture on the Try page and wait for its verdict."""
    page.goto(f"{line.url}/#try")
    field(page, "try", "Model").select_option("surface")
    page.locator("#try-file").set_input_files({"name": name, "mimeType": golden.media_type, "buffer": golden.body})
    expect(page.locator(".answer .verdict .word")).to_have_text(WORDS[golden.verdict])
