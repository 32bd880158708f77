"""The Updates page: a version on trial beside the one that serves, and the orders that people give about it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.screen import SLOW_MS, Watched, expect_no_overflow, field
from tests.support.installs import ORIGIN, install_tiny, make_ready
from tests.support.odd_candidates import MIDDLING
from tests.support.trial_plant import WAIT_S, Plant
from tests.support.wait import until

MARKUP = "<img src=x onerror=window.hacked=1>"
SIZES = ((1024, 600), (800, 480), (360, 740))


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A provisioned box whose site has brought version 1 itself."""
    plant = Plant(tmp_path, updates={"root": str(tmp_path / "root.json")})
    install_tiny(plant.data_dir, "tiny", "1", origin="import")
    try:
        plant.box.start()
        yield plant
    finally:
        plant.box.kill()


def tile(page: Page, title: str) -> Locator:
    heading = page.get_by_role("heading", name=re.compile(f"^{title}"), level=2)
    return page.locator("#panel-updates .tile:visible").filter(has=heading)


def figure(page: Page, name: str) -> Locator:
    return page.locator(".trial .figure").filter(has=page.get_by_text(name, exact=True)).locator("strong")


def press(where: Locator, word: str) -> None:
    where.get_by_role("button", name=word, exact=True).click()


def expect_fits(page: Page) -> None:
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        expect_no_overflow(page)
    page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})


def test_a_canary_is_watched_promoted_and_taken_back(page: Page, watched: Watched, plant: Plant) -> None:
    plant.install(title="wrong")
    make_ready(
        plant.data_dir,
        {"tiny": "2"},
        rollout={"inputs_min": 1000, "agreement_min": 0.0, "share": 0.5, "probation_s": 1000},
    )
    plant.ends("running")
    page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})
    page.goto(f"{plant.box.url}/#updates")
    trial, model = page.locator(".trial"), tile(page, "tiny$")
    expect(trial.get_by_role("heading", name="tiny 2")).to_contain_text("on trial", timeout=SLOW_MS)
    expect(trial).to_contain_text("It answers 50 % of the inputs; version 1 answers the rest")
    expect(figure(page, "Inputs")).to_have_text("0")
    expect(model.locator("[data-slot=current]")).to_contain_text("Version 1 serves now")
    candidate = model.locator("[data-slot=candidate]")
    expect(candidate).to_contain_text(f"update from {ORIGIN}")
    expect(candidate).to_contain_text("Signed byvision, key 01234567")

    # The figures move.
    for turn in range(20):
        plant.ask(MIDDLING if turn % 4 < 2 else 230)
    expect(figure(page, "Inputs")).to_have_text("10", timeout=SLOW_MS)
    expect(figure(page, "Failed")).to_have_text("0")
    expect(figure(page, "Same verdict")).to_have_text("50 %", timeout=SLOW_MS)
    expect(figure(page, "Time, p95")).to_have_text(re.compile(r"^[0-9.]+ ms$"))
    expect(trial.locator(".ruling")).to_contain_text("not decided")
    expect(trial.locator(".ruling")).to_contain_text("1000 are needed")
    difference = trial.locator(".differences li").first
    expect(difference.locator(".badge")).to_have_text(["REVIEW", "NG"])
    expect(difference.get_by_role("link")).to_have_attribute("href", re.compile("^#results/[0-9]+$"))
    assert int(trial.get_by_role("progressbar", name="Inputs").get_attribute("aria-valuenow") or "") == 1
    expect_fits(page)

    # Asked first, and a second touch at the same place answers no.
    press(trial, "Promote now")
    question = page.locator("#panel-updates .confirm")
    expect(question).to_contain_text("Let tiny 2 serve now?")
    expect(question.get_by_role("button", name="No, leave it")).to_be_focused()
    press(question, "No, leave it")
    expect(question).to_have_count(0)
    assert plant.serves() == "1"

    # As when somebody else was quicker: what the box refuses is said in its words, and can be asked for again.
    late = f"{plant.box.url}/v1/rollouts/1/roll-back"
    page.route("**/v1/rollouts/1/promote", lambda route: route.continue_(url=late))
    press(trial, "Promote now")
    press(question, "Yes, promote")
    refused = page.get_by_role("alert").filter(has_text="nothing of rollout 1 serves")
    expect(refused).to_be_visible()
    watched.forgive("409")
    page.unroute("**/v1/rollouts/1/promote")

    press(trial, "Promote now")
    expect(refused).to_be_hidden()
    question.get_by_label("Your name").fill("Anna")
    press(question, "Yes, promote")
    expect(page.get_by_role("status").filter(has_text="Done: promoted: tiny version 2.")).to_be_visible()
    expect(trial.get_by_role("heading", name="tiny 2")).to_contain_text("on probation")
    expect(model.locator("[data-slot=current]")).to_contain_text("Version 2 serves now")
    expect(model.locator("[data-slot=previous]")).to_contain_text("Version 1 served before")
    assert plant.serves() == "2"

    press(model, "Roll back to version 1")
    expect(question).to_contain_text("Then tiny goes back to version 1. This box does not take tiny 2 again.")
    expect_fits(page)
    question.get_by_label("Your name").fill(MARKUP)
    press(question, "Yes, roll back")
    expect(trial).to_be_hidden()
    assert plant.serves() == "1"
    expect(model.locator("[data-slot=current]")).to_contain_text("Version 1 serves now")
    told = tile(page, "Roll-outs so far").locator("[data-rollout]")
    expect(told).to_contain_text("tiny 1 → 2")
    expect(told.locator(".chip").first).to_have_text("rolled back")
    expect(told).to_contain_text(f"rolled back by {MARKUP}")
    told.get_by_text("Figures", exact=True).click()
    expect(told.locator(".figure").filter(has_text="Inputs")).to_contain_text("10")
    expect(tile(page, "Not taken again")).to_contain_text("tiny 2")
    expect_fits(page)
    assert page.evaluate("window.hacked") is None


