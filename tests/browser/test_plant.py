"""Alarms and recipes on the page: what an operator sees of them, and what a change takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.line import Golden, Line, running_line
from tests.browser.plant_line import RECIPES, SOURCES
from tests.browser.screen import SLOW_MS, Watched, card, expect_no_overflow, field


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with running_line(tmp_path_factory.mktemp("plant"), recipes=RECIPES, sources=SOURCES) as running:
        yield running


def dark() -> Golden:
    done, data = cv2.imencode(".png", np.full((96, 96, 3), 4, np.uint8))
    assert done
    return Golden(data.tobytes(), "image/png", "", "")


def choose(page: Page, recipe: str) -> None:
    page.locator(".choice").filter(has=page.get_by_text(recipe, exact=True)).click()


def test_alarm_says_what_is_wrong_what_to_do_and_since_when(
    page: Page, plant: Line, pictures: dict[str, Golden]
) -> None:
    page.goto(plant.url)
    silent = page.locator(".alarm[data-kind=source_silent]")
    expect(silent).to_contain_text("Nothing came from camera-7 within the 1 s", timeout=SLOW_MS)
    expect(silent).to_contain_text("Check that it runs")
    expect(silent).to_contain_text(re.compile(r"since \d\d:\d\d:\d\d"))

    for _ in range(3):
        plant.picture("camera-1", dark())
    expect(page.locator(".alarm[data-kind=picture_dark]")).to_contain_text("camera-1 are dark", timeout=SLOW_MS)
    expect(card(page, "camera-1").locator(".warning")).to_have_text("DARK")
    expect_no_overflow(page)

    for _ in range(3):
        plant.picture("camera-1", pictures["ok"])
    expect(page.locator(".alarm[data-kind=picture_dark]")).to_be_hidden(timeout=SLOW_MS)
    expect(card(page, "camera-1").locator(".warning")).to_be_hidden()
    page.goto(f"{plant.url}/#box")
    expect(page.locator(".past")).to_contain_text("Pictures of camera-1 are dark", timeout=SLOW_MS)


def test_watched_sources_tell_brightness_and_what_is_kept(page: Page, plant: Line, pictures: dict[str, Golden]) -> None:
    plant.picture("camera-1", pictures["ok"])
    page.goto(f"{plant.url}/#box")
    tile = page.locator(".tile").filter(has=page.get_by_role("heading", name="Sources", exact=True))
    expect(tile).to_contain_text(re.compile(r"Brightness0\.\d+"), timeout=SLOW_MS)
    expect(tile).to_contain_text("none is kept")


def test_card_of_a_source_whose_pictures_are_not_kept_says_so(
    page: Page, plant: Line, pictures: dict[str, Golden]
) -> None:
    plant.picture("camera-2", pictures["ng"], part="P-1")
    page.goto(plant.url)
    expect(card(page, "camera-2").locator(".verdict .word")).to_have_text("NG", timeout=SLOW_MS)
    expect(card(page, "camera-2").locator(".stage-note")).to_have_text("This picture is not kept.", timeout=SLOW_MS)


def test_recipe_is_changed_after_a_question_and_runs(page: Page, plant: Line, pictures: dict[str, Golden]) -> None:
    page.goto(plant.url)
    link = page.locator("#recipe")
    expect(link).to_have_text("Recipe none", timeout=SLOW_MS)
    link.click()
    expect(page.locator(".recipe-name")).to_have_text("No recipe")
    expect(page.locator(".recipe-change > .button")).to_be_disabled()

    choose(page, "covers")
    field(page, "recipe", "Your name").fill("Anna")
    page.get_by_role("button", name="Change to covers").click()
    confirm = page.locator(".confirm")
    expect(confirm).to_contain_text("Change the whole box from no recipe to covers?")
    expect(confirm.get_by_role("button", name="No, leave it")).to_be_focused()
    confirm.get_by_role("button", name="No, leave it").click()
    expect(confirm).to_be_hidden()
    assert plant.status()["recipe"]["recipe"] is None

    page.get_by_role("button", name="Change to covers").click()
    confirm.get_by_role("button", name="Yes, change").click()
    expect(page.locator(".recipe-name")).to_have_text("covers")
    expect(link).to_have_text("Recipe covers", timeout=SLOW_MS)
    expect(page.locator(".changes li").first).to_contain_text("Anna")
    expect_no_overflow(page)

    plant.picture("camera-3", pictures["ok"], part="P-9")
    page.goto(f"{plant.url}/#live")
    expect(card(page, "camera-3").locator(".lot")).to_have_text("covers", timeout=SLOW_MS)

    # One source goes its own way, and the rest is told apart from it.
    page.goto(f"{plant.url}/#recipe")
    field(page, "recipe", "Where").select_option("camera-3")
    choose(page, "brackets")
    page.get_by_role("button", name="Change to brackets").click()
    page.get_by_role("button", name="Yes, change").click()
    expect(page.locator(".recipe-own")).to_have_text("camera-3 runs brackets")
    expect(link).to_have_text("Recipe covers (+1)", timeout=SLOW_MS)


def test_change_by_another_hand_appears_without_a_reload(page: Page, plant: Line) -> None:
    page.goto(f"{plant.url}/#recipe")
    plant.publish("appliance/line-4/cmd/recipe", b"brackets")
    expect(page.locator(".recipe-name")).to_have_text("brackets", timeout=SLOW_MS)
    expect(page.locator(".changes li").first).to_contain_text("MQTT client")


def test_refused_change_is_told(page: Page, watched: Watched, plant: Line) -> None:
    page.goto(f"{plant.url}/#recipe")
    answer = {"title": "Insufficient Storage", "status": 507, "detail": "the disk is full", "code": "store_full"}
    page.route("**/v1/recipe", lambda route: route.fulfill(status=507, json=answer))
    expect(page.locator(".choice").first).to_be_visible(timeout=SLOW_MS)
    choose(page, "No recipe")
    page.get_by_role("button", name="Change to no recipe").click()
    page.get_by_role("button", name="Yes, change").click()
    expect(page.locator("#panel-recipe").get_by_role("alert")).to_have_text("the disk is full")
    watched.forgive("status of 507")


def test_line_without_recipes_shows_no_link(page: Page, line: Line) -> None:
    page.goto(f"{line.url}/#box")
    expect(page.locator("#device")).to_have_text("line-4", timeout=SLOW_MS)
    expect(page.locator("#recipe")).to_be_hidden()


@pytest.mark.parametrize("size", [(800, 480), (1280, 800), (1920, 1080), (390, 844)])
def test_bars_and_pages_fit_every_screen(page: Page, plant: Line, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for name in ("live", "recipe", "box"):
        page.goto(f"{plant.url}/#{name}")
        expect(page.locator(".alarm").first).to_be_visible(timeout=SLOW_MS)
        expect_no_overflow(page)
        taken: Any = page.locator(".banners").bounding_box()
        assert taken["height"] <= 0.4 * size[1] + 1
