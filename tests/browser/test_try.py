"""The Try page: files in, verdicts and calls out."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.line import Golden, Line
from tests.browser.screen import Watched, expect_other_pixels, field, judge_file, pixels


def test_dropped_picture_is_judged(page: Page, line: Line, pictures: dict[str, Golden]) -> None:
    bad = pictures["ng"]
    page.goto(f"{line.url}/#try")
    field(page, "try", "Model").select_option("surface")
    transfer = page.evaluate_handle(
        """([content, type]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "dropped.png", { type }));
            return transfer;
        }""",
        [base64.b64encode(bad.body).decode(), bad.media_type],
    )
    page.dispatch_event("#try-drop", "dragover", {"dataTransfer": transfer})
    expect(page.locator("#try-drop")).to_have_class(re.compile("over"))
    page.dispatch_event("#try-drop", "drop", {"dataTransfer": transfer})

    answer = page.locator(".answer")
    expect(answer.locator(".verdict .word")).to_have_text("NG")
    expect(answer.locator(".verdict .reason")).to_contain_text(bad.label)
    expect(answer.locator(".bars li").first).to_contain_text(bad.label)
    canvas = answer.locator("canvas")
    expect(answer.locator(".stage-note")).to_have_count(0)
    with_heat = pixels(canvas)
    answer.get_by_label("Heat map").uncheck()
    expect_other_pixels(canvas, with_heat)
    answer.get_by_text("JSON", exact=True).click()
    expect(answer.locator("pre")).to_contain_text('"verdict": "ng"')


def test_chosen_file_is_judged_with_its_part(page: Page, line: Line, pictures: dict[str, Golden]) -> None:
    page.goto(f"{line.url}/#try")
    page.get_by_text("Part, lot and recipe").click()
    field(page, "try", "Part").fill("P-77")
    judge_file(page, line, pictures["ok"])
    expect(page.locator(".answer .facts")).to_contain_text("P-77")
    expect(page.locator(".answer")).to_contain_text("Answered in")


def test_readings_are_judged_from_a_file_and_made_up_ones_without(
    page: Page, line: Line, windows: dict[str, Golden]
) -> None:
    page.goto(f"{line.url}/#try")
    field(page, "try", "Model").select_option("bearing")
    bad = windows["ng"]
    page.locator("#try-file").set_input_files({"name": "w.json", "mimeType": "application/json", "buffer": bad.body})
    expect(page.locator(".answer .verdict .word")).to_have_text("NG")
    expect(page.locator(".answer .facts")).to_contain_text("Score")
    page.get_by_role("button", name="Use made-up readings").click()
    expect(page.get_by_role("link", name="Save window.json")).to_be_visible()


def test_last_picture_of_a_source_serves_as_the_example(page: Page, line: Line, pictures: dict[str, Golden]) -> None:
    line.picture("camera-1", pictures["ng"])
    page.goto(f"{line.url}/#try")
    field(page, "try", "Model").select_option("surface")
    page.get_by_role("button", name="Use an example").click()
    expect(page.locator(".answer .verdict .word")).to_have_text("NG")


def test_refused_file_is_explained_with_its_code(page: Page, watched: Watched, line: Line) -> None:
    page.goto(f"{line.url}/#try")
    field(page, "try", "Model").select_option("surface")
    page.locator("#try-file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    problem = page.locator(".told .problem")
    expect(problem).to_contain_text("media_type_unsupported")
    expect(page.locator(".answer")).to_be_empty()
    watched.forgive("status of 415")


def test_copied_call_is_what_is_shown_and_runs(
    page: Page, line: Line, pictures: dict[str, Golden], tmp_path: Path
) -> None:
    bad = pictures["ng"]
    (tmp_path / "my part.png").write_bytes(bad.body)
    page.goto(f"{line.url}/#try")
    page.get_by_text("Part, lot and recipe").click()
    field(page, "try", "Part").fill('it\'s "9" & $HOME')
    judge_file(page, line, bad, "my part.png")

    copied: dict[str, str] = {}
    for language in ("curl", "Python", "C#", "JavaScript"):
        page.get_by_role("tab", name=language, exact=True).click()
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied[language] = page.evaluate("navigator.clipboard.readText()")
        expect(page.get_by_role("tabpanel")).to_have_text(copied[language], use_inner_text=True)
        assert f"{line.url}/v1/predict/surface" in copied[language]
        expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()

    assert shutil.which("curl") is not None
    curl = subprocess.run(
        ["sh", "-c", f"{copied['curl']} -sS -o reply.json -w '%{{http_code}}'"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert curl.stdout == "200", curl.stderr
    assert '"part":"it\'s \\"9\\" & $HOME"' in (tmp_path / "reply.json").read_text()
    (tmp_path / "call.py").write_text(copied["Python"])
    python = subprocess.run(
        [sys.executable, "call.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert python.stdout.startswith("ng ")
    assert bad.label in python.stdout
