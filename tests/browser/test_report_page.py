"""The report in a real Chromium: wide and on a phone, by day and by night, with nothing asked from outside."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolve.report.page import render

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is among the developers' requirements")

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""A directory to keep pictures in, for people to look at; unset: none are taken."""
TIMEOUT_MS = 300_000
SAMPLE = Path(__file__).parent.parent / "evolve" / "evolved_run.py"

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}; set CHROMIUM")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("evolved_run", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(sample.evolved()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")])
def test_the_report_fits_its_window_and_answers_first(browser: Any, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(TIMEOUT_MS)
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.inner_text(".headline").startswith("Evolution paid")
    assert page.locator(".headline").bounding_box()["y"] < 200
    if width > 1000:  # gain, certainty and price without scrolling
        assert (
            page.locator(".card").last.bounding_box()["y"] + page.locator(".card").last.bounding_box()["height"] < 900
        )
    colours = page.evaluate(
        "[getComputedStyle(document.querySelector('.card.good b')).color,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    assert colours[0] != colours[1]
    if SCREENSHOTS is not None:
        page.screenshot(path=f"{SCREENSHOTS}/report-{width}-{scheme}.png", full_page=True)
    page.close()
    assert asked == [report.as_uri()]
    assert problems == []
