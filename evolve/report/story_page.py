"""One story as an HTML page of its own: the picture, and the same as text."""

from __future__ import annotations

from html import escape
from pathlib import Path

from evolve.report.formats import plain
from evolve.report.story_picture import story_svg
from memory.story import Story, as_text

_CSS = Path(__file__).resolve().parent / "report.css"

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def story_page(story: Story) -> str:
    """The page as text, self-contained; the same story gives the same page."""
    asked = story.nodes[0]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>evomesh memory: {asked.id[:8]}</title>\n<style>{_CSS.read_text('utf-8')}</style>\n</head>\n<body>\n"
        f'<main>\n<h2>{asked.experience.kind.value} {asked.id[:8]}</h2>\n<p class="soft">{asked.id}, in '
        f"{escape(str(asked.experience.namespace))}</p>\n"
        f'<pre dir="auto">{escape(plain(asked.experience.text))}</pre>\n'
        f'<figure class="picture">{story_svg(story)}</figure>\n'
        f'<pre dir="auto">{escape(plain(as_text(story)))}</pre>\n'
        "<footer>Texts of models are shown as they were said and never interpreted.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )
