"""What holds on every page: no markup from outside, no overflow, problems, keyboard, old browsers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.line import Golden, Line
from tests.browser.screen import PANELS, SLOW_MS, card, expect_no_overflow, field, judge_file, rows


def test_part_number_with_markup_is_shown_as_text(page: Page, line: Line, pictures: dict[str, Golden]) -> None:
    part = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    line.picture("camera-6", pictures["ok"], part=part, lot="markup")
    page.goto(line.url)
    expect(card(page, "camera-6").locator(".part-number")).to_have_text(part, timeout=SLOW_MS)
    page.goto(f"{line.url}/#results")
    field(page, "results", "Lot").fill("markup")
    found = rows(page)
    expect(found).to_have_count(1)
    expect(found.first.locator(".col-part")).to_have_text(part)
    found.first.click()
    expect(page.locator(".detail .facts")).to_contain_text(part)
    page.locator(".detail").get_by_text("JSON", exact=True).click()
    expect(page.locator(".detail pre")).to_contain_text(part)
    assert page.evaluate("window.hacked") is None


def test_message_that_cannot_be_judged_is_a_problem_on_every_page(page: Page, line: Line) -> None:
    page.goto(line.url)
    expect(page.locator("#link")).to_have_attribute("aria-label", "Connected")
    line.publish("in/surface/camera-7", b"not a picture")
    problem = page.get_by_role("list", name="What is wrong").get_by_text("in/surface/camera-7")
    for name in PANELS:
        page.goto(f"{line.url}/#{name}")
        expect(problem).to_be_visible(timeout=SLOW_MS)
    page.goto(f"{line.url}/#box")
    expect(page.get_by_role("heading", name="Dead letters")).to_be_visible()


@pytest.mark.parametrize("size", [(800, 480), (1280, 800), (360, 740)])
def test_nothing_overflows(
    page: Page, line: Line, pictures: dict[str, Golden], windows: dict[str, Golden], size: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    line.picture("a-camera-with-a-very-long-name-above-the-second-press-of-line-4", pictures["ng"], part="P" * 128)
    line.window("press-1", windows["ok"], part="B-1")
    page.goto(line.url)
    expect(card(page, "press-1").locator(".verdict .word")).to_be_visible(timeout=SLOW_MS)
    expect_no_overflow(page)
    for word in page.locator(".card .verdict").all():
        assert word.evaluate("block => block.scrollWidth <= block.clientWidth")
    page.goto(f"{line.url}/#results")
    rows(page).first.click()
    expect(page.locator(".detail .verdict")).to_be_visible()
    expect_no_overflow(page)
    page.goto(f"{line.url}/#results")
    expect_no_overflow(page)
    judge_file(page, line, pictures["ng"])
    expect_no_overflow(page)
    page.goto(f"{line.url}/#box")
    expect(page.get_by_role("heading", name="surface 1")).to_be_visible()
    expect_no_overflow(page)


def test_box_page_tells_the_state_of_every_part(page: Page, line: Line) -> None:
    page.goto(f"{line.url}/#box")
    tiles = page.locator(".tile")
    for title in ("line-4", "surface 1", "bearing 1", "MQTT", "Store", "Lanes", "Dead letters"):
        expect(tiles.filter(has=page.get_by_role("heading", name=re.compile(f"^{title}")))).to_have_count(1)
    expect(tiles.filter(has_text="Listener")).to_contain_text(f"127.0.0.1:{line.mqtt_port}")
    expect(tiles.filter(has_text="Listener").locator(".chip").first).to_have_text("listening")


def test_tabs_are_reached_by_keyboard_and_say_which_is_open(page: Page, line: Line) -> None:
    page.goto(line.url)
    tabs = page.get_by_role("navigation", name="Pages").get_by_role("link")
    expect(tabs).to_have_text(["Live", "Results", "Try", "Box", "Updates"])
    page.keyboard.press("Tab")
    for name in PANELS:
        focused = page.locator(":focus")
        expect(focused).to_have_attribute("href", f"#{name}")
        page.keyboard.press("Enter")
        expect(focused).to_have_attribute("aria-current", "page")
        expect(page.locator(f"#panel-{name}")).to_be_visible()
        page.keyboard.press("Tab")


def test_oldest_browser_is_named_and_a_page_without_scripts_says_so(page: Page, browser: Browser, line: Line) -> None:
    page.goto(f"{line.url}/#box")
    expect(page.locator(".foot")).to_contain_text("Chromium 87, Firefox 78, Safari 14.1")
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(line.url)
    message = plain.locator("noscript .banner")
    expect(message).to_be_visible()
    expect(message).to_contain_text("needs JavaScript")
    context.close()


def test_browser_that_cannot_run_the_modules_is_told(browser: Browser, line: Line) -> None:
    context = browser.new_context()
    old = context.new_page()
    # As in a browser whose parser does not know the language: the module is there and never runs.
    old.route("**/hmi/main.js", lambda route: route.fulfill(body="?.", content_type="text/javascript"))
    old.goto(line.url)
    expect(old.get_by_text("This page did not start. It needs Chromium 87")).to_be_visible()
    context.close()
