"""The page in a real Chromium: asked with the keyboard, watched, read on a phone, in the dark, and when things fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.endpoint.keys import KeyRing
from serving.endpoint.page import HEADERS, page_routes

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is among the developers' requirements")

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
TIMEOUT_MS = 60_000
SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""A directory to keep pictures in, for people to look at; unset: none are taken."""

CONFIG = """
name: page
run_dir: {directory}/run
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 1.0, latency_s: 0.1}}
    - {{kind: scripted, name: ben, family: beta, skill: 0.9, latency_s: 0.2}}
    - {{kind: scripted, name: cid, family: gamma, skill: 0.3, latency_s: {slowest_s}}}
endpoint: {{state: {directory}/state, require_key: {require_key}}}
"""

needs_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}; set CHROMIUM")


@contextmanager
def served(directory: Path, *, require_key: bool = False, slowest_s: float = 0.3) -> Iterator[str]:
    """`evomesh serve` over scripted engines; where it listens. `slowest_s`: seconds that cid takes for a call."""
    config = directory / "config.yaml"
    filled = CONFIG.format(directory=directory, require_key=str(require_key).lower(), slowest_s=slowest_s)
    config.write_text(filled)
    command = [sys.executable, "-m", "evolve.cli", "serve", str(config), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        yield json.loads(text)["url"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("door")) as where:
        yield where


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page in a context of its own; at the end nothing may have been wrong on any of them."""
    contexts, problems = [], []

    def opened(url: str, *, problems_expected: bool = False, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        if not problems_expected:
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def ask(page: Any, question: str, *, model: str = "mesh:council", kind: str = "number") -> None:
    page.wait_for_selector("#model optgroup >> nth=1", state="attached")
    page.select_option("#model", model)
    if page.is_enabled("#kind"):
        page.select_option("#kind", kind)
    page.fill("#question", question)
    page.press("#question", "Control+Enter")


def seed(page: Any, number: int) -> None:
    """What is asked from now on is drawn with this seed, so that the same thing happens every time."""

    def with_seed(route: Any) -> None:
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "seed": number}))

    page.route("**/chat/completions", with_seed)


def decided(page: Any) -> None:
    says(page, re.compile(r"^Decided after \d+ calls\.$"))


def says(page: Any, status: str | re.Pattern[str]) -> None:
    sync_api.expect(page.locator("#status")).to_have_text(status, timeout=TIMEOUT_MS)


def until(is_so: Callable[[], bool]) -> None:
    due = time.monotonic() + TIMEOUT_MS / 1000
    while not is_so():
        assert time.monotonic() < due
        time.sleep(0.05)


def picture(page: Any, name: str) -> None:
    if SCREENSHOTS is not None:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


@needs_browser
def test_a_question_is_asked_watched_and_its_changes_of_mind_are_read(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url, viewport={"width": 1280, "height": 900})
    seed(page, 2)
    ask(page, "What is 17 + 25?")
    decided(page)
    picture(page, "desktop")
    assert page.inner_text("#answer-body .final") == "42"
    titles = page.locator("#phases h3").all_inner_texts()
    assert titles[0] == "First answers, each alone"
    assert "Answers after reading the others" in titles
    assert {"ada", "ben", "cid"} <= set(page.locator("#phases .name").all_inner_texts())
    changes = page.locator(".change").all_inner_texts()
    ben, cid = changes
    assert ben.startswith("ben: 40 → 42\n\nhad read: 42 (one peer); 41 (one peer)")
    assert "the step of its own that it calls wrong:\n\nAnswer: 40" in ben
    assert "ada had objected:" in ben
    assert cid.startswith("cid: 41 → 42")
    assert "consensus across families" in page.inner_text("dl")
    assert "Who was missing" not in page.inner_text("#answer")
    assert page.evaluate("document.activeElement.id") == "answer-title"
    assert "calls wrong: Answer: 40" in page.locator("#phases article p.quiet").all_inner_texts()

    page.click("text=It was right")
    page.wait_for_selector("text=Noted, thank you.")
    assert page.is_disabled("text=It was wrong")


@needs_browser
def test_everything_can_be_reached_and_done_by_keyboard(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    page.wait_for_selector("#model optgroup >> nth=1", state="attached")
    order = []
    for _ in range(5):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    assert order == ["question", "model", "kind", "key", "send"]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.focus("#question")
    page.keyboard.type("What is 2 + 2?")
    page.focus("#send")
    page.keyboard.press("Enter")
    decided(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("SUMMARY", "BUTTON")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_by_day_and_by_night(url: str, open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page(url, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    ask(page, f"What is 17 + 25? {'x' * 400}")
    decided(page)
    picture(page, f"phone-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert contrast(page, "#answer-body .final") >= 4.5
    assert contrast(page, ".quiet") >= 4.5
    assert contrast(page, "#send") >= 4.5


@needs_browser
def test_what_models_and_people_write_is_text_and_nothing_else(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    ask(page, "<img src=x onerror=document.title='pwned'><script>document.title='pwned'</script> 2 + 2", kind="text")
    decided(page)
    assert page.locator("#phases img, #phases script, #answer img, #answer script").count() == 0
    assert page.title() == "evomesh: ask the mesh"


@needs_browser
def test_one_member_can_be_asked_alone(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    ask(page, "What is 17 + 25?", model="ada")
    says(page, "ada answered alone.")
    assert "42" in page.inner_text("#answer-body")
    assert page.is_disabled("#kind")
    assert not page.is_visible("#story")


@needs_browser
def test_stop_ends_the_deliberation_also_behind_the_door(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with served(tmp_path, slowest_s=TIMEOUT_MS) as url:  # it cannot end before the button is reached
        page = open_page(url, viewport={"width": 1280, "height": 900})
        ask(page, "What is 17 + 25?")
        sync_api.expect(page.locator("article.call")).to_have_count(2, timeout=TIMEOUT_MS)
        picture(page, "watching")
        at_work = page.locator("#story").bounding_box()
        page.click("#stop")
        says(page, "Stopped.")
        assert page.is_enabled("#send")
        assert not page.is_visible("#stop")
        assert page.inner_text("#answer-body") == "Nothing was decided."
        assert page.locator("#story").bounding_box() == at_work
        until(lambda: "evomesh_requests_running 0.0" in httpx.get(f"{url}/metrics").text)


@needs_browser
def test_the_story_stays_where_it_is_when_the_answer_comes(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url, viewport={"width": 1280, "height": 900}, color_scheme="dark")
    seed(page, 1)
    ask(page, "What is 17 + 25?")
    page.wait_for_selector("article.call")
    before = page.locator("#story").bounding_box()
    decided(page)
    picture(page, "desktop-dark")
    after = page.locator("#story").bounding_box()
    assert (before["x"], before["y"], before["width"]) == (after["x"], after["y"], after["width"])


@needs_browser
def test_nothing_is_asked_without_a_question(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    page.click("#send")
    assert page.evaluate("document.activeElement.id") == "question"
    assert page.inner_text("#status") == ""


@needs_browser
def test_a_broken_stream_is_said_in_plain_words(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url, problems_expected=True)
    page.route("**/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=": hello\n\n"))
    ask(page, "What is 17 + 25?")
    page.wait_for_selector("#error:not([hidden])")
    assert "broke off" in page.inner_text("#error")
    picture(page, "broken")
    assert page.is_enabled("#send")
    page.unroute("**/chat/completions")
    page.press("#question", "Control+Enter")
    decided(page)
    assert not page.is_visible("#error")


@needs_browser
def test_a_full_door_says_when_to_come_back(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url, problems_expected=True)
    refusal = json.dumps({"error": {"message": "32 requests are under way.", "code": "queue_full"}})
    headers = {"retry-after": "7", "content-type": "application/json"}
    page.route("**/chat/completions", lambda route: route.fulfill(status=429, headers=headers, body=refusal))
    ask(page, "What is 17 + 25?")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "32 requests are under way. Try again in 7 s."


@needs_browser
def test_a_door_with_keys_asks_for_one_and_keeps_it_nowhere(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with served(tmp_path, require_key=True) as url:
        page = open_page(url, problems_expected=True)
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == "This door needs a key: enter it above."
        assert page.evaluate("document.activeElement.id") == "key"
        _, secret = KeyRing(tmp_path / "state" / "keys.json").create("billing")
        page.keyboard.type(secret)
        page.keyboard.press("Tab")
        ask(page, "What is 17 + 25?")
        decided(page)
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert secret not in page.url


def test_the_page_and_all_of_its_files_are_served_with_a_strict_policy(url: str) -> None:
    index = httpx.get(url)
    assert index.headers["content-type"].startswith("text/html")
    named = set(re.findall(r'(?:href|src)="(page/[^"]+)"', index.text))
    assert named == {"page/icon.svg", "page/page.css", "page/page.js"}
    modules = {f"page/{name}" for name in ("events.js", "story.js", "view.js")}
    for name in named | modules:
        answer = httpx.get(f"{url}/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{url}/page/../keys.py").status_code == 404
    assert httpx.get(f"{url}/page/%2e%2e/keys.py").status_code == 404


def test_the_page_takes_nothing_from_elsewhere() -> None:
    texts = [file.read_text() for file in Path("serving/endpoint/page").iterdir() if file.suffix != ".svg"]
    assert len(texts) + 1 == len(page_routes())
    for text in texts:
        assert not re.search(
            r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(|<[^>]* (style|on\w+)=", text
        )


def contrast(page: Any, selector: str) -> float:
    """Contrast ratio of an element's text to what is behind it (WCAG 2.2, 1.4.3)."""
    colours = page.evaluate(
        """selector => {
          const element = document.querySelector(selector);
          let behind = element;
          while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
          return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }""",
        selector,
    )
    lighter, darker = sorted((luminance(colour) for colour in colours), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