def test_hold_looks_and_downloads_are_told_in_words(page: Page, plant: Plant) -> None:
    page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})
    page.goto(f"{plant.box.url}/#updates")
    looking, hold = tile(page, "Looking for updates"), tile(page, "Hold")
    expect(looking).to_contain_text("none yet", timeout=SLOW_MS)
    press(looking, "Look for updates now")
    expect(page.get_by_role("status").filter(has_text="the updater was told to look")).to_be_visible()
    assert (plant.data_dir / "state" / "poll-now").exists()

    now = time.time()
    warnings = [{"code": "clock_untrusted", "reason": "the clock stands before what was signed"}]
    plant.execute(
        """INSERT INTO polls (id, at, origin, answered_at, failures, code, reason, warnings)
        VALUES (1, ?, ?, ?, 3, 'metadata_expired', 'what was signed holds no longer', ?)""",
        now,
        ORIGIN,
        now - 60,
        json.dumps(warnings),
    )
    plant.execute(
        """INSERT INTO installs (at, ring, number, status, models, release, origin, bytes_done, bytes_total)
        VALUES (?, 'stable', 1, 'downloading', '{"tiny": {"version": "9"}}', '{}', ?, 3500000, 14000000)""",
        now,
        ORIGIN,
    )
    expect(looking).to_contain_text("The clock of this box cannot be trusted.", timeout=SLOW_MS)
    expect(looking).to_contain_text("What was signed holds no longer (metadata_expired)")
    expect(looking).to_contain_text("3 in a row")
    came = tile(page, "Releases that came").locator("li").first
    expect(came.locator(".chip")).to_have_text("downloading")
    expect(came).to_contain_text("3.5 MB of 14 MB")
    expect(came.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
    plant.execute("UPDATE installs SET status = 'failed', code = 'self_test_failed', reason = ?", MARKUP)
    expect(came.locator(".chip")).to_have_text("failed", timeout=SLOW_MS)
    expect(came).to_contain_text(f"{MARKUP} (self_test_failed)")

    field(page, "updates", "Your name").fill("Anna")
    field(page, "updates", "Reason").fill(MARKUP)
    field(page, "updates", "How long").select_option("8 hours")
    press(hold, "Hold updates")
    expect(hold.get_by_role("heading")).to_contain_text("on hold")
    expect(hold).to_contain_text(MARKUP)
    assert plant.updates()["hold"]["until"] > now + 7 * 3600
    plant.install()
    recipes = {"loose": {"tiny": {"score_ng_min": 0.9}}}
    make_ready(plant.data_dir, {"tiny": "2"}, rollout={"mode": "blue_green"}, configuration={"recipes": recipes})
    expect(hold).to_contain_text(f"Release 2 is not begun: on hold by Anna: {MARKUP}", timeout=SLOW_MS)
    expect_fits(page)

    press(hold, "Release the hold")
    press(hold, "Yes, release")
    expect(hold.get_by_role("button", name="Hold updates")).to_be_visible()
    until(lambda: plant.serves() == "2", WAIT_S, "the update")
    history = tile(page, "Roll-outs so far").locator("li")
    expect(history.locator(".chip")).to_have_text("promoted", timeout=SLOW_MS)
    expect(history).to_contain_text("tiny 1 → 2, configuration")
    expect(history).to_contain_text("switched without a trial")
    configuration = tile(page, "Configuration")
    expect(configuration).to_contain_text("release 2 of ring stable serve over the file of this box", timeout=SLOW_MS)
    press(configuration, "Roll back")
    expect(configuration.locator(".confirm")).to_contain_text(
        "Then tiny goes back to version 1, the configuration goes back to what it was."
    )
    assert page.evaluate("window.hacked") is None
