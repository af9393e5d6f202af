"""The page of ``saccade serve`` in a headless Chromium: a picture dropped or chosen, and both answers."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

import saccade
from saccade import models
from saccade.evaluation.runner import generate
from saccade.glance import suite
from saccade.plans.plan import Plan

PLAN = "divprune(keep=0.3)"
KEY = "open-sesame"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names of an installed browser; without one it is Playwright's own (``playwright install chromium``)."""
DROP = """([bytes, name, type]) => {
    const file = new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type });
    const held = new DataTransfer();
    held.items.add(file);
    const event = (kind) => new DragEvent(kind, { dataTransfer: held, bubbles: true, cancelable: true });
    const place = document.getElementById("drop");
    for (const kind of ["dragenter", "dragover", "drop"]) place.dispatchEvent(event(kind));
}"""


@pytest.fixture(scope="module")
def sample():
    return suite.samples("count", n=1)[0]


@pytest.fixture(scope="module")
def picture(sample, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    sample.images[0].save(path)
    return path


@pytest.fixture(scope="module")
def address():
    """Where a server with one plan listens that asks for a key."""
    words = ["serve", "glance", "--port", "0", "--plan", f"few={PLAN}", "--device", "cpu", "--threads", "1"]
    program = [sys.executable, "-m", "saccade", *words, "--api-key", KEY]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    for line in server.stdout:
        lines.append(line)
        if found := re.search(r"at (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        raise AssertionError("".join(lines))
    reading = threading.Thread(target=server.stdout.read, daemon=True)
    reading.start()
    yield found[1]
    server.terminate()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def browser():
    own = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        # A container's root has no sandbox.
        yield playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])


@pytest.fixture
def page(browser, address):
    """The page; what it logs as an error, or asks of another machine, fails the test."""
    page, wrong = browser.new_page(viewport={"width": 1100, "height": 1400}), []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda asked: wrong.append(asked.url) if not here(asked.url, address) else None)
    page.goto(address)
    yield page
    page.close()
    assert not wrong


def here(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "about:", "blob:"))


def ask(page: Page, question: str, key: str = KEY) -> None:
    page.fill("#question", question)
    page.fill("#key", key)
    page.click("#go")


def told(page: Page, row: str) -> list[str]:
    return page.locator(f"#{row} td").all_inner_texts()


@pytest.fixture(scope="module")
def want(sample):
    """What both sides say offline."""
    loaded = saccade.load("glance", device="cpu")
    inputs = models.inputs(loaded, [sample])
    return [generate(loaded, inputs, plan, 24)[0][0] for plan in (None, Plan.of(PLAN))]


def test_a_chosen_picture_is_answered_dense_and_under_the_plan(page, picture, sample, want, tmp_path):
    page.set_input_files("#file", str(picture))
    expect(page.locator("#hint")).to_have_text("scene.png")
    expect(page.locator("#shown")).to_be_visible()
    ask(page, sample.question)
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    dense, planned = told(page, "dense"), told(page, "planned")
    assert [dense[0], planned[0]] == want
    assert dense[3] == "100" and float(planned[3]) == pytest.approx(30, abs=1)
    assert float(planned[2].split()[0]) < 0.5 * float(dense[2].split()[0])  # FLOPs; times are for the reader
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    verdict = page.inner_text("#verdict")
    assert re.match(r"(The same|Another) answer, for \d\d\.\d % of the FLOPs and \d+ % of the time", verdict)
    expect(page.locator("#spec")).to_have_text(PLAN)
    drawing = page.frame_locator("#drawing")
    expect(drawing.get_by_role("heading", name="What was kept of the picture")).to_be_visible()
    expect(drawing.locator("svg:visible").first).to_be_visible()


def test_a_dropped_picture_is_taken_and_another_file_is_not(page, picture, sample, want):
    held = base64.b64encode(picture.read_bytes()).decode()
    page.evaluate(DROP, [base64.b64encode(b"words").decode(), "notes.txt", "text/plain"])
    expect(page.locator("#state")).to_have_text("That is not a picture.")
    page.evaluate(DROP, [held, "dropped.png", "image/png"])
    expect(page.locator("#hint")).to_have_text("dropped.png")
    ask(page, sample.question)
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    assert told(page, "dense")[0] == want[0]


def test_what_is_wrong_is_said_and_the_page_goes_on(page, picture, sample):
    ask(page, sample.question)
    expect(page.locator("#state")).to_have_text("Choose a picture first.")
    page.set_input_files("#file", str(picture))
    ask(page, sample.question, key="guessed")
    expect(page.locator("#state")).to_contain_text("key")
    expect(page.locator("#result")).to_be_hidden()
    page.evaluate(DROP, [base64.b64encode(b"no png").decode(), "broken.png", "image/png"])
    expect(page.locator("#hint")).to_have_text("broken.png")
    ask(page, sample.question)
    expect(page.locator("#state")).to_have_class("wrong")
    page.set_input_files("#file", str(picture))
    ask(page, sample.question)
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    expect(page.locator("#state")).to_have_text("")


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_runs_out_of_a_narrow_or_wide_window(page, picture, sample, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    page.set_input_files("#file", str(picture))
    ask(page, sample.question)
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
