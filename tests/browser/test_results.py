"""The Results page: filters, pages, one result in full."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.line import Golden, Line
from tests.browser.screen import field, rows


def test_results_are_filtered_and_shown_in_full(page: Page, line: Line, pictures: dict[str, Golden]) -> None:
    for number in range(3):
        line.picture("camera-3", pictures["ok"], part=f"F-{number}", lot="filter")
    line.picture("camera-4", pictures["ng"], part="F-9", lot="filter")
    page.goto(f"{line.url}/#results")
    found = rows(page)
    field(page, "results", "Lot").fill("filter")
    expect(found).to_have_count(4)
    expect(found.first).to_contain_text("F-9")

    field(page, "results", "Verdict").select_option("ok")
    expect(found).to_have_count(3)
    expect(found.locator(".badge")).to_have_text(["OK"] * 3)
    field(page, "results", "Verdict").select_option("")
    field(page, "results", "Source").select_option("camera-4")
    expect(found).to_have_count(1)
    field(page, "results", "Source").select_option("")
    field(page, "results", "Part").fill("F-1")
    expect(found).to_have_count(1)
    field(page, "results", "Part").fill("F-no")
    expect(found).to_have_count(0)
    expect(page.get_by_text("No result matches.")).to_be_visible()
    field(page, "results", "Part").fill("")
    field(page, "results", "Model").select_option("bearing")
    expect(found).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    expect(found.first).to_contain_text("F-9")

    found.first.click()
    detail = page.locator(".detail")
    expect(detail.locator(".verdict .word")).to_have_text("NG")
    expect(detail.locator(".facts")).to_contain_text("camera-4")
    expect(detail.locator(".stage-note")).to_have_count(0)
    detail.get_by_text("JSON", exact=True).click()
    expect(detail.locator("pre")).to_contain_text('"part": "F-9"')
    detail.get_by_role("link", name="Back to the list").click()
    expect(found.first).to_be_visible()


def test_more_results_are_loaded_and_new_ones_come_in(page: Page, line: Line, pictures: dict[str, Golden]) -> None:
    for number in range(55):
        line.picture("camera-5", pictures["ok"], part=f"M-{number}", lot="many")
    page.goto(f"{line.url}/#results")
    found = rows(page)
    field(page, "results", "Lot").fill("many")
    expect(found).to_have_count(50)
    expect(found.first).to_contain_text("M-54")
    line.picture("camera-5", pictures["ok"], part="M-55", lot="many")
    expect(found.first).to_contain_text("M-55")
    page.get_by_role("button", name="Load more").click()
    expect(found).to_have_count(56)
    expect(found.last).to_contain_text("M-0")
    line.picture("camera-5", pictures["ok"], part="M-56", lot="many")
    page.get_by_role("button", name="Show 1 new").click()
    expect(found.first).to_contain_text("M-56")
