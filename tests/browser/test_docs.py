"""The page at /docs, in the browser that the box's own page is tested with."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from appliance.http.openapi.own import EXAMPLE_PICTURE
from tests.browser.line import Line
from tests.browser.screen import SLOW_MS, Watched


def opened(page: Page, line: Line, name: str) -> Locator:
    """A call's block, unfolded by its address."""
    page.goto(f"{line.url}/docs#{name}")
    block = page.locator(f"#{name}")
    expect(block.locator(".curl")).to_be_visible(timeout=SLOW_MS)
    return block


def test_page_lists_every_call_and_says_what_is_not_there(page: Page, line: Line) -> None:
    page.goto(f"{line.url}/docs")
    calls = page.get_by_role("navigation", name="Calls")
    for name in ("predictPicture", "predictForm", "listResults", "infer", "tfsPredict", "detect"):
        expect(calls.get_by_role("link", name=name, exact=False).first).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_text("There is no gRPC door")).to_be_visible()
    page.get_by_text("code, status, meaning").click()
    expect(page.get_by_role("row", name="model_not_found 404")).to_be_visible()


def test_example_picture_is_judged_from_the_page(page: Page, line: Line) -> None:
    block = opened(page, line, "predictPicture")
    curl = "curl -H 'X-Source: camera-1' -H 'Content-Type: image/jpeg' --data-binary @scratch.jpg "
    expect(block.locator(".curl")).to_have_text(f"{curl}'{line.url}/v1/predict/surface?durable=true'")
    block.get_by_label("X-Part").fill("P-70")
    expect(block.locator(".curl")).to_contain_text("-H 'X-Part: P-70'")
    block.get_by_role("button", name="Send").click()
    expect(block.locator(".tried .status")).to_contain_text("200")
    expect(block.locator(".tried pre")).to_contain_text('"part": "P-70"')
    expect(block.locator(".tried pre")).to_contain_text('"verdict": "ng"')


def test_form_with_a_file_is_judged_from_the_page(page: Page, line: Line) -> None:
    block = opened(page, line, "predictForm")
    expect(block.locator(".path")).to_contain_text("/v1/predict/{model}#form")
    block.get_by_label("file", exact=True).set_input_files(EXAMPLE_PICTURE)
    block.get_by_label("part", exact=True).fill("it's P-71")
    expect(block.locator(".curl")).to_have_text(
        f"curl -F file=@scratch.jpg -F 'part=it'\\''s P-71' {line.url}/v1/predict/surface"
    )
    block.get_by_role("button", name="Send").click()
    expect(block.locator(".tried pre")).to_contain_text('"part": "it\'s P-71"')


def test_tensors_are_sent_from_the_page(page: Page, line: Line) -> None:
    block = opened(page, line, "infer")
    block.get_by_role("button", name="Send").click()
    expect(block.locator(".tried pre")).to_contain_text('"probabilities"')


def test_picture_and_stream_are_shown(page: Page, line: Line) -> None:
    block = opened(page, line, "predictPicture")
    block.get_by_role("button", name="Send").click()
    expect(block.locator(".tried .status")).to_contain_text("200")
    block = opened(page, line, "getLatestImage")
    block.get_by_label("drawn").select_option("true")
    block.get_by_role("button", name="Send").click()
    expect(block.get_by_alt_text("The answer")).to_be_visible()
    block = opened(page, line, "followEvents")
    block.get_by_role("button", name="Send").click()
    expect(block.locator(".tried pre")).to_contain_text("event: status")


def test_refusal_is_shown_as_the_box_words_it(page: Page, line: Line, watched: Watched) -> None:
    block = opened(page, line, "predictPicture")
    block.get_by_label("model", exact=True).fill("nothing")
    block.get_by_role("button", name="Send").click()
    expect(block.locator(".tried .status")).to_contain_text("404")
    expect(block.locator(".tried pre")).to_contain_text('"model_not_found"')
    watched.forgive("404")


def test_calls_are_found_by_word(page: Page, line: Line) -> None:
    page.goto(f"{line.url}/docs")
    calls = page.get_by_role("navigation", name="Calls")
    expect(calls.get_by_role("link", name="predictPicture", exact=False).first).to_be_visible(timeout=SLOW_MS)
    page.get_by_label("Find a call").fill("/v1/results")
    expect(calls.get_by_role("link", name="listResults", exact=False)).to_be_visible()
    expect(calls.get_by_role("link", name="predictPicture", exact=False).first).to_be_hidden()


def test_schema_is_one_click_away(page: Page, line: Line) -> None:
    block = opened(page, line, "getResult")
    block.get_by_role("link", name="Result", exact=True).click()
    expect(page.locator("#schema-Result")).to_contain_text("order of acceptance on this box")
    expect(page.locator("#schema-Result").get_by_role("row", name="verdict")).to_be_visible()


@pytest.mark.parametrize("size", [(800, 480), (1280, 800), (360, 740)])
def test_nothing_overflows(page: Page, line: Line, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for name in ("predictPicture", "predictForm", "infer"):
        opened(page, line, name)
        content, room = page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert content <= room
        content, room = page.evaluate("() => [main.scrollWidth, main.clientWidth]")
        assert content <= room


def test_page_without_scripts_says_so(browser: Browser, line: Line) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(f"{line.url}/docs")
    expect(plain.locator("noscript .banner")).to_contain_text("needs JavaScript")
    context.close()
